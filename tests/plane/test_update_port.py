"""Releases, rollouts and DDI: what clients say, and what counts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fuseline.errors import PlaneRefused
from fuseline.formats import psa
from fuseline.formats.ddi import Execution, Finished
from fuseline.lab.factory import HARDWARE, SLOT_SIZE, VENDOR, DevelopmentFleet
from fuseline.lab.releases import ReleaseSpec, build_payload, sign_release
from fuseline.lab.softdevice import SoftDevice

if TYPE_CHECKING:
    from tests.conftest import RunningPlane

Measured = Callable[[str], psa.SoftwareComponent]


def _with_action(plane: RunningPlane, measured: Measured) -> tuple[SoftDevice, int]:
    """Return a device on 1.0.0 with an open action towards 2.0.0."""
    device = plane.soft_device()
    assert device.attest(measured("1.0.0")).status == 200
    plane.roll_out()
    return device, int(device.poll()["deploymentBase"]["href"].rpartition("/")[2])


def _action(plane: RunningPlane, device: SoftDevice) -> dict[str, Any]:
    return dict(plane.operator.device(device.name)["action"])


# --- done means measured -----------------------------------------------------------------------------


def test_a_liar_that_says_success_on_the_old_image_is_reported_unproven(
    plane: RunningPlane, measured: Measured
) -> None:
    device, action = _with_action(plane, measured)
    assert device.say(action, Execution.CLOSED, Finished.SUCCESS, "all done").status == 200
    shown = _action(plane, device)
    assert (shown["state"], shown["why"]) == (
        "unproven",
        "the device says success; no measurement shows it yet",
    )
    assert device.attest(measured("1.0.0")).status == 200  # it still runs the old image, and must say so
    shown = _action(plane, device)
    assert shown["state"] == "unproven"
    assert shown["why"] == "the device says success, but its measurement is that of 1.0.0"
    device_shown = plane.operator.device(device.name)
    assert (device_shown["stage"], device_shown["release"]) == ("unproven", "1.0.0")
    assert not any(stage["stage"] == "updated" for stage in device_shown["stages"])
    assert "deploymentBase" not in device.poll()  # a hawkBit client that said "closed" is not asked again


def test_the_measurement_of_the_new_image_finishes_the_action(
    plane: RunningPlane, measured: Measured
) -> None:
    device, action = _with_action(plane, measured)
    device.say(action, Execution.CLOSED, Finished.SUCCESS)
    assert device.attest(measured("2.0.0")).status == 200
    assert _action(plane, device)["state"] == "attested"
    [updated] = [s for s in plane.operator.device(device.name)["stages"] if s["stage"] == "updated"]
    assert updated["evidence"]["measured"] == measured("2.0.0").measurement_value.hex()


def test_a_client_that_never_says_anything_is_finished_by_its_measurement_too(
    plane: RunningPlane, measured: Measured
) -> None:
    device, _ = _with_action(plane, measured)
    assert device.attest(measured("2.0.0")).status == 200
    assert _action(plane, device)["state"] == "attested"


def test_a_late_proceeding_reopens_nothing(plane: RunningPlane, measured: Measured) -> None:
    device, action = _with_action(plane, measured)
    device.say(action, Execution.CLOSED, Finished.SUCCESS)
    device.say(action, Execution.PROCEEDING, Finished.NONE)
    assert _action(plane, device)["state"] == "unproven"
    device.attest(measured("2.0.0"))
    device.say(action, Execution.CLOSED, Finished.FAILURE)
    assert _action(plane, device)["state"] == "attested"


def test_a_failure_and_a_revert_keep_their_reasons(plane: RunningPlane, measured: Measured) -> None:
    device, action = _with_action(plane, measured)
    device.say(action, Execution.CLOSED, Finished.FAILURE, "E_IMAGE_SIGNATURE: forged")
    assert _action(plane, device) | {"id": 0} == {
        "id": 0,
        "release": "2.0.0",
        "state": "failed",
        "why": "E_IMAGE_SIGNATURE: forged",
    }
    device, action = _with_action(plane, measured)
    device.say(action, Execution.CLOSED, Finished.FAILURE, "reverted to 1.0.0: it did not confirm itself")
    assert _action(plane, device)["state"] == "reverted"


# --- DDI ---------------------------------------------------------------------------------------------


def test_the_deployment_says_what_real_clients_read(plane: RunningPlane, measured: Measured) -> None:
    device, action = _with_action(plane, measured)
    message = device.ask("GET", f"{device.base}/deploymentBase/{action}").json()
    [chunk] = message["deployment"]["chunks"]
    [artifact] = chunk["artifacts"]
    image = plane.fleet.release("2.0.0")
    assert (message["id"], chunk["part"], chunk["version"]) == (str(action), "bApp", "2.0.0")
    assert artifact["hashes"]["sha256"] == hashlib.sha256(image).hexdigest()
    assert artifact["size"] == len(image)
    assert set(artifact["_links"]) == {"download", "download-http"}


def test_an_artifact_comes_whole_or_from_any_byte_on(plane: RunningPlane, measured: Measured) -> None:
    device, action = _with_action(plane, measured)
    message = device.ask("GET", f"{device.base}/deploymentBase/{action}").json()
    link = message["deployment"]["chunks"][0]["artifacts"][0]["_links"]["download"]["href"]
    path = "/" + link.split("/", 3)[3]
    image = plane.fleet.release("2.0.0")
    whole = device.ask("GET", path)
    assert (whole.status, whole.body) == (200, image)
    tail = device.ask("GET", path, Range="bytes=1000-")
    assert (tail.status, tail.body) == (206, image[1000:])
    assert device.ask("GET", path, Range=f"bytes={len(image)}-").status == 416
    head = device.ask("HEAD", path)
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(image)), b"")
    assert device.ask("GET", path, Range="bytes=1000-", If_Range='"other"').status == 200


def test_an_artifact_that_no_rollout_meant_for_the_device_is_not_given(
    plane: RunningPlane, measured: Measured
) -> None:
    device, action = _with_action(plane, measured)
    message = device.ask("GET", f"{device.base}/deploymentBase/{action}").json()
    link = message["deployment"]["chunks"][0]["artifacts"][0]["_links"]["download"]["href"]
    other = plane.soft_device()
    path = "/" + link.split("/", 3)[3].replace(device.name, other.name)
    assert other.ask("GET", path).code == "E_NOT_FOUND"
    assert other.ask("GET", f"{other.base}/deploymentBase/{action}").code == "E_NOT_FOUND"
    assert other.say(action, Execution.CLOSED, Finished.SUCCESS).code == "E_NOT_FOUND"
    assert _action(plane, device)["state"] == "offered"


def test_attributes_are_asked_for_until_told(plane: RunningPlane) -> None:
    device = plane.soft_device()
    assert "configData" in device.poll()
    body = json.dumps({"mode": "merge", "data": {"version": "1.0.0", "spot": "lobby"}}).encode()
    assert device.ask("PUT", f"{device.base}/configData", body).status == 200
    assert "configData" not in device.poll()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "E_MESSAGE_MALFORMED"),
        (b"[]", "E_MESSAGE_MALFORMED"),
        (b'{"status":{"execution":"closed"}}', "E_MESSAGE_MALFORMED"),
        (b'{"status":{"execution":"done","result":{"finished":"success"}}}', "E_MESSAGE_MALFORMED"),
        (
            b'{"id":"999","status":{"execution":"closed","result":{"finished":"success"}}}',
            "E_MESSAGE_MALFORMED",
        ),
        (b"\xff" * 10, "E_MESSAGE_MALFORMED"),
        (b"[" * 70_000, "E_BODY_SIZE"),
    ],
)
def test_malformed_feedback_gets_a_code_and_moves_nothing(
    plane: RunningPlane, measured: Measured, body: bytes, code: str
) -> None:
    device, action = _with_action(plane, measured)
    reply = device.ask("POST", f"{device.base}/deploymentBase/{action}/feedback", body)
    assert reply.code == code
    assert _action(plane, device)["state"] == "offered"


def test_feedback_with_a_number_for_an_id_is_taken(plane: RunningPlane, measured: Measured) -> None:
    """SWUpdate writes the action's id as a number, and `progress.of` zero."""
    device, action = _with_action(plane, measured)
    status = {
        "execution": "proceeding",
        "result": {"finished": "none", "progress": {"cnt": 1, "of": 0}},
        "details": [],
    }
    body = json.dumps({"id": action, "status": status}).encode()
    assert device.ask("POST", f"{device.base}/deploymentBase/{action}/feedback", body).status == 200
    assert _action(plane, device)["state"] == "running"


