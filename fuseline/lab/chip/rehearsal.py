"""Rehearsals: what cannot be undone is done to a copy first, and the copy is booted.

A fuse stays blown. So a change of fuses is a plan that can be shown bit by bit, carried out on a copy of this
very chip (half-blown fuses, flash and PUF included) and judged by the ROM's own machine code, before the chip
itself is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from fuseline.device.silicon import fuse_plans
from fuseline.device.silicon.fuse_map import Counter, KeyType, LifeCycle
from fuseline.device.silicon.fuse_plans import FusePlan
from fuseline.device.silicon.fuse_view import FuseFault, read_fuses
from fuseline.device.silicon.fuses import FIELD_OF_WORD
from fuseline.device.silicon.power import PowerLost
from fuseline.device.silicon.report import BootReport, Outcome
from fuseline.errors import FuseOrder, FuseRequestEmpty

if TYPE_CHECKING:
    from fuseline.lab.chip.bench import Bench

Prepare = Callable[["Bench"], object]
"""Brings a chip to where its fuses can be blown: a reset, or an unlock of debug."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A loader key to bring into use.

    Attributes:
        slot: Key slot.
        digest: SHA-256 of its SubjectPublicKeyInfo.
        type: What it may sign for.
    """

    slot: int
    digest: bytes
    type: KeyType


@dataclass(frozen=True, slots=True)
class FuseRequest:
    """What somebody wants of a chip's fuses.

    Attributes:
        keys: Loader keys to bring into use.
        debug_authority: SHA-256 of the SubjectPublicKeyInfo of who may unlock debug.
        counters: Security counters and the value each shall have.
        revoke: Key slots to revoke.
        raw: Words and the bits to blow in them.
        life_cycle: State to move to, over every state between.
    """

    keys: tuple[NewKey, ...] = ()
    debug_authority: bytes | None = None
    counters: tuple[tuple[Counter, int], ...] = ()
    revoke: tuple[int, ...] = ()
    raw: FusePlan = ()
    life_cycle: LifeCycle | None = None


@dataclass(frozen=True, slots=True)
class PlannedFuses:
    """One fact to be blown.

    Attributes:
        meaning: For a person.
        plan: Words and bits.
    """

    meaning: str
    plan: FusePlan


@dataclass(frozen=True, slots=True)
class FuseChange:
    """One word that would change for ever.

    Attributes:
        word: Its index.
        field: The field it belongs to.
        meaning: Why it is blown.
        before: Bits that are surely blown now.
        after: Bits that would be.
        half_blown: Bits that a cut supply would leave half-blown.
    """

    word: int
    field: str
    meaning: str
    before: int
    after: int
    half_blown: int

    @property
    def bits(self) -> int:
        """How many fuses are blown."""
        return (self.after & ~self.before).bit_count()

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {
            "word": self.word,
            "field": self.field,
            "meaning": self.meaning,
            "before": f"{self.before:#010x}",
            "after": f"{self.after:#010x}",
            "half_blown": f"{self.half_blown:#010x}",
        }


class Verdict(StrEnum):
    """What the change does to the chip."""

    BOOTS = "boots"
    """The copy starts its loader afterwards."""
    NO_LONGER_BOOTS = "no-longer-boots"
    """The chip starts its loader now, and the copy does not afterwards."""
    CAN_NEVER_BOOT = "can-never-boot"
    """It starts none now, none afterwards, and afterwards what it lacks cannot be blown any more."""
    DOES_NOT_BOOT = "does-not-boot"
    """It starts no loader now and none afterwards; it is still in the factory's hands."""

    @property
    def harmful(self) -> bool:
        """The chip would be lost by this."""
        return self in {Verdict.NO_LONGER_BOOTS, Verdict.CAN_NEVER_BOOT}


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a change of fuses did to a copy of the chip.

    Attributes:
        changes: Words that changed, by index.
        cut_at: Operation at which the copy's supply was cut; None for a steady one.
        cut: The supply was indeed cut before the plan was through.
        operations: Operations that the plan took, up to the cut.
        new_faults: Fields that keep their code now and would not afterwards.
        before: Boot of a copy as it is.
        after: Boot of the changed copy.
        verdict: What this means.
    """

    changes: tuple[FuseChange, ...]
    cut_at: int | None
    cut: bool
    operations: int
    new_faults: tuple[FuseFault, ...]
    before: BootReport
    after: BootReport
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data; keys and types are a stable contract."""
        return {
            "verdict": self.verdict.value,
            "harmful": self.verdict.harmful,
            "changes": [change.as_dict() for change in self.changes],
            "bits": sum(change.bits for change in self.changes),
            "operations": self.operations,
            "cut_at": self.cut_at,
            "cut": self.cut,
            "new_faults": [
                {"field": fault.field, "problem": fault.problem, "completable": fault.completable}
                for fault in self.new_faults
            ],
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
        }


