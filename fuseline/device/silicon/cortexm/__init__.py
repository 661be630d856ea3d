"""A Cortex-M4 on Unicorn: instructions there, everything between two instructions in Python."""

from fuseline.device.silicon.cortexm.bus import (
    Access,
    AttachedDevice,
    BusDevice,
    ClockedDevice,
    ListeningDevice,
    MemoryRegion,
    Processor,
    ResettableDevice,
    StatefulDevice,
)
from fuseline.device.silicon.cortexm.cpu import CortexM4, CpuSnapshot

__all__ = [
    "Access",
    "AttachedDevice",
    "BusDevice",
    "ClockedDevice",
    "CortexM4",
    "CpuSnapshot",
    "ListeningDevice",
    "MemoryRegion",
    "Processor",
    "ResettableDevice",
    "StatefulDevice",
]
