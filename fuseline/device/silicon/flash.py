"""The external flash that the chip executes and reads in place.

Blocks of 4 KiB are erased to ones; words of 4 octets are programmed once per erase. A failing supply leaves
a block partly erased or a word partly programmed. The chip's own controller obeys locks; the part itself is
soldered beside the chip, so whoever holds a flash programmer can write anything: nothing in it is trusted for
being there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.commands import Lock
from fuseline.device.silicon.memory_map import (
    FLASH_BLOCK,
    FLASH_SIZE,
    FLASH_WORD,
    HELPER_A,
    IDEVID,
    LOADER_PRIMARY,
    LOADER_RECOVERY,
    LOADER_SLOT_SIZE,
)
from fuseline.device.silicon.power import Power, PowerLost
from fuseline.errors import FlashArgument, FlashLocked, FlashNotErased

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from fuseline.device.silicon.machine_state import MachineState

FLASH_BLOCKS: Final = FLASH_SIZE // FLASH_BLOCK
ERASED_BLOCK: Final = b"\xff" * FLASH_BLOCK
_ERASED_WORD: Final = b"\xff" * FLASH_WORD

_LOCKED_RANGES: Final = (
    (Lock.FLASH_LOADER, LOADER_PRIMARY, LOADER_RECOVERY + LOADER_SLOT_SIZE),
    (Lock.FLASH_IDENTITY, HELPER_A, IDEVID + FLASH_BLOCK),
)


@dataclass(frozen=True, slots=True)
class FlashContent:
    """The state of the flash, as a snapshot or a file keeps it. Equal blocks may share memory.

    Attributes:
        blocks: `FLASH_BLOCKS` blocks of `FLASH_BLOCK` octets.
        wear: How often each block has been erased.
    """

    blocks: tuple[bytes, ...] = (ERASED_BLOCK,) * FLASH_BLOCKS
    wear: tuple[int, ...] = (0,) * FLASH_BLOCKS


class Flash:
    """1 MiB of NOR flash behind its controller.

    Args:
        view: The window in which the processor reads it.
        power: Asked before each erase and each word.
        state: Locks of this run.
        random: Gives the random stream of this boot.
        content: What it held before; erased by default.
    """

    def __init__(
        self,
        view: memoryview,
        power: Power,
        state: MachineState,
        random: Callable[[], np.random.Generator],
        content: FlashContent | None = None,
    ) -> None:
        self._view = view
        self._power = power
        self._state = state
        self._random = random
        # Blocks as of the last snapshot, and those that changed since: a snapshot copies only the latter.
        self._blocks: tuple[bytes, ...] = ()
        self._dirty: set[int] = set()
        self._wear: list[int] = []
        self._digest: bytes | None = None
        self.restore(content or FlashContent())

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` octets from `offset`.

        Raises:
            FlashArgument: Not all inside the flash.
        """
        _check_range(offset, size)
        return bytes(self._view[offset : offset + size])

    def wear(self, offset: int) -> int:
        """Return how often the block at `offset` has been erased.

        Raises:
            FlashArgument: No block starts there.
        """
        return self._wear[_block_at(offset)]

    def digest(self) -> bytes:
        """Return SHA-256 over the whole flash; computed once per change."""
        if self._digest is None:
            self._digest = hashlib.sha256(self._view).digest()
        return self._digest

    def erase(self, offset: int) -> int:
        """Erase the block at `offset` to ones.

        Returns:
            How often this block has been erased.

        Raises:
            FlashArgument: No block starts there.
            FlashLocked: Locked until the next reset.
            PowerLost: The supply failed; some bits are erased and some are not.
        """
        block = _block_at(offset)
        self._permit(offset, FLASH_BLOCK)
        self._touch(block)
        self._wear[block] += 1
        if self._power.begin():
            self._view[offset : offset + FLASH_BLOCK] = self._mixed(offset, FLASH_BLOCK, ERASED_BLOCK)
            raise PowerLost(f"while the flash block at {offset:#x} was erased")
        self._view[offset : offset + FLASH_BLOCK] = ERASED_BLOCK
        return self._wear[block]

    def program(self, offset: int, data: bytes) -> None:
        """Program erased words.

        Args:
            offset: Of the first word.
            data: Whole words.

        Raises:
            FlashArgument: Not whole words inside the flash.
            FlashLocked: Locked until the next reset.
            FlashNotErased: A word is not erased; nothing was programmed. The evidence has the first `offset`.
            PowerLost: The supply failed; words before the one at hand are programmed, it itself partly.
        """
        size = len(data)
        _check_range(offset, size)
        if offset % FLASH_WORD or size % FLASH_WORD:
            raise FlashArgument("flash is programmed in whole words", offset=offset, length=size)
        self._permit(offset, size)
        self._require_erased(offset, size)
        for block in range(offset // FLASH_BLOCK, -(-(offset + size) // FLASH_BLOCK)):
            self._touch(block)
        words, before = size // FLASH_WORD, self._power.operations
        cut = self._power.cut_at
        if cut is None or not before < cut <= before + words:
            self._power.operations += words
            self._view[offset : offset + size] = data
            return
        done = (cut - before - 1) * FLASH_WORD
        self._power.operations = cut
        self._view[offset : offset + done] = data[:done]
        at = offset + done
        self._view[at : at + FLASH_WORD] = self._mixed(at, FLASH_WORD, data[done : done + FLASH_WORD])
        raise PowerLost(f"while the flash word at {at:#x} was programmed")

    def external_write(self, offset: int, data: bytes) -> None:
        """Write anything anywhere, as a flash programmer clipped to the part does: no lock is in its way.

        It erases the blocks it touches, puts back what else stood in them, and has its own supply.

        Raises:
            FlashArgument: Not all inside the flash.
        """
        _check_range(offset, len(data))
        if not data:
            return
        for block in range(offset // FLASH_BLOCK, (offset + len(data) - 1) // FLASH_BLOCK + 1):
            self._touch(block)
            self._wear[block] += 1
        self._view[offset : offset + len(data)] = data

    def content(self) -> FlashContent:
        """Return the state, for a snapshot or a file; copies only blocks changed since the last one."""
        if self._dirty:
            blocks = list(self._blocks)
            for block in self._dirty:
                blocks[block] = bytes(self._view[block * FLASH_BLOCK : (block + 1) * FLASH_BLOCK])
            self._blocks = tuple(blocks)
            self._dirty.clear()
        return FlashContent(self._blocks, tuple(self._wear))

    def restore(self, content: FlashContent) -> None:
        """Become the flash of another moment or another chip; writes only blocks that differ.

        Raises:
            RuntimeError: `content` has the wrong size.
        """
        if len(content.blocks) != FLASH_BLOCKS or len(content.wear) != FLASH_BLOCKS:
            raise RuntimeError(f"flash has {FLASH_BLOCKS} blocks")
        changed = set(self._dirty)
        if content.blocks is not self._blocks:
            known = self._blocks or (None,) * FLASH_BLOCKS
            changed |= {
                index
                for index, (old, new) in enumerate(zip(known, content.blocks, strict=True))
                if old is not new
            }
        for block in changed:
            self._view[block * FLASH_BLOCK : (block + 1) * FLASH_BLOCK] = content.blocks[block]
        if changed:
            self._digest = None
        self._blocks = content.blocks
        self._dirty.clear()
        self._wear = list(content.wear)

    def _touch(self, block: int) -> None:
        self._dirty.add(block)
        self._digest = None

    def _permit(self, offset: int, size: int) -> None:
        for lock, start, end in _LOCKED_RANGES:
            if offset < end and offset + size > start and self._state.locks & lock:
                raise FlashLocked(f"flash at {offset:#x} is locked", offset=offset, lock=lock.name)

    def _require_erased(self, offset: int, size: int) -> None:
        if self._view[offset : offset + size] == b"\xff" * size:
            return
        for at in range(offset, offset + size, FLASH_WORD):
            if self._view[at : at + FLASH_WORD] != _ERASED_WORD:
                raise FlashNotErased(f"the flash word at {at:#x} is not erased", offset=at)

    def _mixed(self, offset: int, size: int, wanted: bytes) -> bytes:
        """Return octets of which each bit has the old or the new value, by chance."""
        old = int.from_bytes(self._view[offset : offset + size], "little")
        new = int.from_bytes(wanted, "little")
        chosen = int.from_bytes(self._random().bytes(size), "little")
        return (old & ~chosen | new & chosen).to_bytes(size, "little")


def _check_range(offset: int, size: int) -> None:
    if offset < 0 or size < 0 or offset + size > FLASH_SIZE:
        raise FlashArgument("outside the flash", offset=offset, length=size)


def _block_at(offset: int) -> int:
    _check_range(offset, FLASH_BLOCK)
    if offset % FLASH_BLOCK:
        raise FlashArgument(f"no flash block starts at {offset:#x}", offset=offset)
    return offset // FLASH_BLOCK
