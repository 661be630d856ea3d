"""Challenge-response at the device port: what gets an affirming result, and what gets a code."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fuseline.formats import ear, psa
from fuseline.lab.factory import DevelopmentFleet
from fuseline.lab.softdevice import Reply, SoftDevice

if TYPE_CHECKING:
    from tests.conftest import RunningPlane

Measured = Callable[[str], psa.SoftwareComponent]


def _result(plane: RunningPlane, reply: Reply) -> ear.AttestationResult:
    assert reply.status == 200, reply.body
    key = plane.config.load_keys().verifier_key.public_key()
    return ear.verify(reply.json()["result"], key)


def _appraisal(plane: RunningPlane, device: SoftDevice) -> str | None:
    shown = plane.operator.device(device.name)["appraisal"]
    return str(shown["status"]) if shown else None


def test_the_running_release_measured_is_affirmed_in_a_signed_result(
    plane: RunningPlane, measured: Measured
) -> None:
    device = plane.soft_device()
    path, nonce = device.challenge()
    result = _result(plane, device.answer(path, device.token(nonce, [measured("1.0.0")])))
    assert result.status is ear.Tier.AFFIRMING
    assert result.nonce == nonce
    assert result.verifier_claims["release"] == "1.0.0"
    assert plane.operator.device(device.name)["release"] == "1.0.0"


def test_a_replayed_answer_is_refused(plane: RunningPlane, measured: Measured) -> None:
    device = plane.soft_device()
    path, nonce = device.challenge()
    token = device.token(nonce, [measured("1.0.0")])
    assert device.answer(path, token).status == 200
    replay = device.answer(path, token)
    assert (replay.status, replay.code) == (409, "E_NONCE_SPENT")
    assert _appraisal(plane, device) == "affirming"


def test_yesterdays_token_in_todays_session_is_refused(plane: RunningPlane, measured: Measured) -> None:
    device = plane.soft_device()
    _, old_nonce = device.challenge()
    path, _ = device.challenge()
    reply = device.answer(path, device.token(old_nonce, [measured("1.0.0")]))
    assert (reply.status, reply.code) == (422, "E_EVIDENCE_NONCE")
    assert _appraisal(plane, device) is None


def test_another_devices_session_is_refused(plane: RunningPlane, measured: Measured) -> None:
    device, victim = plane.soft_device(), plane.soft_device()
    path, nonce = victim.challenge()
    assert device.answer(path, device.token(nonce, [measured("1.0.0")])).code == "E_NONCE_INVALID"
    assert victim.answer(path, victim.token(nonce, [measured("1.0.0")])).status == 200


def test_an_invented_session_is_refused(plane: RunningPlane, measured: Measured) -> None:
    device = plane.soft_device()
    nonce = bytes(32)
    invented = base64.urlsafe_b64encode(nonce).rstrip(b"=").decode()
    for session in (invented, "x", "!!!", "A" * 400):
        reply = device.answer(
            f"/challenge-response/v1/session/{session}", device.token(nonce, [measured("1.0.0")])
        )
        assert (reply.status, reply.code) == (404, "E_NONCE_INVALID")


def test_a_stale_nonce_is_refused(
    make_fleet: Callable[..., DevelopmentFleet], start_plane: Callable[..., RunningPlane]
) -> None:
    fleet = make_fleet(devices=1)
    settings = fleet.plane / "plane.toml"
    settings.write_text(settings.read_text().replace("nonce_seconds = 60", "nonce_seconds = 1"))
    plane = start_plane(fleet)
    device = plane.soft_device()
    path, nonce = device.challenge()
    time.sleep(1.2)
    reply = device.answer(path, device.token(nonce, [psa.SoftwareComponent("FW", bytes(32), bytes(32))]))
    assert (reply.status, reply.code) == (410, "E_NONCE_STALE")
    assert _appraisal(plane, device) is None


def test_a_healthy_device_cannot_answer_for_a_sick_one(plane: RunningPlane, measured: Measured) -> None:
    sick, healthy = plane.soft_device(), plane.soft_device()
    path, nonce = sick.challenge()
    reply = sick.answer(path, healthy.token(nonce, [measured("1.0.0")]))
    assert (reply.status, reply.code) == (422, "E_EVIDENCE_SIGNATURE")
    instance = psa.instance_id_of(healthy.attestation_key.public_key())
    reply = sick.attest(measured("1.0.0"), instance_id=instance)
    assert (reply.status, reply.code) == (422, "E_EVIDENCE_INSTANCE")
    assert _appraisal(plane, sick) is None


def test_another_hardware_class_in_the_token_is_refused(plane: RunningPlane, measured: Measured) -> None:
    device = plane.soft_device()
    assert device.attest(measured("1.0.0"), implementation_id=bytes(32)).code == "E_EVIDENCE_INSTANCE"


def test_truncated_evidence_gets_a_code_at_every_cut(plane: RunningPlane, measured: Measured) -> None:
    device = plane.soft_device()
    length = len(device.token(bytes(32), [measured("1.0.0")]))
    for cut in range(0, length, 23):
        path, nonce = device.challenge()
        reply = device.answer(path, device.token(nonce, [measured("1.0.0")])[:cut])
        assert reply.status in (400, 422), cut
        assert (reply.code or "").startswith("E_"), cut
    assert _appraisal(plane, device) is None


@pytest.mark.parametrize(
    "step",
    [97, pytest.param(1, marks=[pytest.mark.sweep, pytest.mark.timeout(900)])],
    ids=["walk", "every bit"],
)
def test_flipped_bits_in_evidence_never_affirm(plane: RunningPlane, measured: Measured, step: int) -> None:
    """Over the wire, through nonce, decoder and signature; the unit test sweeps the decision alone."""
    device = plane.soft_device()
    length = len(device.token(bytes(32), [measured("1.0.0")]))
    for position in range(0, length * 8, step):
        path, nonce = device.challenge()
        token = bytearray(device.token(nonce, [measured("1.0.0")]))
        token[position // 8] ^= 1 << (position % 8)
        reply = device.answer(path, bytes(token))
        assert reply.status in (400, 422), position
    assert _appraisal(plane, device) is None


def test_the_comparison_goes_both_ways(plane: RunningPlane, measured: Measured) -> None:
    device = plane.soft_device()
    firmware = measured("1.0.0")
    extra = psa.SoftwareComponent("ROOTKIT", bytes(32), bytes(32), "1.0")
    for components in (
        [firmware, extra],
        [firmware, firmware],
        [replace(firmware, version="9.9.9")],
        [replace(firmware, signer_id=bytes(32))],
        [replace(firmware, measurement_value=bytes(32))],
        [replace(firmware, measurement_type="BL")],
    ):
        result = _result(plane, device.attest(*components))
        assert result.status is ear.Tier.CONTRAINDICATED
        assert result.verifier_claims["release"] is None
    assert plane.operator.device(device.name)["stage"] == "contraindicated"


def test_an_unsecured_life_cycle_is_not_affirmed(plane: RunningPlane, measured: Measured) -> None:
    result = _result(plane, plane.soft_device().attest(measured("1.0.0"), lifecycle=0x2000))
    assert result.status is ear.Tier.WARNING
    assert result.verifier_claims["reason"] == "lifecycle_not_secured"


def test_going_back_to_an_older_release_is_flagged(plane: RunningPlane, measured: Measured) -> None:
    device = plane.soft_device()
    assert _result(plane, device.attest(measured("2.0.0"))).status is ear.Tier.AFFIRMING
    result = _result(plane, device.attest(measured("1.0.0")))
    assert result.status is ear.Tier.CONTRAINDICATED
    assert result.verifier_claims["reason"] == "rollback"
    assert plane.operator.device(device.name)["security_counter"] == 2


def test_only_tokens_are_taken(plane: RunningPlane) -> None:
    device = plane.soft_device()
    path, _ = device.challenge()
    reply = device.ask("POST", path, b"{}", Content_Type="application/json")
    assert (reply.status, reply.code) == (415, "E_MEDIA_TYPE")
    assert device.ask("GET", path).code == "E_METHOD"
