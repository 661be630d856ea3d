"""Ranges of this process's addresses in which one chip's memory after another appears.

Unicorn is told once where the memory stands. To have it run another chip, that chip's memory is mapped over
the range: 25 microseconds, where unmapping and mapping every window in Unicorn takes 430. In the same way the
processor's own SRAM gets its content of power-up back: only the pages that were written cost anything.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import weakref
from typing import TYPE_CHECKING

from fuseline.device.silicon.memory_map import PSRAM_BASE, PSRAM_SIZE, SRAM_SIZE
from fuseline.device.silicon.run import sram_at_power_up

if TYPE_CHECKING:
    from fuseline.device.silicon.psram import Psram

# Linux uapi, include/uapi/asm-generic/mman-common.h and mman.h; Python 3.11's mmap has no names for them.
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def _map(address: int | None, size: int, flags: int, descriptor: int) -> int:
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    mapped = _libc.mmap(address, size, protection, flags, descriptor, 0)
    if mapped == _FAILED or mapped is None:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(mapped)


class PsramWindow:
    """Shows nothing but zeros until `show`."""

    def __init__(self) -> None:
        self._start = _map(None, PSRAM_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1)
        weakref.finalize(self, _libc.munmap, self._start, PSRAM_SIZE)

    def show(self, psram: Psram) -> None:
        """Let the range be this memory from now on."""
        _map(self._start, PSRAM_SIZE, mmap.MAP_SHARED | _MAP_FIXED, psram.fd)

    def view(self, address: int, size: int) -> memoryview:
        """Return a part of the range, good as long as this object lives.

        Args:
            address: The processor's address of the first octet.
            size: In octets.
        """
        offset = address - PSRAM_BASE
        return memoryview((ctypes.c_char * size).from_address(self._start + offset)).cast("B")


@functools.cache
def _power_up_content() -> int:
    """Return the descriptor of a file with the content of power-up; open as long as the process lives."""
    descriptor = os.memfd_create("fuseline-sram", os.MFD_CLOEXEC)
    os.write(descriptor, sram_at_power_up())
    return descriptor


class SramWindow:
    """The processor's private SRAM, at its content of power-up."""

    def __init__(self) -> None:
        self._start = _map(None, SRAM_SIZE, mmap.MAP_PRIVATE, _power_up_content())
        weakref.finalize(self, _libc.munmap, self._start, SRAM_SIZE)

    def power_up(self) -> None:
        """Take the content of power-up again."""
        _map(self._start, SRAM_SIZE, mmap.MAP_PRIVATE | _MAP_FIXED, _power_up_content())

    def view(self) -> memoryview:
        """Return the SRAM, good as long as this object lives."""
        return memoryview((ctypes.c_char * SRAM_SIZE).from_address(self._start)).cast("B")
