"""What a PUF is worth: measured on many simulated chips, and computed where measuring cannot reach.

The measures are those of A. Maiti, V. Gunreddy and P. Schaumont, "A Systematic Method to Evaluate and
Compare the Performance of Physical Unclonable Functions", 2013: reliability, uniqueness, uniformity,
bit-aliasing. To these come an estimate of min-entropy and the probability of every single chip to fail to
find its key, of which the worst chip's is the one to quote.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from fuseline.device.silicon.memory_map import PUF_ROWS_SIZE
from fuseline.device.silicon.puf import Conditions, Puf
from fuseline.device.silicon.puf.cells import CELLS, distance_in_sigma, ones_probability
from fuseline.device.silicon.puf.extractor import MESSAGE_OCTETS, message_from
from fuseline.device.silicon.puf.helper import PAIRS_PER_BIT, voting_cells
from fuseline.device.silicon.puf.reliability import (
    DeviceFailure,
    device_failure,
    key_failure,
    reading_errors,
    uniform_errors,
)
from fuseline.device.silicon.puf.types import Floats, Indices, Octets
from fuseline.errors import PufStudyInvalid
from fuseline.lab.puf.campaign import Campaign, Progress, reconstruct_many
from fuseline.lab.puf.facts import (
    ConditionFacts,
    CurvePoint,
    EntropyFacts,
    Histogram,
    PufFacts,
    PufStudyPlan,
    Spread,
    SweepPoint,
)
from fuseline.lab.puf.page import render_page

_CURVE: Final = tuple(Fraction(percent, 100) for percent in range(10, 57))
_HISTOGRAM_BINS: Final = 31
_QUANTILE_995: Final = 2.576
"""Of the standard normal: the upper end of a 99 % interval, as SP 800-90B 6.3.1 asks."""
_MESSAGE_STREAM: Final = 3
"""Of a chip's seed, beside those of its cells and noise: what it would draw from its TRNG at enrolment."""


@dataclass(frozen=True, slots=True)
class _Specimen:
    seed: int
    puf: Puf
    rows: bytes
    helper: bytes
    message: int

    def errors(self, conditions: Conditions) -> Floats:
        distance = distance_in_sigma(self.puf.cells(), conditions, self.puf.noise)
        return reading_errors(distance, self.rows, self.helper)

    def reliability(self, readouts: int) -> float:
        rows = memoryview(bytearray(PUF_ROWS_SIZE))
        reference = _octets(self.rows)
        differing = 0
        for boot in range(1, readouts + 1):
            self.puf.power_up(rows, boot)
            differing += int(np.bitwise_count(reference ^ _octets(rows)).sum())
        return 1.0 - differing / (CELLS * readouts)

    def cell_disagreement(self, conditions: Conditions) -> float:
        """Expected share of all cells that differ from enrolment: what `reliability` estimates."""
        ones = ones_probability(self.puf.cells(), conditions, self.puf.noise)
        enrolled = np.unpackbits(_octets(self.rows))
        return float(np.where(enrolled == 1, 1.0 - ones, ones).mean())

    def debiased_ones(self) -> float:
        """Share of ones among the first cells of the selected pairs."""
        cells = voting_cells(self.helper)[:PAIRS_PER_BIT]
        return float(np.unpackbits(_octets(self.rows))[cells].mean())


