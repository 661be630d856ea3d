"""Fuses that do not keep their code, life cycles, the PUF, and the provisioning strap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fuseline.device.silicon import fuse_map, fuse_plans
from fuseline.device.silicon.commands import Stage
from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.memory_map import HELPER_A, HELPER_B, MAILBOX, MAILBOX_DATA, ResetReason, Strap
from fuseline.device.silicon.puf import HELPER_SIZE
from fuseline.device.silicon.report import Outcome
from fuseline.device.silicon.silicon import Silicon
from fuseline.errors import IdentityRequestRefused
from fuseline.formats import dice
from fuseline.lab.chip_attacks.forge import ImageSpec, P256Signer, forge

if TYPE_CHECKING:
    from tests.device.silicon.rom.conftest import MakeChip, RomChip

CHIP_ID = bytes(range(1, 33))


def _code(chip: RomChip, strap: Strap = Strap.NORMAL) -> str:
    report = chip.boot(strap=strap)
    assert report.outcome is Outcome.REFUSED, report
    assert report.error is not None
    return report.error.code


def _tested(chip: RomChip) -> RomChip:
    """A chip as it comes from wafer test."""
    chip.blow(fuse_plans.plan_chip_id(CHIP_ID))
    chip.blow(fuse_plans.plan_life_cycle(LifeCycle.TEST))
    return chip


@pytest.mark.requirement("ROM-LC-2")
@pytest.mark.parametrize("strap", list(Strap))
def test_a_blank_chip_runs_nothing(blank_chip: RomChip, strap: Strap) -> None:
    assert _code(blank_chip, strap) == "E_ROM_LIFE_CYCLE_BLANK"


@pytest.mark.requirement("ROM-LC-3")
@pytest.mark.parametrize("strap", list(Strap))
def test_a_scrapped_chip_runs_nothing(make_chip: MakeChip, strap: Strap) -> None:
    chip = make_chip()
    words: dict[int, int] = {}
    for state in (LifeCycle.RMA, LifeCycle.SCRAP):
        words |= dict(fuse_plans.plan_life_cycle(state))
    chip.set_fuses(words)
    assert _code(chip, strap) == "E_ROM_LIFE_CYCLE_SCRAP"


@pytest.mark.requirement("ROM-LC-1")
def test_a_life_cycle_word_that_is_no_code_word_stops_the_chip(make_chip: MakeChip) -> None:
    chip = make_chip()
    base_a, base_b = fuse_map.LIFE_CYCLE_A, fuse_map.LIFE_CYCLE_B
    rma = fuse_map.LIFE_CYCLE_WORDS_A[3]
    for words in (
        {base_a: chip.fuse(base_a) | 0x10},
        {base_b + 2: 0},
        {base_a + 3: 1},
        {base_a + 3: rma},
        {base_b + 4: 0x8000_0000},
        {base_a + 1: 0, base_b + 1: 0},
    ):
        twin = chip.copy()
        twin.set_fuses(words)
        assert _code(twin) == "E_ROM_LIFE_CYCLE_CODE", words


def test_rma_runs_loaders_but_is_another_device(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.boot()
    before = chip.record()
    chip.set_fuses(dict(fuse_plans.plan_life_cycle(LifeCycle.RMA)))
    assert chip.boot().outcome is Outcome.BOOTED
    assert chip.record().life_cycle is LifeCycle.RMA
    assert chip.record().idevid_public != before.idevid_public


@pytest.mark.requirement("ROM-OTP-1")
def test_a_chip_id_that_breaks_its_berger_word_stops_the_chip(make_chip: MakeChip) -> None:
    chip = make_chip()
    for word in (fuse_map.CHIP_ID, fuse_map.CHIP_ID + 7):
        twin = chip.copy()
        value = twin.fuse(word)
        twin.set_fuses({word: value | (~value & -~value)})
        assert _code(twin) == "E_ROM_CHIP_ID"


@pytest.mark.requirement("ROM-OTP-1")
def test_a_chip_without_an_id_runs_nothing(blank_chip: RomChip) -> None:
    blank_chip.blow(fuse_plans.plan_life_cycle(LifeCycle.TEST))
    assert _code(blank_chip) == "E_ROM_CHIP_ID"


@pytest.mark.requirement("ROM-OTP-2")
def test_product_words_that_break_their_berger_word_stop_the_chip(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.set_fuses({fuse_map.PRODUCT: chip.fuse(fuse_map.PRODUCT) | 0x8000_0000})
    assert _code(chip) == "E_ROM_PRODUCT"
    unblown = dict.fromkeys(range(fuse_map.PRODUCT, fuse_map.PRODUCT + 4), 0)
    for life_cycle, expected in ((LifeCycle.DEV, Outcome.BOOTED), (LifeCycle.PROD, Outcome.REFUSED)):
        chip = make_chip(life_cycle=life_cycle)
        chip.set_fuses(unblown)
        assert chip.boot().outcome is expected


@pytest.mark.requirement("ROM-PUF-1")
def test_a_chip_that_is_not_enrolled_starts_no_loader(blank_chip: RomChip) -> None:
    chip = _tested(blank_chip)
    chip.write_flash(0, forge(ImageSpec(), P256Signer("key a")))
    assert _code(chip) == "E_ROM_PUF_NOT_ENROLLED"


@pytest.mark.requirement("ROM-PUF-2")
def test_helper_copy_b_serves_when_a_is_damaged(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.boot()
    identity = chip.record().idevid_public
    for offset in (HELPER_A, HELPER_B):
        twin = chip.copy()
        twin.write_flash(offset, b"\xff" * HELPER_SIZE)
        assert twin.boot().outcome is Outcome.BOOTED
        assert twin.record().idevid_public == identity


@pytest.mark.requirement("ROM-PUF-2")
def test_a_secret_without_the_check_value_is_never_used(make_chip: MakeChip) -> None:
    chip = make_chip()
    helper = chip.silicon.flash.read(HELPER_A, HELPER_SIZE)
    for changed in (
        bytes(HELPER_SIZE),
        b"\xff" * HELPER_SIZE,
        helper[:-100] + bytes([helper[-100] ^ 1]) + helper[-99:],
    ):
        for offset in (HELPER_A, HELPER_B):
            chip.write_flash(offset, changed)
        assert _code(chip) == "E_ROM_PUF_CHECK"


@pytest.mark.requirement("ROM-PUF-2")
def test_a_clone_of_fuses_and_flash_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    clone = Silicon(2, non_volatile=chip.silicon.non_volatile())
    twin = chip.copy()
    twin.silicon = clone
    assert _code(twin) == "E_ROM_PUF_CHECK"


@pytest.mark.requirement("ROM-PUF-3")
def test_damaged_puf_fuses_stop_the_chip(make_chip: MakeChip) -> None:
    chip = make_chip()
    for word in (fuse_map.PUF_ENROLLED, fuse_map.PUF_CHECK, fuse_map.PUF_CHECK + 4):
        twin = chip.copy()
        value = twin.fuse(word)
        twin.set_fuses({word: value | (~value & -~value)})
        assert _code(twin) == "E_ROM_PUF_FUSES", word


@pytest.mark.requirement("ROM-PUF-4")
@pytest.mark.requirement("ROM-PUF-5")
def test_the_puf_is_enrolled_once_and_stored_twice(blank_chip: RomChip) -> None:
    chip = _tested(blank_chip)
    report = chip.boot(strap=Strap.PROVISION)
    assert report.outcome is Outcome.PROVISIONED
    helper = chip.silicon.flash.read(HELPER_A, HELPER_SIZE)
    assert chip.silicon.flash.read(HELPER_B, HELPER_SIZE) == helper
    fuses = chip.silicon.fuses.words()
    assert chip.boot(strap=Strap.PROVISION).outcome is Outcome.PROVISIONED
    assert chip.silicon.flash.read(HELPER_A, HELPER_SIZE) == helper
    assert chip.silicon.fuses.words() == fuses


def _cut_enrolment(chip: RomChip, cut: int) -> str:
    """Cut the supply at one operation of an enrolment, then enrol again; returns how that ended."""
    chip.silicon.power.cut_at = chip.silicon.power.operations + cut
    first = chip.boot(strap=Strap.PROVISION)
    chip.silicon.power.cut_at = None
    if first.outcome is Outcome.PROVISIONED:
        return "not cut"
    assert first.outcome is Outcome.POWER_LOST
    second = chip.boot(strap=Strap.PROVISION)
    return second.outcome.value if second.error is None else second.error.code


@pytest.mark.requirement("ROM-PUF-4")
def test_an_enrolment_that_lost_power_is_completed(blank_chip: RomChip) -> None:
    chip = _tested(blank_chip)
    operations = chip.silicon.power.operations
    chip.copy().boot(strap=Strap.PROVISION)
    probe = chip.copy()
    probe.boot(strap=Strap.PROVISION)
    count = probe.silicon.power.operations - operations
    # Densely where fuses are blown, which is at the end.
    for cut in (*range(1, count - 90, 97), *range(count - 90, count + 1, 7)):
        twin = chip.copy()
        assert _cut_enrolment(twin, cut) in {"provisioned", "not cut"}, cut
        # The chip is itself: the next boot has a secret with the check value, and only lacks keys.
        assert _code(twin) == "E_ROM_NO_IMAGE", cut


@pytest.mark.sweep
@pytest.mark.requirement("ROM-PUF-4")
def test_an_enrolment_that_lost_power_anywhere_is_completed(blank_chip: RomChip) -> None:
    chip = _tested(blank_chip)
    cut = 1
    while (ended := _cut_enrolment(twin := chip.copy(), cut)) != "not cut":
        assert ended == "provisioned", cut
        assert _code(twin) == "E_ROM_NO_IMAGE", cut
        cut += 1
    assert cut > 1000


@pytest.mark.requirement("ROM-PUF-4")
def test_fuses_of_another_enrolment_are_not_completed(blank_chip: RomChip) -> None:
    chip = _tested(blank_chip)
    chip.blow(((fuse_map.PUF_CHECK, 0xFFFF_FFFF),))
    assert _code(chip, Strap.PROVISION) == "E_ROM_PUF_ENROL"
    chip = _tested_like(chip)
    chip.boot(strap=Strap.PROVISION)
    chip.set_fuses({fuse_map.PUF_ENROLLED: 0, fuse_map.PUF_CHECK: 0xFFFF_FFFF})
    assert _code(chip, Strap.PROVISION) == "E_ROM_PUF_ENROL"


def _tested_like(chip: RomChip) -> RomChip:
    twin = chip.copy()
    twin.silicon = Silicon(10)
    return _tested(twin)


@pytest.mark.requirement("ROM-PUF-5")
def test_no_fuse_is_blown_for_helper_data_that_were_not_stored(
    blank_chip: RomChip, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = _tested(blank_chip)
    before = chip.silicon.fuses.words()
    program = chip.silicon.flash.program

    def worn_out(offset: int, data: bytes) -> None:
        program(offset, data)
        if offset == HELPER_B:
            chip.write_flash(HELPER_B + 64, b"\xff" * 64)

    monkeypatch.setattr(chip.silicon.flash, "program", worn_out)
    assert _code(chip, Strap.PROVISION) == "E_ROM_PUF_STORE"
    assert chip.silicon.fuses.words() == before


@pytest.mark.requirement("ROM-PRV-1")
def test_the_provisioning_strap_works_until_prod_only(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.set_fuses(dict(fuse_plans.plan_life_cycle(LifeCycle.RMA)))
    assert _code(chip, Strap.PROVISION) == "E_ROM_PROVISION_STATE"


@pytest.mark.requirement("ROM-PUF-4")
def test_a_chip_beyond_test_is_not_enrolled(make_chip: MakeChip) -> None:
    chip = make_chip(life_cycle=LifeCycle.DEV)
    chip.set_fuses({fuse_map.PUF_ENROLLED: 0})
    assert _code(chip, Strap.PROVISION) == "E_ROM_PUF_ENROL"


def _answer(chip: RomChip, nonce: bytes) -> bytes:
    report = chip.boot(strap=Strap.PROVISION, reason=ResetReason.WARM, mailbox=nonce)
    assert report.outcome is Outcome.PROVISIONED
    assert report.stages[-1] is Stage.PROVISIONED
    return bytes(chip.silicon.psram.view(MAILBOX + MAILBOX_DATA + 32, dice.REQUEST_SIZE))


@pytest.mark.requirement("ROM-PRV-2")
@pytest.mark.parametrize("life_cycle", [LifeCycle.TEST, LifeCycle.DEV, LifeCycle.PROD])
def test_the_factorys_nonce_is_answered_by_the_key_of_the_identity(
    make_chip: MakeChip, life_cycle: LifeCycle
) -> None:
    chip = make_chip(life_cycle=life_cycle)
    chip.boot()
    record = chip.record()
    nonce = bytes(range(32))
    answer = _answer(chip, nonce)
    request = dice.verify_identity_request(answer, nonce=nonce, chip_id=record.chip_id)
    numbers = request.key.public_numbers()
    assert numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big") == record.idevid_public
    with pytest.raises(IdentityRequestRefused):
        dice.verify_identity_request(answer, nonce=bytes(32), chip_id=record.chip_id)


def test_each_life_cycle_has_its_own_identity(make_chip: MakeChip) -> None:
    answers = {
        _answer(make_chip(life_cycle=state, authority=None), bytes(32))[32:96]
        for state in (LifeCycle.TEST, LifeCycle.DEV, LifeCycle.PROD)
    }
    assert len(answers) == 3
