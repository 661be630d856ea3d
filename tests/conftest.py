"""Fixtures: a real plane and real devices, each its own process, on free ports, in folders of their own."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fuseline.formats.mcuboot import HardwareId, TrustedKey, verify_image
from fuseline.formats.measurement import measure_image
from fuseline.formats.psa import SoftwareComponent
from fuseline.lab.factory import DOMAIN, HARDWARE, VENDOR, DevelopmentFleet, FleetPlan, ensure_fleet
from fuseline.lab.operator import OperatorClient
from fuseline.lab.softdevice import SoftDevice
from fuseline.plane.config import PlaneConfig

_numbers = itertools.count(1)


def _ignore(_: str) -> None:
    """Progress is for people."""


@dataclass
class RunningPlane:
    """A plane process on a fleet's folder; it can be killed and started again on the same ports."""

    fleet: DevelopmentFleet
    arguments: Sequence[str] = ()
    process: subprocess.Popen[str] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        port = [str(self.facts.get(key, ":0")).rpartition(":")[2] for key in ("device_url", "operator_url")]
        command = [sys.executable, "-m", "fuseline", "plane", "serve", "--state", str(self.fleet.state)]
        command += ["--device-port", port[0], "--operator-port", port[1], "--json", *self.arguments]
        log = self.fleet.state / "plane.test.log"
        with log.open("a") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, log.read_text()[-2000:]
        self.facts = json.loads(line)

    def kill(self) -> None:
        """Take the plane away at once, workers and all."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate()
        _wait(lambda: not _listening(self.device_url), "the workers end with their parent")

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=20)
        return self.process.returncode

    @property
    def device_url(self) -> str:
        return str(self.facts["device_url"])

    @property
    def operator_url(self) -> str:
        return str(self.facts["operator_url"])

    @property
    def config(self) -> PlaneConfig:
        return PlaneConfig.load(self.fleet.plane)

    @property
    def operator(self) -> OperatorClient:
        return OperatorClient(self.operator_url, self.config.operator_token)

    def log(self) -> str:
        return (self.fleet.state / "plane.test.log").read_text()

    def soft_device(self, *, enrolled: bool = True) -> SoftDevice:
        """Register a new soft device; enrolled unless told."""
        name = f"soft-{next(_numbers):04}.{DOMAIN}"
        device = SoftDevice.register(self.fleet, self.operator, self.device_url, name=name)
        if enrolled:
            reply = device.enrol()
            assert reply.status == 200, reply.body
        return device

    def measure(self, version: str) -> SoftwareComponent:
        """Return what a device that runs a release measures."""
        keys = [TrustedKey(key) for key in self.config.load_keys().release_keys]
        hardware = HardwareId.of(VENDOR, HARDWARE)
        image = verify_image(self.fleet.release(version), keys=keys, hardware=hardware, counter_floor=0)
        return measure_image(image)

    def publish(self, *versions: str) -> None:
        for version in versions or ("1.0.0", "2.0.0"):
            self.operator.publish(self.fleet.release(version), vendor=VENDOR, hardware=HARDWARE)

    def roll_out(self, version: str = "2.0.0") -> dict[str, Any]:
        return self.operator.roll_out(version, vendor=VENDOR, hardware=HARDWARE)


def _listening(url: str) -> bool:
    host, _, port = url.rpartition("//")[2].rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, int(port))) == 0


def _wait(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail(f"not within {seconds:g} s: {what}")


@dataclass
class RunningDevice:
    """A device process; its journal is read as it comes."""

    name: str
    process: subprocess.Popen[str]
    journal_path: Path

    def journal(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.journal_path.read_text().splitlines() if line]
        return [line for line in lines if event in (None, line["event"])]

    def wait_for(self, event: str, count: int = 1, seconds: float = 20.0) -> dict[str, Any]:
        """Wait for the `count`-th time that an event is journalled."""
        _wait(lambda: len(self.journal(event)) >= count, f"{event} of {self.name}", seconds)
        return self.journal(event)[count - 1]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture
def wait() -> Callable[..., Any]:
    """Wait for a condition, with a limit."""
    return _wait


@pytest.fixture
def make_fleet(tmp_path: Path) -> Callable[..., DevelopmentFleet]:
    """Make a fleet of one's own; keyword arguments are `FleetPlan`'s."""

    def make(**plan: Any) -> DevelopmentFleet:
        return ensure_fleet(tmp_path / f"fleet{next(_numbers)}", FleetPlan(**plan), _ignore)

    return make


@pytest.fixture
def start_plane() -> Iterator[Callable[..., RunningPlane]]:
    """Start planes that end with the test."""
    planes: list[RunningPlane] = []

    def start(fleet: DevelopmentFleet, *arguments: str) -> RunningPlane:
        plane = RunningPlane(fleet, arguments)
        planes.append(plane)
        plane.start()
        return plane

    yield start
    for plane in planes:
        if plane.process is not None and plane.process.poll() is None:
            plane.stop()


@pytest.fixture
def start_device(tmp_path: Path) -> Iterator[Callable[..., RunningDevice]]:
    """Start device processes that end with the test."""
    devices: list[RunningDevice] = []

    def start(fleet: DevelopmentFleet, name: str, url: str, *arguments: str) -> RunningDevice:
        journal = tmp_path / f"journal{next(_numbers)}.jsonl"
        command = [sys.executable, "-m", "fuseline", "device", "run", name, "--state", str(fleet.state)]
        with journal.open("w") as out, (tmp_path / "device.log").open("a") as log:
            process = subprocess.Popen(
                [*command, "--plane", url, "--json", *arguments], stdout=out, stderr=log, text=True
            )
        device = RunningDevice(name, process, journal)
        devices.append(device)
        return device

    yield start
    for device in devices:
        if device.process.poll() is None:
            device.stop()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlane]:
    """A plane with releases 1.0.0 and 2.0.0, shared by a module; tests register devices of their own."""
    state = tmp_path_factory.mktemp("plane") / "fleet"
    running = RunningPlane(ensure_fleet(state, FleetPlan(devices=1), _ignore))
    running.start()
    running.operator.import_manifest(*running.fleet.manifest())
    running.publish()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop()


@pytest.fixture
def measured(plane: RunningPlane) -> Callable[[str], SoftwareComponent]:
    """Return what a device that runs a release of the module's plane measures."""
    return plane.measure
