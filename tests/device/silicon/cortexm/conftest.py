"""Fixtures: test programs, compiled once a session, and the two engines that run them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fuseline.device.silicon.board import run_program
from fuseline.device.silicon.cortexm import Access, BusDevice, CortexM4, MemoryRegion
from fuseline.device.silicon.engine import Limits, Stop

PROGRAMS = Path(__file__).parent / "programs"
COMPILER = (
    *(sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabihf"),
    *("-mcpu=cortex_m4+vfp4d16sp", "-std=c11", "-O2", "-ffreestanding", "-fno-builtin", "-nostdlib"),
    *("-fno-sanitize=all", "-Wall", "-Wextra", "-Werror", f"-I{PROGRAMS}"),
)
QEMU = "qemu-system-arm"
CODE, DATA, SIZE = 0x0000_0000, 0x2000_0000, 0x1_0000
START, HANDLER = 0x100, 0x200


@dataclass(frozen=True, slots=True)
class OnUnicorn:
    """What a program printed on our board, and how it ended."""

    console: str
    stop: Stop


@dataclass(frozen=True, slots=True)
class OnQemu:
    """What a program printed on QEMU's board, and its exit status."""

    console: str
    status: int


class Tiny:
    """A processor with 64 KiB of code at 0 and 64 KiB of data at 0x20000000, and a few instructions to run.

    The stack begins in the middle of the data; all exceptions lead to `HANDLER`.
    """

    def __init__(
        self, *code: int, handler: tuple[int, ...] = (0xE7FE,), devices: tuple[BusDevice, ...] = ()
    ) -> None:
        regions = [MemoryRegion(CODE, SIZE, Access.RWX), MemoryRegion(DATA, SIZE, Access.RWX)]
        self.console = bytearray()
        self.cpu = CortexM4(regions, devices, output=self.console.extend)
        self.code, self.data = self.cpu.memory.view(CODE), self.cpu.memory.view(DATA)
        vectors = (DATA + SIZE // 2, START | 1, *(HANDLER | 1,) * 46)
        self.code[: 4 * len(vectors)] = b"".join(word.to_bytes(4, "little") for word in vectors)
        self.place(START, *code)
        self.place(HANDLER, *handler)
        self.cpu.reset()

    def place(self, address: int, *halfwords: int) -> None:
        """Write code."""
        octets = b"".join(word.to_bytes(2, "little") for word in halfwords)
        self.code[address : address + len(octets)] = octets
        self.cpu.code_changed(address, len(octets))


@pytest.fixture(scope="session")
def build_elf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles `programs/NAME.c` to an ELF file for the board."""
    folder = tmp_path_factory.mktemp("cortexm")

    def build(name: str) -> Path:
        elf = folder / f"{name}.elf"
        if not elf.exists():
            sources = [str(PROGRAMS / "board.c"), str(PROGRAMS / f"{name}.c")]
            link = [f"-Wl,-T,{PROGRAMS / 'board.ld'}", "-Wl,-e,run", "-o", str(elf)]
            done = subprocess.run([*COMPILER, *sources, *link], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        return elf

    return build


@pytest.fixture(scope="session")
def on_unicorn(build_elf: Callable[[str], Path]) -> Callable[[str], OnUnicorn]:
    """Runs a program on our board, once a session."""
    known: dict[str, OnUnicorn] = {}

    def run(name: str) -> OnUnicorn:
        if name not in known:
            console = bytearray()
            stop = run_program(build_elf(name), output=console.extend, limits=Limits(seconds=30))
            known[name] = OnUnicorn(console.decode("latin-1"), stop)
        return known[name]

    return run


@pytest.fixture(scope="session")
def on_qemu(build_elf: Callable[[str], Path]) -> Callable[[str], OnQemu]:
    """Runs a program on QEMU's board."""
    if shutil.which(QEMU) is None:
        pytest.skip("qemu-system-arm is not installed (Debian: qemu-system-arm)")

    def run(name: str) -> OnQemu:
        command = [QEMU, "-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "stdio"]
        command += ["-semihosting-config", "enable=on,target=native", "-no-reboot"]
        command += ["-kernel", str(build_elf(name))]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        return OnQemu((done.stdout + done.stderr).decode("latin-1"), done.returncode)

    return run
