"""Thousands of distinct chips: each made, provisioned by the factory's flow, and booted by its own ROM run.

Every chip has fuses, cells and an id of its own; what they share is what a product shares: loader, keys,
factory CA. Provisioning runs at 25 degrees Celsius; the boot that counts comes after it, under conditions
that the chips take in turn. A chip that fails is a row of the report.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fuseline.device.silicon.memory_map import HELPER_A, PUF_ROWS_SIZE
from fuseline.device.silicon.puf import Conditions
from fuseline.device.silicon.puf.cells import ENROLMENT_TEMPERATURE_C
from fuseline.device.silicon.puf.helper import HELPER_SIZE
from fuseline.device.silicon.report import BootReport, Outcome
from fuseline.device.silicon.rom import quick_image
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.errors import ChipFleetInvalid, ChipFleetWorkerLost, FuselineError, PufFailure
from fuseline.lab.chip.bench import Bench
from fuseline.lab.chip.factory import ChipFactory, LoaderSpec, make_factory, sign_loader
from fuseline.lab.chip.manifest import ChipManifest, read_manifest
from fuseline.lab.chip.provisioning import Provisioned, Provisioning, wafer_test
from fuseline.lab.workers import worker_pool

if TYPE_CHECKING:
    from fuseline.device.silicon.engine import Limits
    from fuseline.device.silicon.run import Engine, Run

COLDEST_C: Final = -55.0
HOTTEST_C: Final = 150.0
"""From where military parts are tested to where the hottest automotive ones are (AEC-Q100, grade 0)."""
NOT_PROVISIONED: Final = "not-provisioned"
WRONG_IDENTITY: Final = "wrong-identity"
"""Outcomes of a chip besides those of its boot."""

_PART: Final = 16
"""Chips that a worker makes before it reports."""
_SEED_LABEL: Final = b"fuseline chip fleet"
_SEED_OCTETS: Final = 16
_LOADER_NAME: Final = "fleet-loader.bin"

Progress = Callable[[int, int], None]
"""Told how many chips are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What to simulate.

    Attributes:
        count: Chips.
        seed: Of the fleet; the same seed gives the same chips with the same noise.
        workers: Processes.
        conditions: Of the boot after provisioning; the chips take them in turn.
    """

    count: int
    seed: int = 1
    workers: int = 2
    conditions: tuple[Conditions, ...] = (Conditions(),)

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            ChipFleetInvalid: No chips, no workers, no conditions, or some that no chip is made for.
        """
        if self.count < 1 or self.workers < 1 or self.seed < 0 or not self.conditions:
            raise ChipFleetInvalid(
                "a fleet has chips, workers, conditions and a seed", count=self.count, workers=self.workers
            )
        for one in self.conditions:
            if not COLDEST_C <= one.temperature_c <= HOTTEST_C or one.age_years < 0:
                raise ChipFleetInvalid(
                    "no chip is made for these conditions",
                    temperature_c=one.temperature_c,
                    age_years=one.age_years,
                )

    def chip_seed(self, index: int) -> int:
        """Return the seed of one chip, which makes it again with `fuseline chip new --seed`."""
        label = _SEED_LABEL + self.seed.to_bytes(_SEED_OCTETS, "big") + index.to_bytes(8, "big")
        return int.from_bytes(hashlib.sha256(label).digest()[:_SEED_OCTETS], "big")


def corners(temperatures_c: Sequence[float], ages_years: Sequence[float]) -> tuple[Conditions, ...]:
    """Return room temperature and no age, then every given temperature at every given age."""
    if not temperatures_c and not ages_years:
        return (Conditions(),)
    stressed = [
        Conditions(temperature, age)
        for age in ages_years or (0.0,)
        for temperature in temperatures_c or (ENROLMENT_TEMPERATURE_C,)
    ]
    return tuple(dict.fromkeys([Conditions(), *stressed]))


@dataclass(frozen=True, slots=True)
class ChipRow:
    """What became of one chip.

    Attributes:
        index: From 0.
        seed: Of the chip.
        conditions: Of its boot.
        outcome: Of its boot (see `Outcome`), or `NOT_PROVISIONED`, or `WRONG_IDENTITY`.
        code: Why it did not boot: of the ROM's error or of the factory's; None if it did.
        detail: For a person; empty if it booted.
        chip_id: 32 octets; None if it was not provisioned.
        identity: SHA-256 of its IDevID key's SubjectPublicKeyInfo; None if it was not provisioned.
        corrected: Readings of its PUF, of the 10,710 that vote, that were not as at enrolment; None if no
            code word was near enough.
    """

    index: int
    seed: int
    conditions: Conditions
    outcome: str
    code: str | None = None
    detail: str = ""
    chip_id: bytes | None = None
    identity: bytes | None = None
    corrected: int | None = None

    @property
    def booted(self) -> bool:
        """Whether its loader was entered, with the identity that the factory certified."""
        return self.outcome == Outcome.BOOTED

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {
            "index": self.index,
            "seed": self.seed,
            "temperature_c": self.conditions.temperature_c,
            "age_years": self.conditions.age_years,
            "outcome": self.outcome,
            "code": self.code,
            "detail": self.detail,
            "chip_id": self.chip_id.hex() if self.chip_id else None,
            "identity": self.identity.hex() if self.identity else None,
            "corrected": self.corrected,
        }


