"""What a boot came to, as facts: for people, for `--json`, and for tests to compare engines by."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from fuseline.device.silicon.commands import Stage
from fuseline.device.silicon.engine import StopKind
from fuseline.device.silicon.fuse_view import FuseView, last_complete_state, read_fuses
from fuseline.device.silicon.handover import BootRecord, parse_boot_record
from fuseline.device.silicon.rom.requirements import requirement_of
from fuseline.errors import HandoverMalformed, RomErrorUnknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuseline.device.silicon.engine import Stop
    from fuseline.device.silicon.fuse_map import Counter, LifeCycle
    from fuseline.device.silicon.memory_map import DebugState, ResetReason


class Outcome(StrEnum):
    """What became of a boot."""

    BOOTED = "booted"
    """The loader was entered, whatever it did then."""
    REFUSED = "refused"
    """The ROM started nothing, and said why."""
    PROVISIONED = "provisioned"
    """The ROM did its factory work, and started nothing."""
    STOPPED = "stopped"
    """The machine code ended the run before any loader: its answer stands in the mailbox."""
    TIMEOUT = "timeout"
    """The limit was reached before the loader."""
    CRASHED = "crashed"
    """No loader, and no refusal either: the ROM went astray."""
    POWER_LOST = "power-lost"


def outcome_of(stop: Stop, stages: Sequence[Stage]) -> Outcome:
    """Return what a boot came to.

    Args:
        stop: How its last run ended.
        stages: What the machine code noted in that run.
    """
    if stop.kind is StopKind.POWER_LOST:
        return Outcome.POWER_LOST
    if Stage.LOADER in stages:
        return Outcome.BOOTED
    if stop.kind is StopKind.EXIT:
        return Outcome.PROVISIONED if Stage.PROVISIONED in stages else Outcome.STOPPED
    return _WITHOUT_LOADER.get(stop.kind, Outcome.CRASHED)


_WITHOUT_LOADER: Final = {
    StopKind.FAIL: Outcome.REFUSED,
    StopKind.TIMEOUT: Outcome.TIMEOUT,
    StopKind.IDLE: Outcome.TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class BootError:
    """Why the ROM refused.

    Attributes:
        word: As the machine code gave it with `Command.FAIL`.
        code: Stable name, `E_ROM_...`.
        requirement: Id of the requirement that was not met; None for a word that no requirement has.
        text: The requirement.
    """

    word: int
    code: str
    requirement: str | None
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {
            "word": f"{self.word:#010x}",
            "code": self.code,
            "requirement": self.requirement,
            "text": self.text,
        }


def boot_error(word: int) -> BootError:
    """Return what the ROM means by an error word."""
    try:
        requirement = requirement_of(word)
    except RomErrorUnknown as unknown:
        return BootError(word, unknown.code, None, unknown.message)
    return BootError(word, requirement.code, requirement.id, requirement.text)


@dataclass(frozen=True, slots=True)
class BootReport:
    """One boot: from a reset over every reset that the machine code asked for to the end.

    Attributes:
        engine: Which engine ran it.
        outcome: What it came to.
        stop: How the last run ended.
        console: What was written to UART0, over all runs.
        stages: What the machine code noted in the last run, in order.
        error_word: Why the ROM refused; None if it did not.
        debug: State of the debug port afterwards.
        reset_reason: Of the last run.
        fuse_words: The fuses as sensed, afterwards.
        fuse_digest: SHA-256 over them.
        flash_digest: SHA-256 over the flash, afterwards.
        handover: What the ROM handed over to the loader, before the loader's first instruction: the octets
            from `HANDOVER` on; None if it started none.
        instructions: Executed over all runs; 0 on an engine that does not count.
        resets: How many the machine code or the watchdog asked for.
    """

    engine: str
    outcome: Outcome
    stop: Stop
    console: str
    stages: tuple[Stage, ...]
    error_word: int | None
    debug: DebugState
    reset_reason: ResetReason
    fuse_words: tuple[int, ...] = field(repr=False)
    fuse_digest: bytes = field(repr=False)
    flash_digest: bytes = field(repr=False)
    handover: bytes | None = field(repr=False)
    instructions: int
    resets: int

    @property
    def exit_status(self) -> int | None:
        """Status with which the machine code ended the run; None if something else ended it."""
        return self.stop.value if self.stop.kind is StopKind.EXIT else None

    @property
    def error(self) -> BootError | None:
        """Why the ROM refused; None if it did not."""
        return None if self.error_word is None else boot_error(self.error_word)

    @property
    def record(self) -> BootRecord | None:
        """What the ROM handed over to the loader; None if it started none.

        Other machine code than the ROM, in its place, may hand over anything: that is None too.
        """
        if self.handover is None:
            return None
        with contextlib.suppress(HandoverMalformed):
            return parse_boot_record(self.handover)
        return None

    @property
    def recovery_error(self) -> BootError | None:
        """Why the primary loader was passed over; None if it was not."""
        record = self.record
        return (
            None if record is None or record.primary_refusal is None else boot_error(record.primary_refusal)
        )

    @property
    def fuses(self) -> FuseView:
        """The facts in the fuses, afterwards."""
        return read_fuses(self.fuse_words)

    @property
    def counters(self) -> dict[Counter, int]:
        """Security counters in the fuses, afterwards."""
        return self.fuses.counters

    @property
    def life_cycle(self) -> LifeCycle:
        """As the fuses say afterwards."""
        return last_complete_state(self.fuse_words)

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data; keys and types are a stable contract."""
        record, fuses = self.record, self.fuses
        error, recovery_error = self.error, self.recovery_error
        return {
            "engine": self.engine,
            "outcome": self.outcome.value,
            "exit_status": self.exit_status,
            "stop": self.stop.kind.value,
            "detail": self.stop.detail,
            "console": self.console,
            "stages": [stage.name for stage in self.stages],
            "error": error.as_dict() if error else None,
            "recovery_error": recovery_error.as_dict() if recovery_error else None,
            "life_cycle": fuses.life_cycle.name,
            "debug": self.debug.name,
            "reset_reason": self.reset_reason.name,
            "counters": {counter.name.lower(): value for counter, value in fuses.counters.items()},
            "measurement": record.measurement.hex() if record else None,
            "key_slot": record.key_slot if record else None,
            "loader_version": record.loader_version if record else None,
            "fuse_digest": self.fuse_digest.hex(),
            "flash_digest": self.flash_digest.hex(),
            "instructions": self.instructions,
            "resets": self.resets,
        }
