"""Reads programs: ELF files, by the physical addresses of their segments, and raw images for address 0."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from fuseline.errors import (
    ProgramMachine,
    ProgramMalformed,
    ProgramSegment,
    ProgramTooLarge,
    ProgramUnreadable,
    ProgramVectors,
)

MAX_FILE_SIZE: Final = 64 * 1024 * 1024
"""An ELF file may hold as much as the board's memory again in debug information."""
_MAGIC = b"\x7fELF"
_MAX_SEGMENTS = 256


@dataclass(frozen=True, slots=True)
class MemoryWindow:
    """Memory into which a program may be loaded."""

    base: int
    size: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Octets and the address at which they stand at start."""

    address: int
    data: bytes

    @property
    def end(self) -> int:
        """The address behind them."""
        return self.address + len(self.data)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be loaded.

    Attributes:
        segments: By address; they do not overlap.
        stack: Initial stack pointer.
        entry: Reset vector, with its Thumb bit.
    """

    segments: tuple[Segment, ...]
    stack: int
    entry: int


def read_program(path: Path, windows: Sequence[MemoryWindow]) -> Program:
    """Read and check a program.

    Args:
        path: An ELF file, or a raw image for address 0.
        windows: The board's memory; the first one holds address 0.

    Raises:
        ProgramUnreadable: There is no such file, or it cannot be read.
        ProgramTooLarge: It is larger than any program.
        ProgramMalformed, ProgramMachine, ProgramSegment, ProgramVectors: It is no program for this board.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_SIZE:
            raise ProgramTooLarge("the file is too large", path=str(path), octets=size)
        content = path.read_bytes()
    except OSError as error:
        raise ProgramUnreadable(str(error), path=str(path)) from error
    return parse_program(content, windows)


def parse_program(content: bytes, windows: Sequence[MemoryWindow]) -> Program:
    """Check a program that was read; raises as `read_program` does."""
    if content.startswith(_MAGIC):
        segments = _elf_segments(content)
    else:
        segments = [Segment(0, content)]
        if len(content) > windows[0].size:
            raise ProgramTooLarge("a raw image fills more than the memory at 0", octets=len(content))
    _check_segments(segments, windows)
    stack, entry = _vectors(segments)
    return Program(tuple(sorted(segments, key=lambda segment: segment.address)), stack, entry)


def _elf_segments(content: bytes) -> list[Segment]:
    try:
        elf = ELFFile(io.BytesIO(content))
        header = elf.header
        if elf.elfclass != 32 or not elf.little_endian or header["e_machine"] != "EM_ARM":
            raise ProgramMachine(
                "not a 32-bit little-endian Arm file", machine=str(header["e_machine"]), bits=elf.elfclass
            )
        if header["e_type"] != "ET_EXEC":
            raise ProgramMachine("not a linked executable", type=str(header["e_type"]))
        if header["e_phnum"] > _MAX_SEGMENTS:
            raise ProgramMalformed("too many program headers", count=header["e_phnum"])
        headers = [elf.get_segment(number).header for number in range(header["e_phnum"])]
    # pyelftools leaves the checking of offsets and names to its caller.
    except (ELFError, ConstructError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise ProgramMalformed(f"the ELF structure is broken: {error}") from error
    except (OverflowError, MemoryError, UnicodeError, AssertionError) as error:
        raise ProgramMalformed(f"the ELF structure is broken: {error}") from error
    return [
        _segment(content, header)
        for header in headers
        if header["p_type"] == "PT_LOAD" and header["p_filesz"]
    ]


def _segment(content: bytes, header: Any) -> Segment:
    offset, size, address = header["p_offset"], header["p_filesz"], header["p_paddr"]
    if size > header["p_memsz"] or offset + size > len(content):
        raise ProgramSegment("a segment is not in the file", address=f"{address:#x}", octets=size)
    return Segment(address, content[offset : offset + size])


def _check_segments(segments: list[Segment], windows: Sequence[MemoryWindow]) -> None:
    for segment in segments:
        inside = any(
            window.base <= segment.address and segment.end <= window.base + window.size for window in windows
        )
        if not inside:
            where = f"{segment.address:#x} to {segment.end:#x}"
            raise ProgramSegment("a segment is not in the board's memory", segment=where)
    ordered = sorted(segments, key=lambda segment: segment.address)
    for before, after in itertools.pairwise(ordered):
        if after.address < before.end:
            raise ProgramSegment("two segments overlap", address=f"{after.address:#x}")


def _vectors(segments: list[Segment]) -> tuple[int, int]:
    table = next((s for s in segments if s.address == 0 and len(s.data) >= 8), None)
    if table is None:
        raise ProgramVectors("nothing stands at address 0")
    stack, entry = (int.from_bytes(table.data[at : at + 4], "little") for at in (0, 4))
    if not entry & 1:
        raise ProgramVectors("the reset vector is no Thumb address", reset=f"{entry:#010x}")
    if not any(segment.address <= entry & ~1 < segment.end for segment in segments):
        raise ProgramVectors("the reset vector leads outside the program", reset=f"{entry:#010x}")
    return stack, entry
