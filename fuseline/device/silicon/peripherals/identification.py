"""CoreSight identification registers, which drivers use to tell that a device is there."""

from __future__ import annotations

from typing import Final

FIRST: Final = 0xFD0
"""Offset of the first of twelve words: PID4 to PID7, PID0 to PID3, CID0 to CID3."""

# Part numbers of the CMSDK peripherals (Arm DDI 0479, "Cortex-M System Design Kit", programmer's model).
_PARTS = {"timer": 0x22, "uart": 0x21, "dual timer": 0x23, "watchdog": 0x24}
_COMPONENT = (0x0D, 0xF0, 0x05, 0xB1)


def identification(part: str, offset: int) -> int:
    """Return the identification word at `offset` of a CMSDK peripheral, 0 where there is none."""
    words = (0x04, 0, 0, 0, _PARTS[part], 0xB8, 0x1B, 0)
    index = (offset - FIRST) // 4
    return (words + _COMPONENT)[index] if 0 <= index < 12 else 0
