"""Debug unlock: challenge and response, and everything that is no response."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.memory_map import RETENTION, DebugState, ResetReason, Strap
from fuseline.device.silicon.report import BootReport, Outcome
from fuseline.device.silicon.trng import NoiseFault
from fuseline.formats import dice
from fuseline.lab.chip_attacks.forge import P256Signer

if TYPE_CHECKING:
    from tests.device.silicon.rom.conftest import MakeChip, RomChip

AUTHORITY, STRANGER = P256Signer("debug authority"), P256Signer("stranger")
RECORD = 72


def _challenge(chip: RomChip) -> bytes:
    report = chip.boot(strap=Strap.DEBUG)
    assert report.outcome is Outcome.STOPPED, report
    assert report.exit_status == 0
    return chip.mailbox(64)


def _response(challenge: bytes, signer: P256Signer = AUTHORITY, life_cycle: int = 3) -> bytes:
    message = b"fuseline debug unlock" + challenge + life_cycle.to_bytes(4, "little")
    r, s = signer.numbers(hashlib.sha256(message).digest())
    spki = signer.spki
    return len(spki).to_bytes(4, "little") + spki + r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _give(chip: RomChip, response: bytes, strap: Strap = Strap.DEBUG) -> BootReport:
    return chip.boot(strap=strap, reason=ResetReason.WARM, mailbox=response)


def _code(report: BootReport) -> str:
    assert report.debug is DebugState.LOCKED
    assert report.error is not None, report
    return report.error.code


@pytest.mark.requirement("ROM-DBG-6")
def test_a_good_response_opens_debug_for_one_boot_and_as_another_device(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.boot()
    closed = chip.record()
    report = _give(chip, _response(_challenge(chip)))
    assert report.outcome is Outcome.BOOTED
    assert report.debug is DebugState.OPEN
    record = chip.record()
    assert record.debug is DebugState.OPEN
    assert record.idevid_public != closed.idevid_public
    certificate = x509.load_der_x509_certificate(record.certificate)
    value = certificate.extensions.get_extension_for_oid(dice.TCB_INFO).value.public_bytes()
    assert dice.parse_tcb_info(value).flags == dice.TcbFlags.DEBUG
    assert chip.boot(reason=ResetReason.WARM).debug is DebugState.LOCKED
    assert chip.record().idevid_public == closed.idevid_public


@pytest.mark.requirement("ROM-DBG-3")
def test_a_response_is_good_for_one_boot(make_chip: MakeChip) -> None:
    chip = make_chip()
    response = _response(_challenge(chip))
    assert _give(chip, response).debug is DebugState.OPEN
    again = _give(chip, response)
    assert (again.outcome, again.debug) == (Outcome.STOPPED, DebugState.LOCKED)
    assert _code(_give(chip, response)) == "E_ROM_DEBUG_SIGNATURE"


@pytest.mark.requirement("ROM-DBG-3")
def test_a_challenge_is_gone_after_one_wrong_response(make_chip: MakeChip) -> None:
    chip = make_chip()
    challenge = _challenge(chip)
    assert _code(_give(chip, _response(challenge, STRANGER))) == "E_ROM_DEBUG_KEY"
    assert _give(chip, _response(challenge)).outcome is Outcome.STOPPED


@pytest.mark.requirement("ROM-DBG-3")
def test_replay_of_a_planted_challenge_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    challenge = _challenge(chip)
    recorded = bytes(chip.silicon.psram.view(RETENTION, RECORD))
    response = _response(challenge)
    assert _give(chip, response).debug is DebugState.OPEN
    # Software that runs later writes the old challenge back, with the boot count as it has to be.
    planted = chip.silicon.psram.view(RETENTION, RECORD)
    planted[:] = recorded
    assert _code(_give(chip, response)) == "E_ROM_DEBUG_CHALLENGE"
    planted[:] = recorded
    planted[4:8] = chip.silicon.boot_count.to_bytes(4, "little")
    assert _code(_give(chip, response)) == "E_ROM_DEBUG_CHALLENGE"


@pytest.mark.requirement("ROM-DBG-3")
def test_any_other_boot_ends_a_challenge(make_chip: MakeChip) -> None:
    for reason in (ResetReason.COLD, ResetReason.WARM):
        chip = make_chip()
        challenge = _challenge(chip)
        chip.boot(reason=reason)
        assert not any(chip.silicon.psram.view(RETENTION, RECORD))
        assert _give(chip, _response(challenge)).outcome is Outcome.STOPPED
    chip = make_chip()
    challenge = _challenge(chip)
    chip.silicon.reset(ResetReason.WARM)
    assert _code(_give(chip, _response(challenge))) == "E_ROM_DEBUG_CHALLENGE"


@pytest.mark.requirement("ROM-DBG-4")
def test_a_response_by_another_key_is_refused(make_chip: MakeChip) -> None:
    chip = make_chip()
    assert _code(_give(chip, _response(_challenge(chip), STRANGER))) == "E_ROM_DEBUG_KEY"
    good = _response(_challenge(chip))
    for size in (0, 90, 92, 0xFFFF_FFFF):
        _challenge(chip)
        assert _code(_give(chip, size.to_bytes(4, "little") + good[4:])) == "E_ROM_DEBUG_KEY"


@pytest.mark.requirement("ROM-DBG-5")
def test_a_response_for_another_chip_life_cycle_or_challenge_is_refused(make_chip: MakeChip) -> None:
    chip, other = make_chip(), make_chip(seed=2)
    challenge = _challenge(chip)
    for response in (
        _response(challenge[:32] + _challenge(other)[32:]),
        _response(challenge, life_cycle=2),
        _response(bytes(32) + challenge[32:]),
        _response(challenge)[:-64] + bytes(64),
        _response(challenge)[:-64] + b"\xff" * 64,
    ):
        twin = chip.copy()
        assert _code(_give(twin, response)) == "E_ROM_DEBUG_SIGNATURE"


@pytest.mark.requirement("ROM-DBG-2")
def test_a_chip_without_an_authority_gives_no_challenge(make_chip: MakeChip) -> None:
    assert _code(make_chip(authority=None).boot(strap=Strap.DEBUG)) == "E_ROM_DEBUG_AUTHORITY"


@pytest.mark.requirement("ROM-DBG-2")
def test_an_open_port_is_not_unlocked(make_chip: MakeChip) -> None:
    for life_cycle, authority in ((LifeCycle.TEST, AUTHORITY), (LifeCycle.DEV, None)):
        report = make_chip(life_cycle=life_cycle, authority=authority).boot(strap=Strap.DEBUG)
        assert report.error is not None
        assert report.error.code == "E_ROM_DEBUG_AUTHORITY"


def test_debug_in_dev_is_unlocked_the_same_way(make_chip: MakeChip) -> None:
    chip = make_chip(life_cycle=LifeCycle.DEV)
    assert chip.boot().debug is DebugState.LOCKED
    assert _give(chip, _response(_challenge(chip), life_cycle=2)).debug is DebugState.OPEN


@pytest.mark.requirement("ROM-FLOW-3")
def test_a_dead_noise_source_gives_no_challenge(make_chip: MakeChip) -> None:
    chip = make_chip()
    chip.silicon.trng.fault = NoiseFault(ones=1.0)
    assert _code(chip.boot(strap=Strap.DEBUG)) == "E_ROM_PORT"
