"""Real devices against a plane that dies, lies or is stolen: the old image runs on, nothing is lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fuseline.lab.factory import HARDWARE, SLOT_SIZE, VENDOR, DevelopmentFleet
from fuseline.lab.releases import ReleaseSpec, build_payload, sign_release

if TYPE_CHECKING:
    from tests.conftest import RunningDevice, RunningPlane

MakeFleet = Callable[..., DevelopmentFleet]
StartPlane = Callable[..., "RunningPlane"]
StartDevice = Callable[..., "RunningDevice"]
Wait = Callable[..., Any]

pytestmark = pytest.mark.journey

# An application that is never well: it lives and says nothing.
SILENT = "import time\nwhile True:\n    time.sleep(1)\n"


class CuttingProxy:
    """Passes bytes between device and plane, and stops for good where it is told; TLS goes through whole."""

    def __init__(self, target: str, *, cut_down: int | None = None, cut_up: int | None = None) -> None:
        """Cut after so many bytes of one connection towards the device (down) or the plane (up)."""
        host, _, port = target.rpartition("//")[2].rpartition(":")
        self._target = (host, int(port))
        self._limits = {"down": cut_down, "up": cut_up}
        self.cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_down(self, count: int) -> None:
        """Cut after so many bytes of one connection towards the device."""
        self._limits["down"] = count

    def open_wide(self) -> None:
        """Cut no more."""
        self._limits = {"down": None, "up": None}

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                near.close()
                continue
            for source, sink, way in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._pass, args=(source, sink, way), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        passed = 0
        try:
            while data := source.recv(16_384):
                limit = self._limits[way]
                if limit is not None and passed + len(data) > limit:
                    sink.sendall(data[: limit - passed])
                    self.cut.set()
                    break
                sink.sendall(data)
                passed += len(data)
        except OSError:
            pass
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _big_release(fleet: DevelopmentFleet, version: str = "2.0.0") -> bytes:
    """Sign a release whose payload is large: a zip may have anything before its archive (PEP 441)."""
    payload = b"#!" + os.urandom(150_000).hex().encode() + b"\n" + build_payload(version)
    return sign_release(payload, ReleaseSpec(version, 2, VENDOR, HARDWARE, SLOT_SIZE * 2), fleet.release_key)


def _shown(plane: RunningPlane, name: str) -> dict[str, Any]:
    return plane.operator.device(name)


def _ready(plane: RunningPlane) -> str:
    """Import the manifest and publish release 1.0.0; returns the fleet's first device."""
    plane.operator.import_manifest(*plane.fleet.manifest())
    plane.publish("1.0.0")
    return plane.fleet.device_names[0]


def _attested(plane: RunningPlane, name: str, release: str) -> bool:
    shown = _shown(plane, name)
    return bool(shown["release"] == release and shown["appraisal"]["status"] == "affirming")


@pytest.mark.parametrize("cut", [600, 2_400, 3_200, 3_900], ids=lambda cut: f"after {cut} bytes")
def test_the_plane_is_killed_in_mid_enrolment(
    make_fleet: MakeFleet, start_plane: StartPlane, start_device: StartDevice, wait: Wait, cut: int
) -> None:
    """In the handshake, in `cacerts`, before the certificate leaves, and with half of it on the way."""
    plane = start_plane(make_fleet(devices=1))
    name = _ready(plane)
    proxy = CuttingProxy(plane.device_url, cut_down=cut)
    device = start_device(plane.fleet, name, proxy.url)
    assert proxy.cut.wait(20)
    plane.kill()
    assert device.wait_for("trouble")["code"] == "E_PLANE_UNREACHABLE"
    assert not (plane.fleet.device(name) / "ldevid.pem").exists()  # nothing half-written
    proxy.open_wide()
    plane.start()
    wait(lambda: _attested(plane, name, "1.0.0"), "attested after the restart")
    proxy.close()
    # No certificate exists that the registry does not know.
    enrolled = device.journal("enrolled")[-1]["ldevid_serial"]
    [stage] = [one for one in _shown(plane, name)["stages"] if one["stage"] == "enrolled"]
    assert stage["evidence"]["ldevid_serial"] == enrolled


