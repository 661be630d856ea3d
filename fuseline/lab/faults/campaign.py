"""Fault campaigns against the boot ROM: every glitch of a model, in a boot of its own, judged by what runs.

A campaign takes a chip with an attacker's image, starts it, makes one fault (or one pair) at one moment, and
lets the machine code run on; then the same at the next moment. The ROM holds if no fault starts the image,
makes main RAM executable around it, opens debug, or lets the genuine loader reach what must be locked. What
the models cannot show stands in docs/rom-faults.md.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fuseline.device.silicon.memory_map import ResetReason
from fuseline.lab.faults.models import Model, Selection, select
from fuseline.lab.faults.run import FaultRunner, Judged, Outcome, Tally
from fuseline.lab.faults.targets import Attack, Target, make_target
from fuseline.lab.faults.trace import Trace, record
from fuseline.lab.workers import worker_pool

if TYPE_CHECKING:
    from fuseline.device.silicon.rom import RomImage

_PART: Final = 500
"""Faults that a worker makes before it reports."""

Progress = Callable[["Case", int, int], None]
"""Told a case, how many more of its faults were made, and how many it has."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a campaign does.

    Attributes:
        attacks: What stands in the flash.
        models: Which faults.
        reset: Why the processor starts.
        sample: At most so many faults of each model for each attack; None for what `select` takes by itself.
        seed: Of every draw.
        workers: Processes.
    """

    attacks: tuple[Attack, ...] = tuple(Attack)
    models: tuple[Model, ...] = tuple(Model)
    reset: ResetReason = ResetReason.WARM
    sample: int | None = None
    seed: int = 1
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Case:
    """One model of faults against one attack."""

    attack: Attack
    model: Model


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault that the ROM did not withstand.

    Attributes:
        outcome: What became of the boot.
        how: What is open.
        index: Which executed instruction, from 0.
        address: Of the instruction.
        place: Where it comes from: C file, line, function.
        fault: What happened to it.
    """

    outcome: Outcome
    how: str
    index: int
    address: int
    place: str
    fault: str

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {
            "outcome": self.outcome.value,
            "how": self.how,
            "index": self.index,
            "address": f"{self.address:#06x}",
            "place": self.place,
            "fault": self.fault,
        }


