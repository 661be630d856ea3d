"""The agent goes on, whatever deployment its plane offers."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
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
from fuseline.device.agent.update import Installer, Task, UpdateClient
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
    """A plane that takes every report and gives no artifact."""

    def __init__(self) -> None:
        self.told: list[ddi.Feedback] = []

    def request(self, method: str, path: str, *, body: bytes = b"", headers: object = None) -> Answer:
        del method, path, headers
        self.told.append(msgspec.json.decode(body, type=ddi.Feedback))
        return Answer(200, {}, b"")


@dataclass
class Bench:
    """An agent on a device that runs a confirmed image."""

    agent: Agent
    config: DeviceConfig
    store: SlotStore
    journal: io.StringIO

    def carry_out(self, task: Task) -> tuple[float | None, Listener]:
        link = Listener()
        return self.agent._carry_out(UpdateClient(self.config, link), link, task, 5), link


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
