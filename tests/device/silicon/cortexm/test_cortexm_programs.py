"""Programs that look at the processor from inside: what they must print, and that QEMU prints the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fuseline.device.silicon.board import run_program
from fuseline.device.silicon.engine import Limits, StopKind

Runner = Callable[[str], Any]

AGREED = (
    "faults",
    "fpu",
    "it_block",
    "kernel",
    "mpu",
    "nesting",
    "peripherals",
    "registers",
    "returns",
    "sleep",
    "store_once",
    "unmask",
)


def lines_of(console: str, name: str) -> list[int]:
    """The numbers that a program reported under a name."""
    return [int(line.rsplit(" ", 1)[1], 16) for line in console.splitlines() if line.startswith(f"{name} 0x")]


@pytest.mark.parametrize("name", ["hello", *AGREED, "where_qemu_differs"])
def test_a_program_runs_to_its_own_end(name: str, on_unicorn: Runner) -> None:
    run = on_unicorn(name)
    assert run.stop.kind is StopKind.EXIT
    assert run.stop.value == (7 if name == "hello" else 0), run.console[-500:]


@pytest.mark.interop
@pytest.mark.parametrize("name", ["hello", *AGREED])
def test_qemu_prints_the_same(name: str, on_unicorn: Runner, on_qemu: Runner) -> None:
    ours, theirs = on_unicorn(name), on_qemu(name)
    assert ours.console == theirs.console
    assert ours.stop.value == theirs.status


def test_semihosting_prints_text_and_characters(on_unicorn: Runner) -> None:
    assert on_unicorn("hello").console == "hello\ncpuid 0x410fc240\nsemihosting\n!\n"


def test_code_in_it_blocks_survives_interrupts_and_device_loads(on_unicorn: Runner) -> None:
    console = on_unicorn("it_block").console
    assert lines_of(console, "sum") == [50 * 16]
    assert lines_of(console, "calls") == [50]
    assert lines_of(console, "difference") == [0, 0, 0, 0]


def test_a_store_that_causes_an_interrupt_is_done_once_and_completed(on_unicorn: Runner) -> None:
    console = on_unicorn("store_once").console
    assert "no write-back" not in console
    assert lines_of(console, "pendsv") == [100, 1, 20]
    assert lines_of(console, "sent") == [50]
    assert lines_of(console, "it done") == [40]


def test_a_pending_interrupt_is_taken_right_behind_the_unmasking_instruction(on_unicorn: Runner) -> None:
    console = on_unicorn("unmask").console
    for name in ("cpsie i", "cpsie f"):
        assert lines_of(console, name) == [3]
    for name in ("msr primask", "msr faultmask", "msr basepri"):
        assert lines_of(console, name) == [0]
    assert lines_of(console, "basepri not enough") == [0]
    assert lines_of(console, "waits") == [0]


def test_exceptions_nest_by_priority_and_chain_otherwise(on_unicorn: Runner) -> None:
    assert lines_of(on_unicorn("nesting").console, "deepest") == [6, 1, 1, 3]


def test_the_mpu_kills_the_task_that_reached_into_another_one(on_unicorn: Runner) -> None:
    console = on_unicorn("kernel").console
    assert "intruder killed\n  status 0x00000082\n" in console
    assert console.count(" done\n") == 3
    assert console.endswith("many interrupts\nmany switches\n")


def test_floating_point_survives_interrupts_that_use_it(on_unicorn: Runner) -> None:
    console = on_unicorn("fpu").console
    assert lines_of(console, "difference") == [0]
    assert lines_of(console, "registers") == [0]


def test_the_architecture_is_followed_where_qemu_does_otherwise(on_unicorn: Runner) -> None:
    console = on_unicorn("where_qemu_differs").console
    assert lines_of(console, "hfsr") == [0x8000_0000]
    assert lines_of(console, "slept through") == [20]
    assert lines_of(console, "cfsr") == [0x0004_0000]


def test_two_runs_take_the_same_instructions(on_unicorn: Runner, build_elf: Runner) -> None:
    first, console = on_unicorn("kernel"), bytearray()
    second = run_program(build_elf("kernel"), output=console.extend, limits=Limits(seconds=30))
    assert (second.instructions, console.decode()) == (first.stop.instructions, first.console)
