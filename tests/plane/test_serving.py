"""The plane as a process: workers, proxies, stopping, and what it refuses to start with."""

from __future__ import annotations

import base64
import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fuseline.formats import psa
from fuseline.lab.factory import DevelopmentFleet
from fuseline.lab.softdevice import Channel

if TYPE_CHECKING:
    from tests.conftest import RunningPlane

MakeFleet = Callable[..., DevelopmentFleet]
StartPlane = Callable[..., "RunningPlane"]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _serve(fleet: DevelopmentFleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuseline", "plane", "serve", "--state", str(fleet.state), "--json"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=30, check=False)


def _refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    return str(json.loads(done.stdout)["error"]["code"])


def test_two_workers_share_sessions_nonces_and_the_register(
    make_fleet: MakeFleet, start_plane: StartPlane, wait: Callable[..., Any]
) -> None:
    plane = start_plane(make_fleet(devices=1), "--workers", "2")
    assert plane.process is not None
    assert len(_children(plane.process.pid)) == 2
    device = plane.soft_device()
    context = device.context(device.ldevid)
    first = Channel(context, device.url)
    assert first.request("GET", device.base).status == 200
    session = first.socket.session
    resumed = 0
    for _ in range(12):  # the kernel spreads connections over both workers
        channel = Channel(context, device.url, session)
        resumed += bool(channel.socket.session_reused)
        assert channel.request("GET", device.base).status == 200
        channel.close()
    assert resumed == 12
    first.close()

    # One nonce, answered at the same time many times over both workers: one answer counts.
    path, nonce = device.challenge()
    token = device.token(nonce, [psa.SoftwareComponent("FW", bytes(32), bytes(32))])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: device.answer(path, token), range(8)))
    assert sorted("taken" if reply.status == 200 else str(reply.code) for reply in replies) == [
        *["E_NONCE_SPENT"] * 7,
        "taken",
    ]


def test_a_worker_that_dies_is_replaced(
    make_fleet: MakeFleet, start_plane: StartPlane, wait: Callable[..., Any]
) -> None:
    plane = start_plane(make_fleet(devices=1))
    assert plane.process is not None
    pid = plane.process.pid
    device = plane.soft_device()
    [worker] = _children(pid)
    os.kill(worker, signal.SIGKILL)
    wait(lambda: _children(pid) not in ([], [worker]), "a new worker")
    assert device.ask("GET", device.base).status == 200


def test_a_stop_ends_open_streams_and_every_process(
    make_fleet: MakeFleet, start_plane: StartPlane, wait: Callable[..., Any]
) -> None:
    plane = start_plane(make_fleet(devices=1))
    assert plane.process is not None
    workers = _children(plane.process.pid)
    stream = http.client.HTTPConnection(plane.operator_url.rpartition("/")[2], timeout=10)
    stream.request(
        "GET", "/api/v1/events", headers={"Authorization": f"Bearer {plane.config.operator_token}"}
    )
    stream.getresponse().readline()
    device = plane.soft_device()
    with device.channel() as channel:
        assert channel.request("GET", device.base).status == 200
        began = time.monotonic()
        assert plane.stop() == 0
    assert time.monotonic() - began < 6
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert not (plane.fleet.plane / "run.json").exists()
    stream.close()
    assert "defect" not in plane.log()


def test_workers_end_when_their_parent_is_killed(make_fleet: MakeFleet, start_plane: StartPlane) -> None:
    plane = start_plane(make_fleet(devices=1), "--workers", "2")
    plane.kill()  # waits until nobody listens
    plane.start()  # on the same ports
    assert plane.soft_device().poll()


def test_one_plane_on_a_folder(make_fleet: MakeFleet, start_plane: StartPlane) -> None:
    plane = start_plane(make_fleet(devices=1))
    assert _refusal(_serve(plane.fleet, "--device-port", "0", "--operator-port", "0")) == "E_STATE_BUSY"
    assert plane.soft_device().poll()


def test_the_operator_port_leaves_the_machine_only_with_tls(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(devices=1)
    done = _serve(fleet, "--operator-host", "0.0.0.0", "--device-port", "0", "--operator-port", "0")
    assert _refusal(done) == "E_BIND"


def test_a_port_in_use_is_told(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(devices=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert _refusal(_serve(fleet, "--device-port", port, "--operator-port", "0")) == "E_BIND"


@pytest.mark.parametrize(
    "name", ["operational-ca.key", "server.key", "verifier.key", "nonce.secret", "operator.token"]
)
def test_a_secret_that_others_can_read_stops_the_start(make_fleet: MakeFleet, name: str) -> None:
    fleet = make_fleet(devices=1)
    (fleet.plane / name).chmod(0o644)
    done = _serve(fleet, "--device-port", "0", "--operator-port", "0")
    assert _refusal(done) == "E_STATE_PERMISSIONS"


def test_a_missing_folder_and_a_foreign_database_are_told(make_fleet: MakeFleet, tmp_path: Path) -> None:
    nowhere = DevelopmentFleet(tmp_path / "nowhere")
    assert _refusal(_serve(nowhere)) == "E_STATE_MISSING"
    fleet = make_fleet(devices=1)
    (fleet.plane / "fuseline.db").write_bytes(b"this is not a database, and it is longer than a header " * 40)
    assert _refusal(_serve(fleet, "--device-port", "0", "--operator-port", "0")) == "E_SCHEMA_VERSION"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def test_behind_a_proxy_the_certificate_comes_in_its_header(
    make_fleet: MakeFleet, start_plane: StartPlane, tmp_path: Path
) -> None:
    path = tmp_path / "proxy.sock"
    plane = start_plane(make_fleet(devices=1), "--proxy-socket", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    device = plane.soft_device()
    assert device.ldevid is not None
    der = x509.load_pem_x509_certificate(device.ldevid.chain_pem).public_bytes(Encoding.DER)
    good = f":{base64.b64encode(der).decode()}:"

    def ask(*values: str) -> tuple[int, str | None]:
        connection = _UnixConnection(path)
        connection.putrequest("GET", device.base)
        for value in values:
            connection.putheader("Client-Cert", value)
        connection.endheaders()
        response = connection.getresponse()
        content = json.loads(response.read())
        connection.close()
        return response.status, content.get("code")

    assert ask(good) == (200, None)
    assert ask() == (401, "E_CERT_MISSING")
    assert ask(good, good) == (400, "E_CERT_MALFORMED")
    assert ask(good[1:-1]) == (400, "E_CERT_MALFORMED")
    assert ask(":AAAA:") == (400, "E_CERT_MALFORMED")
    forged = bytearray(der)
    forged[-1] ^= 1  # a proxy that did not check the chain is caught out here
    assert ask(f":{base64.b64encode(bytes(forged)).decode()}:") == (403, "E_CERT_PROFILE")


def test_logs_hold_no_secrets(make_fleet: MakeFleet, start_plane: StartPlane) -> None:
    plane = start_plane(make_fleet(devices=1))
    device = plane.soft_device()
    device.attest(psa.SoftwareComponent("FW", bytes(32), bytes(32)))
    token = plane.config.operator_token
    plane.stop()
    log = plane.log()
    assert token not in log
    assert "PRIVATE KEY" not in log
