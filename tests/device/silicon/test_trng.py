"""The TRNG: healthy noise comes through conditioned, bad noise not at all."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from fuseline.device.silicon.trng import (
    ALPHA,
    MIN_ENTROPY,
    PROPORTION_CUTOFF,
    REPETITION_CUTOFF,
    WINDOW,
    NoiseFault,
    Trng,
    _has_run,
    proportion_cutoff,
    repetition_cutoff,
)
from fuseline.errors import TrngFailed


def trng(seed: int = 1) -> Trng:
    generator = np.random.Generator(np.random.PCG64(seed))
    return Trng(lambda: generator)


def test_the_repetition_cutoff_is_that_of_the_standard() -> None:
    """SP 800-90B 4.4.1: its example, H = 2.0 and alpha = 2^-20, has C = 11."""
    assert repetition_cutoff(2.0**-20, 2.0) == 11
    assert REPETITION_CUTOFF == 1 + 20 / MIN_ENTROPY


@pytest.mark.parametrize("window", [512, 1024])
@pytest.mark.parametrize("bits", [20, 30])
def test_the_proportion_cutoff_is_the_least_with_so_few_false_alarms(window: int, bits: int) -> None:
    """SP 800-90B 4.4.2, in exact arithmetic for H = 1."""
    cutoff = proportion_cutoff(2.0**-bits, 1.0, window)

    def at_least(count: int) -> Fraction:
        return Fraction(sum(math.comb(window, k) for k in range(count, window + 1)), 2**window)

    assert at_least(cutoff) <= Fraction(1, 2**bits) < at_least(cutoff - 1)


def test_the_cutoffs_in_use_leave_room_for_the_claimed_entropy() -> None:
    p = 2.0**-MIN_ENTROPY
    tail = sum(
        math.comb(WINDOW, k) * p**k * (1 - p) ** (WINDOW - k) for k in range(PROPORTION_CUTOFF, WINDOW + 1)
    )
    assert tail <= ALPHA
    assert p * WINDOW < PROPORTION_CUTOFF < WINDOW


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 1000])
def test_reads_have_the_length_asked_for(length: int) -> None:
    assert len(trng().read(length)) == length


def test_equal_seeds_give_equal_numbers_and_no_two_reads_do() -> None:
    one, same, other = trng(5), trng(5), trng(6)
    first = one.read(32)
    assert first == same.read(32)
    assert len({first, one.read(32), other.read(32)}) == 3


def test_healthy_noise_raises_no_alarm_in_a_hundred_thousand_octets() -> None:
    source = trng()
    output = source.read(100_000)
    assert not source.failed
    ones = int.from_bytes(output, "big").bit_count() / (8 * len(output))
    assert abs(ones - 0.5) < 0.005


@pytest.mark.parametrize("ones", [0.0, 1.0, 0.02, 0.1, 0.9, 0.98])
def test_a_stuck_or_biased_source_gives_nothing_from_the_first_read_on(ones: float) -> None:
    source = trng()
    source.fault = NoiseFault(ones)
    for _ in range(3):
        with pytest.raises(TrngFailed):
            source.read(1)


@pytest.mark.parametrize("ones", [0.2, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_a_bias_beyond_the_claim_without_long_runs_is_caught(ones: float, seed: int) -> None:
    source = trng(seed)
    source.fault = NoiseFault(ones)
    with pytest.raises(TrngFailed) as caught:
        source.read(640)
    assert caught.value.evidence["test"] == "adaptive proportion"


def test_a_source_that_gets_stuck_later_is_caught_and_latched() -> None:
    source = trng()
    source.read(64)
    source.fault = NoiseFault(1.0)
    with pytest.raises(TrngFailed):
        source.read(32)
    source.fault = None
    with pytest.raises(TrngFailed):
        source.read(32)
    source.reset()
    assert len(source.read(32)) == 32


def test_a_small_bias_within_the_claim_passes() -> None:
    source = trng()
    source.fault = NoiseFault(0.6)
    source.read(20_000)


@pytest.mark.parametrize("ones_first", [False, True])
def test_a_run_across_two_windows_is_seen(ones_first: bool) -> None:
    outcomes = set()
    for seed in range(24):
        source = trng(seed)
        first_bit = bool(np.random.Generator(np.random.PCG64(seed)).bytes(1)[0] >> 7)
        tail = REPETITION_CUTOFF - 1
        source.restore((True, False, ((1 << tail) - 1) if ones_first else 0, tail))
        if first_bit is ones_first:
            with pytest.raises(TrngFailed) as caught:
                source.read(1)
            assert caught.value.evidence["test"] == "repetition count"
        else:
            source.read(1)
        outcomes.add(first_bit)
    assert outcomes == {False, True}


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 40, 41, 64])
def test_runs_are_found_at_their_exact_length(length: int) -> None:
    for shift in (0, 1, 100):
        assert _has_run(((1 << length) - 1) << shift, length)
        assert length == 1 or not _has_run(((1 << (length - 1)) - 1) << shift, length)
    assert not _has_run(int("10" * 600, 2), 2)
