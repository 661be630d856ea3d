"""Code in the loader's place that does what an attacker writes down for it.

`chip/probe/puppet.c` is machine code, started by the ROM like any loader. It walks through a table of rows
behind its code, and notes what came of each.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.commands import Command, Status
from fuseline.device.silicon.memory_map import LOADER_RAM_SIZE, RAM_BASE
from fuseline.device.silicon.rom import puppet_image
from fuseline.lab.chip_attacks.forge import ImageSpec, Signer, forge

if TYPE_CHECKING:
    from fuseline.device.silicon.silicon import Silicon

_HEADER_SIZE: Final = 0x200
_TABLE: Final = 0x1000
_NOTES: Final = RAM_BASE + LOADER_RAM_SIZE
_REGISTERS: Final = 16
_NOTES_ROWS: Final = _NOTES + 0x80
_ROW: Final = struct.Struct("<8I")
_NOTE: Final = struct.Struct("<4I")


class _Kind(IntEnum):
    END = 0
    COMMAND = 1
    LOAD = 2
    STORE = 3
    SCAN = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to do.

    Attributes:
        what: For a person.
        words: As the machine code reads it.
    """

    what: str
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """What came of a row.

    Attributes:
        value: Status of a command, the word that was read, or all words ORed.
        r0: First result of a command.
        r1: Second result.
        faults: Accesses that the bus refused.
    """

    value: int
    r0: int
    r1: int
    faults: int

    @property
    def status(self) -> Status:
        """What became of the command."""
        return Status(self.value)


@dataclass(frozen=True, slots=True)
class Notes:
    """What the puppet noted.

    Attributes:
        registers: r0 to r12, lr, PSP, CONTROL at its first instruction.
        rows: One note for each row.
    """

    registers: tuple[int, ...]
    rows: tuple[Note, ...]


def command(what: str, number: Command, *arguments: int) -> Row:
    """Return a row that gives a command to the port, with up to six arguments."""
    return Row(what, (_Kind.COMMAND, number, *arguments, *[0] * (6 - len(arguments))))


def load(what: str, address: int) -> Row:
    """Return a row that reads a word."""
    return Row(what, (_Kind.LOAD, address, *[0] * 6))


def store(what: str, address: int, value: int) -> Row:
    """Return a row that writes a word."""
    return Row(what, (_Kind.STORE, address, value, *[0] * 5))


def scan(what: str, address: int, octets: int) -> Row:
    """Return a row that reads a range and ORs all of it."""
    return Row(what, (_Kind.SCAN, address, octets, *[0] * 5))


def puppet_spec(rows: Sequence[Row], base: ImageSpec | None = None) -> ImageSpec:
    """Return the puppet with its table, as an image to be signed.

    Raises:
        RuntimeError: The code has grown over its table.
    """
    code = puppet_image()
    if len(code) > _TABLE:
        raise RuntimeError("the puppet has grown over its table")
    table = b"".join(_ROW.pack(*row.words) for row in rows) + bytes(_ROW.size)
    spec = base or ImageSpec()
    return ImageSpec(
        payload=code.ljust(_TABLE, b"\0") + table,
        protected=spec.protected,
        header_size=_HEADER_SIZE,
        version=spec.version,
    )


def puppet(rows: Sequence[Row], signer: Signer) -> bytes:
    """Return the puppet with its table, signed."""
    return forge(puppet_spec(rows), signer)


def read_notes(silicon: Silicon, rows: Sequence[Row]) -> Notes:
    """Return what the puppet noted in its last run.

    Args:
        silicon: The chip that ran it.
        rows: The table it was given.
    """
    memory = silicon.psram.view(_NOTES_ROWS, _NOTE.size * len(rows))
    registers = struct.unpack(f"<{_REGISTERS}I", silicon.psram.view(_NOTES, 4 * _REGISTERS))
    return Notes(registers, tuple(Note(*fields) for fields in _NOTE.iter_unpack(memory)))