def test_the_plane_is_killed_in_mid_download(
    make_fleet: MakeFleet, start_plane: StartPlane, start_device: StartDevice, wait: Wait
) -> None:
    fleet = make_fleet(devices=1)
    for settings in (fleet.state / "devices").glob("*/device.toml"):
        _enlarge_slots(settings)
    plane = start_plane(fleet)
    name = _ready(plane)
    proxy = CuttingProxy(plane.device_url)
    device = start_device(fleet, name, proxy.url)
    wait(lambda: _attested(plane, name, "1.0.0"), "attested on the first release")
    image = _big_release(fleet)
    plane.operator.publish(image, vendor=VENDOR, hardware=HARDWARE)
    proxy.cut_down(120_000)
    plane.roll_out()
    part = fleet.device(name) / "agent" / f"{hashlib.sha256(image).hexdigest()}.part"
    wait(lambda: part.exists() and part.stat().st_size, "the download has begun")
    plane.kill()
    trouble = device.wait_for("trouble", len(device.journal("trouble")) + 1)
    assert trouble["code"] in ("E_PLANE_UNREACHABLE", "E_DOWNLOAD_TRUNCATED")
    have = part.stat().st_size
    assert 0 < have < len(image)
    assert image.startswith(part.read_bytes())
    proxy.open_wide()
    plane.start()
    device.wait_for("update.downloaded", seconds=30)
    assert device.journal("update.downloaded")[0]["resumed_from"] == have
    wait(lambda: _attested(plane, name, "2.0.0"), "attested on the new release", 30)
    assert _shown(plane, name)["action"]["state"] == "attested"
    proxy.close()


def _enlarge_slots(settings: Path) -> None:
    """Give a device slots of twice the size, with what was in them."""
    settings.write_text(settings.read_text().replace(str(SLOT_SIZE), str(SLOT_SIZE * 2)))
    for slot in (settings.parent / "slots").iterdir():
        old = slot.read_bytes()
        body, trailer = old[:-40].rstrip(b"\xff"), old[-40:]
        slot.write_bytes(body + b"\xff" * (SLOT_SIZE * 2 - len(body) - 40) + trailer)


def test_an_image_that_never_is_well_reverts_and_says_why(
    make_fleet: MakeFleet, start_plane: StartPlane, start_device: StartDevice, wait: Wait
) -> None:
    plane = start_plane(make_fleet(devices=1, app_seconds=1.0))
    name = _ready(plane)
    sick = sign_release(
        build_payload("2.0.0", main=SILENT),
        ReleaseSpec("2.0.0", 2, VENDOR, HARDWARE, SLOT_SIZE),
        plane.fleet.release_key,
    )
    plane.operator.publish(sick, vendor=VENDOR, hardware=HARDWARE)
    device = start_device(plane.fleet, name, plane.device_url)
    wait(lambda: _attested(plane, name, "1.0.0"), "attested on the first release")
    plane.roll_out()
    reverted = device.wait_for("reverted", seconds=30)
    assert reverted["version"] == "2.0.0"
    action = wait(
        lambda: (a := _shown(plane, name)["action"])["state"] == "reverted" and a, "the plane knows"
    )
    assert action["why"].startswith("reverted to 1.0.0: it was booted before and did not confirm itself")
    shown = _shown(plane, name)
    assert (shown["release"], shown["security_counter"]) == ("1.0.0", 1)
    assert (
        device.journal("power.on")[-1]["counter"] == 1
    )  # the counter never ran ahead of the confirmed image


@pytest.mark.parametrize(
    ("attack", "code"),
    [("key", "E_IMAGE_KEY"), ("hardware", "E_IMAGE_HARDWARE"), ("counter", "E_IMAGE_ROLLBACK")],
)
def test_a_stolen_plane_cannot_make_a_device_run_what_it_likes(
    make_fleet: MakeFleet,
    start_plane: StartPlane,
    start_device: StartDevice,
    wait: Wait,
    tmp_path: Path,
    attack: str,
    code: str,
) -> None:
    """The thief owns database and artifact store, and offers another image in a release's place."""
    plane = start_plane(make_fleet(devices=1))
    name = _ready(plane)
    plane.publish("2.0.0")
    device = start_device(plane.fleet, name, plane.device_url)
    wait(lambda: _attested(plane, name, "1.0.0"), "attested on the first release")
    _replace_artifact(plane, _evil_image(plane.fleet, tmp_path, attack))
    plane.roll_out()
    refused = device.wait_for("update.refused")
    assert refused["code"] == code
    action = wait(lambda: (a := _shown(plane, name)["action"])["state"] == "failed" and a, "the plane knows")
    assert action["why"].startswith(code)
    assert len(device.journal("power.on")) == 1  # it never even restarted
    slots = plane.fleet.device(name) / "slots"
    assert set((slots / "slot1.bin").read_bytes()) == {0xFF}
    assert _shown(plane, name)["release"] == "1.0.0"


