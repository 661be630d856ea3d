"""The device, bottom to top: element, firmware, os, agent. A folder imports only folders below it."""
