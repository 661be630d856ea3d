"""A chip's lasting state as the octets of its files, and back. Reads and writes nothing itself."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from fuseline.device.silicon.flash import FLASH_BLOCKS, FlashContent
from fuseline.device.silicon.fuse_map import FUSE_WORDS
from fuseline.device.silicon.fuses import FuseContent
from fuseline.device.silicon.memory_map import CHIP_REVISION, FLASH_BLOCK, FLASH_SIZE, RETENTION_SIZE
from fuseline.device.silicon.puf import Conditions
from fuseline.device.silicon.silicon import NonVolatile
from fuseline.errors import ChipFolderBroken, ChipFolderVersion

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = 1
CHIP_FILE: Final = "chip.json"
FUSES_FILE: Final = "fuses.bin"
FLASH_FILE: Final = "flash.bin"
RETENTION_FILE: Final = "retention.bin"
SEED_LIMIT: Final = 1 << 256
FILES: Final = (CHIP_FILE, FUSES_FILE, FLASH_FILE, RETENTION_FILE)

_WORDS_SIZE: Final = 4 * FUSE_WORDS
_COUNT: Final = struct.Struct("<I")
_HALF_BLOWN: Final = struct.Struct("<Id")

_Natural = Annotated[int, msgspec.Meta(ge=0)]
# Beyond these the physics has no model, and NaN has no order.
_Celsius = Annotated[float, msgspec.Meta(ge=-273.15, le=1000)]
_Years = Annotated[float, msgspec.Meta(ge=0, le=1000)]
_Wear = Annotated[tuple[_Natural, ...], msgspec.Meta(min_length=FLASH_BLOCKS, max_length=FLASH_BLOCKS)]


class _Format(msgspec.Struct, frozen=True):
    format: _Natural


class _ChipFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: _Natural
    seed: str
    revision: _Natural
    boot_count: _Natural
    temperature_c: _Celsius
    age_years: _Years
    wear: _Wear


@dataclass(frozen=True, slots=True)
class StoredChip:
    """What of a chip lasts without a supply, and what it is exposed to.

    Attributes:
        seed: Makes this piece of silicon differ from all others.
        conditions: Temperature and age.
        kept: Fuses, flash, boot count.
        retention: Content of retention RAM, `RETENTION_SIZE` octets.
    """

    seed: int
    conditions: Conditions
    kept: NonVolatile
    retention: bytes


def encode(chip: StoredChip) -> dict[str, bytes]:
    """Return the content of each of `FILES`."""
    facts = _ChipFile(
        format=FORMAT,
        seed=f"{chip.seed:#x}",
        revision=CHIP_REVISION,
        boot_count=chip.kept.boot_count,
        temperature_c=chip.conditions.temperature_c,
        age_years=chip.conditions.age_years,
        wear=chip.kept.flash.wear,
    )
    return {
        CHIP_FILE: msgspec.json.encode(facts) + b"\n",
        FUSES_FILE: encode_fuses(chip.kept.fuses),
        FLASH_FILE: b"".join(chip.kept.flash.blocks),
        RETENTION_FILE: chip.retention,
    }


def decode(files: Mapping[str, bytes]) -> StoredChip:
    """Read a chip's files.

    Args:
        files: Content of each of `FILES`.

    Raises:
        ChipFolderVersion: Another format, or a revision of the chip that this program does not know.
        ChipFolderBroken: A file does not follow the format.
    """
    facts = _decode_chip(files[CHIP_FILE])
    flash, retention = files[FLASH_FILE], files[RETENTION_FILE]
    for name, content, size in ((FLASH_FILE, flash, FLASH_SIZE), (RETENTION_FILE, retention, RETENTION_SIZE)):
        if len(content) != size:
            raise ChipFolderBroken(f"{name} has the wrong size", size=len(content), expected=size)
    blocks = tuple(flash[start : start + FLASH_BLOCK] for start in range(0, FLASH_SIZE, FLASH_BLOCK))
    return StoredChip(
        seed=_decode_seed(facts.seed),
        conditions=Conditions(facts.temperature_c, facts.age_years),
        kept=NonVolatile(facts.boot_count, decode_fuses(files[FUSES_FILE]), FlashContent(blocks, facts.wear)),
        retention=retention,
    )


def _decode_chip(content: bytes) -> _ChipFile:
    try:
        version = msgspec.json.decode(content, type=_Format).format
        if version != FORMAT:
            raise ChipFolderVersion(f"{CHIP_FILE} has another format", format=version, known=FORMAT)
        facts = msgspec.json.decode(content, type=_ChipFile)
    except msgspec.DecodeError as error:
        raise ChipFolderBroken(f"{CHIP_FILE}: {error}") from error
    if facts.revision != CHIP_REVISION:
        raise ChipFolderVersion("another revision of the chip", revision=facts.revision, known=CHIP_REVISION)
    return facts


def _decode_seed(text: str) -> int:
    # JSON's numbers end at 2^53 for many readers; a seed has up to 256 bits.
    digits = text.removeprefix("0x")
    if digits == text or not 1 <= len(digits) <= 64 or set(digits) - set("0123456789abcdef"):
        raise ChipFolderBroken(f"{CHIP_FILE}: the seed is not 0x and up to 64 hexadecimal digits")
    return int(digits, 16)


def encode_fuses(fuses: FuseContent) -> bytes:
    """Return the content of `fuses.bin`."""
    half_blown = [_HALF_BLOWN.pack(bit, strength) for bit, strength in sorted(fuses.half_blown)]
    return b"".join((fuses.words, _COUNT.pack(len(half_blown)), *half_blown))


def decode_fuses(content: bytes) -> FuseContent:
    """Read `fuses.bin`.

    Raises:
        ChipFolderBroken: It does not follow the format.
    """
    words, rest = content[:_WORDS_SIZE], content[_WORDS_SIZE + _COUNT.size :]
    if len(content) < _WORDS_SIZE + _COUNT.size:
        raise ChipFolderBroken(f"{FUSES_FILE} is cut off", size=len(content))
    (count,) = _COUNT.unpack_from(content, _WORDS_SIZE)
    if len(rest) != count * _HALF_BLOWN.size:
        raise ChipFolderBroken(f"{FUSES_FILE} has the wrong size", size=len(content), half_blown=count)
    half_blown = tuple(_HALF_BLOWN.iter_unpack(rest))
    for bit, strength in half_blown:
        if bit >= 8 * _WORDS_SIZE or not 0 < strength < 1 or words[bit // 8] >> bit % 8 & 1:
            raise ChipFolderBroken(f"{FUSES_FILE} has a half-blown bit that cannot be", bit=bit)
    if any(earlier >= later for (earlier, _), (later, _) in itertools.pairwise(half_blown)):
        raise ChipFolderBroken(f"{FUSES_FILE} names half-blown bits out of order or twice")
    return FuseContent(words, half_blown)
