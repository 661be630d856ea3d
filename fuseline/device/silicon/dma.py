"""What the chip's blocks can reach in memory when machine code points them somewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.memory_map import (
    FLASH_BASE,
    FLASH_SIZE,
    FUSE_SHADOW,
    FUSE_SHADOW_SIZE,
    MAILBOX,
    MAILBOX_DATA,
    MAILBOX_DATA_SIZE,
    PSRAM_BASE,
    PSRAM_SIZE,
    RAM_BASE,
    RAM_SIZE,
)
from fuseline.errors import PortAddress

if TYPE_CHECKING:
    from fuseline.device.silicon.psram import Psram

Window = tuple[int, int]
"""First address and the address after the last."""

WRITABLE: Final[tuple[Window, ...]] = (
    (RAM_BASE, RAM_BASE + RAM_SIZE),
    (MAILBOX + MAILBOX_DATA, MAILBOX + MAILBOX_DATA + MAILBOX_DATA_SIZE),
)
READABLE: Final[tuple[Window, ...]] = (
    *WRITABLE,
    (FLASH_BASE, FLASH_BASE + FLASH_SIZE),
    (FUSE_SHADOW, FUSE_SHADOW + FUSE_SHADOW_SIZE),
)


class Dma:
    """Reads and writes for the blocks, inside their windows only.

    A range lies in one window as a whole: it neither wraps around the end of the address space nor runs from
    one window into the next.

    Args:
        psram: The memory.

    Attributes:
        writes: How often something was written.
    """

    def __init__(self, psram: Psram) -> None:
        self._memory = psram.view(PSRAM_BASE, PSRAM_SIZE)
        self.writes = 0

    def view(self, address: int, length: int) -> memoryview:
        """Return memory to read, as it is now and as it will change. An empty range may stand anywhere.

        Raises:
            PortAddress: Not all inside one readable window.
        """
        end = address + length
        for first, after in READABLE:
            if first <= address and end <= after:
                return self._memory[address - PSRAM_BASE : end - PSRAM_BASE]
        if length == 0:
            return self._memory[:0]
        raise PortAddress(f"{length} octets at {address:#010x} cannot be read by a block", length=length)

    def read(self, address: int, length: int) -> bytes:
        """Return a copy of memory; raises as `view`."""
        return bytes(self.view(address, length))

    def require_writable(self, address: int, length: int) -> None:
        """Check a range before work is done whose result goes there.

        Raises:
            PortAddress: Not all inside one writable window.
        """
        end = address + length
        for first, after in WRITABLE:
            if first <= address and end <= after:
                return
        if length:
            raise PortAddress(
                f"{length} octets at {address:#010x} cannot be written by a block", length=length
            )

    def write(self, address: int, data: bytes) -> None:
        """Write `data`.

        Raises:
            PortAddress: Not all inside one writable window.
        """
        self.require_writable(address, len(data))
        offset = address - PSRAM_BASE
        if data:
            self.writes += 1
            self._memory[offset : offset + len(data)] = data