@dataclass(frozen=True, slots=True)
class CaseReport:
    """What a case came to.

    Attributes:
        case: Which.
        instructions: Executed in the undisturbed boot.
        population: Faults that the model has.
        faults: Of these, made.
        outcomes: How often each, by name.
        findings: What the ROM did not withstand, in the order of the boot.
        seconds: Processor time of all workers.
    """

    case: Case
    instructions: int
    population: int
    faults: int
    outcomes: dict[Outcome, int]
    findings: tuple[Finding, ...]
    seconds: float

    def count(self, outcome: Outcome) -> int:
        """Return how often an outcome was seen."""
        return self.outcomes.get(outcome, 0)

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {
            "attack": self.case.attack.value,
            "model": self.case.model.value,
            "instructions": self.instructions,
            "population": self.population,
            "faults": self.faults,
            "sampled": self.faults < self.population,
            "outcomes": {outcome.value: self.count(outcome) for outcome in Outcome},
            "findings": [finding.as_dict() for finding in self.findings],
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """What a campaign came to.

    Attributes:
        plan: What it did.
        rom_digest: SHA-256 of the ROM.
        cases: By attack and model.
        elapsed: Seconds from start to end.
    """

    plan: Plan
    rom_digest: bytes
    cases: tuple[CaseReport, ...]
    elapsed: float

    def count(self, outcome: Outcome) -> int:
        """Return how often an outcome was seen in all cases."""
        return sum(case.count(outcome) for case in self.cases)

    @property
    def faults(self) -> int:
        """Faults made."""
        return sum(case.faults for case in self.cases)

    @property
    def holds(self) -> bool:
        """Whether no fault let the attacker in, or exposed a secret."""
        return not self.count(Outcome.WON) and not self.count(Outcome.EXPOSED)

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data; keys and types are a stable contract."""
        return {
            "rom": self.rom_digest.hex(),
            "reset": self.plan.reset.name,
            "seed": self.plan.seed,
            "sample": self.plan.sample,
            "holds": self.holds,
            "faults": self.faults,
            "won": self.count(Outcome.WON),
            "exposed": self.count(Outcome.EXPOSED),
            "diverted": self.count(Outcome.DIVERTED),
            "faults_per_second": round(self.faults / self.elapsed, 1) if self.elapsed else 0.0,
            "seconds": round(self.elapsed, 3),
            "cases": [case.as_dict() for case in self.cases],
        }


@dataclass(frozen=True, slots=True)
class _Setting:
    """What every worker needs."""

    plan: Plan
    rom: RomImage
    targets: dict[Attack, Target]


class _Workshop:
    """Makes faults in this process. Keeps the last target and the last selection: parts come in order."""

    def __init__(self, setting: _Setting) -> None:
        self._setting = setting
        self.trace = functools.lru_cache(maxsize=1)(self._trace)
        self._runner = functools.lru_cache(maxsize=1)(self._make_runner)
        self.selection = functools.lru_cache(maxsize=1)(self._selection)

    def _trace(self, attack: Attack) -> Trace:
        return record(self._setting.targets[attack], self._setting.rom)

    def _make_runner(self, attack: Attack) -> FaultRunner:
        return FaultRunner(self._setting.targets[attack], self._setting.rom, self.trace(attack))

    def _selection(self, case: Case) -> Selection:
        plan = self._setting.plan
        return select(case.model, self.trace(case.attack), sample=plan.sample, seed=plan.seed)

    def run(self, case: Case, part: slice) -> tuple[Tally, float]:
        """Make a part of a case's faults; returns what became of them, and the processor time."""
        faults = self.selection(case).faults[part]
        runner = self._runner(case.attack)
        begun = time.process_time()
        tally = runner.run(faults)
        return tally, time.process_time() - begun


_workshop: _Workshop | None = None


def _begin_worker(setting: _Setting) -> None:
    global _workshop  # noqa: PLW0603 - one per worker process, made by the pool's initializer
    _workshop = _Workshop(setting)


def _work(case: Case, part: slice) -> tuple[Tally, float]:
    if _workshop is None:
        raise RuntimeError("`_begin_worker` comes first")
    return _workshop.run(case, part)


def run_campaign(
    plan: Plan, rom: RomImage, progress: Progress = lambda _case, _more, _total: None
) -> CampaignReport:
    """Run a campaign.

    Args:
        plan: What to do.
        rom: The boot ROM to attack.
        progress: Told what was done.

    Raises:
        RuntimeError: The ROM does not start the genuine loader, or starts an attacker's without any fault.
    """
    begun = time.monotonic()
    targets = {attack: make_target(attack, plan.reset) for attack in plan.attacks}
    setting = _Setting(plan, rom, targets)
    local = _Workshop(setting)
    cases = [Case(attack, model) for attack in plan.attacks for model in plan.models]
    if plan.workers == 1:
        reports = [_run_case(local, case, rom, _serially(local), progress) for case in cases]
    else:
        with worker_pool(plan.workers, _begin_worker, setting) as pool:
            reports = [_run_case(local, case, rom, _in_parallel(pool), progress) for case in cases]
    return CampaignReport(plan, rom.digest, tuple(reports), time.monotonic() - begun)


_Execute = Callable[[Case, Sequence[slice]], Iterator[tuple[Tally, float]]]


def _serially(workshop: _Workshop) -> _Execute:
    return lambda case, parts: (workshop.run(case, part) for part in parts)


def _in_parallel(pool: ProcessPoolExecutor) -> _Execute:
    def execute(case: Case, parts: Sequence[slice]) -> Iterator[tuple[Tally, float]]:
        for done in as_completed([pool.submit(_work, case, part) for part in parts]):
            yield done.result()

    return execute


def _run_case(
    local: _Workshop, case: Case, rom: RomImage, execute: _Execute, progress: Progress
) -> CaseReport:
    trace, selection = local.trace(case.attack), local.selection(case)
    count = len(selection.faults)
    total, seconds = Tally(), 0.0
    progress(case, 0, count)
    for tally, spent in execute(case, [slice(at, at + _PART) for at in range(0, count, _PART)]):
        total.add(tally)
        seconds += spent
        progress(case, tally.outcomes.total(), count)
    findings = sorted(
        (_finding(judged, rom) for judged in total.findings), key=lambda one: (one.index, one.fault)
    )
    outcomes = dict(total.outcomes)
    return CaseReport(case, len(trace), selection.population, count, outcomes, tuple(findings), seconds)


def _finding(judged: Judged, rom: RomImage) -> Finding:
    place = rom.line(judged.address)
    return Finding(
        judged.outcome,
        judged.how,
        judged.fault.index,
        judged.address,
        str(place) if place else "?",
        judged.fault.detail(),
    )
