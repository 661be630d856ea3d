"""QEMU as an engine: it ends in every way a run can end, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fuseline.device.silicon import qemu_engine
from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.fuse_map import CHIP_ID
from fuseline.device.silicon.memory_map import RETENTION, ResetReason
from fuseline.device.silicon.qemu_engine import QEMU, QemuEngine
from fuseline.device.silicon.run import Run
from fuseline.device.silicon.silicon import Silicon
from fuseline.errors import QemuFailed, QemuMissing

Build = Callable[[str], bytes]

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which(QEMU) is None, reason="qemu-system-arm is not installed"),
]


def _run(rom: bytes, *, silicon: Silicon | None = None, seconds: float = 20.0, trusted: bool = False) -> Run:
    chip = silicon or Silicon(5)
    chip.reset()
    return QemuEngine(semihosting=trusted).run(chip, rom, Limits(seconds=seconds))


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def _descriptors() -> int:
    # Chips of earlier tests hold their memory until the collector finds them, at whatever moment.
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("name", "kind", "value", "console"),
    [
        ("hello", StopKind.EXIT, 7, "hello from the chip\nno such command: bad argument\n"),
        ("refuse", StopKind.FAIL, 0xE0010203, "refusing\n"),
        ("resets", StopKind.RESET, ResetReason.WARM, "cold reset, retention 00000000\n"),
        ("watchdog", StopKind.WATCHDOG, 0, "nobody serves the watchdog\n"),
        ("lockup", StopKind.LOCKUP, 0, "locking up\n"),
    ],
)
def test_every_end_of_a_run_is_told(
    build_program: Build, name: str, kind: StopKind, value: int, console: str
) -> None:
    before = _children()
    run = _run(build_program(name))
    assert (run.stop.kind, run.stop.value) == (kind, value)
    assert run.console.decode() == console
    assert _children() == before


def test_the_processors_own_reset_request_is_a_warm_reset(build_program: Build) -> None:
    silicon = Silicon(5)
    silicon.reset()
    silicon.psram.view(RETENTION, 1)[0] = 2
    run = QemuEngine().run(silicon, build_program("resets"), Limits(seconds=20))
    assert run.stop == Stop(StopKind.RESET, ResetReason.WARM, "SYSRESETREQ")


@pytest.mark.parametrize("name", ["hang", "sleep"])
def test_a_hanging_program_is_ended_at_the_limit(build_program: Build, name: str) -> None:
    started = time.monotonic()
    run = _run(build_program(name), seconds=0.3)
    assert run.stop.kind is StopKind.TIMEOUT
    assert time.monotonic() - started < 10
    assert run.console in {b"hanging\n", b"sleeping\n"}


def test_a_program_that_prints_without_end_fills_no_memory(
    build_program: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu_engine, "CONSOLE_LIMIT", 100_000)
    run = _run(build_program("chatter"), seconds=0.5)
    assert run.stop.kind is StopKind.TIMEOUT
    assert len(run.console) == 100_000
    assert set(run.console.splitlines()[:-1]) == {b"0123456789abcdef" * 3 + b"0123456789abcde"}


def test_trusted_programs_may_use_semihosting(build_program: Build) -> None:
    run = _run(build_program("semihosting"), trusted=True)
    assert run.stop == Stop(StopKind.EXIT, 9, "semihosting")
    assert run.console == b"by the UART\nby the host\nand back\n"


def test_untrusted_programs_cannot_reach_the_host_by_semihosting(build_program: Build) -> None:
    run = _run(build_program("semihosting"))
    assert run.stop.value == 0xFA, "the program's own fault handler ended it"
    assert b"by the host" not in run.console


def test_power_lost_in_a_blow_ends_the_run_there(build_program: Build) -> None:
    silicon = Silicon(5)
    silicon.power.cut_at = 2
    run = _run(build_program("fuses"), silicon=silicon)
    assert run.stop.kind is StopKind.POWER_LOST
    assert run.console.splitlines()[-1] == b"  shadow 00000000"
    assert silicon.fuses.margin(CHIP_ID) == 0b10


def test_without_qemu_the_error_says_what_to_install() -> None:
    with pytest.raises(QemuMissing) as caught:
        QemuEngine("qemu-system-that-is-not-there").run(Silicon(5), b"", Limits())
    assert "apt install" in caught.value.diagnostics()


def test_a_qemu_that_cannot_start_the_board_is_reported(tmp_path: Path) -> None:
    broken = tmp_path / "qemu"
    broken.write_text("#!/bin/sh\necho no such board >&2\nexit 3\n")
    broken.chmod(0o755)
    silicon = Silicon(5)
    before = _descriptors()
    with pytest.raises(QemuFailed) as caught:
        QemuEngine(str(broken)).run(silicon, b"", Limits())
    assert caught.value.evidence["complaint"] == "no such board"
    assert _descriptors() == before


def test_no_descriptor_is_left_open(build_program: Build) -> None:
    silicon = Silicon(5)
    rom = build_program("hello")
    _run(rom, silicon=silicon)
    before = _descriptors()
    _run(rom, silicon=silicon)
    assert _descriptors() == before


def test_qemu_dies_with_the_process_that_started_it(build_program: Build, tmp_path: Path) -> None:
    (tmp_path / "rom").write_bytes(build_program("hang"))
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from fuseline.device.silicon.engine import Limits
        from fuseline.device.silicon.qemu_engine import QemuEngine
        from fuseline.device.silicon.silicon import Silicon
        silicon = Silicon(5)
        silicon.reset()
        QemuEngine().run(silicon, Path(sys.argv[1]).read_bytes(), Limits(seconds=60))
    """)
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "rom")])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    child = ""
    while not child and parent.poll() is None:
        candidates = children.read_text().split()
        child = next((pid for pid in candidates if _command(pid).startswith(QEMU)), "")
    assert child
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while _command(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _command(child)


def _command(pid: str) -> str:
    """Name of a living process's program; empty for one that is gone or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().rpartition("/")[2]
    except (FileNotFoundError, ProcessLookupError):
        return ""
