"""Faults are made where and when they are asked for, and leave no trace in the next one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.fault_probe import FaultProbe
from fuseline.device.silicon.memory_map import RAM_BASE, RETENTION
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.unicorn_engine import UnicornEngine

Build = Callable[[str], bytes]
LIMITS = Limits(instructions=20_000)
EXPECTED = 0x600DC0DE


def _probe(rom: bytes, *, expected: int = 0) -> FaultProbe:
    silicon = Silicon(5)
    silicon.reset()
    silicon.psram.view(RETENTION, 4)[:] = expected.to_bytes(4, "little")
    return FaultProbe(silicon, rom)


def _at_it_block(rom: bytes) -> FaultProbe:
    probe = _probe(rom)
    while len(probe.upcoming()) == 1:
        assert probe.step() is None
    return probe


def test_without_a_fault_the_check_holds(build_program: Build) -> None:
    probe = _probe(build_program("guard"))
    run = probe.resume(LIMITS)
    assert (run.stop.kind, run.stop.value, run.console) == (StopKind.EXIT, 1, b"refused\n")
    assert probe.left_rom is None


def test_entering_main_ram_ends_the_run_there(build_program: Build) -> None:
    probe = _probe(build_program("guard"), expected=EXPECTED)
    run = probe.resume(LIMITS)
    assert run.stop.detail == f"main RAM was entered at {RAM_BASE:#010x}"
    assert probe.left_rom == RAM_BASE
    assert run.console == b"let in\n"


def test_stepping_is_running(build_program: Build) -> None:
    whole = _probe(build_program("guard")).resume(LIMITS)
    probe, stop, steps = _probe(build_program("guard")), None, 0
    while stop is None:
        stop, steps = probe.step(), steps + 1
    assert (stop.kind, stop.value) == (whole.stop.kind, whole.stop.value)
    assert steps <= whole.stop.instructions
    assert probe.instructions == whole.stop.instructions
    assert probe.resume(Limits(instructions=0)).console == whole.console


def _sweep(probe: FaultProbe, steps: int) -> set[int]:
    """Skip each instruction once; return the addresses at which that opened main RAM."""
    found = set()
    for _ in range(steps):
        moment, address = probe.snapshot(), probe.pc
        stop = probe.skip()
        if stop is None:
            probe.resume(LIMITS)
        if probe.left_rom is not None:
            found.add(address)
        probe.restore(moment)
        if probe.step() is not None:
            break
    return found


def test_a_sweep_of_skips_finds_the_one_check(build_program: Build) -> None:
    rom = build_program("guard")
    ways_in = _sweep(_probe(rom), 100_000)
    assert ways_in
    # Again, on an engine that has made every fault already: the same ones.
    engine = UnicornEngine()
    for _ in range(2):
        silicon = Silicon(5)
        silicon.reset()
        probe = FaultProbe(silicon, rom, engine)
        assert _sweep(probe, 100_000) == ways_in
        probe.close()


def test_a_closed_probe_no_longer_stops_its_engine(build_program: Build) -> None:
    silicon, engine = Silicon(5), UnicornEngine()
    silicon.reset()
    FaultProbe(silicon, build_program("guard"), engine).close()
    silicon.psram.view(RETENTION, 4)[:] = EXPECTED.to_bytes(4, "little")
    assert engine.run(silicon, build_program("guard"), LIMITS).stop == Stop(
        StopKind.EXIT, 0, "STOP command", engine.cpu.instructions
    )


@pytest.mark.parametrize(
    ("index", "result"),
    [
        (1, 0b00110),
        (2, 0b00111),
        (3, 0b00101),
        (4, 0b00011),
    ],
)
def test_an_instruction_inside_an_it_block_can_be_skipped_alone(
    build_program: Build, index: int, result: int
) -> None:
    probe = _at_it_block(build_program("it_block"))
    assert len(probe.upcoming()) == 5
    moment = probe.snapshot()
    assert probe.skip(index) is None
    assert probe.resume(LIMITS).stop.value == result
    probe.restore(moment)
    assert probe.resume(LIMITS).stop.value == 0b00111


def test_without_its_it_instruction_the_whole_block_executes(build_program: Build) -> None:
    probe = _at_it_block(build_program("it_block"))
    assert probe.skip() is None
    assert probe.resume(LIMITS).stop.value == 0b10111


def test_flags_and_registers_are_flipped(build_program: Build) -> None:
    probe = _at_it_block(build_program("it_block"))
    moment = probe.snapshot()
    probe.flip("flags", 30)
    assert probe.resume(LIMITS).stop.value == 16
    probe.restore(moment)
    probe.flip("r0", 6)
    assert probe.resume(LIMITS).stop.value == 64 + 0b00111
    probe.restore(moment)
    for register in ("r0", "r7", "r12", "sp", "lr"):
        before = probe.read(register)
        probe.flip(register, 31)
        assert probe.read(register) == before ^ 1 << 31
        probe.write(register, before)
    assert probe.resume(LIMITS).stop.value == 0b00111


def test_going_back_takes_the_physics_along(build_program: Build) -> None:
    probe = _probe(build_program("fuses"))
    moment = probe.snapshot()
    whole = probe.resume(LIMITS)
    probe.restore(moment)
    again = probe.resume(LIMITS)
    assert whole == again
    assert b"sensed 80010033" in again.console
