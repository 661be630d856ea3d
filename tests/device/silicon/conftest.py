"""Fixtures: test programs that take the ROM's place, compiled once a session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from fuseline.device.silicon import commands, fuse_map, memory_map

PROGRAMS = Path(__file__).parent / "programs"
COMPILER = (sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi", "-mcpu=cortex_m4")
FLAGS = ("-O2", "-ffreestanding", "-fno-builtin", "-nostdlib", "-Wall", "-Wextra", "-Werror")


def _header() -> str:
    """The programming model as C constants: `NAME`, and `ENUM_MEMBER` for what is enumerated."""
    lines = []
    for module in (memory_map, commands, fuse_map):
        for name, value in vars(module).items():
            if isinstance(value, int) and name.isupper():
                lines.append(f"#define {name} {value:#x}u")
            elif isinstance(value, type) and issubclass(value, int) and issubclass(value, Enum):
                lines += [
                    f"#define {name.upper()}_{member.name} {member.value:#x}u"
                    for member in value.__members__.values()
                ]
    return "\n".join(lines) + "\n"


def _binary(elf: Path) -> bytes:
    """The octets of an ELF's read-only segments, from address 0."""
    image = bytearray()
    with elf.open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            if segment["p_filesz"] and segment["p_paddr"] < memory_map.ROM_SIZE:
                image.extend(bytes(segment["p_paddr"] + segment["p_filesz"] - len(image)))
                image[segment["p_paddr"] : segment["p_paddr"] + segment["p_filesz"]] = segment.data()
    return bytes(image)


@pytest.fixture(scope="session")
def build_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Compiles `programs/NAME.c`; returns its octets from address 0, the first time and every other."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "chip.h").write_text(_header())
    built: dict[str, bytes] = {}

    def build(name: str) -> bytes:
        if name not in built:
            elf = folder / f"{name}.elf"
            sources = [str(PROGRAMS / file) for file in ("support.c", f"{name}.c")]
            linking = ["-T", str(PROGRAMS / "program.ld"), "-Wl,-e,reset", "-o", str(elf)]
            command = [*COMPILER, *FLAGS, f"-I{folder}", f"-I{PROGRAMS}", *sources, *linking]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            built[name] = _binary(elf)
        return built[name]

    return build
