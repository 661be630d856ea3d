"""What an attack on the chip is, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fuseline.device.silicon.report import BootReport, Outcome

if TYPE_CHECKING:
    from fuseline.lab.chip_attacks.rig import Rig

_Point = TypeVar("_Point")

_ASTRAY: Final = frozenset({"E_ROM_EXCEPTION", "E_ROM_FAULT_DETECTED", "E_ROM_PORT"})
"""Refusals that no hostile input may cause: the ROM should have noticed earlier, by a check."""


class Holds(StrEnum):
    """What the attacker has in hand."""

    FLASH = "flash programmer"
    """Writes anything to the flash beside the chip, at any time."""
    FUSES = "fuse blower"
    """Blows any fuse, past the controller. Nobody un-blows one."""
    PINS = "pins"
    """Chooses straps and resets, and what the ROM reads of them."""
    MAILBOX = "debug port"
    """Talks to the ROM as a tester does."""
    CODE = "code in the loader's place"
    OTHER_CHIP = "another chip"
    SUPPLY = "supply"
    """Cuts it when they like."""
    SIGNER = "a confused signer"
    """Gets hostile images signed by a key that the chip trusts."""
    NOISE = "noise source"
    """Has it stuck, or biased."""


class Verdict(StrEnum):
    """What became of one attempt."""

    REFUSED = "refused"
    EQUAL = "equal"
    """It went through and changed nothing: what runs is what was signed, with the same measurement."""
    ESCAPED = "escaped"


class Effort(StrEnum):
    """How many points of the long sweeps are visited."""

    QUICK = "quick"
    FULL = "full"

    def pick(self, points: Sequence[_Point], stride: int) -> Sequence[_Point]:
        """Return all points, or with little effort every `stride`-th one and the last."""
        if self is Effort.FULL or len(points) <= stride:
            return points
        return [*points[:-1:stride], points[-1]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing that was tried.

    Attributes:
        what: What was done.
        verdict: What became of it.
        seen: The error code of whoever refused, or what happened instead.
        expected: The refusal that is due; None where several are right.
    """

    what: str
    verdict: Verdict
    seen: str
    expected: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {"what": self.what, "verdict": self.verdict.value, "seen": self.seen}


@dataclass(frozen=True, slots=True)
class Attack:
    """One named attack.

    Attributes:
        name: For `--only` and for the threat model.
        holds: What the attacker has in hand.
        tries: What they try, in one sentence.
        run: Tries it on a rig; yields every attempt.
        remains: What it does not show; empty if nothing comes to mind.
    """

    name: str
    holds: tuple[Holds, ...]
    tries: str
    run: Callable[[Rig, Effort], Iterator[Attempt]]
    remains: str = ""


@dataclass(frozen=True, slots=True)
class AttackResult:
    """What became of an attack.

    Attributes:
        attack: Which one.
        attempts: Everything that was tried.
        seconds: How long it took.
    """

    attack: Attack
    attempts: tuple[Attempt, ...]
    seconds: float

    @property
    def escaped(self) -> tuple[Attempt, ...]:
        """The attempts that got through."""
        return tuple(one for one in self.attempts if one.verdict is Verdict.ESCAPED)

    @property
    def verdict(self) -> Verdict:
        """Refused, unless a single attempt escaped; nothing tried is nothing shown, and counts as escaped."""
        return Verdict.ESCAPED if self.escaped or not self.attempts else Verdict.REFUSED

    @property
    def seen(self) -> dict[str, int]:
        """How often each refusal was seen, the most frequent first."""
        return dict(Counter(one.seen for one in self.attempts).most_common())

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data; keys and types are a stable contract."""
        return {
            "name": self.attack.name,
            "holds": [one.value for one in self.attack.holds],
            "tries": self.attack.tries,
            "remains": self.attack.remains,
            "verdict": self.verdict.value,
            "attempts": len(self.attempts),
            "equal": sum(one.verdict is Verdict.EQUAL for one in self.attempts),
            "escaped": [one.as_dict() for one in self.escaped],
            "seen": self.seen,
            "seconds": round(self.seconds, 3),
        }


def refused(what: str, seen: str, expected: str | None = None) -> Attempt:
    """Return an attempt that was refused."""
    return Attempt(what, Verdict.REFUSED, seen, expected)


def escaped(what: str, seen: str) -> Attempt:
    """Return an attempt that got through."""
    return Attempt(what, Verdict.ESCAPED, seen)


def judge(what: str, report: BootReport, expected: str | None = None) -> Attempt:
    """Judge a boot that must not reach the loader.

    Args:
        what: What was done to the chip.
        report: Its boot.
        expected: The error code that is due, if there is one.
    """
    return judge_refusal(what, report.outcome, report.error.code if report.error else None, expected)


def judge_refusal(what: str, outcome: Outcome, code: str | None, expected: str | None = None) -> Attempt:
    """Judge a boot by its outcome and error code; as `judge`."""
    if outcome is not Outcome.REFUSED or code is None:
        return escaped(what, f"{outcome.value}, {code}" if code else outcome.value)
    if code in _ASTRAY and code != expected:
        return escaped(what, f"the ROM went astray: {code}")
    return refused(what, code, expected)


def judge_equal(what: str, report: BootReport, measurement: bytes) -> Attempt:
    """Judge a boot that may reach the loader if it is the one with this measurement."""
    record = report.record
    if report.outcome is Outcome.BOOTED and record is not None and record.measurement == measurement:
        return Attempt(what, Verdict.EQUAL, "boots what was signed")
    return judge(what, report)


def expect(what: str, holds: bool, seen: str, otherwise: str) -> Attempt:
    """Return a refusal seen as `seen` if `holds`, else an escape seen as `otherwise`."""
    return refused(what, seen) if holds else escaped(what, otherwise)
