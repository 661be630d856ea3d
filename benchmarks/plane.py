"""The device plane beside its peers: the poll that every device makes, all day.

One plane (one worker) serves a device with a certificate from its registry and an update waiting for it,
so each poll is identified, looked up for revocation and for its action, and answered with a
``deploymentBase`` link. Three claims come out of it:

* ``ddi``: over a Unix socket, as behind a TLS-terminating proxy, against goosebit on a Unix socket;
* ``tls``: over kept mutual TLS 1.3 connections, against uvicorn that only answers, with the
  same certificates;
* ``handshake``: with a full mutual TLS handshake for each poll, against the same.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.claims import Claim, Goal, say
from benchmarks.loadgen import ClientTls, Load, Mode, Target
from benchmarks.measure import Configuration, Running, Skipped, compare, exchange, free_port, serving
from benchmarks.peers import bare_uvicorn, goosebit
from benchmarks.peers.bare_uvicorn import ServerTls
from fuseline.errors import SetupError
from fuseline.lab.factory import (
    DOMAIN,
    FIRST_RELEASE,
    FLEET,
    HARDWARE,
    PLANE_NAME,
    SECOND_RELEASE,
    VENDOR,
    FleetPlan,
    ensure_fleet,
)
from fuseline.lab.operator import OperatorClient
from fuseline.lab.softdevice import Reply, SoftDevice
from fuseline.plane.config import PlaneConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.claims import Effort
    from benchmarks.measure import Ratio, Report, Spread
    from fuseline.lab.factory import DevelopmentFleet

DEVICE = f"bench-0001.{DOMAIN}"
POLL_PATH = f"/{FLEET}/controller/v1/{DEVICE}"
TICKETS = 1  # as the plane's own context sends; see fuseline.plane.serve.device_tls
_POLL_SECONDS = 300
_KEEP_CONNECTIONS = 16
_HANDSHAKE_CONNECTIONS = 8

_VOID = "a row is void"

OURS, BARE = "fuseline", "bare uvicorn, same bytes"
SHIPPED, TUNED = "goosebit, as shipped", "goosebit on uvloop and httptools"


@dataclass(frozen=True, slots=True)
class BenchPlane:
    """A plane that serves, and its one device.

    Attributes:
        folder: For the logs and sockets of the peers.
        unix: The poll over the proxy's Unix socket.
        tls: The same poll over mutual TLS.
        answer: The bytes that both answer.
        server: The plane's TLS files, for the peer.
    """

    folder: Path
    unix: Running
    tls: Running
    answer: bytes
    server: ServerTls


@contextlib.contextmanager
def bench_plane() -> Iterator[BenchPlane]:
    """Make a fleet, run its plane, register and enrol a device, and have an update offered to it.

    Raises:
        SetupError: The plane does not start, or refuses a step.
    """
    # Short, because a Unix socket's path has up to 108 bytes (unix(7)).
    with tempfile.TemporaryDirectory(prefix="fuseline-bench-") as name:
        folder = Path(name)
        say("a development fleet for the benchmark")
        fleet = ensure_fleet(folder / "state", FleetPlan(devices=1, poll_seconds=_POLL_SECONDS), _silent)
        unix = Target(path=POLL_PATH, unix=folder / "proxy.sock")
        port = free_port()
        with serving(_serve(fleet, port, unix), unix, log=folder / "plane.log", note=_NOTE) as running:
            say("a device with an update waiting")
            device = _enrolled(fleet, port)
            client = _client_files(device, fleet, folder)
            certificate = x509.load_pem_x509_certificate(client.certificate.read_bytes())
            _offer_update(fleet)
            tls = Target(path=POLL_PATH, port=port, tls=client)
            answer = _steady_answer(device, tls)
            unix = replace(unix, headers=(f"Client-Cert: {_structured(certificate)}",))
            yield BenchPlane(
                folder=folder,
                unix=Running(running.pid, unix, _NOTE, expect=answer),
                tls=Running(running.pid, tls, _NOTE, expect=answer),
                answer=answer,
                server=_server_files(fleet, folder),
            )


_NOTE = "one worker; identity, revocation and action read from SQLite for every poll"


def _silent(_what: str) -> None:
    pass


def _serve(fleet: DevelopmentFleet, port: int, proxy: Target) -> Sequence[str]:
    command = [sys.executable, "-m", "fuseline", "plane", "serve", "--state", str(fleet.state), "--json"]
    command += ["--device-port", str(port), "--operator-port", "0", "--proxy-socket", str(proxy.unix)]
    return command


def _enrolled(fleet: DevelopmentFleet, port: int) -> SoftDevice:
    """Put a device with keys of ours on a manifest, and enrol it over EST."""
    operator = OperatorClient.for_plane(PlaneConfig.load(fleet.plane))
    device = SoftDevice.register(fleet, operator, f"https://127.0.0.1:{port}", name=DEVICE)
    _accepted(device.enrol())
    return device


def _client_files(device: SoftDevice, fleet: DevelopmentFleet, folder: Path) -> ClientTls:
    """Write the device's operational key and its chain, with its CA as a device sends it."""
    assert device.ldevid is not None
    key, chain = folder / "device.key", folder / "ldevid.pem"
    key.touch(mode=0o600)
    key.write_bytes(device.ldevid.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    chain.write_bytes(device.ldevid.chain_pem + (fleet.plane / "operational-ca.pem").read_bytes())
    return ClientTls(chain, key, trust=fleet.plane / "root.pem", server_name=PLANE_NAME)


def _offer_update(fleet: DevelopmentFleet) -> None:
    operator = OperatorClient.for_plane(PlaneConfig.load(fleet.plane))
    for version in (FIRST_RELEASE, SECOND_RELEASE):
        operator.publish(fleet.release(version), vendor=VENDOR, hardware=HARDWARE)
    operator.roll_out(SECOND_RELEASE, vendor=VENDOR, hardware=HARDWARE)


def _steady_answer(device: SoftDevice, target: Target) -> bytes:
    """Bring the device to where every poll is answered alike, and return that answer.

    The first poll marks the action as offered, and the link for ``configData`` goes when it was followed.
    """
    _accepted(device.ask("GET", POLL_PATH))
    attributes = json.dumps({"mode": "merge", "data": {"board": HARDWARE}}).encode()
    _accepted(device.ask("PUT", f"{POLL_PATH}/configData", attributes, Content_Type="application/json"))
    # Links repeat the request's host, so the answer to keep is the one the load generator gets.
    answer = exchange(target, "GET", path=POLL_PATH, body=b"", headers=()).body
    if b"deploymentBase" not in answer or b"configData" in answer:
        raise SetupError("The plane's poll is not the one to measure", body=answer.decode())
    return answer


def _accepted(reply: Reply) -> bytes:
    if reply.status != 200:
        raise SetupError("The plane refuses the benchmark's device", status=reply.status, code=reply.code)
    return reply.body


def _structured(certificate: x509.Certificate) -> str:
    """Return a certificate as RFC 9440's byte sequence."""
    return f":{base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()}:"


def _server_files(fleet: DevelopmentFleet, folder: Path) -> ServerTls:
    """Return the plane's own TLS files, its three anchors in one."""
    anchors = folder / "client-ca.pem"
    names = ("root.pem", "factory-ca.pem", "operational-ca.pem")
    anchors.write_bytes(b"".join((fleet.plane / name).read_bytes() for name in names))
    return ServerTls(fleet.plane / "server.pem", fleet.plane / "server.key", anchors)


def ddi(plane: BenchPlane, effort: Effort) -> Claim:
    """Measure polls over the proxy's Unix socket against goosebit and bare uvicorn."""
    load = Load(Mode.KEEP, _KEEP_CONNECTIONS, effort.seconds)
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(bare_uvicorn.serving_unix(plane.folder, plane.answer, POLL_PATH))
        # The same request, so that both parse the same headers.
        bare = replace(bare, target=replace(bare.target, headers=plane.unix.target.headers))
        servers: list[tuple[str, Running]] = [(OURS, plane.unix), (BARE, bare)]
        skipped: list[Skipped] = []
        for name, kind in ((SHIPPED, goosebit.Stack.SHIPPED), (TUNED, goosebit.Stack.TUNED)):
            say(f"{name} (installed once, from pinned hashes)")
            folder = plane.folder / kind.name.lower()
            folder.mkdir()
            try:
                servers.append((name, stack.enter_context(goosebit.serving_unix(folder, kind))))
            except SetupError as error:
                skipped.append(Skipped(name, error.message))
        report = _compare(servers, load, effort, skipped)
    shipped, tuned = report.ratio(OURS, SHIPPED), report.ratio(OURS, TUNED)
    why = skipped[0].reason if skipped else _VOID
    goals = (
        Goal("polls/s, ours / goosebit as shipped", _throughput(shipped), 20, True, why),
        Goal("polls/s, ours / goosebit on our event loop", _throughput(tuned), 20, True, why),
    )
    ratios = [shipped, tuned, report.ratio(OURS, BARE)]
    return _claim("ddi", "DDI polls over a Unix socket, kept connections", report, goals, ratios)


def tls(plane: BenchPlane, effort: Effort) -> Claim:
    """Measure polls over kept mutual TLS 1.3 connections against bare uvicorn."""
    load = Load(Mode.KEEP, _KEEP_CONNECTIONS, effort.seconds)
    return _against_bare("tls", "DDI polls over mutual TLS 1.3, kept connections", plane, load, effort)


def handshake(plane: BenchPlane, effort: Effort) -> Claim:
    """Measure polls with a full mutual TLS handshake each against bare uvicorn."""
    load = Load(Mode.HANDSHAKE, _HANDSHAKE_CONNECTIONS, effort.seconds)
    return _against_bare("handshake", "DDI polls, a full mutual TLS handshake each", plane, load, effort)


def _against_bare(name: str, title: str, plane: BenchPlane, load: Load, effort: Effort) -> Claim:
    client = plane.tls.target.tls
    assert client is not None
    with bare_uvicorn.serving_tls(
        plane.folder, plane.answer, POLL_PATH, server=plane.server, client=client, tickets=TICKETS
    ) as bare:
        report = _compare([(OURS, plane.tls), (BARE, bare)], load, effort)
    ratio = report.ratio(OURS, BARE)
    goals = (
        Goal("polls/s, ours / bare uvicorn", _throughput(ratio), 0.5, True, _VOID),
        Goal("server CPU a poll, ours / bare uvicorn", ratio.cost if ratio else None, 2.0, False, _VOID),
    )
    return _claim(name, title, report, goals, [ratio])


def _throughput(ratio: Ratio | None) -> Spread | None:
    return ratio.throughput if ratio else None


def _compare(
    servers: Sequence[tuple[str, Running]], load: Load, effort: Effort, skipped: Sequence[Skipped] = ()
) -> Report:
    say(f"{effort.rounds} rounds of {effort.seconds:g} s for each of {len(servers)} servers")
    rows = [Configuration(name, server, load) for name, server in servers]
    return compare(rows, rounds=effort.rounds, warm_up_seconds=effort.warm_up_seconds, skipped=skipped)


def _claim(
    name: str, title: str, report: Report, goals: tuple[Goal, ...], ratios: Sequence[Ratio | None]
) -> Claim:
    data = json.loads(report.as_json([ratio for ratio in ratios if ratio is not None]))
    return Claim(name, report.table(title), goals, data)