@dataclass(frozen=True, slots=True)
class Effort:
    """What a number of chips took.

    Attributes:
        runs: Runs of machine code, from a reset to whatever ended it.
        run_seconds: Time in them, over all workers.
        peak_rss: Largest resident set of a worker, in octets.
    """

    runs: int = 0
    run_seconds: float = 0.0
    peak_rss: int = 0

    def __add__(self, other: Effort) -> Effort:
        """Return the effort of both."""
        return Effort(
            self.runs + other.runs,
            self.run_seconds + other.run_seconds,
            max(self.peak_rss, other.peak_rss),
        )


@dataclass(frozen=True, slots=True)
class FleetReport:
    """What became of all chips.

    Attributes:
        plan: What was simulated.
        rows: One for each chip, in order.
        effort: What it took.
        seconds: By the clock, with starting the workers.
    """

    plan: FleetPlan
    rows: tuple[ChipRow, ...]
    effort: Effort
    seconds: float

    @property
    def failures(self) -> tuple[ChipRow, ...]:
        """The chips that did not boot."""
        return tuple(row for row in self.rows if not row.booted)

    @property
    def outcomes(self) -> dict[str, int]:
        """How many chips came to what, the commonest first."""
        return dict(Counter(row.outcome for row in self.rows).most_common())

    @property
    def codes(self) -> dict[str, int]:
        """How many chips failed for what, the commonest first."""
        return dict(Counter(row.code for row in self.failures if row.code is not None).most_common())

    @property
    def duplicates(self) -> tuple[bytes, ...]:
        """Identities and chip ids that more than one chip has; there must be none."""
        identities = Counter(row.identity for row in self.rows if row.identity is not None)
        ids = Counter(row.chip_id for row in self.rows if row.chip_id is not None)
        return tuple(value for value, times in (identities + ids).items() if times > 1)

    @property
    def held(self) -> bool:
        """Whether every chip booted and no two are the same to a verifier."""
        return not self.failures and not self.duplicates

    def corrected(self, conditions: Conditions) -> list[int]:
        """Return the corrected readings of the chips that booted under some conditions, ascending."""
        return sorted(
            row.corrected
            for row in self.rows
            if row.conditions == conditions and row.booted and row.corrected is not None
        )

    def digest(self) -> bytes:
        """Return a SHA-256 over all rows: equal plans give equal chips and equal fates."""
        return hashlib.sha256(repr([row.as_dict() for row in self.rows]).encode()).digest()

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {
            "count": self.plan.count,
            "seed": self.plan.seed,
            "workers": self.plan.workers,
            "outcomes": self.outcomes,
            "codes": self.codes,
            "identities": len({row.identity for row in self.rows if row.identity is not None}),
            "duplicates": [value.hex() for value in self.duplicates],
            "conditions": [self._condition(conditions) for conditions in self.plan.conditions],
            "failures": [row.as_dict() for row in self.failures],
            "seconds": self.seconds,
            "runs": self.effort.runs,
            "run_seconds": self.effort.run_seconds,
            "worker_peak_rss": self.effort.peak_rss,
            "digest": self.digest().hex(),
        }

    def _condition(self, conditions: Conditions) -> dict[str, Any]:
        chips = sum(row.conditions == conditions for row in self.rows)
        corrected = self.corrected(conditions)
        return {
            "temperature_c": conditions.temperature_c,
            "age_years": conditions.age_years,
            "chips": chips,
            "booted": sum(row.booted for row in self.rows if row.conditions == conditions),
            "corrected": {str(bits): times for bits, times in sorted(Counter(corrected).items())},
        }


