"""The memory that a processor sees, for what it reads and writes without an instruction."""

from __future__ import annotations

import bisect
import ctypes
import functools
import mmap
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuseline.device.silicon.cortexm.bus import Access, MemoryRegion

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm.unicorn_layout import Engine

_R, _W, _X = int(Access.R), int(Access.W), int(Access.X)


class Memory:
    """All regions, mapped into the engine; the engine and this object see the same octets."""

    def __init__(self, engine: Engine, regions: Sequence[MemoryRegion]) -> None:
        self._engine = engine
        self._views: dict[int, memoryview] = {}
        self._access: dict[int, Access] = {}
        for region in regions:
            self._map(region)
        self._order = sorted(self._views)
        self._forget()

    def _map(self, region: MemoryRegion) -> None:
        if region.buffer is None:
            view = memoryview(mmap.mmap(-1, region.size))
        elif len(region.buffer) == region.size and not region.buffer.readonly:
            view = region.buffer
        else:
            raise RuntimeError(
                f"the buffer of {region.base:#x} is read-only or not {region.size} octets long"
            )
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        self._engine.mem_map_ptr(region.base, region.size, int(region.access), address)
        self._views[region.base], self._access[region.base] = view, region.access

    def _forget(self) -> None:
        self._last: tuple[int, memoryview, int] = (0, memoryview(b""), 0)

    def view(self, base: int) -> memoryview:
        """Return the memory of the region that starts at `base`."""
        return self._views[base]

    def access(self, base: int) -> Access:
        """Return what the bus allows in the region that starts at `base`."""
        return self._access[base]

    def all_access(self) -> tuple[tuple[int, Access], ...]:
        """Return what the bus allows, by region."""
        return tuple(self._access.items())

    def set_access(self, base: int, access: Access) -> None:
        """Change what the bus allows in a region."""
        if self._access[base] != access:
            self._access[base] = access
            self._forget()
            self._engine.mem_protect(base, len(self._views[base]), int(access))

    def replace(self, base: int, buffer: memoryview) -> None:
        """Put other memory of the same size in a region's place."""
        size, access = len(self._views[base]), self._access[base]
        self._engine.mem_unmap(base, size)
        self._map(MemoryRegion(base, size, access, buffer))
        self._forget()

    def _locate(self, address: int, size: int, access: int) -> tuple[memoryview, int] | None:
        base, view, allowed = self._last
        offset = address - base
        if not 0 <= offset <= len(view) - size:
            found = self._region(address)
            if found is None:
                return None
            base, view, allowed = self._last = found
            offset = address - base
            if offset > len(view) - size:
                return None
        return (view, offset) if allowed & access else None

    def _region(self, address: int) -> tuple[int, memoryview, int] | None:
        index = bisect.bisect_right(self._order, address) - 1
        if index < 0:
            return None
        base = self._order[index]
        view = self._views[base]
        return (base, view, int(self._access[base])) if address - base < len(view) else None

    def load(self, address: int, count: int) -> tuple[int, ...] | None:
        """Return `count` words, or None where the bus gives none."""
        place = self._locate(address, 4 * count, _R)
        return None if place is None else _words(count).unpack_from(*place)

    def store(self, address: int, words: Sequence[int]) -> bool:
        """Store words; returns whether the bus took them."""
        place = self._locate(address, 4 * len(words), _W)
        if place is None:
            return False
        _words(len(words)).pack_into(*place, *words)
        return True

    def halfword(self, address: int) -> int | None:
        """Return a halfword of code, or None where there is none."""
        place = self._locate(address, 2, _X)
        if place is None:
            return None
        view, offset = place
        return view[offset] | view[offset + 1] << 8

    def code(self, address: int, size: int) -> bytes:
        """Return up to `size` octets of code from `address` on; fewer at the end of a region."""
        found = self._region(address)
        if found is None:
            return b""
        base, view, _ = found
        return bytes(view[address - base : address - base + size])

    def fetch_vector(self, address: int) -> int | None:
        """Return an entry of a vector table, or None where there is none."""
        words = self.load(address, 1)
        return None if words is None else words[0]


@functools.cache
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")
