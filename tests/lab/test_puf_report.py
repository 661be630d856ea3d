"""The PUF study: its numbers are right, its simulation agrees with its computation, its page stands alone."""

from __future__ import annotations

import json
import math
import re
import secrets
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fuseline.device.silicon.memory_map import PUF_ROWS_SIZE
from fuseline.device.silicon.puf import Conditions, Puf, bch
from fuseline.device.silicon.puf.cells import CELLS, distance_in_sigma
from fuseline.device.silicon.puf.reliability import (
    device_failure,
    key_failure,
    reading_errors,
    uniform_errors,
    vote_failure,
)
from fuseline.errors import PufBiased, PufStudyInvalid
from fuseline.lab.puf.campaign import Campaign, VoteSimulator, reconstruct_many
from fuseline.lab.puf.facts import PufFacts, PufStudyPlan
from fuseline.lab.puf.report import PufStudy, write_report

PLAN = PufStudyPlan(
    chips=12,
    readouts=4,
    temperatures_c=(25.0, 85.0),
    ages_years=(0.0, 10.0),
    reconstructions=5_000,
    injected_bit_errors=(0.33,),
    injected_reconstructions=400,
)


@pytest.fixture(scope="module")
def facts() -> PufFacts:
    return PufStudy(PLAN).run()


def test_chips_are_unique_uniform_and_reliable_within_the_binomial(facts: PufFacts) -> None:
    deviation = 0.5 / math.sqrt(CELLS)
    for spread in (facts.uniqueness, facts.uniformity):
        assert abs(spread.mean - 0.5) < 5 * deviation
        assert 0.5 - 6 * deviation < spread.least <= spread.greatest < 0.5 + 6 * deviation
        assert spread.ideal_deviation == pytest.approx(deviation)
    assert facts.reliability.mean == pytest.approx(facts.reliability.ideal, abs=0.002)
    assert facts.bit_aliasing.mean == pytest.approx(facts.uniformity.mean)


def test_uniqueness_is_the_distance_of_each_pair_of_chips(facts: PufFacts) -> None:
    readouts = []
    for seed in range(PLAN.seed, PLAN.seed + PLAN.chips):
        rows = bytearray(PUF_ROWS_SIZE)
        Puf(seed).power_up(memoryview(rows), 0)
        readouts.append(np.frombuffer(bytes(rows), np.uint8))
    pairs = [(a, b) for b in range(PLAN.chips) for a in range(b)]
    distances = [int(np.bitwise_count(readouts[a] ^ readouts[b]).sum()) / CELLS for a, b in pairs]
    assert facts.uniqueness.mean == pytest.approx(math.fsum(distances) / len(pairs), abs=1e-9)
    assert facts.uniqueness.greatest == pytest.approx(max(distances), abs=1e-9)
    assert sum(facts.uniqueness_histogram.counts) == len(pairs)


def test_min_entropy_stands_beside_what_ideal_cells_would_show(facts: PufFacts) -> None:
    assert facts.entropy.across_chips == pytest.approx(facts.entropy.across_chips_ceiling, abs=0.01)
    assert 0.9 < facts.entropy.within_worst_chip < 1.0
    assert 0.49 < facts.entropy.debiased_ones < 0.51


def test_biased_chips_show_in_entropy_and_not_in_the_bits_used() -> None:
    plan = PufStudyPlan(
        chips=8, readouts=1, temperatures_c=(25.0,), ages_years=(0.0,), reconstructions=0,
        injected_bit_errors=(), bias=0.4,
    )  # fmt: skip
    found = PufStudy(plan).run()
    assert found.uniformity.mean == pytest.approx(0.655, abs=0.01)
    assert found.entropy.within_worst_chip < 0.62
    assert 0.49 < found.entropy.debiased_ones < 0.51


def test_the_worst_chip_is_named(facts: PufFacts) -> None:
    assert len(facts.conditions) == 4
    for condition in facts.conditions:
        assert PLAN.seed <= condition.worst_chip < PLAN.seed + PLAN.chips
        assert condition.key_failure_mean <= condition.key_failure_worst <= 1e-50
        assert condition.bit_error_mean <= condition.bit_error_worst
    nominal, hot_and_old = facts.conditions[0], facts.conditions[-1]
    assert nominal.key_failure_worst < hot_and_old.key_failure_worst


def test_the_curve_is_exact_at_its_goal(facts: PufFacts) -> None:
    point = next(point for point in facts.curve if point.bit_error == 0.2)
    assert point.key_failure == float(key_failure(Fraction(1, 5)))
    assert point.key_failure < point.one_cell_of_each_pair <= 1e-9


def test_no_reconstruction_fails_at_nominal_noise(facts: PufFacts) -> None:
    assert facts.campaign.reconstructions == PLAN.reconstructions
    assert facts.campaign.failures == 0


def test_injected_failures_come_as_often_as_computed(facts: PufFacts) -> None:
    (point,) = facts.sweep
    count = point.campaign.reconstructions
    assert abs(point.campaign.failures - count * point.expected) < 5 * math.sqrt(count * point.expected)
    assert point.campaign.most_outvoted > bch.T


