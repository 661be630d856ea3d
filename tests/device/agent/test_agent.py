"""The agent goes on, whatever deployment its plane offers."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fuseline.device.agent.agent import Agent, Boot
from fuseline.device.agent.config import DeviceConfig, DeviceSettings
from fuseline.device.agent.journal import Journal
from fuseline.device.agent.link import Answer, Line, PlaneLink, TlsMode
from fuseline.device.agent.update import Installer, PendingUpdate, Task, UpdateClient
from fuseline.device.element import virtual
from fuseline.device.element.client import ElementPower
from fuseline.device.firmware import loader
from fuseline.device.firmware.slots import SlotStore
from fuseline.errors import PlaneRefused
from fuseline.formats import ddi
from fuseline.formats.mcuboot import TrustedKey
from fuseline.lab.releases import ReleaseSpec, build_payload, sign_release

SLOT_SIZE = 16 * 1024


class Listener(PlaneLink):
    """A plane that takes every report, or refuses each with a code, and gives one artifact or none."""

    def __init__(self, *, refuse: str | None = None, artifact: bytes = b"") -> None:
        self.told: list[ddi.Feedback] = []
        self._refuse = refuse
        self._artifact = artifact

    def request(self, method: str, path: str, *, body: bytes = b"", headers: object = None) -> Answer:
        del method, path, headers
        self.told.append(msgspec.json.decode(body, type=ddi.Feedback))
        if self._refuse and (len(self.told) > 1 or not self._artifact):
            raise PlaneRefused("refused", plane_code=self._refuse)
        return Answer(200, {}, b"")

    @contextmanager
    def download(self, url: str, *, offset: int) -> Iterator[http.client.HTTPResponse]:
        del url
        near, far = socket.socketpair()
        with near, far:
            body = self._artifact[offset:]
            far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            far.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(near)
            response.begin()
            yield response

    def close(self) -> None:
        pass


@dataclass
class Bench:
    """An agent on a device that runs a confirmed image."""

    agent: Agent
    config: DeviceConfig
    store: SlotStore
    journal: io.StringIO
    release_key: Path

    def carry_out(self, task: Task, link: Listener | None = None) -> tuple[float | None, Listener]:
        link = link or Listener()
        return self.agent._carry_out(UpdateClient(self.config, link), link, task, 5), link

    def tell_end(self, pending: PendingUpdate, link: Listener) -> list[ddi.Feedback]:
        """Leave an update pending and have its end told; returns what was told."""
        path = self.config.folder / "agent/pending.json"
        path.write_bytes(msgspec.json.encode(pending))
        self.agent._tell_end(UpdateClient(self.config, link))
        assert self.agent._installer.pending is None
        return link.told


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = tmp_path / "release.pem"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    settings = DeviceSettings(
        "dev-1.acme.example", "acme.example", "lock-v1", "acme", "plane.example", SLOT_SIZE
    )
    config = DeviceConfig(tmp_path, settings, (TrustedKey(spki),))
    store = SlotStore.create(tmp_path / "slots", SLOT_SIZE)
    spec = ReleaseSpec("1.0.0", 1, settings.vendor, settings.hardware, SLOT_SIZE)
    with store.begin_write(0) as writer:
        writer.write(sign_release(build_payload("1.0.0"), spec, pem))
        writer.finish("permanent")
    decision = loader.boot(store, keys=config.release_keys, hardware=config.hardware_id, counter_floor=0)
    virtual.provision(tmp_path / "element", b"i" * 32)
    power = ElementPower(tmp_path / "element")
    element = power.on()
    line = Line("127.0.0.1", 9, "plane.example", b"", element, power.relay_path, TlsMode.RELAY)
    journal = io.StringIO()
    yield Bench(
        Agent(
            config,
            boot=Boot(decision, lambda: None),
            line=line,
            installer=Installer(config, store),
            journal=Journal(journal, settings.name),
            stop=threading.Event(),
        ),
        config,
        store,
        journal,
        pem,
    )
    element.close()
    power.dispose()


def task(*, size: int, sha256: str = "00" * 32) -> Task:
    links = ddi.ArtifactLinks(ddi.Href("/a"), ddi.Href("/a"))
    return Task("7", "2.0.0", ddi.Artifact("image.bin", ddi.Hashes("", "", sha256), size, links))


@pytest.mark.parametrize("size", [SLOT_SIZE + 1, 2**62, 0, -1])
def test_a_deployment_of_an_impossible_size_does_not_end_the_device(bench: Bench, size: int) -> None:
    before = [bench.store.read(index) for index in range(2)]
    sleep, link = bench.carry_out(task(size=size))
    assert sleep == 5.0
    closed = link.told[-1].status
    assert (closed.execution, closed.result.finished) == (ddi.Execution.CLOSED, ddi.Finished.FAILURE)
    assert "E_IMAGE_SIZE" in closed.details[0]
    assert [json.loads(line)["event"] for line in bench.journal.getvalue().splitlines()] == [
        "update.started",
        "update.refused",
    ]
    assert [bench.store.read(index) for index in range(2)] == before


def test_a_deployment_without_a_digest_is_the_plane_s_fault(bench: Bench) -> None:
    with pytest.raises(PlaneRefused):
        bench.carry_out(task(size=100, sha256="../../etc/passwd"))
    assert not list((bench.config.folder / "agent").glob("*.part"))


def test_an_installed_image_is_restarted_into_even_if_the_plane_does_not_want_to_know(bench: Bench) -> None:
    spec = ReleaseSpec("2.0.0", 2, bench.config.settings.vendor, bench.config.settings.hardware, SLOT_SIZE)
    image = sign_release(build_payload("2.0.0"), spec, bench.release_key)
    link = Listener(refuse="E_INTERNAL", artifact=image)
    wait, _ = bench.carry_out(task(size=len(image), sha256=hashlib.sha256(image).hexdigest()), link)
    assert wait is None  # restart
    pending = bench.agent._installer.pending
    assert pending is not None
    assert (pending.version, pending.installed) == ("2.0.0", True)


def test_an_image_that_was_installed_and_does_not_run_is_told_as_reverted(bench: Bench) -> None:
    [told] = bench.tell_end(PendingUpdate("7", "2.0.0", "ab" * 32, installed=True), Listener())
    assert told.status.result.finished is ddi.Finished.FAILURE
    assert told.status.details == ["reverted to 1.0.0: the new image did not boot"]


def test_a_power_cut_before_the_slot_was_complete_is_no_failure(bench: Bench) -> None:
    """Nothing was tried, the plane still offers the update, and the device takes it up again."""
    assert bench.tell_end(PendingUpdate("7", "2.0.0", "ab" * 32), Listener()) == []


def test_a_plane_that_lost_the_action_does_not_keep_the_device_from_the_next(bench: Bench) -> None:
    pending = PendingUpdate("7", "2.0.0", "ab" * 32, installed=True)
    bench.tell_end(pending, Listener(refuse="E_NOT_FOUND"))
    assert "E_NOT_FOUND" in bench.journal.getvalue()
    path = bench.config.folder / "agent/pending.json"
    path.write_bytes(msgspec.json.encode(pending))
    link = Listener(refuse="E_INTERNAL")
    with pytest.raises(PlaneRefused):
        bench.agent._tell_end(UpdateClient(bench.config, link))
    assert bench.agent._installer.pending == pending  # to be told later
