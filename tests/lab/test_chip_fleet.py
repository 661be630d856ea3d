"""A fleet of chips: each one its own, the same again by its seed, and a failure is a row and not a crash."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuseline.device.silicon.fuse_view import read_fuses
from fuseline.device.silicon.puf import Conditions
from fuseline.device.silicon.report import Outcome
from fuseline.device.silicon.silicon import Silicon
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.errors import ChipFleetInvalid, ChipFleetWorkerLost, ChipManifestFile
from fuseline.lab.chip.bench import Bench
from fuseline.lab.chip.fleet import (
    NOT_PROVISIONED,
    FleetPlan,
    FleetReport,
    Workshop,
    corners,
    product_of_its_own,
    run_fleet,
)
from fuseline.lab.chip.fleet_page import render_page, verdict
from fuseline.lab.chip.manifest import read_manifest
from fuseline.lab.chip.provisioning import wafer_test

HOT = Conditions(125.0, 10.0)
WORN_OUT = Conditions(25.0, 1e6)
PLAN = FleetPlan(6, seed=11, workers=1, conditions=(Conditions(), HOT))


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a development product."""
    return product_of_its_own(tmp_path_factory.mktemp("fleet") / "factory")


@pytest.fixture(scope="module")
def fleet(product: Path) -> FleetReport:
    return run_fleet(PLAN, product)


def test_every_chip_boots_with_an_id_and_an_identity_of_its_own(fleet: FleetReport) -> None:
    assert fleet.held
    assert [row.index for row in fleet.rows] == list(range(PLAN.count))
    assert fleet.outcomes == {"booted": PLAN.count}
    assert len({row.chip_id for row in fleet.rows}) == len({row.identity for row in fleet.rows}) == PLAN.count
    assert (fleet.duplicates, fleet.failures) == ((), ())
    # Enrolment, factory challenge, first boot, and the boot under the chip's conditions.
    assert fleet.effort.runs == 4 * PLAN.count
    assert fleet.effort.peak_rss > 0


def test_chips_take_the_conditions_in_turn_and_correct_more_where_it_is_hot(fleet: FleetReport) -> None:
    assert [row.conditions for row in fleet.rows] == [Conditions(), HOT] * 3
    new, worn = fleet.corrected(Conditions()), fleet.corrected(HOT)
    assert len(new) == len(worn) == 3
    assert 0 < new[0] <= new[-1] < worn[0] <= worn[-1]


def test_the_same_seed_makes_the_same_chips_whatever_the_workers(product: Path, fleet: FleetReport) -> None:
    seen: list[tuple[int, int]] = []
    again = run_fleet(replace(PLAN, workers=2), product, lambda done, total: seen.append((done, total)))
    assert again.rows == fleet.rows
    assert again.digest() == fleet.digest()
    assert seen[0] == (0, PLAN.count)
    assert seen[-1] == (PLAN.count, PLAN.count)


def test_another_seed_makes_other_chips(product: Path, fleet: FleetReport) -> None:
    other = run_fleet(FleetPlan(2, seed=12, workers=1), product)
    assert not {row.identity for row in other.rows} & {row.identity for row in fleet.rows}
    assert other.digest() != fleet.digest()


def test_one_chip_can_be_made_again_by_its_seed(fleet: FleetReport) -> None:
    silicon = Silicon(fleet.rows[3].seed)
    wafer_test(silicon)
    assert read_fuses(silicon.fuses.words()).chip_id == fleet.rows[3].chip_id


def test_a_chip_whose_puf_is_worn_out_is_a_row_and_the_others_boot(product: Path) -> None:
    report = run_fleet(FleetPlan(4, workers=1, conditions=(Conditions(), WORN_OUT)), product)
    assert [row.booted for row in report.rows] == [True, False, True, False]
    assert {row.outcome for row in report.failures} == {Outcome.REFUSED}
    assert all(str(code).startswith("E_ROM_") for code in report.codes)
    assert sum(report.codes.values()) == 2
    assert all(row.detail for row in report.failures)
    assert not report.held
    assert report.corrected(WORN_OUT) == []


def test_a_loader_that_no_chip_takes_makes_rows_and_not_a_crash(tmp_path: Path) -> None:
    manifest = product_of_its_own(tmp_path / "factory")
    loader = tmp_path / "factory" / "fleet-loader.bin"
    image = bytearray(loader.read_bytes())
    image[0x200 + 8] ^= 1  # the first octet behind header and stack pointer
    loader.write_bytes(image)
    report = run_fleet(FleetPlan(2, workers=1), manifest)
    assert report.outcomes == {NOT_PROVISIONED: 2}
    assert all(code.startswith("E_ROM_") for code in report.codes)
    assert {row.chip_id for row in report.rows} == {None}


