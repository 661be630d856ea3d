"""Glitches against the boot ROM: no way in. Where a defence is missing, the same campaign finds one."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fuseline.device.silicon.memory_map import ResetReason
from fuseline.device.silicon.rom import RomImage, rom_image, rom_image_from
from fuseline.lab.faults.campaign import CampaignReport, Plan, run_campaign
from fuseline.lab.faults.models import Model
from fuseline.lab.faults.roms import UNHARDENED, rom_named
from fuseline.lab.faults.run import Outcome
from fuseline.lab.faults.targets import Attack

ROOT = Path(__file__).resolve().parents[2]


def _found(report: CampaignReport) -> list[str]:
    return [
        f"{case.case.attack.value} {finding.outcome.value}: {finding.place} {finding.fault}, {finding.how}"
        for case in report.cases
        for finding in case.findings
        if finding.outcome is not Outcome.DIVERTED
    ]


def _holds(plan: Plan) -> CampaignReport:
    report = run_campaign(plan, rom_image())
    assert _found(report) == []
    assert report.holds
    assert report.faults > 0
    # Where faults do nothing at all, nothing was tried.
    assert report.count(Outcome.DETECTED) > report.faults // 20
    return report


def test_no_skipped_instruction_starts_a_forged_stranger_revoked_or_older_loader() -> None:
    attacks = (Attack.FORGED, Attack.WRONG_KEY, Attack.REVOKED, Attack.ROLLBACK)
    report = _holds(Plan(attacks=attacks, models=(Model.SKIP,)))
    assert all(case.faults == case.population for case in report.cases)


def test_no_skipped_instruction_starts_another_loader_opens_debug_or_exposes_a_secret() -> None:
    attacks = (Attack.UNSIGNED, Attack.ALTERED, Attack.DEBUG, Attack.LOCKS)
    _holds(Plan(attacks=attacks, models=(Model.SKIP,), sample=1_500))


def test_no_zeroed_load_starts_an_attackers_loader_opens_debug_or_exposes_a_secret() -> None:
    report = _holds(Plan(models=(Model.ZERO_LOAD,)))
    assert all(case.faults == case.population for case in report.cases)


def test_no_flipped_bit_starts_an_attackers_loader_opens_debug_or_exposes_a_secret() -> None:
    _holds(Plan(models=(Model.BITFLIP,), sample=300))


def test_no_pair_of_skipped_instructions_starts_an_attackers_loader_opens_debug_or_exposes_a_secret() -> None:
    _holds(Plan(models=(Model.SKIP_PAIR,), sample=300))


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reset", list(ResetReason), ids=lambda reset: reset.name)
def test_every_instruction_skipped_and_every_load_zeroed_after_every_reset(reset: ResetReason) -> None:
    report = _holds(Plan(models=(Model.SKIP, Model.ZERO_LOAD), reset=reset))
    assert all(case.faults == case.population for case in report.cases)


@pytest.mark.sweep
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("attack", list(Attack))
@pytest.mark.parametrize("model", [Model.BITFLIP, Model.SKIP_PAIR])
def test_every_close_pair_and_a_dense_sample_of_flipped_bits(model: Model, attack: Attack) -> None:
    _holds(Plan(models=(model,), attacks=(attack,)))


# Controls: what the campaign finds where there is something to find.


@pytest.fixture(scope="module")
def unhardened() -> RomImage:
    return rom_named(UNHARDENED)


def test_the_unhardened_rom_falls_to_every_attack(unhardened: RomImage) -> None:
    report = run_campaign(Plan(models=(Model.SKIP,), sample=1_800), unhardened)
    for case in report.cases:
        wanted = Outcome.EXPOSED if case.case.attack is Attack.LOCKS else Outcome.WON
        assert case.count(wanted) > 0, case.case


def test_the_unhardened_rom_falls_to_every_model(unhardened: RomImage) -> None:
    report = run_campaign(Plan(attacks=(Attack.ROLLBACK,), sample=2_000), unhardened)
    for case in report.cases:
        assert case.count(Outcome.WON) > 0, case.case


@dataclass(frozen=True)
class Mutant:
    """The ROM with a defence taken out.

    Attributes:
        edits: File, what stands there exactly once, and what instead.
        attack: What gets in then, or what is exposed.
        wanted: What is found.
    """

    edits: tuple[tuple[str, str, str], ...]
    attack: Attack
    wanted: Outcome = Outcome.WON


ONE_PASS = (
    "main.c",
    "  result = verify_pass(&boot.second, VERDICT_START_2);\n",
    """  copy_words((uint32_t)&boot.second, (uint32_t)&boot.first, sizeof boot.first / 4u);
  boot.second.verdict += VERDICT_2 - VERDICT_1;
