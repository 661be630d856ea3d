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
from fuseline.device.silicon.engine import Limits, Stop

PROGRAMS = Path(__file__).parent / "programs"
COMPILER = (
    *(sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabihf"),
    *("-mcpu=cortex_m4+vfp4d16sp", "-std=c11", "-O2", "-ffreestanding", "-fno-builtin", "-nostdlib"),
    *("-fno-sanitize=all", "-Wall", "-Wextra", "-Werror", f"-I{PROGRAMS}"),
)
QEMU = "qemu-system-arm"


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
