"""The boot ROM: machine code, where each instruction comes from, and what it demands.

The binaries are built from `chip/` by `tools/chip.py` and are the same octets wherever they are built. The
ROM is the silicon: a digest that was frozen with the revision is checked before anything runs it.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING

from fuseline.device.silicon.memory_map import ROM_SIZE
from fuseline.device.silicon.rom.requirements import Requirement, load_requirements, requirement_of
from fuseline.errors import RomDamaged

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Requirement",
    "RomImage",
    "SourceLine",
    "load_requirements",
    "probe_image",
    "puppet_image",
    "quick_image",
    "requirement_of",
    "rom_image",
    "rom_image_from",
]


@dataclass(frozen=True, slots=True)
class SourceLine:
    """Where an instruction comes from.

    Attributes:
        file: C file in `chip/rom/`.
        line: From 1; 0 where the compiler names none.
        function: The function whose code it is; after inlining that may not be the one that `line` stands in.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})"


@dataclass(frozen=True, slots=True)
class RomImage:
    """A boot ROM.

    Attributes:
        binary: What stands at address 0, the vector table first; at most `ROM_SIZE` octets.
        starts: First address of each row of `places`, ascending.
        places: The line map.
    """

    binary: bytes = field(repr=False)
    starts: tuple[int, ...] = field(repr=False)
    places: tuple[SourceLine, ...] = field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the binary: the ROM's revision, in effect."""
        return hashlib.sha256(self.binary).digest()

    def line(self, address: int) -> SourceLine | None:
        """Return where the instruction at `address` comes from; None for data and other memory."""
        if not 0 <= address < len(self.binary):
            return None
        row = bisect.bisect_right(self.starts, address) - 1
        return self.places[row] if row >= 0 else None


def _parse(binary: bytes, lines: str) -> RomImage:
    if len(binary) > ROM_SIZE:
        raise RomDamaged("the binary does not fit the ROM", size=len(binary), rom=ROM_SIZE)
    starts, places = [], []
    for row in lines.splitlines():
        address, place, function = row.split()
        file, _, line = place.partition(":")
        starts.append(int(address, 16))
        places.append(SourceLine(file, int(line), function))
    return RomImage(binary, tuple(starts), tuple(places))


@functools.cache
def _digests() -> dict[str, str]:
    rows = files(__package__).joinpath("rom.sha256").read_text().splitlines()
    return {name: digest for digest, name in (row.split() for row in rows)}


@functools.cache
def _packaged(name: str) -> bytes:
    data = files(__package__).joinpath(name).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != _digests().get(name):
        raise RomDamaged(
            "a binary of the chip is not the frozen one",
            file=name,
            digest=digest,
            frozen=_digests().get(name),
        )
    return data


@functools.cache
def rom_image() -> RomImage:
    """Return the boot ROM of this package.

    Raises:
        RomDamaged: The binary does not have the frozen digest.
    """
    return _parse(_packaged("rom.bin"), files(__package__).joinpath("rom.lines").read_text())


def rom_image_from(folder: Path) -> RomImage:
    """Return a boot ROM that `tools/chip.py build` made elsewhere, such as the unhardened one.

    No digest is checked.

    Args:
        folder: Holds `rom.bin` and `rom.lines`.

    Raises:
        RomDamaged: The binary is larger than the ROM.
    """
    return _parse((folder / "rom.bin").read_bytes(), (folder / "rom.lines").read_text())


def probe_image() -> bytes:
    """Return a program for the loader's place that shows what it was handed and tries what must be locked.

    Unsigned, from its vector table on, linked to run behind an image header of 0x200 octets at `LOADER_RAM`.

    Raises:
        RomDamaged: The binary does not have the frozen digest.
    """
    return _packaged("probe.bin")


def quick_image() -> bytes:
    """Return the shortest program for the loader's place, for measuring; linked as `probe_image`.

    Raises:
        RomDamaged: The binary does not have the frozen digest.
    """
    return _packaged("quick.bin")


def puppet_image() -> bytes:
    """Return a program for the loader's place that obeys a table behind it: `chip/probe/puppet.c`.

    Raises:
        RomDamaged: The binary does not have the frozen digest.
    """
    return _packaged("puppet.bin")
