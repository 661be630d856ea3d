"""The board as a host sees it: console, watchdog, and programs that misbehave."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from fuseline.device.silicon.board import WINDOWS, Board, run_program
from fuseline.device.silicon.engine import Limits, StopKind
from fuseline.device.silicon.program import parse_program

START = 0x100
WFI, LOOP, NOP = 0xBF30, 0xE7FE, 0xBF00
UART0, WATCHDOG = 0x4000_4000, 0x4000_8000


def image(code: Sequence[int], *, handlers: int = START | 1) -> bytes:
    """A raw image: vector table, then code at `START`."""
    vectors = (0x2000_8000, START | 1, *(handlers,) * 46)
    head = struct.pack("<48I", *vectors)
    return head.ljust(START, b"\0") + struct.pack(f"<{len(code)}H", *code)


def stores(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Instructions that store each value at its address."""
    code = []
    for address, value in pairs:
        for register, number in ((1, address), (0, value)):
            code += [*_movw(register, number & 0xFFFF, 0xF240), *_movw(register, number >> 16, 0xF2C0)]
        code.append(0x6008)
    return code


def _movw(register: int, number: int, opcode: int) -> tuple[int, int]:
    first = opcode | number >> 12 | (number >> 11 & 1) << 10
    return first, (number >> 8 & 7) << 12 | register << 8 | number & 0xFF


def board_with(code: Sequence[int]) -> tuple[Board, bytearray]:
    console = bytearray()
    board = Board(console.extend)
    board.load(parse_program(image(code), WINDOWS))
    return board, console


def test_the_console_is_uart0() -> None:
    code = stores([(UART0 + 16, 16), (UART0 + 8, 1), (UART0, ord("o")), (UART0, ord("k"))])
    board, console = board_with([*code, WFI])
    assert board.cpu.run().kind is StopKind.IDLE
    assert console == b"ok"


def test_a_program_file_runs(tmp_path: Path) -> None:
    path = tmp_path / "ok.bin"
    path.write_bytes(image([*stores([(UART0 + 8, 1), (UART0, ord("!"))]), WFI]))
    console = bytearray()
    assert run_program(path, output=console.extend, limits=Limits(seconds=5)).kind is StopKind.IDLE
    assert console == b"!"


def test_a_watchdog_that_nobody_feeds_interrupts_first_and_resets_second() -> None:
    code = stores([(WATCHDOG, 1_000), (WATCHDOG + 8, 3)])
    board, _ = board_with([*code, LOOP])
    vectors = board.cpu.memory.view(0)
    handler = START + 2 * len(code)
    vectors[8:12] = struct.pack("<I", handler | 1)
    stop = board.cpu.run(Limits(instructions=100_000))
    assert stop.kind is StopKind.WATCHDOG
    assert 2_000 <= stop.instructions < 2_100
    assert board.cpu.exceptions.current == 2


def test_a_watchdog_without_reset_never_ends_the_run() -> None:
    board, _ = board_with([*stores([(WATCHDOG, 500), (WATCHDOG + 8, 1)]), LOOP])
    assert board.cpu.run(Limits(instructions=10_000)).kind is StopKind.TIMEOUT


def test_a_locked_watchdog_keeps_its_time() -> None:
    code = stores([(WATCHDOG, 500), (WATCHDOG + 0xC00, 1), (WATCHDOG + 8, 3)])
    board, _ = board_with([*code, LOOP])
    assert board.cpu.run(Limits(instructions=10_000)).kind is StopKind.TIMEOUT


def test_what_is_typed_arrives_one_character_at_a_time() -> None:
    typed = [b"abc"]
    console = bytearray()
    board = Board(console.extend, source=lambda: typed.pop() if typed else b"")
    # r1 = UART0; wait: ldr r0, [r1, #4]; lsls r0, #30; bpl wait; ldr r0, [r1]; str r0, [r1]; b wait
    code = [*stores([(UART0 + 16, 16), (UART0 + 8, 3)]), *_movw(1, 0x4000, 0xF240), *_movw(1, 0x4000, 0xF2C0)]
    code += [0x6848, 0x0780, 0xD5FC, 0x6808, 0x6008, 0xE7F9]
    board.load(parse_program(image(code), WINDOWS))
    assert board.cpu.run(Limits(instructions=20_000)).kind is StopKind.TIMEOUT
    assert console == b"abc"


def test_a_character_interrupts_a_sleeping_program() -> None:
    console = bytearray()
    board = Board(console.extend)
    code = [*stores([(UART0 + 16, 16), (UART0 + 8, 10), (0xE000_E100, 1)]), WFI, LOOP]
    board.load(parse_program(image(code), WINDOWS))
    assert board.cpu.run().kind is StopKind.IDLE
    board.uarts[0].receive(b"x")
    board.cpu.run(Limits(instructions=1))
    assert board.cpu.exceptions.current == 16


@pytest.mark.parametrize("seed", range(30))
def test_random_octets_as_a_program_never_break_the_board(seed: int) -> None:
    random_ = random.Random(seed)
    code = [random_.randrange(1 << 16) for _ in range(4_000)]
    board, _ = board_with(code)
    stop = board.cpu.run(Limits(instructions=20_000, seconds=5))
    assert stop.kind in {StopKind.TIMEOUT, StopKind.LOCKUP, StopKind.IDLE, StopKind.RESET, StopKind.EXIT}
