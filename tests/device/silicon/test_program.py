"""What is no program is refused with a code, whatever the octets."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.device.silicon.board import WINDOWS
from fuseline.device.silicon.program import MAX_FILE_SIZE, parse_program, read_program
from fuseline.errors import (
    ProgramMachine,
    ProgramMalformed,
    ProgramSegment,
    ProgramTooLarge,
    ProgramUnreadable,
    ProgramVectors,
    SiliconError,
)

HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
SEGMENT = struct.Struct("<8I")
VECTORS = struct.pack("<2I", 0x2000_1000, 0x11) + bytes(24)
PT_LOAD, ET_EXEC, EM_ARM = 1, 2, 40


def elf(
    *segments: tuple[int, int, bytes],
    machine: int = EM_ARM,
    kind: int = ET_EXEC,
    ident: bytes = b"\x7fELF\1\1\1",
    count: int | None = None,
    memory_size: int | None = None,
    offset: int | None = None,
) -> bytes:
    """An ELF file of (virtual address, physical address, octets)."""
    table = HEADER.size
    at = table + SEGMENT.size * len(segments)
    headers, body = b"", b""
    for virtual, physical, data in segments:
        where = at + len(body) if offset is None else offset
        size = len(data) if memory_size is None else memory_size
        headers += SEGMENT.pack(PT_LOAD, where, virtual, physical, len(data), size, 5, 4)
        body += data
    count = len(segments) if count is None else count
    head = HEADER.pack(
        ident.ljust(16, b"\0"),
        kind,
        machine,
        1,
        0x11,
        table,
        0,
        0,
        HEADER.size,
        SEGMENT.size,
        count,
        40,
        0,
        0,
    )
    return head + headers + body


def test_segments_stand_at_their_physical_addresses() -> None:
    program = parse_program(elf((0x2000_0000, 0x100, b"data"), (0, 0, VECTORS)), WINDOWS)
    assert [(segment.address, segment.data) for segment in program.segments] == [
        (0, VECTORS),
        (0x100, b"data"),
    ]
    assert (program.stack, program.entry) == (0x2000_1000, 0x11)


def test_a_raw_image_stands_at_zero() -> None:
    assert parse_program(VECTORS, WINDOWS).segments[0].data == VECTORS


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (elf((0, 0, VECTORS), machine=62), ProgramMachine),
        (elf((0, 0, VECTORS), kind=1), ProgramMachine),
        (elf((0, 0, VECTORS), ident=b"\x7fELF\1\2\1"), SiliconError),
        (elf((0, 0, VECTORS), ident=b"\x7fELF\2\1\1"), SiliconError),
        (elf((0, 0, VECTORS), ident=b"\x7fELF\7\1\1"), ProgramMalformed),
        (elf((0, 0, VECTORS), count=60_000), ProgramMalformed),
        (elf((0, 0, VECTORS), memory_size=4), ProgramSegment),
        (elf((0, 0, VECTORS), offset=0xFFFF_FFF0), ProgramSegment),
        (elf((0, 0, VECTORS), (0, 16, bytes(8))), ProgramSegment),
        (elf((0, 0, VECTORS), (0, 0x3F_FFFC, bytes(8))), ProgramSegment),
        (elf((0, 0, VECTORS), (0, 0xFFFF_FFFC, bytes(8))), ProgramSegment),
        (elf((0, 0, VECTORS), (0, 0x4000_4000, bytes(8))), ProgramSegment),
        (elf((0, 0x2000_0000, VECTORS)), ProgramVectors),
        (elf(), ProgramVectors),
        (elf((0, 0, struct.pack("<2I", 0, 0x10))), ProgramVectors),
        (elf((0, 0, struct.pack("<2I", 0, 0x9001))), ProgramVectors),
        (b"\x7fELF", ProgramMalformed),
        (b"", ProgramVectors),
        (bytes(4 * 1024 * 1024 + 1), ProgramTooLarge),
    ],
)
def test_each_fault_of_a_file_has_its_error(content: bytes, error: type[SiliconError]) -> None:
    with pytest.raises(error) as refused:
        parse_program(content, WINDOWS)
    assert refused.value.code.startswith("E_PROGRAM_")


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ProgramUnreadable):
            read_program(path, WINDOWS)


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.elf"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_SIZE + 1)
    with pytest.raises(ProgramTooLarge):
        read_program(path, WINDOWS)


@given(st.binary(max_size=300), st.booleans())
def test_random_octets_are_a_program_or_refused(octets: bytes, magic: bool) -> None:
    content = b"\x7fELF\1\1\1" + octets if magic else octets
    with contextlib.suppress(SiliconError):
        parse_program(content, WINDOWS)


@given(st.data())
def test_a_damaged_file_is_a_program_or_refused(data: st.DataObject) -> None:
    content = bytearray(elf((0, 0, VECTORS), (0x2000_0000, 0x100, b"data")))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SiliconError):
        parse_program(bytes(content[: data.draw(st.integers(0, len(content)))]), WINDOWS)