class PufStudy:
    """A study of many chips: `run` once, then render or write what it found.

    Args:
        plan: What to study.

    Raises:
        PufStudyInvalid: The plan has nothing to compare or to measure.
    """

    def __init__(self, plan: PufStudyPlan) -> None:
        if plan.chips < 2 or plan.readouts < 1 or not plan.temperatures_c or not plan.ages_years:
            raise PufStudyInvalid("nothing to compare", chips=plan.chips, readouts=plan.readouts)
        if min(plan.ages_years) < 0 or plan.noise <= 0 or min(plan.reconstructions, plan.seed) < 0:
            raise PufStudyInvalid("ages, noise, seed and reconstructions are not negative")
        if (
            any(not 0 <= error <= 1 for error in plan.injected_bit_errors)
            or plan.injected_reconstructions < 1
        ):
            raise PufStudyInvalid("injected errors are between 0 and 1, reconstructed at least once")
        self._plan = plan

    def run(self, progress: Progress | None = None) -> PufFacts:
        """Measure, compute and simulate.

        Args:
            progress: Called after each step with steps done and steps in all.

        Raises:
            PufBiased: A chip has too few balanced pairs to be enrolled.
        """
        plan = self._plan
        steps = _Steps(2 * plan.chips + len(plan.injected_bit_errors), progress)
        chips = [_enrol(plan, plan.seed + index) for index in range(plan.chips)]
        reliability = np.empty(plan.chips)
        failures: list[list[DeviceFailure]] = []
        for index, chip in enumerate(chips):
            reliability[index] = chip.reliability(plan.readouts)
            failures.append([device_failure(chip.errors(conditions)) for conditions in _conditions(plan)])
            steps.step()
        campaign = _campaign(plan, chips, steps)
        sweep = tuple(_sweep_point(plan, error, steps) for error in plan.injected_bit_errors)
        return _facts(plan, chips, reliability, failures, campaign, sweep)


@dataclass(slots=True)
class _Steps:
    total: int
    report: Progress | None
    done: int = 0

    def step(self) -> None:
        self.done += 1
        if self.report is not None:
            self.report(self.done, self.total)


def _enrol(plan: PufStudyPlan, seed: int) -> _Specimen:
    puf = Puf(seed, bias=plan.bias, noise=plan.noise)
    rows = bytearray(PUF_ROWS_SIZE)
    puf.power_up(memoryview(rows), 0)
    drawn = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_MESSAGE_STREAM,)))
    ).bytes(MESSAGE_OCTETS)
    enrolment = puf.enrol(bytes(rows), lambda _: drawn)
    return _Specimen(seed, puf, bytes(rows), enrolment.helper, message_from(drawn))


def _octets(rows: bytes | memoryview) -> Octets:
    return np.frombuffer(rows, np.uint8)


def _conditions(plan: PufStudyPlan) -> list[Conditions]:
    return [Conditions(temperature, age) for age in plan.ages_years for temperature in plan.temperatures_c]


def _campaign(plan: PufStudyPlan, chips: list[_Specimen], steps: _Steps) -> Campaign:
    total = Campaign.nothing()
    for index, chip in enumerate(chips):
        share = (index + 1) * plan.reconstructions // len(chips) - index * plan.reconstructions // len(chips)
        total += reconstruct_many(chip.errors(Conditions()), chip.message, share, chip.seed)
        steps.step()
    return total


def _sweep_point(plan: PufStudyPlan, bit_error: float, steps: _Steps) -> SweepPoint:
    errors = uniform_errors(bit_error)
    campaign = reconstruct_many(errors, 0, plan.injected_reconstructions, plan.seed)
    steps.step()
    return SweepPoint(bit_error, campaign, device_failure(errors).key_failure)


def _facts(
    plan: PufStudyPlan,
    chips: list[_Specimen],
    reliability: Floats,
    failures: list[list[DeviceFailure]],
    campaign: Campaign,
    sweep: tuple[SweepPoint, ...],
) -> PufFacts:
    readouts = np.unpackbits(np.stack([_octets(chip.rows) for chip in chips]), axis=1)
    uniformity = readouts.mean(axis=1)
    aliasing = readouts.mean(axis=0)
    distances = _pairwise_distances(readouts)
    nominal = Conditions()
    ideal_reliability = 1.0 - float(np.mean([chip.cell_disagreement(nominal) for chip in chips]))
    return PufFacts(
        study=plan,
        reliability=_spread(reliability, ideal_reliability, 0.0),
        uniqueness=_spread(distances, 0.5, 0.5 / math.sqrt(CELLS)),
        uniformity=_spread(uniformity, 0.5, 0.5 / math.sqrt(CELLS)),
        bit_aliasing=_spread(aliasing, 0.5, 0.5 / math.sqrt(len(chips))),
        entropy=_entropy(chips, aliasing, uniformity),
        conditions=tuple(
            _condition(conditions, chips, [row[index] for row in failures])
            for index, conditions in enumerate(_conditions(plan))
        ),
        curve=tuple(
            CurvePoint(float(error), float(key_failure(error)), float(key_failure(error, 11)))
            for error in _CURVE
        ),
        sweep=sweep,
        campaign=campaign,
        reliability_histogram=_histogram(reliability),
        uniqueness_histogram=_histogram(distances),
        uniformity_histogram=_histogram(uniformity),
        bit_aliasing_histogram=_histogram_of_counts(readouts.sum(axis=0, dtype=np.int64), len(chips)),
    )