def enrolled_errors(seed: int, conditions: Conditions) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    puf = Puf(seed)
    rows = bytearray(PUF_ROWS_SIZE)
    puf.power_up(memoryview(rows), 0)
    helper = puf.enrol(bytes(rows), secrets.token_bytes).helper
    return reading_errors(distance_in_sigma(puf.cells(), conditions), bytes(rows), helper)


def test_simulated_votes_fail_as_computed_for_unequal_cells() -> None:
    errors = enrolled_errors(5, Conditions(300.0, 10.0))
    count = 4_000
    outvoted = VoteSimulator(errors, 1).outvoted(count)
    expected = np.array(
        [device_failure(np.tile(errors[:, [bit]], (1, 510))).worst_vote for bit in range(0, 510, 51)]
    )
    seen = outvoted[:, ::51].sum(axis=0)
    deviation = np.sqrt(count * expected * (1 - expected)) + 1
    assert (np.abs(seen - count * expected) < 5 * deviation).all()


def test_simulated_votes_fail_as_computed_for_equal_cells() -> None:
    expected = float(vote_failure(Fraction(3, 10)))
    outvoted = VoteSimulator(uniform_errors(0.3), 2).outvoted(1_000)
    assert float(outvoted.mean()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("certainty", [0.0, 1.0])
def test_cells_that_always_or_never_err_are_simulated_so(certainty: float) -> None:
    assert (VoteSimulator(uniform_errors(certainty), 1).outvoted(5) == certainty).all()


def test_a_campaign_counts_failures_and_wrong_secrets_apart() -> None:
    # The complement of a code word is one: errors everywhere are another secret, and no failure to decode.
    campaign = reconstruct_many(uniform_errors(1.0), 12345, 10, 1)
    assert campaign == Campaign(10, 10, 10, 10 * 510, 255)
    # Half of all cells wrong: decoding finds nothing.
    assert reconstruct_many(uniform_errors(0.5), 12345, 50, 1).wrong_secrets == 0
    assert reconstruct_many(uniform_errors(0.5), 12345, 50, 1).failures == 50


@pytest.mark.sweep
def test_a_million_reconstructions_at_nominal_noise_never_fail() -> None:
    steps: list[int] = []
    plan = PufStudyPlan(
        chips=100, readouts=1, temperatures_c=(25.0,), ages_years=(0.0,), reconstructions=1_000_000,
        injected_bit_errors=(),
    )  # fmt: skip
    found = PufStudy(plan).run(lambda done, _: steps.append(done))
    assert found.campaign.reconstructions == 1_000_000
    assert found.campaign.failures == 0
    assert steps == list(range(1, 201))


@pytest.mark.sweep
def test_a_thousand_chips_keep_their_keys_at_every_corner() -> None:
    plan = PufStudyPlan(
        chips=1_000, readouts=1, temperatures_c=(-40.0, 125.0), ages_years=(10.0,), reconstructions=0,
        injected_bit_errors=(),
    )  # fmt: skip
    found = PufStudy(plan).run()
    assert max(condition.key_failure_worst for condition in found.conditions) < 1e-50


@pytest.mark.parametrize(
    "plan",
    [
        PufStudyPlan(chips=1),
        PufStudyPlan(readouts=0),
        PufStudyPlan(temperatures_c=()),
        PufStudyPlan(ages_years=()),
        PufStudyPlan(ages_years=(-1.0,)),
        PufStudyPlan(noise=0.0),
        PufStudyPlan(reconstructions=-1),
        PufStudyPlan(seed=-1),
        PufStudyPlan(injected_bit_errors=(1.5,)),
        PufStudyPlan(injected_reconstructions=0),
    ],
)
def test_a_study_of_nothing_is_refused(plan: PufStudyPlan) -> None:
    with pytest.raises(PufStudyInvalid):
        PufStudy(plan)


def test_chips_too_biased_to_enrol_are_said_to_be() -> None:
    with pytest.raises(PufBiased):
        PufStudy(PufStudyPlan(chips=2, bias=1.5)).run()


def test_a_study_is_reproducible(facts: PufFacts) -> None:
    assert PufStudy(PLAN).run() == facts


class _Page(HTMLParser):
    """Keeps what a browser would fetch, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "data"}
        ]


def test_the_report_is_one_page_that_fetches_nothing(facts: PufFacts, tmp_path: Path) -> None:
    page, data = tmp_path / "puf.html", tmp_path / "puf.json"
    write_report(facts, page, data)
    text = page.read_text(encoding="utf-8")
    parsed = _Page(text)
    assert parsed.tags.count("svg") == 6
    assert "script" not in parsed.tags
    assert all(target.startswith("#") for target in parsed.fetched)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text
    assert "#0102" not in text, "every colour of the pictures is the page's"
    ids = re.findall(r'\bid="([^"]+)"', text)
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert set(re.findall(r"url\(#([^)]+)\)", picture)) <= set(ids)


def test_the_json_says_what_the_study_found(facts: PufFacts, tmp_path: Path) -> None:
    data = tmp_path / "puf.json"
    write_report(facts, data=data)
    read = json.loads(data.read_text(encoding="utf-8"))
    assert read == json.loads(json.dumps(facts.as_dict()))
    assert read["format"] == 1
    assert read["study"]["chips"] == PLAN.chips
    assert read["extractor"]["helper_octets"] == 2768
    assert read["conditions"][0]["worst_chip"] == facts.conditions[0].worst_chip