_FACTORY: Final = LifeCycle.DEV
"""The last life cycle in which keys can still be blown."""


def plan_request(request: FuseRequest, reached: LifeCycle) -> tuple[PlannedFuses, ...]:
    """Turn a request into plans, in the order in which a factory would blow them: the life cycle last.

    Args:
        request: What is wanted.
        reached: The chip's life cycle now.

    Raises:
        FuseArgument: A slot, counter or state that does not exist.
        FuseOrder: A life cycle before the present one.
    """
    planned = [
        PlannedFuses(
            f"key slot {key.slot}: {key.type.name} key", fuse_plans.plan_key(key.slot, key.digest, key.type)
        )
        for key in request.keys
    ]
    if request.debug_authority is not None:
        plan = fuse_plans.plan_debug_authority(request.debug_authority)
        planned.append(PlannedFuses("debug authority", plan))
    for counter, value in request.counters:
        name = counter.name.lower().replace("_", " ")
        planned.append(PlannedFuses(f"{name} counter to {value}", fuse_plans.plan_counter(counter, value)))
    planned += [
        PlannedFuses(f"revoke key slot {slot}", fuse_plans.plan_revocation(slot)) for slot in request.revoke
    ]
    planned += [PlannedFuses("as asked, bit by bit", (step,)) for step in request.raw]
    return (*planned, *_life_cycle_steps(request.life_cycle, reached))


def _life_cycle_steps(target: LifeCycle | None, reached: LifeCycle) -> list[PlannedFuses]:
    if target is None:
        return []
    if target < reached:
        raise FuseOrder(f"{target.name} is before {reached.name}", life_cycle=reached.name, asked=target.name)
    return [
        PlannedFuses(f"life cycle {LifeCycle(state).name}", fuse_plans.plan_life_cycle(LifeCycle(state)))
        for state in range(reached + 1, target + 1)
    ]


def blow(bench: Bench, planned: Sequence[PlannedFuses]) -> None:
    """Blow plans on a chip, for ever.

    Raises:
        SiliconError: The fuse controller refuses.
        PowerLost: A rehearsed cut of the supply.
    """
    for item in planned:
        bench.silicon.fuses.blow_all(item.plan)


def rehearse(
    bench: Bench, planned: Sequence[PlannedFuses], *, prepare: Prepare, cut_at: int | None = None
) -> Rehearsal:
    """Blow plans on a copy of the chip and boot it; the chip itself is not touched.

    Args:
        bench: The chip.
        planned: What to blow.
        prepare: Done to the copy first.
        cut_at: Cut the copy's supply at this operation, counted from 1.

    Raises:
        FuseRequestEmpty: It all stands in the fuses already.
        SiliconError: The fuse controller refuses the plan, as it would on the chip.
    """
    before = bench.copy().boot()
    twin = bench.copy()
    prepare(twin)
    fuses_before = twin.certain_fuses()
    faults_before = read_fuses(fuses_before).faults
    power = twin.silicon.power
    power.operations, power.cut_at = 0, cut_at
    cut = False
    try:
        blow(twin, planned)
    except PowerLost:
        cut = True
    operations, power.cut_at = power.operations, None
    changes = tuple(_changes(twin, fuses_before, planned))
    if not changes:
        raise FuseRequestEmpty("the fuses already are as asked")
    faults = [one for one in read_fuses(twin.silicon.fuses.words()).faults if one not in faults_before]
    after = twin.boot()
    return Rehearsal(
        changes=changes,
        cut_at=cut_at,
        cut=cut,
        operations=operations,
        new_faults=tuple(faults),
        before=before,
        after=after,
        verdict=_verdict(before, after, twin.silicon.fuses.life_cycle_begun),
    )


def _verdict(before: BootReport, after: BootReport, begun: LifeCycle) -> Verdict:
    if after.outcome is Outcome.BOOTED:
        return Verdict.BOOTS
    if before.outcome is Outcome.BOOTED:
        return Verdict.NO_LONGER_BOOTS
    return Verdict.CAN_NEVER_BOOT if begun > _FACTORY else Verdict.DOES_NOT_BOOT


def _changes(twin: Bench, before: Sequence[int], planned: Sequence[PlannedFuses]) -> list[FuseChange]:
    meanings: dict[int, str] = {}
    for item in planned:
        for word, _ in item.plan:
            meanings.setdefault(word, item.meaning)
    after = twin.certain_fuses()
    changes = []
    for word, meaning in sorted(meanings.items()):
        half_blown = twin.silicon.fuses.margin(word)
        if after[word] != before[word] or half_blown:
            field = FIELD_OF_WORD[word].name
            changes.append(FuseChange(word, field, meaning, before[word], after[word], half_blown))
    return changes
