"""Semihosting: BKPT 0xAB asks the host for something (Arm "Semihosting for AArch32 and AArch64", 2.0).

Only console output and exit are offered; a program gets no files and no clock of the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon.engine import Stop, StopKind

if TYPE_CHECKING:
    from fuseline.device.silicon.cortexm.memory import Memory

BREAKPOINT: Final = 0xBEAB
"""BKPT 0xAB."""

_SYS_WRITEC, _SYS_WRITE0, _SYS_EXIT, _SYS_EXIT_EXTENDED = 0x03, 0x04, 0x18, 0x20
_ADP_STOPPED_APPLICATION_EXIT = 0x2_0026
_UNKNOWN = 0xFFFF_FFFF
_LONGEST_TEXT = 64 * 1024


def call(operation: int, argument: int, memory: Memory, output: Callable[[bytes], None]) -> int | Stop:
    """Answer one call.

    Args:
        operation: R0.
        argument: R1.
        memory: The processor's memory.
        output: Takes what the program prints.

    Returns:
        What goes into R0, or the end of the run.
    """
    if operation == _SYS_WRITEC:
        output(_octets(memory, argument, 1))
        return 0
    if operation == _SYS_WRITE0:
        output(_text(memory, argument))
        return 0
    if operation == _SYS_EXIT:
        status = 0 if argument == _ADP_STOPPED_APPLICATION_EXIT else 1
        return Stop(StopKind.EXIT, status, f"SYS_EXIT, reason {argument:#x}")
    if operation == _SYS_EXIT_EXTENDED:
        reason, status = memory.load(argument, 2) or (0, 1)
        status = status if reason == _ADP_STOPPED_APPLICATION_EXIT else 1
        return Stop(StopKind.EXIT, status, f"SYS_EXIT_EXTENDED, reason {reason:#x}")
    return _UNKNOWN


def _octets(memory: Memory, address: int, count: int) -> bytes:
    words = memory.load(address & ~3, 1)
    if words is None:
        return b""
    return words[0].to_bytes(4, "little")[address & 3 :][:count]


def _text(memory: Memory, address: int) -> bytes:
    text = bytearray()
    while len(text) < _LONGEST_TEXT:
        piece = _octets(memory, address + len(text), 4)
        end = piece.find(0)
        text += piece if end < 0 else piece[:end]
        if end >= 0 or not piece:
            break
    return bytes(text)
