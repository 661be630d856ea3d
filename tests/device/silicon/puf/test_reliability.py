"""The probability of failure: exact, agreeing with simulation, and of the worst chip."""

from __future__ import annotations

import itertools
import math
import secrets
from fractions import Fraction

import numpy as np
import pytest

from fuseline.device.silicon.memory_map import PUF_ROWS_SIZE
from fuseline.device.silicon.puf import Conditions, Puf
from fuseline.device.silicon.puf.cells import distance_in_sigma
from fuseline.device.silicon.puf.reliability import (
    DeviceFailure,
    device_failure,
    key_failure,
    poisson_binomial_tail,
    reading_errors,
    uniform_errors,
    vote_failure,
)

GOAL = Fraction(1, 10**9)


def failure_of(seed: int, conditions: Conditions) -> DeviceFailure:
    puf = Puf(seed)
    rows = bytearray(PUF_ROWS_SIZE)
    puf.power_up(memoryview(rows), 0)
    helper = puf.enrol(bytes(rows), secrets.token_bytes).helper
    return device_failure(reading_errors(distance_in_sigma(puf.cells(), conditions), bytes(rows), helper))


def test_at_20_percent_bit_error_less_than_one_key_in_a_billion_is_lost() -> None:
    assert key_failure(Fraction(1, 5)) <= GOAL
    assert float(key_failure(Fraction(1, 5))) == pytest.approx(1.96e-29, rel=0.01)


def test_the_goal_holds_even_if_only_one_cell_of_each_pair_is_read() -> None:
    assert key_failure(Fraction(1, 5), readings=11) <= GOAL
    assert float(key_failure(Fraction(1, 5), readings=11)) == pytest.approx(5.9e-10, rel=0.01)


def test_the_goal_holds_to_26_percent_and_not_to_28() -> None:
    assert key_failure(Fraction(26, 100)) <= GOAL < key_failure(Fraction(28, 100))


def test_votes_fail_as_counted_by_hand() -> None:
    p = Fraction(1, 10)
    assert vote_failure(p, 1) == p
    assert vote_failure(p, 3) == 3 * p**2 * (1 - p) + p**3
    assert vote_failure(Fraction(0)) == 0
    assert vote_failure(Fraction(1, 2)) == Fraction(1, 2)
    assert vote_failure(Fraction(1)) == 1


def test_unequal_events_are_counted_as_by_enumeration() -> None:
    probabilities = np.array([0.1, 0.4, 0.75, 0.02, 0.5])
    for limit in range(5):
        expected = math.fsum(
            math.prod(p if hit else 1 - p for p, hit in zip(probabilities.tolist(), hits, strict=True))
            for hits in itertools.product((0, 1), repeat=5)
            if sum(hits) > limit
        )
        assert poisson_binomial_tail(probabilities[:, None], limit)[0] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("percent", [5, 10, 20, 25, 30, 35])
def test_equal_cells_give_the_exact_fraction(percent: int) -> None:
    exact = float(key_failure(Fraction(percent, 100)))
    assert device_failure(uniform_errors(percent / 100)).key_failure == pytest.approx(exact, rel=1e-10)


def test_no_chip_loses_its_key_within_its_range() -> None:
    corners = [Conditions(temperature, age) for temperature in (-40.0, 25.0, 125.0) for age in (0.0, 25.0)]
    failures = [failure_of(seed, corner) for seed in range(12) for corner in corners]
    assert max(failure.key_failure for failure in failures) <= 1e-50
    assert all(0.03 < failure.bit_error < 0.2 for failure in failures)


def test_the_mean_hides_the_worst_chip() -> None:
    conditions = Conditions(125.0, 10.0)
    failures = sorted(failure_of(seed, conditions).key_failure for seed in range(40))
    median = failures[len(failures) // 2]
    assert failures[-1] > 1e6 * median


def test_far_out_of_range_failure_is_certain() -> None:
    assert failure_of(3, Conditions(700.0, 50.0)).key_failure > 0.999


def test_computed_bit_errors_are_those_of_readouts() -> None:
    puf = Puf(9)
    rows = bytearray(PUF_ROWS_SIZE)
    puf.power_up(memoryview(rows), 0)
    enrolment = puf.enrol(bytes(rows), secrets.token_bytes)
    distance = distance_in_sigma(puf.cells(), Conditions())
    errors = reading_errors(distance, bytes(rows), enrolment.helper)
    corrected = []
    for boot in range(1, 201):
        puf.power_up(memoryview(rows), boot)
        corrected.append(puf.reconstruct(bytes(rows), enrolment.helper).corrected)
    deviation = math.sqrt(float((errors * (1 - errors)).sum()) / len(corrected))
    assert abs(math.fsum(corrected) / len(corrected) - float(errors.sum())) < 5 * deviation
