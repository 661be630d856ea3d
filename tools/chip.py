"""Builds the machine code that the chip starts with.

Usage: python tools/chip.py header                render the C headers from the programming model
       python tools/chip.py build                 build ROM and probes into the package
       python tools/chip.py build --unhardened DIR  build the ROM without its defences against faults into DIR
       python tools/chip.py check                 build twice elsewhere; compare with what is frozen
       python tools/chip.py freeze                freeze the digests of a new ROM revision

The compiler is the pinned `ziglang` wheel. Nothing in the binaries depends on when or where they were built.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Final

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from fuseline.device.silicon import commands, fuse_map, memory_map
from fuseline.device.silicon.puf import HELPER_SIZE
from fuseline.device.silicon.rom.loader_certificate import (
    CERTIFICATE_MAX,
    SPKI_P256_PREFIX,
    loader_certificate_template,
)
from fuseline.device.silicon.rom.requirements import load_requirements

ROOT: Final = Path(__file__).resolve().parent.parent
CHIP: Final = ROOT / "chip"
PACKAGE: Final = ROOT / "fuseline/device/silicon/rom"
DIGESTS: Final = "rom.sha256"
FROZEN: Final = CHIP / "rom/rom.sha256"

_FLAGS: Final = (
    *("-target", "thumb-freestanding-eabi", "-mcpu=cortex_m4", "-std=c11", "-O2", "-g", "-gdwarf-4"),
    *(
        "-ffreestanding",
        "-nostdlib",
        "-fno-sanitize=undefined",
        "-fno-strict-aliasing",
        "-fno-stack-protector",
    ),
    *(
        "-fno-unwind-tables",
        "-fno-asynchronous-unwind-tables",
        "-fno-builtin",
        "-fno-jump-tables",
        "-fomit-frame-pointer",
        "-fno-unroll-loops",
    ),
    # Two checks that look alike must stay two checks.
    *("-mllvm", "-enable-machine-outliner=never", "-mllvm", "-enable-tail-merge=false"),
    *(
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Wshadow",
        "-Wundef",
        "-Wstrict-prototypes",
        "-Wmissing-prototypes",
    ),
    *("-Wpointer-arith", "-Wvla", "-Werror"),
    *("-Wl,--build-id=none", "-Wl,--gc-sections", "-Wl,-z,max-page-size=4", "-Wl,-e,0"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """One binary.

    Attributes:
        name: Of the binary, and of its frozen digest.
        sources: C files, relative to `chip/`.
        script: Linker script, relative to `chip/`.
        defines: For the preprocessor.
    """

    name: str
    sources: tuple[str, ...]
    script: str
    defines: tuple[str, ...] = ()


def _sources(folder: str) -> tuple[str, ...]:
    return tuple(str(path.relative_to(CHIP)) for path in sorted((CHIP / folder).glob("*.c")))


def targets() -> tuple[Target, ...]:
    """Return what the package contains: the ROM, and three programs for a loader's place."""
    return (
        Target("rom", _sources("rom"), "rom/rom.ld"),
        Target("probe", ("probe/probe.c", "probe/start.c"), "probe/probe.ld"),
        Target("quick", ("probe/quick.c", "probe/start.c"), "probe/probe.ld"),
        Target("puppet", ("probe/puppet.c",), "probe/probe.ld"),
    )


def _define(name: str, value: int) -> str:
    return f"#define {name} 0x{value:08x}u"


def _enum(prefix: str, members: type[IntEnum | IntFlag]) -> Iterator[str]:
    for name, member in members.__members__.items():
        yield _define(f"{prefix}_{name}", int(member))


def _constants(values: Mapping[str, object]) -> Iterator[str]:
    for name, value in values.items():
        if name.isupper() and isinstance(value, int) and not isinstance(value, IntEnum):
            yield _define(name, value)


def _table(name: str, values: Sequence[int]) -> str:
    return f"#define {name} {{{', '.join(f'0x{value:08x}u' for value in values)}}}"


def _key_types() -> Iterator[str]:
    for state, types in fuse_map.KEY_TYPES.items():
        # Always three entries, so that the machine code has one loop: the strictest is repeated.
        allowed = sorted(types, key=list(fuse_map.KeyType).index)
        yield _table(f"KEY_TYPES_{state.name}", [*allowed, *[allowed[-1]] * (3 - len(allowed))])


