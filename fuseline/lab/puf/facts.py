"""The values that a study of the PUF gives, for people and for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fuseline.device.silicon.puf.cells import CELLS, NOISE
from fuseline.device.silicon.puf.extractor import MESSAGE_BITS
from fuseline.device.silicon.puf.helper import HELPER_SIZE, PAIRS_PER_BIT, READINGS
from fuseline.lab.puf.campaign import Campaign


@dataclass(frozen=True, slots=True)
class PufStudyPlan:
    """What to study.

    Attributes:
        chips: How many; their seeds count up from `seed`.
        readouts: At 25 degrees, of each new chip, compared with its enrolment.
        temperatures_c: Of the die, to compute the probability of failure at.
        ages_years: Likewise; every temperature with every age.
        reconstructions: To simulate at 25 degrees, shared out among the chips.
        injected_bit_errors: At which to simulate how decoding breaks down.
        injected_reconstructions: For each of these.
        seed: Of the first chip, and of the campaign's noise.
        bias: Mean of the cells' mismatch.
        noise: Of a power-up.
    """

    chips: int = 64
    readouts: int = 16
    temperatures_c: tuple[float, ...] = (-40.0, 25.0, 85.0, 125.0)
    ages_years: tuple[float, ...] = (0.0, 2.0, 10.0)
    reconstructions: int = 100_000
    injected_bit_errors: tuple[float, ...] = (0.31, 0.32, 0.33, 0.34, 0.35)
    injected_reconstructions: int = 500
    seed: int = 1
    bias: float = 0.0
    noise: float = NOISE


@dataclass(frozen=True, slots=True)
class Spread:
    """One measure over all chips (or pairs of chips, or cells): shares between 0 and 1."""

    mean: float
    least: float
    greatest: float
    ideal: float
    ideal_deviation: float
    """Standard deviation among ideal chips, from the binomial; 0 where there is none to compare with."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts in bins of equal width between `low` and `high`."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EntropyFacts:
    """Min-entropy of a cell, in bits.

    Attributes:
        across_chips: Mean over cells of -log2 of the commoner value's share among the chips.
        across_chips_ceiling: What ideal cells would show with so few chips: the estimate cannot exceed it
        by much.
        within_worst_chip: Most common value estimate (SP 800-90B 6.3.1) of the chip where it is lowest.
        debiased_ones: Share of ones among the bits that the extractor uses, over all chips.
    """

    across_chips: float
    across_chips_ceiling: float
    within_worst_chip: float
    debiased_ones: float


@dataclass(frozen=True, slots=True)
class ConditionFacts:
    """All chips under one set of conditions, enrolled at 25 degrees when new; computed, not sampled."""

    temperature_c: float
    age_years: float
    bit_error_mean: float
    bit_error_worst: float
    key_failure_mean: float
    key_failure_worst: float
    worst_chip: int
    """Seed of the chip with the greatest probability of failure."""
    worst_vote: float
    """Probability that the least reliable code bit of any chip is outvoted: what the BCH code is for."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Exact probability of failure, if all readings err independently and alike."""

    bit_error: float
    key_failure: float
    one_cell_of_each_pair: float
    """The same if only eleven cells voted on a bit: the plain repetition code."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """Simulated failures at an injected bit error, beside the exact expectation."""

    bit_error: float
    campaign: Campaign
    expected: float


@dataclass(frozen=True, slots=True)
class PufFacts:
    """All that a study found; `as_dict` is its JSON."""

    study: PufStudyPlan
    reliability: Spread
    uniqueness: Spread
    uniformity: Spread
    bit_aliasing: Spread
    entropy: EntropyFacts
    conditions: tuple[ConditionFacts, ...]
    curve: tuple[CurvePoint, ...]
    sweep: tuple[SweepPoint, ...]
    campaign: Campaign
    reliability_histogram: Histogram
    uniqueness_histogram: Histogram
    uniformity_histogram: Histogram
    bit_aliasing_histogram: Histogram

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        code = {
            "cells": CELLS,
            "code": "BCH(255, 131, 18) twice",
            "secret_bits": MESSAGE_BITS,
            "pairs_to_a_bit": PAIRS_PER_BIT,
            "readings_to_a_bit": READINGS,
            "helper_octets": HELPER_SIZE,
        }
        facts = asdict(self)
        study = facts.pop("study")
        return {"format": 1, "study": study, "extractor": code, **facts}