@pytest.mark.parametrize("path", ["/", "/nothing", "/x/controller/v2/y", "/x/controller/v1/NAME/nothing"])
def test_unknown_paths_get_a_code(plane: RunningPlane, path: str) -> None:
    device = plane.soft_device()
    assert device.ask("GET", path.replace("NAME", device.name)).code == "E_NOT_FOUND"


# --- releases ----------------------------------------------------------------------------------------


def _sign(folder: Path, key: Path | None = None, **changes: Any) -> bytes:
    spec = ReleaseSpec("3.0.0", 3, VENDOR, HARDWARE, SLOT_SIZE)
    if key is None:
        key = folder / "rogue.key"
        rogue = ec.generate_private_key(ec.SECP256R1())
        key.write_bytes(rogue.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return sign_release(build_payload("3.0.0"), dataclasses.replace(spec, **changes), key)


def _refusal(plane: RunningPlane, image: bytes) -> str:
    with pytest.raises(PlaneRefused) as caught:
        plane.operator.publish(image, vendor=VENDOR, hardware=HARDWARE)
    return str(caught.value.evidence["plane_code"])


def test_the_plane_publishes_nothing_that_the_release_key_did_not_sign(
    plane: RunningPlane, tmp_path: Path
) -> None:
    good = _sign(tmp_path, plane.fleet.release_key)
    flipped = bytearray(good)
    flipped[600] ^= 1
    assert _refusal(plane, _sign(tmp_path)) == "E_IMAGE_KEY"
    assert _refusal(plane, bytes(flipped)) == "E_IMAGE_DIGEST"
    assert _refusal(plane, good[:-40]) == "E_IMAGE_MALFORMED"
    assert _refusal(plane, b"") == "E_IMAGE_MALFORMED"
    assert _refusal(plane, _sign(tmp_path, plane.fleet.release_key, hardware="toaster")) == "E_IMAGE_HARDWARE"
    assert {one["version"] for one in plane.operator.releases()} == {"1.0.0", "2.0.0"}


def test_a_release_is_immutable(plane: RunningPlane, tmp_path: Path) -> None:
    again = plane.operator.publish(plane.fleet.release("1.0.0"), vendor=VENDOR, hardware=HARDWARE)
    assert again["version"] == "1.0.0"
    other = sign_release(
        build_payload("1.0.0 but different"),
        ReleaseSpec("1.0.0", 9, VENDOR, HARDWARE, SLOT_SIZE),
        plane.fleet.release_key,
    )
    assert _refusal(plane, other) == "E_RELEASE_CONFLICT"


def test_unknown_hardware_is_refused(plane: RunningPlane) -> None:
    with pytest.raises(PlaneRefused) as caught:
        plane.operator.publish(plane.fleet.release("1.0.0"), vendor=VENDOR, hardware="toaster")
    assert caught.value.evidence["plane_code"] == "E_NOT_FOUND"


# --- rollouts ----------------------------------------------------------------------------------------


def test_a_downgrade_is_refused_at_planning(
    make_fleet: Callable[..., DevelopmentFleet], start_plane: Callable[..., RunningPlane]
) -> None:
    plane = start_plane(make_fleet(devices=1))
    device = plane.soft_device()
    plane.publish()
    assert device.attest(plane.measure("2.0.0")).status == 200
    with pytest.raises(PlaneRefused) as caught:
        plane.roll_out("1.0.0")
    assert caught.value.evidence["plane_code"] == "E_RELEASE_DOWNGRADE"
    assert caught.value.evidence["plane_evidence"]["devices"] == [device.name]
    assert plane.operator.device(device.name)["action"] is None


def test_a_rollout_leaves_out_who_runs_it_already_and_supersedes_the_unproven(
    plane: RunningPlane, measured: Measured
) -> None:
    liar, action = _with_action(plane, measured)
    done = plane.soft_device()
    done.attest(measured("2.0.0"))
    liar.say(action, Execution.CLOSED, Finished.SUCCESS)
    started = plane.roll_out()
    assert done.name in started["skipped"]
    assert liar.name in started["devices"]
    assert _action(plane, liar)["state"] == "scheduled"
    assert "deploymentBase" in liar.poll()


def test_a_rollout_of_an_unknown_version_or_hardware_is_refused(plane: RunningPlane) -> None:
    for version, hardware in (("9.9.9", HARDWARE), ("1.0.0", "toaster")):
        with pytest.raises(PlaneRefused) as caught:
            plane.operator.roll_out(version, vendor=VENDOR, hardware=hardware)
        assert caught.value.evidence["plane_code"] == "E_NOT_FOUND"