def render_model() -> str:
    """Render `memory_map`, `commands` and `fuse_map` as a C header."""
    lines = [
        *_constants(vars(memory_map)),
        *_enum("SYSTEM", memory_map.SystemWord),
        *_enum("RESET", memory_map.ResetReason),
        *_enum("STRAP", memory_map.Strap),
        *_enum("DEBUG", memory_map.DebugState),
        *_constants(vars(commands)),
        *_enum("STATUS", commands.Status),
        *_enum("CMD", commands.Command),
        *_enum("STAGE", commands.Stage),
        *_enum("LOCK", commands.Lock),
        *_enum("KEY", commands.KeySlot),
        *_constants(vars(fuse_map)),
        _table("LIFE_CYCLE_WORDS_A", fuse_map.LIFE_CYCLE_WORDS_A),
        _table("LIFE_CYCLE_WORDS_B", fuse_map.LIFE_CYCLE_WORDS_B),
        *_enum("LC", fuse_map.LifeCycle),
        *_enum("KEY_TYPE", fuse_map.KeyType),
        *_enum("COUNTER", fuse_map.Counter),
        *_key_types(),
        _define("HELPER_SIZE", HELPER_SIZE),
    ]
    return _header("FUSELINE_CHIP_H", "the programming model of the chip", dict.fromkeys(lines))


def render_errors() -> str:
    """Render the error words of the requirements as a C header."""
    lines = (f"{_define(item.code, item.word)} /* {item.id} */" for item in load_requirements().values())
    return _header("ROM_ERRORS_H", "what the ROM says when it refuses, by requirement", lines)


def render_certificate() -> str:
    """Render the template of the loader's certificate as a C header."""
    template = loader_certificate_template()
    # The public key must begin at a whole word: a block writes it there.
    pad = -(4 + template.offsets["public"]) % 4
    body = bytes(pad) + bytes(4) + template.tbs
    body += bytes(-len(body) % 4)
    words = [int.from_bytes(body[at : at + 4], "little") for at in range(0, len(body), 4)]
    lines = [
        _define("CERTIFICATE_MAX", CERTIFICATE_MAX),
        _define("CERT_PAD", pad),
        _define("CERT_TBS_AT", 4 + pad),
        _define("CERT_TBS_SIZE", len(template.tbs)),
        *(_define(f"CERT_{name.upper()}_AT", pad + 4 + at) for name, at in template.offsets.items()),
        _define("CERT_TEMPLATE_WORDS", len(words)),
        _table("CERT_TEMPLATE", words),
        f"#define SPKI_P256_PREFIX {{{', '.join(f'0x{octet:02x}u' for octet in SPKI_P256_PREFIX)}}}",
    ]
    return _header("CERTIFICATE_TEMPLATE_H", "the loader's certificate before it is filled in", lines)


def _header(guard: str, what: str, lines: Iterator[str] | Sequence[str] | Mapping[str, None]) -> str:
    body = "\n".join(lines)
    return (
        f"/* Made by `tools/chip.py header`: {what}. */\n#ifndef {guard}\n#define {guard}\n{body}\n#endif\n"
    )


def headers() -> dict[Path, str]:
    """Return every generated header with its content."""
    include = CHIP / "include"
    return {
        include / "fuseline_chip.h": render_model(),
        include / "rom_errors.h": render_errors(),
        include / "certificate_template.h": render_certificate(),
    }


def compile_target(target: Target, folder: Path) -> Path:
    """Compile and link one target into `folder`; returns the ELF file."""
    elf = folder / f"{target.name}.elf"
    command = [sys.executable, "-m", "ziglang", "cc", *_FLAGS, *(f"-D{name}" for name in target.defines)]
    command += [f"-ffile-prefix-map={CHIP}=chip", "-fdebug-compilation-dir=chip", "-Iinclude"]
    command += ["-Irom", f"-Wl,-T,{target.script}", *target.sources, "-o", str(elf)]
    environment = os.environ | {"ZIG_LOCAL_CACHE_DIR": str(folder / "cache")}
    subprocess.run(command, check=True, cwd=CHIP, env=environment)
    return elf


