"""How probably a chip fails to find its key: computed, as no simulation reaches one in a billion.

Two answers. `key_failure` takes every cell to err alike and independently, in exact fractions: the bound
that a data sheet quotes. `device_failure` takes each cell of one chip with its own probability: real cells
are mostly silent with a few coin flippers among them, and a chip is as good as its own cells, not as the
average chip's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fuseline.device.silicon.puf import bch
from fuseline.device.silicon.puf.helper import CODE_BITS, CODE_WORDS, READINGS, voting_cells
from fuseline.device.silicon.puf.normal import upper_tail
from fuseline.device.silicon.puf.types import Floats


def _more_than(limit: int, trials: int, probability: Fraction) -> Fraction:
    """P[more than `limit` of `trials`], binomial, in one exact fraction."""
    ones, every = probability.numerator, probability.denominator
    zeros = every - ones
    counts = range(limit + 1, trials + 1)
    ways = sum(math.comb(trials, count) * ones**count * zeros ** (trials - count) for count in counts)
    return Fraction(ways, every**trials)


def vote_failure(bit_error: Fraction, readings: int = READINGS) -> Fraction:
    """Return the probability that the majority of `readings` independent readings is wrong.

    Args:
        bit_error: Of one reading against enrolment.
        readings: How many vote; odd.
    """
    return _more_than(readings // 2, readings, bit_error)


def key_failure(bit_error: Fraction, readings: int = READINGS) -> Fraction:
    """Return the probability that the key is not found, if all readings err independently and alike.

    Args:
        bit_error: Of one reading against enrolment.
        readings: That vote on a code bit; `READINGS` is what this code does, 11 is what it would do if only
            one cell of each pair were read.
    """
    word = _more_than(bch.T, bch.N, vote_failure(bit_error, readings))
    return 1 - (1 - word) ** CODE_WORDS


@dataclass(frozen=True, slots=True)
class DeviceFailure:
    """One chip under one set of conditions.

    Attributes:
        bit_error: Expected share of the readings that vote and are not as at enrolment.
        worst_vote: Probability that the least reliable code bit is outvoted.
        key_failure: Probability that the key is not found.
    """

    bit_error: float
    worst_vote: float
    key_failure: float


def reading_errors(distance: npt.NDArray[np.float32], rows: bytes, helper: bytes) -> Floats:
    """Return the probability of each reading to differ from enrolment.

    Args:
        distance: Of each cell from balance, `cells.distance_in_sigma` under the conditions of interest.
        rows: The readout at enrolment.
        helper: What enrolment made of it.

    Returns:
        Shape (`READINGS`, `CODE_BITS`).
    """
    cells = voting_cells(helper)
    enrolled = np.unpackbits(np.frombuffer(rows, np.uint8))[cells]
    return upper_tail(np.where(enrolled == 1, distance[cells], -distance[cells]))


def device_failure(errors: Floats) -> DeviceFailure:
    """Return how probably this chip fails: Poisson-binomial over each vote, then over each code word.

    All terms are sums and products of positive numbers, so even 1e-200 is right to a dozen digits.

    Args:
        errors: Of each reading, shape (`READINGS`, `CODE_BITS`).
    """
    votes = poisson_binomial_tail(errors, READINGS // 2)
    words = poisson_binomial_tail(votes.reshape(CODE_WORDS, bch.N).T, bch.T)
    failure = float(words[0] + words[1] - words[0] * words[1])
    return DeviceFailure(float(errors.mean()), float(votes.max()), failure)


def poisson_binomial_tail(probabilities: Floats, limit: int) -> Floats:
    """Return the probability that more than `limit` of n independent events happen, for each column.

    Args:
        probabilities: Shape (n, columns).
        limit: Below n.
    """
    count, columns = probabilities.shape
    happened = np.zeros((count + 1, columns))
    happened[0] = 1.0
    for step, probability in enumerate(probabilities, start=1):
        moved = happened[:step] * probability
        happened[:step] *= 1.0 - probability
        happened[1 : step + 1] += moved
    tail: Floats = happened[limit + 1 :].sum(axis=0)
    return tail


def uniform_errors(bit_error: float) -> Floats:
    """Return readings that all err alike, for comparing `device_failure` with `key_failure`."""
    return np.full((READINGS, CODE_BITS), bit_error)
