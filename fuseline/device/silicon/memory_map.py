"""The chip's addresses, and the words that stand at them.

This module, `commands` and `fuse_map` are the programming model. `tools/chip.py header` renders all three as
`chip/include/fuseline_chip.h`, so that the machine code and the physics cannot disagree.

The map is a subset of QEMU's mps2-an386: what stands between 0x21000000 and 0x21FFFFFF is that board's
16 MiB PSRAM, which both QEMU and Python can see. There the machine code runs unchanged on both engines.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

KIB: Final = 1024

ROM_BASE: Final = 0x0000_0000
ROM_SIZE: Final = 64 * KIB

SRAM_BASE: Final = 0x2000_0000
SRAM_SIZE: Final = 256 * KIB
"""Private to the processor: the crypto block cannot reach it."""
ROM_RAM_BASE: Final = 0x2003_F000
ROM_RAM_SIZE: Final = 4 * KIB
"""The part of SRAM that the ROM uses, and erases before it jumps."""

FLASH_BASE: Final = 0x2100_0000
FLASH_SIZE: Final = 1024 * KIB
FLASH_BLOCK: Final = 4 * KIB
FLASH_WORD: Final = 4
LOADER_PRIMARY: Final = 0x0_0000
LOADER_RECOVERY: Final = 0x1_0000
LOADER_SLOT_SIZE: Final = 64 * KIB
"""Offsets in flash of the two copies of the loader."""
HELPER_A: Final = 0x2_0000
HELPER_B: Final = 0x2_1000
"""Offsets in flash of the two copies of the PUF's helper data, one block each."""
IDEVID: Final = 0x2_2000
"""Offset in flash of the IDevID certificate: its length in octets as one word, then DER; one block."""

RAM_BASE: Final = 0x2140_0000
RAM_SIZE: Final = 256 * KIB
"""Main RAM: the crypto block reads and writes it. Not executable until the ROM says so."""
LOADER_RAM: Final = RAM_BASE
LOADER_RAM_SIZE: Final = 128 * KIB
"""Where the ROM copies the loader, header and TLVs too, before it checks the copy."""
HANDOVER: Final = 0x2143_E000
HANDOVER_SIZE: Final = 8 * KIB
"""Where the ROM leaves the boot record for the loader."""

PUF_ROWS: Final = 0x21E0_0000
PUF_ROWS_SIZE: Final = 4 * KIB
"""32,768 SRAM cells at their power-up values. Unreadable after `Command.PUF_CLEAR`."""

FUSE_SHADOW: Final = 0x21F0_0000
FUSE_SHADOW_SIZE: Final = 4 * KIB
"""What the fuses read as, sensed at reset and after each blow. Read-only."""
MAILBOX: Final = 0x21F0_1000
MAILBOX_SIZE: Final = 4 * KIB
MAILBOX_COMMAND: Final = 0x00
MAILBOX_STATUS: Final = 0x04
MAILBOX_ARGUMENTS: Final = 0x08
MAILBOX_ARGUMENT_COUNT: Final = 14
MAILBOX_RESULTS: Final = 0x40
MAILBOX_RESULT_COUNT: Final = 16
MAILBOX_DATA: Final = 0x80
MAILBOX_DATA_SIZE: Final = MAILBOX_SIZE - MAILBOX_DATA
"""Command, status, arguments and results as 32-bit words, then a buffer for data."""
DOORBELL: Final = 0x21F0_2000
DOORBELL_SIZE: Final = 4 * KIB
"""A non-zero word written here starts the command; the block then clears it."""
SYSTEM: Final = 0x21F0_3000
SYSTEM_SIZE: Final = 4 * KIB
"""Read-only words about this run; see `SystemWord`."""
RETENTION: Final = 0x21F0_4000
RETENTION_SIZE: Final = 4 * KIB
"""RAM that keeps its content over every reset but a cold one."""

PSRAM_BASE: Final = 0x2100_0000
PSRAM_SIZE: Final = 16 * 1024 * KIB
"""The window of mps2-an386 in which all of the above but ROM and SRAM stand."""

UART0: Final = 0x4000_4000
WATCHDOG: Final = 0x4000_8000


class SystemWord(IntEnum):
    """Index of each 32-bit word in the `SYSTEM` page."""

    RESET_REASON = 0
    STRAP = 1
    REVISION = 2
    DEBUG = 3
    BOOT_COUNT = 4
    WATCHDOG_RESET = 5


CHIP_REVISION: Final = 1


class ResetReason(IntEnum):
    """Why the processor started. Coded so that no few flipped bits turn one into another."""

    COLD = 0xEC38B8A3
    WARM = 0x6B49BF10
    UPDATE = 0x891ED9CA


class Strap(IntEnum):
    """What the pins ask of the ROM at reset."""

    NORMAL = 0xF1267370
    PROVISION = 0x5C5C7C31
    DEBUG = 0x32C4B5BC


class DebugState(IntEnum):
    """Whether the debug port is open."""

    LOCKED = 0x410C7AFE
    OPEN = 0x593CE585
