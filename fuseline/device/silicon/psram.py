"""The one memory of a chip that the processor, its blocks and the host all see.

It stands where mps2-an386 has its PSRAM. Being an anonymous file, it can be mapped by a second process
(QEMU's `memory-backend-file`) and by Unicorn (`mem_map_ptr`), so nothing is ever copied between an engine and
the physics. It is sparse: pages that nobody touched cost nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

from fuseline.device.silicon.memory_map import PSRAM_BASE, PSRAM_SIZE


class Psram:
    """16 MiB of memory at `PSRAM_BASE`, zero at first; freed with its last view.

    Attributes:
        fd: File descriptor of the memory, for an engine in another process.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("fuseline-psram", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.fd)
        os.ftruncate(self.fd, PSRAM_SIZE)
        self._map = mmap.mmap(self.fd, PSRAM_SIZE)
        self._view = memoryview(self._map)

    def view(self, address: int, size: int) -> memoryview:
        """Return the memory itself, writable.

        Args:
            address: The processor's address of the first octet.
            size: In octets.

        Raises:
            RuntimeError: The range is not all inside the memory.
        """
        offset = address - PSRAM_BASE
        if offset < 0 or size < 0 or offset + size > PSRAM_SIZE:
            raise RuntimeError(f"{size} octets at {address:#x} are not in PSRAM")
        return self._view[offset : offset + size]

    def host_address(self, address: int) -> int:
        """Return where the octet at the processor's `address` stands in this process, for `mem_map_ptr`.

        It stays valid while this object lives.
        """
        return ctypes.addressof(ctypes.c_char.from_buffer(self.view(address, 1)))