def test_two_chips_of_one_identity_are_found(fleet: FleetReport) -> None:
    first, second, *others = fleet.rows
    clone = replace(second, identity=first.identity)
    cloned = replace(fleet, rows=(first, clone, *others))
    assert cloned.duplicates == (first.identity,)
    assert not cloned.held
    assert verdict(cloned) == "6 of 6 chips booted, 1 identities twice"


def test_a_worker_that_dies_ends_the_run_with_a_code(product: Path) -> None:
    def kill(done: int, _: int) -> None:
        if done:
            multiprocessing.active_children()[0].kill()

    with pytest.raises(ChipFleetWorkerLost):
        run_fleet(FleetPlan(200, workers=2), product, kill)


@pytest.mark.sweep
def test_an_engine_that_boots_chip_after_chip_does_not_grow(product: Path) -> None:
    workshop = Workshop(read_manifest(product), dt.datetime.now(dt.UTC))
    engine = UnicornEngine()
    benches = [Bench(workshop.make(PLAN.chip_seed(index))[0].silicon, engine) for index in range(8)]
    for bench in benches:
        bench.boot()
    before = _resident()
    for _ in range(500):
        for bench in benches:
            assert bench.boot().outcome is Outcome.BOOTED
    assert _resident() - before < 12 * 2**20


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"workers": 0},
        {"seed": -1},
        {"conditions": ()},
        {"conditions": (Conditions(151.0),)},
        {"conditions": (Conditions(-56.0),)},
        {"conditions": (Conditions(25.0, -1.0),)},
    ],
)
def test_a_fleet_that_cannot_be_simulated_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ChipFleetInvalid):
        FleetPlan(**{"count": 1, **wrong})


def test_a_product_that_is_not_there_is_refused_before_any_worker_starts(tmp_path: Path) -> None:
    with pytest.raises(ChipManifestFile):
        run_fleet(FleetPlan(1), tmp_path / "manifest.toml")


def test_corners_are_every_temperature_at_every_age_beside_a_new_chip_at_room_temperature() -> None:
    assert corners((), ()) == (Conditions(),)
    assert corners((-40.0, 125.0), ()) == (Conditions(), Conditions(-40.0), Conditions(125.0))
    assert corners((), (10.0,)) == (Conditions(), Conditions(25.0, 10.0))
    assert corners((25.0, 85.0), (0.0, 2.0)) == (
        Conditions(),
        Conditions(85.0),
        Conditions(25.0, 2.0),
        Conditions(85.0, 2.0),
    )


def test_the_page_stands_alone_and_names_every_failure(fleet: FleetReport) -> None:
    lost = replace(fleet.rows[0], outcome="refused", code="E_ROM_PUF", detail="<b>check value</b>")
    page = render_page(replace(fleet, rows=(lost, *fleet.rows[1:])))
    tags = Counter(re.findall(r"<([a-z0-9]+)", page))
    assert tags["script"] == tags["link"] == tags["img"] == tags["b"] == 0
    assert not re.search(r"https?://", page)
    assert tags["svg"] == len(PLAN.conditions)
    assert "5 of 6 chips booted, no two identities equal" in page
    assert "E_ROM_PUF" in page
    assert str(lost.seed) in page
    assert "None." in render_page(fleet)


def lab_chips(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuseline", "lab", "chips", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_one_command_makes_a_fleet_and_writes_its_page(tmp_path: Path) -> None:
    page = tmp_path / "fleet.html"
    done = lab_chips("--count", 4, "--workers", 1, "--temperature", -40, "--json", "--report", page)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["count"], facts["identities"], facts["outcomes"]) == (4, 4, {"booted": 4})
    assert [one["temperature_c"] for one in facts["conditions"]] == [25.0, -40.0]
    assert sum(sum(one["corrected"].values()) for one in facts["conditions"]) == 4
    assert "Fleet of 4 chips" in page.read_text(encoding="utf-8")


def test_a_fleet_with_a_failure_has_status_1(product: Path) -> None:
    done = lab_chips("--count", 2, "--workers", 1, "--age", 1e6, "--manifest", product)
    assert done.returncode == 1
    assert "1 of 2 chips booted" in done.stdout
    assert "E_ROM_" in done.stdout
