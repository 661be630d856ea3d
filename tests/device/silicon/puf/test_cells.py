"""The cell model: reproducible, calibrated, and read exactly."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fuseline.device.silicon.memory_map import PUF_ROWS_SIZE
from fuseline.device.silicon.puf import Conditions, Puf
from fuseline.device.silicon.puf.cells import (
    CELLS,
    NOISE,
    NoiseSource,
    distance_in_sigma,
    manufacture,
    ones_probability,
    plan_readout,
)
from fuseline.device.silicon.puf.extractor import enrol
from fuseline.device.silicon.puf.helper import PAIRS_PER_BIT, voting_cells
from fuseline.device.silicon.puf.normal import standard_normals, upper_tail
from fuseline.device.silicon.puf.types import Bits, Floats

PINNED = [-0.9096357, -2.7428446, 0.2807136, 0.5452912]
VECTORS = Path(__file__).parents[5] / "shared/vectors/sram-puf"


def readout(puf: Puf, boot: int) -> Bits:
    rows = bytearray(PUF_ROWS_SIZE)
    puf.power_up(memoryview(rows), boot)
    return np.unpackbits(np.frombuffer(rows, np.uint8))


def expected_flips(age_years: float, temperature_c: float = 25.0) -> float:
    """Share of cells whose reading differs from a first one at 25 degrees, over eight chips; computed."""
    shares = []
    for seed in range(8):
        cells = manufacture(seed)
        first = ones_probability(cells, Conditions())
        later = ones_probability(cells, Conditions(temperature_c, age_years))
        shares.append(float((first * (1 - later) + later * (1 - first)).mean()))
    return math.fsum(shares) / len(shares)


def test_the_tail_is_the_libms() -> None:
    z = np.linspace(-11.9, 11.9, 4001)
    truth = np.array([math.erfc(value / math.sqrt(2.0)) / 2.0 for value in z])
    assert np.abs(upper_tail(z) - truth).max() < 1e-12
    assert np.abs(upper_tail(z) / truth - 1.0).max() < 1e-7
    assert upper_tail([13.0, -13.0, math.inf]).tolist() == [0.0, 1.0, 0.0]


def test_the_samples_are_standard_normal() -> None:
    samples = np.sort(standard_normals(5, 0, 1 << 18).astype(np.float64))
    ranks = (np.arange(samples.size) + 0.5) / samples.size
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand.
    assert np.abs(upper_tail(-samples) - ranks).max() < 1.95 / math.sqrt(samples.size)


def test_the_same_seed_is_the_same_silicon_for_ever() -> None:
    # Pinned: chips that are kept on disk keep only their seed.
    assert standard_normals(1, 0, 4).tolist() == pytest.approx(PINNED, abs=1e-6)
    assert (readout(Puf(3), 8) == readout(Puf(3), 8)).all()


def test_each_boot_has_its_own_noise_and_each_chip_its_own_cells() -> None:
    puf = Puf(3)
    within = float((readout(puf, 0) != readout(puf, 1)).mean())
    between = float((readout(puf, 0) != readout(Puf(4), 0)).mean())
    assert 0.045 < within < 0.055
    assert abs(between - 0.5) < 5 * 0.5 / math.sqrt(CELLS)


def test_boots_far_apart_do_not_share_noise() -> None:
    source = NoiseSource(1)
    streams = [source.draws(boot, 1000) for boot in (0, 1, 2, 1 << 40)]
    for index, left in enumerate(streams):
        for right in streams[:index]:
            assert np.intersect1d(left, right).size <= 2
    assert (source.draws(1, 1000) == streams[1]).all()


def test_a_readout_has_the_distribution_of_the_model() -> None:
    cells, conditions = manufacture(6), Conditions()
    puf, count = Puf(6), 400
    ones = sum((readout(puf, boot).astype(np.int64) for boot in range(count)), np.zeros(CELLS, np.int64))
    probability = ones_probability(cells, conditions)
    uncertain = np.abs(distance_in_sigma(cells, conditions)) < 3
    deviation = np.sqrt(count * probability * (1 - probability))
    z = ((ones - count * probability) / np.maximum(deviation, 1e-9))[uncertain]
    assert abs(float(z.mean())) < 5 / math.sqrt(z.size)
    assert abs(float((z * z).mean()) - 1.0) < 0.05


def test_what_is_read_without_noise_would_flip_once_in_three_million_power_ups() -> None:
    plan = plan_readout(manufacture(2), Conditions())
    distance = np.abs(distance_in_sigma(manufacture(2), Conditions()).astype(np.float64))
    ignored = np.ones(CELLS, bool)
    ignored[plan.uncertain] = False
    assert float(upper_tail(distance[ignored]).max()) < 1e-9
    assert float(upper_tail(distance[ignored]).sum()) < 1 / 2e6


def test_two_years_of_ageing_flip_19_percent_more_bits() -> None:
    # Wang et al., arXiv 2007.15909
    assert expected_flips(2.0) / expected_flips(0.0) == pytest.approx(1.193, abs=0.01)


def test_age_and_temperature_only_make_it_worse() -> None:
    by_age = [expected_flips(age) for age in (0.0, 1.0, 2.0, 10.0, 25.0)]
    assert by_age == sorted(by_age)
    assert expected_flips(0.0, 85.0) == pytest.approx(0.083, abs=0.003)
    assert expected_flips(0.0, -40.0) > expected_flips(0.0) < expected_flips(0.0, 125.0)


def test_bias_moves_the_share_of_ones() -> None:
    assert readout(Puf(1, bias=0.4), 0).mean() == pytest.approx(0.655, abs=0.01)
    assert readout(Puf(1), 0).mean() == pytest.approx(0.5, abs=0.01)


def test_setting_conditions_changes_the_next_power_up() -> None:
    puf = Puf(5)
    nominal = readout(puf, 0)
    puf.conditions = Conditions(125.0, 10.0)
    hot = readout(puf, 0)
    assert puf.conditions == Conditions(125.0, 10.0)
    assert 0.08 < float((nominal != hot).mean()) < 0.2
    puf.conditions = Conditions()
    assert (readout(puf, 0) == nominal).all()


def test_rows_of_another_size_are_a_programming_error() -> None:
    with pytest.raises(RuntimeError):
        Puf(1).power_up(memoryview(bytearray(PUF_ROWS_SIZE - 1)), 0)


def real_readouts(chip: str) -> Bits:
    if not VECTORS.is_dir():
        pytest.skip("readouts of real SRAM are not here")
    facts = json.loads((VECTORS / f"{chip}.json").read_text(encoding="utf-8"))
    octets = np.frombuffer((VECTORS / f"{chip}.bin").read_bytes(), np.uint8)
    return np.unpackbits(octets.reshape(facts["readouts"], facts["bytes_per_readout"]), axis=1)


def simulated_readouts(count: int, chips: int) -> Bits:
    pufs = [Puf(1000 + seed) for seed in range(chips)]
    return np.stack([np.concatenate([readout(puf, boot) for puf in pufs]) for boot in range(count)])


def mean_distance(readouts: Bits) -> float:
    pairs = [(a, b) for b in range(len(readouts)) for a in range(b)]
    return math.fsum(float((readouts[a] != readouts[b]).mean()) for a, b in pairs) / len(pairs)


def stable_share(readouts: Bits) -> float:
    ones = readouts.sum(axis=0, dtype=np.int64)
    return float(((ones == 0) | (ones == len(readouts))).mean())


@pytest.mark.interop
@pytest.mark.parametrize("chip", ["L45", "M42"])
def test_the_model_agrees_with_real_silicon(chip: str) -> None:
    real = real_readouts(chip)
    model = simulated_readouts(len(real), chips=4)
    assert mean_distance(model) == pytest.approx(mean_distance(real), rel=0.08)
    assert stable_share(model) == pytest.approx(stable_share(real), abs=0.015)
    assert float(real.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(model.mean()) == pytest.approx(0.5, abs=0.005)


@pytest.mark.interop
def test_real_chips_are_as_different_as_simulated_ones() -> None:
    first, second = real_readouts("L45")[0], real_readouts("M42")[0]
    assert float((first != second).mean()) == pytest.approx(0.5, abs=0.005)


@pytest.mark.interop
def test_real_neighbours_do_not_tell_each_other() -> None:
    bits = real_readouts("L45")[0]
    for distance in (1, 2, 8, 16, 32, 256):
        differing = float((bits[distance:] != bits[:-distance]).mean())
        assert differing == pytest.approx(0.5, abs=0.004), distance


@pytest.mark.interop
@pytest.mark.parametrize("chip", ["L45", "M42"])
def test_real_silicon_gives_its_secret_back_every_time(chip: str) -> None:
    readouts = real_readouts(chip)
    puf = Puf(0)
    shares: list[Floats] = []
    for start in range(0, readouts.shape[1] - CELLS + 1, CELLS):
        rows = [np.packbits(bits[start : start + CELLS]).tobytes() for bits in readouts]
        enrolment = enrol(rows[0], lambda count: b"\x5a" * count)
        assert {puf.reconstruct(later, enrolment.helper).secret for later in rows[1:]} == {enrolment.secret}
        first_cells = voting_cells(enrolment.helper)[:PAIRS_PER_BIT]
        shares.append(readouts[0, start : start + CELLS][first_cells].astype(np.float64))
    # 13 blocks of 5,610 pairs: five deviations of a fair coin are below one percent.
    assert abs(float(np.concatenate(shares).mean()) - 0.5) < 0.01


def test_noise_is_between_the_two_real_chips() -> None:
    ideal = math.acos(1 / (1 + NOISE * NOISE)) / math.pi
    assert 0.0467 < ideal < 0.0503
