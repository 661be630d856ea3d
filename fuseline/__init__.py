"""Fuseline: the IoT device security stack, from the fuses in the silicon to the cloud that runs the fleet."""

__version__ = "0.1.0"
