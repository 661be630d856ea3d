"""The first engine guards every window, ends every run, and keeps nothing of one chip for the next."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from fuseline.device.silicon import unicorn_engine
from fuseline.device.silicon.commands import Stage
from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.fuse_map import CHIP_ID
from fuseline.device.silicon.memory_map import (
    FLASH_BASE,
    HANDOVER_SIZE,
    PUF_ROWS,
    PUF_ROWS_SIZE,
    RAM_BASE,
    RETENTION,
    ROM_SIZE,
    SRAM_SIZE,
    ResetReason,
)
from fuseline.device.silicon.run import Run, sram_at_power_up
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.unicorn_engine import UnicornEngine

Build = Callable[[str], bytes]
LIMITS = Limits(instructions=2_000_000)


@pytest.fixture(scope="module")
def engine() -> UnicornEngine:
    """One engine for all tests of this module."""
    return UnicornEngine()


def _run(engine: UnicornEngine, rom: bytes, silicon: Silicon | None = None, limits: Limits = LIMITS) -> Run:
    chip = silicon or Silicon(5)
    chip.reset()
    return engine.run(chip, rom, limits)


def test_every_window_takes_what_it_should_and_no_more(engine: UnicornEngine, build_program: Build) -> None:
    run = _run(engine, build_program("gates"))
    assert run.console.decode().splitlines() == [
        "rom r-",
        "sram rw",
        "flash r-",
        "main ram rw",
        "fuse shadow r-",
        "mailbox rw",
        "system r-",
        "retention rw",
        "between --",
        "behind rom --",
        "behind sram --",
        "puf rows rw",
        "puf rows, cleared --",
        "sram runs",
        "main RAM does not run",
        "main RAM runs",
    ]


def test_gates_close_again_for_the_next_run(engine: UnicornEngine, build_program: Build) -> None:
    silicon = Silicon(5)
    assert _run(engine, build_program("gates"), silicon) == _run(engine, build_program("gates"), silicon)


def test_an_update_reset_starts_with_the_puf_out_of_reach(
    engine: UnicornEngine, build_program: Build
) -> None:
    silicon = Silicon(5)
    silicon.reset(ResetReason.UPDATE)
    run = engine.run(silicon, build_program("puf"), LIMITS)
    assert run.stop.value == 0xFA, "the program's fault handler"
    assert run.console.startswith(b"readout fault: cfsr 00008200")


def test_code_that_a_block_wrote_runs_not_what_stood_there_before(
    engine: UnicornEngine, build_program: Build
) -> None:
    run = _run(engine, build_program("stale_code"))
    assert run.console.splitlines() == [
        b"first 00000001",
        b"stored over 00000002",
        b"written by a block 00000003",
    ]


def test_a_console_without_end_is_cut(
    engine: UnicornEngine, build_program: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unicorn_engine, "CONSOLE_LIMIT", 1000)
    run = _run(engine, build_program("chatter"), limits=Limits(instructions=100_000))
    assert len(run.console) == 1000
    assert run.stop.kind is StopKind.TIMEOUT


def test_a_hanging_program_ends_at_the_instruction_given(engine: UnicornEngine, build_program: Build) -> None:
    run = _run(engine, build_program("hang"), limits=Limits(instructions=123_456))
    assert run.stop.kind is StopKind.TIMEOUT
    assert run.stop.instructions == 123_456


def test_a_hanging_program_ends_at_the_time_given(engine: UnicornEngine, build_program: Build) -> None:
    started = time.monotonic()
    run = _run(engine, build_program("hang"), limits=Limits(seconds=0.2))
    assert run.stop.kind is StopKind.TIMEOUT
    assert time.monotonic() - started < 10


def test_a_processor_that_sleeps_for_ever_is_idle(engine: UnicornEngine, build_program: Build) -> None:
    assert _run(engine, build_program("sleep")).stop.kind is StopKind.IDLE


def test_power_lost_in_a_blow_ends_the_run_at_that_store(engine: UnicornEngine, build_program: Build) -> None:
    silicon = Silicon(5)
    silicon.power.cut_at = 2
    run = _run(engine, build_program("fuses"), silicon)
    assert run.stop.kind is StopKind.POWER_LOST
    assert "fuse word 16 bit 1" in run.stop.detail
    assert run.console.splitlines()[-1] == b"  shadow 00000000"
    assert silicon.fuses.margin(CHIP_ID) == 0b10


def test_the_watchdog_of_one_run_does_not_bite_in_the_next(
    engine: UnicornEngine, build_program: Build
) -> None:
    assert _run(engine, build_program("watchdog")).stop.kind is StopKind.WATCHDOG
    run = _run(engine, build_program("hang"), limits=Limits(instructions=100_000))
    assert run.stop.kind is StopKind.TIMEOUT
    assert run.console == b"hanging\n"


def test_equal_chips_run_alike_on_a_new_engine_and_on_one_that_has_run_others(
    engine: UnicornEngine, build_program: Build
) -> None:
    for name in ("gates", "watchdog", "lockup", "stale_code", "refuse", "resets"):
        _run(engine, build_program(name), Silicon(6))
    for name in ("blocks", "puf", "fuses", "flash", "hello"):
        assert _run(engine, build_program(name)) == _run(UnicornEngine(), build_program(name))


def test_chips_in_turn_on_one_engine_do_not_touch_each_other(
    engine: UnicornEngine, build_program: Build
) -> None:
    chips = [Silicon(seed) for seed in (1, 2, 3)]
    for count in (1, 2, 3):
        for chip in chips:
            chip.reset(ResetReason.COLD if count == 1 else ResetReason.WARM)
            chip.psram.view(RETENTION, 4)[:] = (3).to_bytes(4, "little")
            chip.psram.view(RAM_BASE + 0x4000, 4)[:] = chip.seed.to_bytes(4, "little")
            rows = bytes(chip.psram.view(PUF_ROWS, PUF_ROWS_SIZE))
            assert engine.run(chip, build_program("resets"), LIMITS).stop.value == 3
            assert bytes(chip.psram.view(PUF_ROWS, PUF_ROWS_SIZE)) == rows
    assert [chip.psram.view(RAM_BASE + 0x4000, 1)[0] for chip in chips] == [1, 2, 3]
    assert [chip.boot_count for chip in chips] == [3, 3, 3]


def test_the_program_and_the_physics_see_the_same_flash(engine: UnicornEngine, build_program: Build) -> None:
    silicon = Silicon(5)
    _run(engine, build_program("flash"), silicon)
    assert silicon.flash.wear(0x30000) == 2
    assert silicon.psram.view(FLASH_BASE + 0x30000, 1)[0] == 0xFF


def test_private_sram_starts_as_noise_every_time(engine: UnicornEngine, build_program: Build) -> None:
    silicon = Silicon(5)
    for _ in range(2):
        silicon.reset()
        engine.start(silicon, build_program("hello"))
        assert bytes(engine.sram) == sram_at_power_up()
        engine.resume(LIMITS)
        assert bytes(engine.sram) != sram_at_power_up()
    noise = sram_at_power_up()
    assert len(noise) == SRAM_SIZE
    assert len(set(noise)) == 256


def test_the_handover_is_kept_as_the_rom_left_it(engine: UnicornEngine, build_program: Build) -> None:
    silicon = Silicon(5)
    run = _run(engine, build_program("hello"), silicon)
    assert Stage.LOADER in silicon.stages
    assert run.handover == bytes(HANDOVER_SIZE)
    assert _run(engine, build_program("flash"), silicon).handover is None


def test_a_run_goes_on_where_a_limit_ended_it(engine: UnicornEngine, build_program: Build) -> None:
    whole = _run(engine, build_program("hello"))
    silicon = Silicon(5)
    silicon.reset()
    engine.start(silicon, build_program("hello"))
    stop = Stop(StopKind.TIMEOUT)
    while stop.kind is StopKind.TIMEOUT:
        run = engine.resume(Limits(instructions=37))
        stop = run.stop
    assert (stop.kind, stop.value, run.console) == (whole.stop.kind, whole.stop.value, whole.console)


def test_wrong_order_and_size_are_the_callers_fault() -> None:
    engine = UnicornEngine()
    for call in (lambda: engine.resume(LIMITS), engine.snapshot, engine.rung):
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(RuntimeError):
        engine.run(Silicon(5), bytes(ROM_SIZE + 1), LIMITS)
