"""A chip that boots: what a boot comes to, and how resets are followed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fuseline.device.silicon.chip import MAX_RESETS, Chip
from fuseline.device.silicon.commands import Stage
from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.fuse_map import CHIP_ID
from fuseline.device.silicon.memory_map import MAILBOX_DATA_SIZE, ResetReason
from fuseline.device.silicon.qemu_engine import QEMU, QemuEngine
from fuseline.device.silicon.report import BootReport, Outcome, outcome_of
from fuseline.device.silicon.run import Engine
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.unicorn_engine import UnicornEngine

Build = Callable[[str], bytes]


@dataclass(frozen=True)
class Program:
    """Octets in the ROM's place."""

    binary: bytes


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(UnicornEngine, id="unicorn"),
        pytest.param(
            QemuEngine,
            id="qemu",
            marks=[
                pytest.mark.interop,
                pytest.mark.skipif(shutil.which(QEMU) is None, reason="qemu-system-arm is not installed"),
            ],
        ),
    ],
)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine, made once."""
    made: Engine = request.param()
    return made


def _boot(engine: Engine, rom: bytes, silicon: Silicon | None = None, seconds: float = 20.0) -> BootReport:
    return Chip(silicon or Silicon(5)).boot(engine, rom=Program(rom), limits=Limits(seconds=seconds))


def test_a_boot_is_told_as_json(engine: Engine, build_program: Build) -> None:
    silicon = Silicon(5)
    silicon.fuses.blow(CHIP_ID, 1)
    facts = json.loads(json.dumps(_boot(engine, build_program("hello"), silicon).as_dict()))
    assert facts.pop("instructions") > (100 if engine.name == "unicorn" else -1)
    assert facts == {
        "engine": engine.name,
        "outcome": "booted",
        "exit_status": 7,
        "stop": "exit",
        "detail": "STOP command",
        "console": "hello from the chip\nno such command: bad argument\n",
        "stages": ["ROM", "LOADER"],
        "error": None,
        "recovery_error": None,
        "life_cycle": "BLANK",
        "debug": "OPEN",
        "reset_reason": "COLD",
        "counters": {"loader": 0, "firmware_0": 0, "firmware_1": 0},
        "measurement": None,
        "key_slot": None,
        "loader_version": None,
        "fuse_digest": silicon.fuses.digest().hex(),
        "flash_digest": silicon.flash.digest().hex(),
        "resets": 0,
    }


def test_a_refusal_names_its_word(engine: Engine, build_program: Build) -> None:
    facts = _boot(engine, build_program("refuse")).as_dict()
    assert facts["outcome"] == "refused"
    assert facts["exit_status"] is None
    assert facts["error"]["word"] == "0xe0010203"
    assert facts["error"]["requirement"] is None


def test_every_reset_is_followed_and_retention_lasts_but_over_a_cold_one(
    engine: Engine, build_program: Build
) -> None:
    silicon = Silicon(5)
    expected = [
        "cold reset, retention 00000000",
        "warm reset, retention 00000001",
        "update reset, retention 00000002",
        "warm reset, retention 00000003",
    ]
    for boot in (1, 2):
        report = _boot(engine, build_program("resets"), silicon)
        assert report.console.splitlines() == expected
        assert (report.resets, report.reset_reason, report.exit_status) == (3, ResetReason.WARM, 3)
        assert silicon.boot_count == 4 * boot


def test_the_watchdog_restarts_the_chip_warm(engine: Engine, build_program: Build) -> None:
    report = _boot(engine, build_program("watchdog"))
    assert report.console == "nobody serves the watchdog\nback by the watchdog\n"
    assert (report.resets, report.reset_reason, report.exit_status) == (1, ResetReason.WARM, 3)


def test_machine_code_that_resets_for_ever_is_ended(engine: Engine, build_program: Build) -> None:
    report = _boot(engine, build_program("reset_loop"))
    assert (report.outcome, report.resets) == (Outcome.CRASHED, MAX_RESETS)
    assert report.console == "." * (MAX_RESETS + 1)


def test_a_hanging_rom_is_a_timeout(engine: Engine, build_program: Build) -> None:
    assert _boot(engine, build_program("hang"), seconds=0.3).outcome is Outcome.TIMEOUT


def test_the_limit_holds_for_all_runs_of_a_boot_together(engine: Engine, build_program: Build) -> None:
    report = _boot(engine, build_program("reset_loop"), seconds=0.0)
    assert report.outcome is Outcome.TIMEOUT
    assert report.resets <= 1


def test_a_lockup_is_a_crash(engine: Engine, build_program: Build) -> None:
    report = _boot(engine, build_program("lockup"))
    assert (report.outcome, report.stop.kind) == (Outcome.CRASHED, StopKind.LOCKUP)
    assert report.stop.detail


def test_a_supply_that_fails_ends_the_boot(engine: Engine, build_program: Build) -> None:
    silicon = Silicon(5)
    silicon.power.cut_at = 1
    report = _boot(engine, build_program("fuses"), silicon)
    assert report.outcome is Outcome.POWER_LOST
    assert silicon.fuses.margin(CHIP_ID) == 1
    # The supply is back: the same chip boots, and completes what was cut short.
    silicon.power.cut_at = None
    assert "  doubtful 00000001" in _boot(engine, build_program("fuses"), silicon).console.splitlines()
    assert silicon.fuses.content().half_blown == ()


def test_a_tester_hands_octets_over_by_the_mailbox(engine: Engine, build_program: Build) -> None:
    chip = Chip(Silicon(5))
    chip.boot(engine, rom=Program(build_program("hello")), mailbox=b"nonce", limits=Limits(seconds=20))
    assert bytes(chip.mailbox_data[:6]) == b"nonce\0"
    with pytest.raises(RuntimeError):
        chip.boot(engine, rom=Program(b""), mailbox=bytes(MAILBOX_DATA_SIZE + 1))


@pytest.mark.parametrize(
    ("kind", "stages", "outcome"),
    [
        (StopKind.EXIT, [Stage.ROM, Stage.LOADER, Stage.LOADER_RUNS], Outcome.BOOTED),
        (StopKind.TIMEOUT, [Stage.LOADER], Outcome.BOOTED),
        (StopKind.LOCKUP, [Stage.LOADER], Outcome.BOOTED),
        (StopKind.POWER_LOST, [Stage.LOADER], Outcome.POWER_LOST),
        (StopKind.EXIT, [Stage.PROVISIONED], Outcome.PROVISIONED),
        (StopKind.EXIT, [Stage.ROM], Outcome.STOPPED),
        (StopKind.FAIL, [Stage.ROM], Outcome.REFUSED),
        (StopKind.FAIL, [Stage.PROVISIONED], Outcome.REFUSED),
        (StopKind.TIMEOUT, [], Outcome.TIMEOUT),
        (StopKind.IDLE, [Stage.VERIFIED], Outcome.TIMEOUT),
        (StopKind.LOCKUP, [Stage.VERIFIED], Outcome.CRASHED),
        (StopKind.RESET, [], Outcome.CRASHED),
        (StopKind.WATCHDOG, [], Outcome.CRASHED),
    ],
)
def test_outcomes(kind: StopKind, stages: list[Stage], outcome: Outcome) -> None:
    assert outcome_of(Stop(kind), stages) is outcome