def _evil_image(fleet: DevelopmentFleet, folder: Path, attack: str) -> bytes:
    key, spec = fleet.release_key, ReleaseSpec("2.0.0", 2, VENDOR, HARDWARE, SLOT_SIZE)
    match attack:
        case "key":
            rogue = ec.generate_private_key(ec.SECP256R1())
            key = folder / "rogue.key"
            key.write_bytes(rogue.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        case "hardware":
            spec = ReleaseSpec("2.0.0", 2, VENDOR, "toaster", SLOT_SIZE)
        case "counter":
            spec = ReleaseSpec("2.0.0", 0, VENDOR, HARDWARE, SLOT_SIZE)
    return sign_release(build_payload("2.0.0"), spec, key)


def _replace_artifact(plane: RunningPlane, image: bytes) -> None:
    digest = hashlib.sha256(image).hexdigest()
    (plane.config.artifacts / digest).write_bytes(image)
    with sqlite3.connect(plane.config.database) as database:
        database.execute(
            "UPDATE releases SET sha256 = ?, size = ? WHERE version = '2.0.0'", (digest, len(image))
        )
    database.close()


def test_an_artifact_changed_in_the_store_is_caught_by_its_digest(
    make_fleet: MakeFleet, start_plane: StartPlane, start_device: StartDevice, wait: Wait
) -> None:
    plane = start_plane(make_fleet(devices=1))
    name = _ready(plane)
    plane.publish("2.0.0")
    path = plane.config.artifacts / hashlib.sha256(plane.fleet.release("2.0.0")).hexdigest()
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    device = start_device(plane.fleet, name, plane.device_url)
    wait(lambda: _attested(plane, name, "1.0.0"), "attested on the first release")
    plane.roll_out()
    assert device.wait_for("trouble")["code"] == "E_DOWNLOAD_DIGEST"
    assert _shown(plane, name)["release"] == "1.0.0"
    path.write_bytes(good)  # mended, the device goes on by itself
    wait(lambda: _attested(plane, name, "2.0.0"), "attested on the new release", 40)


def test_a_device_that_was_off_when_its_certificate_expired_enrols_again(
    make_fleet: MakeFleet, start_plane: StartPlane, start_device: StartDevice, wait: Wait
) -> None:
    plane = start_plane(make_fleet(devices=1, ldevid_seconds=4))
    name = _ready(plane)
    device = start_device(plane.fleet, name, plane.device_url)
    device.wait_for("renewed", seconds=30)  # half-life
    device.stop()
    time.sleep(5)
    again = start_device(plane.fleet, name, plane.device_url)
    again.wait_for("enrolled")
    again.wait_for("attested")


def test_a_device_refuses_another_server(
    make_fleet: MakeFleet, start_plane: StartPlane, start_device: StartDevice
) -> None:
    """Another fleet's plane has a certificate of another root: the man in the middle."""
    ours, theirs = make_fleet(devices=1), make_fleet(devices=1)
    plane = start_plane(theirs)
    device = start_device(ours, ours.device_names[0], plane.device_url)
    assert device.wait_for("trouble")["code"] == "E_PLANE_UNTRUSTED"
    assert not device.journal("enrolled")
    assert not json.dumps(plane.operator.devices()).count("enrolled")


def test_the_relay_takes_a_device_all_the_way(
    make_fleet: MakeFleet, start_plane: StartPlane, start_device: StartDevice, wait: Wait
) -> None:
    """Where Python hides its OpenSSL, the element's process is the TLS client."""
    plane = start_plane(make_fleet(devices=1))
    name = _ready(plane)
    plane.publish("2.0.0")
    start_device(plane.fleet, name, plane.device_url, "--tls", "relay")
    wait(lambda: _attested(plane, name, "1.0.0"), "attested on the first release")
    plane.roll_out()
    wait(lambda: _attested(plane, name, "2.0.0"), "attested on the new release", 30)


def test_a_revoked_device_keeps_running_and_is_shut_out(
    make_fleet: MakeFleet, start_plane: StartPlane, start_device: StartDevice, wait: Wait
) -> None:
    plane = start_plane(make_fleet(devices=1))
    name = _ready(plane)
    device = start_device(plane.fleet, name, plane.device_url)
    wait(lambda: _attested(plane, name, "1.0.0"), "attested")
    plane.operator.revoke(name, "lost")
    trouble = device.wait_for("trouble")
    assert trouble["evidence"]["plane_code"] == "E_CERT_REVOKED"
    assert device.process.poll() is None
