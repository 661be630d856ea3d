"""A chip that boots: its physics on an engine, over every reset, to a report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from fuseline.device.silicon.engine import Limits, Stop, StopKind
from fuseline.device.silicon.memory_map import (
    MAILBOX,
    MAILBOX_DATA,
    MAILBOX_DATA_SIZE,
    ResetReason,
    Strap,
)
from fuseline.device.silicon.report import BootReport, outcome_of

if TYPE_CHECKING:
    from fuseline.device.silicon.run import Engine, Run
    from fuseline.device.silicon.silicon import Silicon

MAX_RESETS: Final = 8
"""Resets that one boot follows; machine code that asks for more is in a loop."""
DEFAULT_LIMITS: Final = Limits(seconds=60.0)


class MachineCode(Protocol):
    """What stands at address 0; a `RomImage`, or a program in its place."""

    @property
    def binary(self) -> bytes:
        """At most `ROM_SIZE` octets, the vector table first."""
        ...


class Chip:
    """One chip.

    Args:
        silicon: Everything of it but the processor, which the engine of each boot brings.
    """

    def __init__(self, silicon: Silicon) -> None:
        self.silicon = silicon

    def __repr__(self) -> str:
        return f"Chip({self.silicon!r})"

    @property
    def mailbox_data(self) -> memoryview:
        """The mailbox's data buffer, `MAILBOX_DATA_SIZE` octets, as a tester reads and writes it."""
        return self.silicon.psram.view(MAILBOX + MAILBOX_DATA, MAILBOX_DATA_SIZE)

    def boot(
        self,
        engine: Engine,
        *,
        rom: MachineCode,
        strap: Strap = Strap.NORMAL,
        reason: ResetReason = ResetReason.COLD,
        limits: Limits = DEFAULT_LIMITS,
        mailbox: bytes = b"",
    ) -> BootReport:
        """Reset the chip and run it until it ends by itself or reaches a limit.

        Resets that the machine code asks for are followed, with the same strap; after the one of the watchdog
        the chip starts warm.

        Args:
            engine: Runs the machine code.
            rom: The boot ROM.
            strap: What the pins ask.
            reason: Of the first reset.
            limits: For the whole boot.
            mailbox: What a tester writes to the start of the mailbox's data buffer after the first reset.
        """
        if len(mailbox) > MAILBOX_DATA_SIZE:
            raise RuntimeError(f"the mailbox takes {MAILBOX_DATA_SIZE} octets")
        budget = _Budget(limits)
        runs: list[Run] = []
        self.silicon.reset(reason, strap)
        self.mailbox_data[: len(mailbox)] = mailbox
        while True:
            run = engine.run(self.silicon, rom.binary, budget.left())
            runs.append(run)
            budget.spend(run)
            following = _following_reset(run.stop)
            if following is None or len(runs) > MAX_RESETS:
                return self._report(engine, runs)
            self.silicon.reset(following, strap, watchdog=run.stop.kind is StopKind.WATCHDOG)

    def _report(self, engine: Engine, runs: list[Run]) -> BootReport:
        silicon, last = self.silicon, runs[-1]
        return BootReport(
            engine=engine.name,
            outcome=outcome_of(last.stop, silicon.stages),
            stop=last.stop,
            console=b"".join(run.console for run in runs).decode(errors="replace"),
            stages=tuple(silicon.stages),
            error_word=silicon.error_word,
            debug=silicon.debug,
            reset_reason=silicon.reset_reason,
            fuse_words=silicon.fuses.words(),
            fuse_digest=silicon.fuses.digest(),
            flash_digest=silicon.flash.digest(),
            handover=last.handover,
            instructions=sum(run.stop.instructions for run in runs),
            resets=len(runs) - 1,
        )


class _Budget:
    """What is left of the limits of a boot that takes several runs."""

    def __init__(self, limits: Limits) -> None:
        self._started = time.monotonic()
        self._limits = limits
        self._instructions = 0

    def spend(self, run: Run) -> None:
        self._instructions += run.stop.instructions

    def left(self) -> Limits:
        seconds, instructions = self._limits.seconds, self._limits.instructions
        # An engine takes 0 for no time at all: it must look at the limit before it starts.
        return Limits(
            None if seconds is None else max(0.0, self._started + seconds - time.monotonic()),
            None if instructions is None else max(0, instructions - self._instructions),
        )


def _following_reset(stop: Stop) -> ResetReason | None:
    if stop.kind is StopKind.WATCHDOG:
        return ResetReason.WARM
    return ResetReason(stop.value) if stop.kind is StopKind.RESET else None
