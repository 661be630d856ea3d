"""What the chip's blocks know about the run: locks, debug, reset. One object, shared by all of them."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, field, replace
from typing import Final

from fuseline.device.silicon.commands import Lock, Stage
from fuseline.device.silicon.engine import Stop
from fuseline.device.silicon.memory_map import DebugState, ResetReason, Strap

ALL_LOCKS: Final = functools.reduce(operator.or_, Lock)


@dataclass(slots=True)
class MachineState:
    """State that every reset sets anew.

    Attributes:
        locks: What is locked until the next reset.
        debug: Whether the debug port is open.
        reset_reason: Why the processor started.
        strap: What the pins asked at reset.
        exec_enabled: Main RAM is executable.
        stages: What the machine code noted, in order.
        error_word: Given with `Command.FAIL`; the chip does nothing more.
        stop: The run must end, and how.
    """

    locks: Lock = field(default=Lock(0))
    debug: DebugState = DebugState.LOCKED
    reset_reason: ResetReason = ResetReason.COLD
    strap: Strap = Strap.NORMAL
    exec_enabled: bool = False
    stages: list[Stage] = field(default_factory=list)
    error_word: int | None = None
    stop: Stop | None = None

    def copy(self) -> MachineState:
        """Return a copy that shares nothing that changes."""
        return replace(self, stages=list(self.stages))

    def assign(self, other: MachineState) -> None:
        """Become equal to `other`, in place: the blocks keep their reference."""
        self.locks = other.locks
        self.debug = other.debug
        self.reset_reason = other.reset_reason
        self.strap = other.strap
        self.exec_enabled = other.exec_enabled
        self.stages = list(other.stages)
        self.error_word = other.error_word
        self.stop = other.stop