def _pairwise_distances(readouts: Octets) -> Floats:
    """Return the share of differing cells for each pair of chips: one product of matrices of -1 and 1."""
    signs = readouts.astype(np.float32) * 2 - 1
    agreement = (signs @ signs.T)[np.triu_indices(len(signs), 1)]
    return (1.0 - agreement.astype(np.float64) / CELLS) / 2.0


def _spread(values: Floats, ideal: float, deviation: float) -> Spread:
    return Spread(float(values.mean()), float(values.min()), float(values.max()), ideal, deviation)


def _histogram(values: Floats) -> Histogram:
    counts, edges = np.histogram(values, _HISTOGRAM_BINS)
    return Histogram(float(edges[0]), float(edges[-1]), tuple(counts.tolist()))


def _histogram_of_counts(ones: Indices, trials: int) -> Histogram:
    """Return the shares `ones / trials` in bins that each hold the same number of possible values."""
    least, greatest = int(ones.min()), int(ones.max())
    width = -(-(greatest - least + 1) // _HISTOGRAM_BINS)
    bins = -(-(greatest - least + 1) // width)
    counts = np.bincount((ones - least) // width, minlength=bins)
    low = (least - 0.5) / trials
    return Histogram(low, low + bins * width / trials, tuple(counts.tolist()))


def _entropy(chips: list[_Specimen], aliasing: Floats, uniformity: Floats) -> EntropyFacts:
    count = len(chips)
    ways = [math.comb(count, ones) / 2.0**count for ones in range(count + 1)]
    ceiling = sum(way * -math.log2(max(ones, count - ones) / count) for ones, way in enumerate(ways))
    commoner = float(np.maximum(uniformity, 1.0 - uniformity).max())
    bound = min(1.0, commoner + _QUANTILE_995 * math.sqrt(commoner * (1.0 - commoner) / (CELLS - 1)))
    return EntropyFacts(
        across_chips=float(-np.log2(np.maximum(aliasing, 1.0 - aliasing)).mean()),
        across_chips_ceiling=ceiling,
        within_worst_chip=-math.log2(bound),
        debiased_ones=float(np.mean([chip.debiased_ones() for chip in chips])),
    )


def _condition(
    conditions: Conditions, chips: list[_Specimen], failures: list[DeviceFailure]
) -> ConditionFacts:
    worst = max(range(len(chips)), key=lambda index: failures[index].key_failure)
    bit_errors = [failure.bit_error for failure in failures]
    return ConditionFacts(
        temperature_c=conditions.temperature_c,
        age_years=conditions.age_years,
        bit_error_mean=math.fsum(bit_errors) / len(chips),
        bit_error_worst=max(bit_errors),
        key_failure_mean=math.fsum(failure.key_failure for failure in failures) / len(chips),
        key_failure_worst=failures[worst].key_failure,
        worst_chip=chips[worst].seed,
        worst_vote=max(failure.worst_vote for failure in failures),
    )


def write_report(facts: PufFacts, page: Path | None = None, data: Path | None = None) -> None:
    """Write what a study found.

    Args:
        facts: From `PufStudy.run`.
        page: Where to write one self-contained HTML page.
        data: Where to write the same facts as JSON.
    """
    if data is not None:
        data.write_text(json.dumps(facts.as_dict(), indent=2) + "\n", encoding="utf-8")
    if page is not None:
        page.write_text(render_page(facts), encoding="utf-8")