class _MeteredEngine:
    """Counts the runs of an engine, and times them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name
        self.runs, self.seconds = 0, 0.0

    def run(self, silicon: Silicon, rom: bytes, limits: Limits) -> Run:
        """Run it."""
        begun = time.perf_counter()
        try:
            return self._engine.run(silicon, rom, limits)
        finally:
            self.runs += 1
            self.seconds += time.perf_counter() - begun


class Workshop:
    """Makes chips of one product, one after another, on one engine.

    Args:
        manifest: The product.
        now: The factory's time, with a time zone.
    """

    def __init__(self, manifest: ChipManifest, now: dt.datetime) -> None:
        self._manifest = manifest
        self._now = now
        self._engine = _MeteredEngine(UnicornEngine())

    def make(self, seed: int) -> tuple[Bench, Provisioned]:
        """Make a chip and provision it.

        Raises:
            FuselineError: The flow does not come to its end.
        """
        bench = Bench(Silicon(seed), self._engine)
        wafer_test(bench.silicon)
        flow = Provisioning(bench, self._manifest, now=self._now, progress=lambda _: None)
        return bench, flow.run()

    def row(self, plan: FleetPlan, index: int) -> ChipRow:
        """Make one chip of a fleet, boot it under its conditions, and say what became of it."""
        seed = plan.chip_seed(index)
        conditions = plan.conditions[index % len(plan.conditions)]
        try:
            bench, made = self.make(seed)
        except FuselineError as error:
            why = str(error.evidence.get("rom_code", error.code))
            return ChipRow(index, seed, conditions, NOT_PROVISIONED, why, error.message)
        key = made.certificate.public_key()
        identity = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        bench.silicon.puf.conditions = conditions
        corrected = _corrected(bench.silicon)
        outcome, code, detail = _judged(bench.boot(), identity)
        return ChipRow(
            index,
            seed,
            conditions,
            outcome,
            code,
            detail,
            made.chip_id,
            hashlib.sha256(identity).digest(),
            corrected,
        )

    def effort(self) -> Effort:
        """Return what the chips took since this was last asked."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        effort = Effort(self._engine.runs, self._engine.seconds, peak)
        self._engine.runs, self._engine.seconds = 0, 0.0
        return effort


def _corrected(silicon: Silicon) -> int | None:
    """Return how many readings the next boot will correct: the same number of a boot gives the same noise."""
    rows = memoryview(bytearray(PUF_ROWS_SIZE))
    silicon.puf.power_up(rows, silicon.boot_count + 1)
    try:
        return silicon.puf.reconstruct(rows, silicon.flash.read(HELPER_A, HELPER_SIZE)).corrected
    except PufFailure:
        return None


def _judged(report: BootReport, identity: bytes) -> tuple[str, str | None, str]:
    """Return outcome, code and detail of a boot."""
    if report.outcome is not Outcome.BOOTED:
        error = report.error
        return (
            report.outcome.value,
            error.code if error else None,
            error.text if error else report.stop.detail,
        )
    record = report.record
    # The SubjectPublicKeyInfo of a P-256 key ends with the point, X || Y (RFC 5480 2.2).
    if record is None or not identity.endswith(record.idevid_public):
        return WRONG_IDENTITY, None, "the ROM derived another IDevID key than the factory certified"
    return Outcome.BOOTED.value, None, ""


def product_of_its_own(folder: Path) -> Path:
    """Make a development factory whose loader only says that it runs; returns its manifest.

    Raises:
        StateMissing: The folder has something in it, or cannot be made.
        ToolMissing: imgtool is not installed.
    """
    factory: ChipFactory = make_factory(folder)
    loader = sign_loader(quick_image(), factory.key("loader-0"), LoaderSpec())
    (folder / _LOADER_NAME).write_bytes(loader)
    text = factory.manifest.read_text().replace(f'"{factory.loader.name}"', f'"{_LOADER_NAME}"')
    factory.manifest.write_text(text)
    return factory.manifest


@functools.lru_cache(maxsize=1)
def _workshop(manifest: Path, now: dt.datetime) -> Workshop:
    """Return this process's own."""
    return Workshop(read_manifest(manifest), now)


def _make_part(
    plan: FleetPlan, manifest: Path, now: dt.datetime, part: range
) -> tuple[list[ChipRow], Effort]:
    workshop = _workshop(manifest, now)
    return [workshop.row(plan, index) for index in part], workshop.effort()


def run_fleet(
    plan: FleetPlan, manifest: Path, progress: Progress = lambda _done, _total: None
) -> FleetReport:
    """Make, provision and boot all chips.

    Args:
        plan: What to simulate.
        manifest: The product; see `product_of_its_own`.
        progress: Told what is done.

    Raises:
        ChipManifestMalformed, ChipManifestFile: The manifest or what it names is broken.
        ChipFleetWorkerLost: A worker process ended.
    """
    begun = time.monotonic()
    read_manifest(manifest)  # so that a broken one is refused here, once
    size = min(_PART, -(-plan.count // plan.workers))
    parts = [range(at, min(at + size, plan.count)) for at in range(0, plan.count, size)]
    rows: list[ChipRow] = []
    effort = Effort()
    progress(0, plan.count)
    for made, spent in _parts_done(plan, manifest, parts):
        rows += made
        effort += spent
        progress(len(rows), plan.count)
    rows.sort(key=lambda row: row.index)
    return FleetReport(plan, tuple(rows), effort, time.monotonic() - begun)


def _parts_done(
    plan: FleetPlan, manifest: Path, parts: Sequence[range]
) -> Iterator[tuple[list[ChipRow], Effort]]:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    make = functools.partial(_make_part, plan, manifest, now)
    if plan.workers == 1:
        yield from map(make, parts)
        return
    try:
        with worker_pool(plan.workers) as pool:
            for done in as_completed([pool.submit(make, part) for part in parts]):
                yield done.result()
    except BrokenProcessPool as error:
        raise ChipFleetWorkerLost("a worker process ended", workers=plan.workers) from error