""",
)
MUTANTS = {
    "the signature is compared once": Mutant(
        (
            ONE_PASS,
            (
                "verify.c",
                "CHECK_SIGNATURE_AGAIN, differ_backwards(WORK_SIGNATURE, WORK_RECOVERED, 8u)",
                "CHECK_SIGNATURE_AGAIN, 0u",
            ),
        ),
        Attack.FORGED,
    ),
    "the counter is compared once": Mutant(
        (
            ONE_PASS,
            (
                "verify.c",
                "CHECK_COUNTER_AGAIN, spread(steps_not_covered(long_at(image->at[TLV_SEC_CNT])))",
                "CHECK_COUNTER_AGAIN, 0u & steps_not_covered(0u)",
            ),
        ),
        Attack.ROLLBACK,
    ),
    "revocation is looked up once": Mutant((ONE_PASS,), Attack.REVOKED),
    "the gate opens by a constant": Mutant(
        (
            ONE_PASS,
            (
                "exec.c",
                "boot.first.verdict ^ rotate(boot.second.verdict, 11) ^ rotate(flow, 19);",
                "VERDICT_1 ^ rotate(VERDICT_2, 11) ^ rotate(FLOW_END, 19);",
            ),
        ),
        Attack.UNSIGNED,
    ),
    "locks are closed once": Mutant(
        (
            (
                "exec.c",
                "  port_take_away(CMD_LOCK, locks_again);\n",
                "  (void)locks_again, flow += TOKEN_TAKEN;\n",
            ),
            (
                "exec.c",
                "  port_take_away(CMD_LOCK, exec_lock_again);\n",
                "  (void)exec_lock_again, flow += TOKEN_TAKEN;\n",
            ),
        ),
        Attack.LOCKS,
        Outcome.EXPOSED,
    ),
}


@pytest.fixture
def build_mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mutant], RomImage]:
    """Return a function that builds the ROM from changed sources, elsewhere."""
    monkeypatch.syspath_prepend(str(ROOT))
    spec = importlib.util.spec_from_file_location("chip_builder", ROOT / "tools/chip.py")
    assert spec is not None
    assert spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, builder)
    spec.loader.exec_module(builder)
    return lambda mutant: _build(builder, mutant, tmp_path, monkeypatch)


def _build(
    builder: types.ModuleType, mutant: Mutant, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> RomImage:
    chip, out = folder / "chip", folder / "out"
    shutil.copytree(ROOT / "chip", chip)
    out.mkdir()
    for name, there, instead in mutant.edits:
        path = chip / "rom" / name
        source = path.read_text()
        assert source.count(there) == 1, f"{there!r} stands {source.count(there)} times in {name}"
        path.write_text(source.replace(there, instead))
    monkeypatch.setattr(builder, "CHIP", chip)
    for name, data in builder.build(builder.targets()[0], out).items():
        (out / name).write_bytes(data)
    return rom_image_from(out)


@pytest.mark.parametrize("name", MUTANTS)
def test_with_a_defence_taken_out_a_single_skip_gets_in(
    name: str, build_mutant: Callable[[Mutant], RomImage]
) -> None:
    mutant = MUTANTS[name]
    rom = build_mutant(mutant)
    report = run_campaign(Plan(attacks=(mutant.attack,), models=(Model.SKIP,), sample=4_000, workers=1), rom)
    assert report.count(mutant.wanted) > 0
