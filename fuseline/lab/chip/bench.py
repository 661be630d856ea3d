"""A chip on the bench: boots it, copies it, and does to it what testers and programmers do."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from cryptography import x509

from fuseline.device.silicon.chip import Chip
from fuseline.device.silicon.engine import Limits
from fuseline.device.silicon.memory_map import (
    FLASH_BLOCK,
    IDEVID,
    LOADER_PRIMARY,
    LOADER_RECOVERY,
    LOADER_SLOT_SIZE,
    ResetReason,
    Strap,
)
from fuseline.device.silicon.rom import rom_image
from fuseline.device.silicon.silicon import Silicon
from fuseline.errors import LoaderTooLarge

if TYPE_CHECKING:
    from fuseline.device.silicon.report import BootReport
    from fuseline.device.silicon.run import Engine

DEFAULT_LIMITS: Final = Limits(seconds=20.0)
ERASED: Final = b"\xff"
_FUSE_WORD: Final = struct.Struct("<I")
LOADER_SLOTS: Final = {"primary": LOADER_PRIMARY, "recovery": LOADER_RECOVERY}


class Bench:
    """One chip, and the engine that runs its machine code.

    Args:
        silicon: The chip; it changes as a chip does.
        engine: Runs the machine code; None for a chip that is only looked at or written to.
        limits: When to give a boot up.
    """

    def __init__(self, silicon: Silicon, engine: Engine | None, limits: Limits = DEFAULT_LIMITS) -> None:
        self.silicon = silicon
        self.chip = Chip(silicon)
        self._engine = engine
        self._limits = limits

    def boot(
        self,
        *,
        strap: Strap = Strap.NORMAL,
        reason: ResetReason = ResetReason.COLD,
        mailbox: bytes = b"",
    ) -> BootReport:
        """Reset the chip and run its ROM; `mailbox` is what a tester writes there after the reset.

        Raises:
            RuntimeError: There is no engine.
        """
        if self._engine is None:
            raise RuntimeError("a chip without an engine does not boot")
        return self.chip.boot(
            self._engine, rom=rom_image(), strap=strap, reason=reason, limits=self._limits, mailbox=mailbox
        )

    def copy(self) -> Bench:
        """Return a copy of the chip, down to the half-blown fuses and the content of its retention RAM."""
        twin = Silicon(self.silicon.seed)
        twin.restore(self.silicon.snapshot())
        return Bench(twin, self._engine, self._limits)

    def write_loader(self, offset: int, image: bytes) -> bool:
        """Write a loader into one slot and erase the rest of it; False if it stands there already.

        Raises:
            LoaderTooLarge: It does not fit the slot.
        """
        if len(image) > LOADER_SLOT_SIZE:
            raise LoaderTooLarge(
                "the image does not fit a loader slot", size=len(image), slot=LOADER_SLOT_SIZE
            )
        return self.write_flash(offset, image.ljust(LOADER_SLOT_SIZE, ERASED))

    def write_flash(self, offset: int, content: bytes) -> bool:
        """Write flash as a programmer clipped to the part does; False if it holds this already."""
        if self.silicon.flash.read(offset, len(content)) == content:
            return False
        self.silicon.flash.external_write(offset, content)
        return True

    def write_identity(self, der: bytes) -> None:
        """Write an IDevID certificate where the chip keeps it."""
        self.write_flash(IDEVID, (len(der).to_bytes(4, "little") + der).ljust(FLASH_BLOCK, ERASED))

    def read_identity(self) -> x509.Certificate | None:
        """Read the IDevID certificate from flash; None if there is none that can be read."""
        block = self.silicon.flash.read(IDEVID, FLASH_BLOCK)
        size = int.from_bytes(block[:4], "little")
        if not 0 < size <= FLASH_BLOCK - 4:
            return None
        try:
            return x509.load_der_x509_certificate(block[4 : 4 + size])
        except ValueError:
            return None

    def certain_fuses(self) -> list[int]:
        """Return the fuse words without half-blown bits: what reads the same every time."""
        return [word for (word,) in _FUSE_WORD.iter_unpack(self.silicon.fuses.content().words)]
