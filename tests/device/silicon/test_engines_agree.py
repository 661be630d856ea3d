"""Both engines run the same machine code to the same end: what it prints, and what it leaves behind."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fuseline.device.silicon.chip import Chip
from fuseline.device.silicon.engine import Limits
from fuseline.device.silicon.memory_map import (
    MAILBOX,
    MAILBOX_SIZE,
    RAM_BASE,
    RAM_SIZE,
    RETENTION,
    RETENTION_SIZE,
)
from fuseline.device.silicon.qemu_engine import QEMU, QemuEngine
from fuseline.device.silicon.run import Engine
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.unicorn_engine import UnicornEngine

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which(QEMU) is None, reason="qemu-system-arm is not installed"),
]

Build = Callable[[str], bytes]
LIMITS = Limits(seconds=30)


@dataclass(frozen=True)
class Program:
    """Octets in the ROM's place."""

    binary: bytes


@pytest.fixture(scope="module")
def unicorn() -> UnicornEngine:
    """One engine for all tests of this module: nothing of one chip may reach the next."""
    return UnicornEngine()


def _facts(
    engine: Engine, rom: bytes, *, cut_at: int | None = None, own_words: bool = False
) -> dict[str, object]:
    silicon = Silicon(5)
    silicon.power.cut_at = cut_at
    report = Chip(silicon).boot(engine, rom=Program(rom), limits=LIMITS)
    facts = report.as_dict()
    # Only one engine counts, and what did not come by the port each describes in its own words.
    for key in ("engine", "instructions", *(["detail"] if own_words else [])):
        del facts[key]
    windows = ((RAM_BASE, RAM_SIZE), (MAILBOX, MAILBOX_SIZE), (RETENTION, RETENTION_SIZE))
    memory = [hashlib.sha256(silicon.psram.view(*window)).hexdigest() for window in windows]
    half_blown = silicon.fuses.content().half_blown
    return facts | {"memory": memory, "half_blown": half_blown, "operations": silicon.power.operations}


@pytest.mark.parametrize(
    "name",
    ["blocks", "execute", "flash", "fuses", "hello", "puf", "refuse", "reset_loop", "resets", "watchdog"],
)
def test_a_program_runs_alike_on_both_engines(
    build_program: Build, unicorn: UnicornEngine, name: str
) -> None:
    rom = build_program(name)
    assert _facts(unicorn, rom) == _facts(QemuEngine(), rom)


@pytest.mark.parametrize("name", ["lockup", "semihosting"])
def test_a_program_that_does_not_end_by_the_port_ends_alike(
    build_program: Build, unicorn: UnicornEngine, name: str
) -> None:
    rom = build_program(name)
    trusting = QemuEngine(semihosting=True)
    assert _facts(unicorn, rom, own_words=True) == _facts(trusting, rom, own_words=True)


@pytest.mark.parametrize(("name", "operations"), [("fuses", 6), ("flash", 10)])
def test_power_lost_at_every_operation_leaves_the_same_chip(
    build_program: Build, unicorn: UnicornEngine, name: str, operations: int
) -> None:
    rom = build_program(name)
    whole = _facts(unicorn, rom)
    assert whole["operations"] == operations
    seen = set()
    for cut_at in range(1, operations + 1):
        facts = _facts(unicorn, rom, cut_at=cut_at)
        assert facts == _facts(QemuEngine(), rom, cut_at=cut_at)
        assert facts["outcome"] == "power-lost"
        seen.add(str(facts))
    assert len(seen) == operations
