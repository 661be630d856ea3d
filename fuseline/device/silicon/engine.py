"""What an engine is: something that runs the chip's machine code until it stops."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StopKind(StrEnum):
    """Why a run ended."""

    EXIT = "exit"
    """The program asked for it: `Command.STOP`, or semihosting SYS_EXIT. `value` is its status."""
    FAIL = "fail"
    """The ROM refused. `value` is the error word."""
    RESET = "reset"
    """The program asked for a reset; `value` is the `ResetReason` of the next run."""
    WATCHDOG = "watchdog"
    LOCKUP = "lockup"
    """A fault with no handler left to take it (Armv7-M B1.5.15)."""
    TIMEOUT = "timeout"
    """The limit of the caller was reached."""
    POWER_LOST = "power-lost"
    IDLE = "idle"
    """WFI with no interrupt that could ever come."""


@dataclass(frozen=True, slots=True)
class Stop:
    """How a run ended.

    Attributes:
        kind: Why.
        value: Exit status, error word or reset reason, by kind.
        detail: For a person: what the processor was doing.
        instructions: Executed, where the engine counts them; else 0.
    """

    kind: StopKind
    value: int = 0
    detail: str = ""
    instructions: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """When to give up.

    Attributes:
        seconds: Of the host's time.
        instructions: Of the program, where the engine counts them.
    """

    seconds: float | None = None
    instructions: int | None = None