def binary_of(elf: Path) -> bytes:
    """Return the loadable octets of an ELF file, from its lowest address, gaps zeroed."""
    with elf.open("rb") as stream:
        segments = [
            (int(segment["p_paddr"]), bytes(segment.data()))
            for segment in ELFFile(stream).iter_segments("PT_LOAD")
            if segment["p_filesz"]
        ]
    base = min(address for address, _ in segments)
    image = bytearray(max(address + len(data) for address, data in segments) - base)
    for address, data in segments:
        image[address - base : address - base + len(data)] = data
    return bytes(image)


def lines_of(elf: Path) -> str:
    """Return the line map: `address file:line function`, one row where any of it changes."""
    with elf.open("rb") as stream:
        file = ELFFile(stream)
        functions = sorted(_functions(file))
        # Of several rows for one address the last one holds.
        rows = dict(_line_rows(file))
    text: list[str] = []
    last = ""
    for address, place in sorted(rows.items()):
        function = next((name for start, name in reversed(functions) if start <= address), "?")
        if last != (last := f"{place} {function}"):
            text.append(f"{address:05x} {last}\n")
    return "".join(text)


def _functions(file: ELFFile) -> Iterator[tuple[int, str]]:
    table = file.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        raise SystemExit("the linker wrote no symbol table")
    for symbol in table.iter_symbols():
        if symbol["st_info"]["type"] == "STT_FUNC":
            yield int(symbol["st_value"]) & ~1, symbol.name


def _line_rows(file: ELFFile) -> Iterator[tuple[int, str]]:
    dwarf = file.get_dwarf_info()
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        names = [entry.name.decode() for entry in program["file_entry"]]
        for entry in program.get_entries():
            if entry.state is not None and not entry.state.end_sequence:
                yield int(entry.state.address), f"{Path(names[entry.state.file - 1]).name}:{entry.state.line}"


def build(target: Target, folder: Path) -> dict[str, bytes]:
    """Build one target; returns the files it consists of, by name."""
    elf = compile_target(target, folder)
    files = {f"{target.name}.bin": binary_of(elf)}
    if target.name == "rom":
        files["rom.lines"] = lines_of(elf).encode()
    return files


def build_all(folder: Path) -> dict[str, bytes]:
    """Build everything that the package contains, their digests too."""
    files = {name: data for target in targets() for name, data in build(target, folder).items()}
    rows = sorted(
        (name, hashlib.sha256(data).hexdigest()) for name, data in files.items() if name.endswith(".bin")
    )
    return files | {DIGESTS: "".join(f"{digest}  {name}\n" for name, digest in rows).encode()}


def build_unhardened(folder: Path) -> None:
    """Build the ROM without its defences, for campaigns that must find ways in."""
    hardened = targets()[0]
    folder.mkdir(parents=True, exist_ok=True)
    target = Target("rom", hardened.sources, hardened.script, ("UNHARDENED=1",))
    with tempfile.TemporaryDirectory() as work:
        for name, data in build(target, Path(work)).items():
            (folder / name).write_bytes(data)


def check() -> Iterator[str]:
    """Complain of whatever is not what the sources say, or not what was frozen."""
    for path, text in headers().items():
        if not path.exists() or path.read_text() != text:
            yield f"{path.relative_to(ROOT)}: not as rendered; run `python tools/chip.py header`"
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        built, again = build_all(Path(first)), build_all(Path(second))
    for name, data in built.items():
        if again[name] != data:
            yield f"{name}: two builds in two folders differ"
        if not (PACKAGE / name).exists() or (PACKAGE / name).read_bytes() != data:
            yield f"{name}: the sources make another one; run `python tools/chip.py build`"
    if not FROZEN.exists() or FROZEN.read_bytes() != built[DIGESTS]:
        yield f"{FROZEN.relative_to(ROOT)}: the ROM is frozen; only a new revision may change it"


def main() -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("header", "build", "check", "freeze"))
    parser.add_argument("--unhardened", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    if arguments.unhardened is not None:
        build_unhardened(arguments.unhardened)
    elif arguments.command == "header":
        for path, text in headers().items():
            path.write_text(text)
    elif arguments.command == "build":
        with tempfile.TemporaryDirectory() as work:
            for name, data in build_all(Path(work)).items():
                (PACKAGE / name).write_bytes(data)
                print(f"{name}: {len(data)} octets")
    elif arguments.command == "freeze":
        FROZEN.write_bytes((PACKAGE / DIGESTS).read_bytes())
    else:
        complaints = list(check())
        print("\n".join([*complaints, f"chip: {len(complaints)} complaints"]))
        return 1 if complaints else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
