"""The journey: a development fleet from the factory to an attested update, for people to watch.

The plane and each device are processes of their own. What is shown comes from two sides: what devices
journal, and what the plane has on record. Only the second decides when a stage is reached.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fuseline
from fuseline.errors import FuselineError, JourneyProcess, JourneyTimeout
from fuseline.lab.factory import (
    FIRST_RELEASE,
    HARDWARE,
    SECOND_RELEASE,
    VENDOR,
    DevelopmentFleet,
    FleetPlan,
    ensure_fleet,
)
from fuseline.lab.operator import OperatorClient
from fuseline.lab.processes import Child, stop_all
from fuseline.plane.config import PlaneConfig

_LOOK = 0.2  # seconds between looks at the plane's record
_KEPT_EVENTS = 200  # of each device, for the report and for errors

Show = Callable[[dict[str, Any]], None]
"""Shows one event to a person."""


@dataclass(frozen=True, slots=True)
class JourneyOptions:
    """What `fuseline up` was asked for.

    Attributes:
        state: The fleet's folder.
        plan: What to make at first run.
        timeout: Seconds until every device must attest the new release.
        device_port: TCP port; 0 takes a free one.
        operator_port: TCP port; 0 takes a free one.
        tls: How devices use the element's key: auto, provider or relay.
    """

    state: Path
    plan: FleetPlan = field(default_factory=FleetPlan)
    timeout: float = 120.0
    device_port: int = 0
    operator_port: int = 0
    tls: str = "auto"


class Journey:
    """One run of a development fleet."""

    def __init__(self, options: JourneyOptions, show: Show) -> None:
        self._options = options
        self._show = show
        self._began = time.time()
        self._started = time.monotonic()
        self._deadline = self._started + options.timeout
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._history: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._children: list[Child] = []
        self._plane_ready: dict[str, Any] | None = None
        self.stage = "factory"
        """Where the journey is: factory, plane, attest, update, running."""
        self.fleet: DevelopmentFleet | None = None
        self.operator: OperatorClient | None = None

    # --- running ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Make or open the fleet, start plane and devices, and end them all afterwards."""
        try:
            self._start()
            yield
        finally:
            # Devices first: a plane that goes away under them would look like a fault.
            stop_all(self._children[1:])
            stop_all(self._children[:1])
            self._drain()

    def _start(self) -> None:
        options = self._options
        self.fleet = ensure_fleet(
            options.state, options.plan, lambda text: self._tell("factory", "factory", text=text)
        )
        self._tell("factory", "factory.ready", state=str(options.state), devices=len(self.fleet.device_names))
        self.stage = "plane"
        self._start_plane(self.fleet)
        assert self._plane_ready is not None
        self.operator = OperatorClient.for_plane(PlaneConfig.load(self.fleet.plane))
        new = self.operator.import_manifest(*self.fleet.manifest())
        self._tell("cloud", "manifest.imported", new=new)
        self._publish(FIRST_RELEASE)
        for name in self.fleet.device_names:
            self._start_device(self.fleet, name)

    def _start_plane(self, fleet: DevelopmentFleet) -> None:
        ready = threading.Event()

        def on_event(event: dict[str, Any]) -> None:
            self._plane_ready = event
            ready.set()

        arguments = ["plane", "serve", "--state", str(fleet.state), "--json"]
        arguments += ["--device-port", str(self._options.device_port)]
        arguments += ["--operator-port", str(self._options.operator_port)]
        child = Child("plane", arguments, fleet.state / "logs/plane.log", on_event)
        self._children.append(child)
        while not ready.wait(_LOOK):
            self._check_processes()
            self._check_time([])
        self._tell("cloud", "plane.ready", **(self._plane_ready or {}))

    def _start_device(self, fleet: DevelopmentFleet, name: str) -> None:
        assert self._plane_ready is not None
        arguments = ["device", "run", name, "--state", str(fleet.state), "--json"]
        arguments += ["--plane", self._plane_ready["device_url"], "--tls", self._options.tls]
        log = fleet.state / "logs" / f"{name}.log"
        self._children.append(Child(name, arguments, log, self._events.put))

    def _publish(self, version: str) -> None:
        assert self.fleet is not None
        assert self.operator is not None
        published = self.operator.publish(self.fleet.release(version), vendor=VENDOR, hardware=HARDWARE)
        self._tell("cloud", "release.published", version=version, digest=published["digest"])

    # --- the stages ---------------------------------------------------------------------------------

    def attest_everything(self) -> dict[str, Any]:
        """Take every device to the new release, measured; returns the report.

        Raises:
            JourneyError: The stage that failed, with what is known of it.
            PlaneRefused: The plane refuses a step.
        """
        assert self.operator is not None
        self.stage = "attest"
        self._reach(self._attested_now)
        self.stage = "update"
        self._publish(SECOND_RELEASE)
        if not all(device["release"] == SECOND_RELEASE for device in self.operator.devices()):
            started = self.operator.roll_out(SECOND_RELEASE, vendor=VENDOR, hardware=HARDWARE)
            self._tell(
                "cloud",
                "rollout.started",
                rollout=started["rollout"],
                release=SECOND_RELEASE,
                devices=len(started["devices"]),
            )
        self._reach(lambda device: self._attested_now(device) and device["release"] == SECOND_RELEASE)
        report = self.report()
        self._tell("cloud", "journey.done", devices=len(report["devices"]), seconds=report["seconds"])
        return report

    def _attested_now(self, device: dict[str, Any]) -> bool:
        """Say whether a device attested in this run: what is on record from before proves nothing now."""
        return _affirmed(device) and float(device["appraisal"]["at"]) >= self._began

    def _reach(self, reached: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until the plane has it on record that every device reached the stage."""
        assert self.operator is not None
        done: set[str] = set()
        while True:
            self._drain()
            devices = self.operator.devices()
            for device in devices:
                if device["name"] not in done and reached(device):
                    done.add(device["name"])
                    self._tell(
                        "cloud",
                        f"{self.stage}.proven",
                        device=device["name"],
                        release=device["release"],
                        measured=device["measured"],
                        status=device["appraisal"]["status"],
                    )
            if devices and len(done) == len(devices):
                return
            self._check_processes()
            self._check_time([device for device in devices if device["name"] not in done])
            time.sleep(_LOOK)

    def watch(self, stop: threading.Event) -> None:
        """Go on showing what devices say until asked to stop.

        Raises:
            JourneyProcess: A process of the fleet ended on its own.
        """
        self.stage = "running"
        while not stop.wait(_LOOK):
            self._drain()
            self._check_processes()

    # --- telling ------------------------------------------------------------------------------------

    def _tell(self, layer: str, event: str, *, device: str | None = None, **facts: Any) -> None:
        self._show({"seconds": self._elapsed(), "device": device, "layer": layer, "event": event} | facts)

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _drain(self) -> None:
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            history = self._history[event["device"]]
            history.append(event)
            del history[:-_KEPT_EVENTS]
            facts = {key: value for key, value in event.items() if key != "at"}
            self._show({"seconds": self._elapsed()} | facts)

    def _check_processes(self) -> None:
        for child in self._children:
            status = child.ended
            if status is not None:
                raise JourneyProcess(
                    f"{child.name} ended on its own",
                    stage=self.stage,
                    status=status,
                    log=str(child.log),
                    last_words=child.last_words(),
                )

    def _check_time(self, missing: list[dict[str, Any]]) -> None:
        if time.monotonic() < self._deadline:
            return
        raise JourneyTimeout(
            f"the stage {self.stage!r} was not reached in {self._options.timeout:g} s",
            stage=self.stage,
            devices=[
                {
                    "name": device["name"],
                    "stage": device["stage"],
                    "appraisal": device["appraisal"],
                    "action": device["action"],
                    "last_events": self._history[device["name"]][-3:],
                }
                for device in missing
            ],
        )

    def report(self) -> dict[str, Any]:
        """Return the JSON document of the run: per device, each stage with its evidence."""
        assert self.operator is not None
        self._drain()
        return {
            "fuseline": fuseline.__version__,
            "development": True,
            "state": str(self._options.state),
            "target": SECOND_RELEASE,
            "plane": self._plane_ready,
            "seconds": self._elapsed(),
            "devices": [self._device_report(device) for device in self.operator.devices()],
        }

    def _device_report(self, device: dict[str, Any]) -> dict[str, Any]:
        history = self._history[device["name"]]
        boots = [_boot_stage(event) for event in history if event["event"] == "measured"]
        stages = sorted([*device["stages"], *boots], key=lambda stage: float(stage["at"]))
        previous: float | None = None
        for stage in stages:
            # How long after the stage before: clocks of device and plane are this machine's one.
            stage["seconds"] = round(stage["at"] - previous, 3) if previous is not None else None
            previous = stage["at"]
        return {
            "name": device["name"],
            "hardware": device["hardware"],
            "release": device["release"],
            "measured": device["measured"],
            "security_counter": device["security_counter"],
            "appraisal": device["appraisal"],
            "attested": _affirmed(device),
            "stages": stages,
        }


def _boot_stage(event: dict[str, Any]) -> dict[str, Any]:
    evidence = {key: event[key] for key in ("version", "digest", "signer_id", "slot", "confirmed", "counter")}
    return {"stage": "booted", "at": event["at"], "evidence": evidence | {"boot_seconds": event["took"]}}


def _affirmed(device: dict[str, Any]) -> bool:
    return bool(device["appraisal"] and device["appraisal"]["status"] == "affirming")


def failure(error: FuselineError, journey: Journey) -> dict[str, Any]:
    """Return the JSON document of a run that failed: the coded error, and how far each device came."""
    document: dict[str, Any] = {
        "fuseline": fuseline.__version__,
        "stage": journey.stage,
        "error": error.as_dict(),
        "devices": [],
    }
    with contextlib.suppress(FuselineError, AssertionError):
        document["devices"] = journey.report()["devices"]
    return document
