"""What the operator sees: the services' facts, joined by device and by layer."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter

import msgspec

from fuseline.formats.ear import Tier
from fuseline.plane.ota.rollouts import Action
from fuseline.plane.ota.states import ActionState
from fuseline.plane.registry.directory import Device
from fuseline.plane.services import Services
from fuseline.plane.verifier.service import AppraisalRecord

STAGES = ("manufactured", "enrolled", "attested", "updating", "unproven", "contraindicated", "revoked")


class AppraisalReport(msgspec.Struct, frozen=True):
    """The last appraisal; `at` in seconds since the epoch."""

    status: str
    at: float
    reason: str | None


class ActionReport(msgspec.Struct, frozen=True):
    """The last update action."""

    id: int
    release: str
    state: str
    why: str | None


class StageReport(msgspec.Struct, frozen=True):
    """A stage that a device reached, and what proves it."""

    stage: str
    at: float
    evidence: dict[str, str | int | float | None]


class DeviceReport(msgspec.Struct, frozen=True):
    """One device."""

    name: str
    hardware: str
    stage: str
    release: str | None
    measured: str | None
    security_counter: int
    appraisal: AppraisalReport | None
    action: ActionReport | None
    last_seen: float | None
    revoked: str | None
    stages: list[StageReport]


class FleetReport(msgspec.Struct, frozen=True):
    """The fleet in numbers."""

    name: str
    domain: str
    development: bool
    devices: int
    stages: dict[str, int]


class LayerReport(msgspec.Struct, frozen=True):
    """One layer's live state; `health` is ok, warn, bad or none."""

    id: str
    health: str
    summary: str
    facts: list[tuple[str, str]]


class Overview(msgspec.Struct, frozen=True):
    """The console's first look."""

    fleet: FleetReport
    layers: list[LayerReport]


class Reporter:
    """Builds reports from one worker's services."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def devices(self) -> list[DeviceReport]:
        """Report all devices, by name."""
        appraisals = self._services.verifier.latest()
        actions = self._services.rollouts.latest()
        versions = {release.release_id: release.version for release in self._services.releases.all()}
        return [
            self._device(device, appraisals.get(device.device_id), actions.get(device.device_id), versions)
            for device in self._services.directory.devices()
        ]

    def _device(
        self,
        device: Device,
        appraisal: AppraisalRecord | None,
        action: Action | None,
        versions: dict[int, str],
    ) -> DeviceReport:
        stages = self._stages(device, versions)
        return DeviceReport(
            name=device.name,
            hardware=f"{device.vendor}/{device.hardware}",
            stage=_stage(device, appraisal, action, enrolled=len(stages) > 1),
            release=appraisal.release_version if appraisal else None,
            measured=appraisal.measured.hex() if appraisal else None,
            security_counter=self._services.verifier.floor(device.device_id),
            appraisal=AppraisalReport(appraisal.status, appraisal.at, appraisal.reason)
            if appraisal
            else None,
            action=(
                ActionReport(action.action_id, versions[action.release_id], action.state.value, action.why)
                if action
                else None
            ),
            last_seen=device.last_seen,
            revoked=device.revoked_reason if device.revoked_at is not None else None,
            stages=stages,
        )

    def _stages(self, device: Device, versions: dict[int, str]) -> list[StageReport]:
        stages = [
            StageReport("manufactured", device.manufactured_at, {"idevid_serial": device.idevid_serial})
        ]
        issued = self._services.directory.certificates(device.device_id)
        if issued:
            facts: dict[str, str | int | float | None] = {
                "ldevid_serial": issued[-1].serial,
                "not_after": dt.datetime.fromtimestamp(issued[-1].not_after, dt.UTC).isoformat(),
                "certificates": len(issued),
            }
            stages.append(StageReport("enrolled", issued[0].issued_at, facts))
        first = self._services.verifier.first_affirming(device.device_id)
        if first is not None:
            stages.append(StageReport("attested", first.at, _measured(first)))
        stages += [
            self._update(action, versions)
            for action in self._services.rollouts.history(device.device_id)
            if action.state is ActionState.ATTESTED
        ]
        return stages

    def _update(self, action: Action, versions: dict[int, str]) -> StageReport:
        appraisal = self._services.verifier.by_id(action.appraisal_id or 0)
        facts: dict[str, str | int | float | None] = {
            "action": action.action_id,
            "release": versions[action.release_id],
            "seconds": round(action.updated_at - action.created_at, 3),
        }
        return StageReport("updated", action.updated_at, facts | (_measured(appraisal) if appraisal else {}))

    def overview(self) -> Overview:
        """Report the fleet and its layers."""
        devices = self.devices()
        settings = self._services.config.settings
        counts = Counter(device.stage for device in devices)
        fleet = FleetReport(
            name=settings.fleet,
            domain=settings.domain,
            development=settings.development,
            devices=len(devices),
            stages={stage: counts[stage] for stage in STAGES},
        )
        present = self._present(devices)
        return Overview(fleet, _layers(devices, present, development=settings.development))

    def _present(self, devices: list[DeviceReport]) -> int:
        # Twice the poll interval, and the second that presence is written behind.
        horizon = time.time() - 2 * self._services.config.settings.poll_seconds - 2
        return sum(1 for device in devices if device.last_seen and device.last_seen > horizon)


def _measured(appraisal: AppraisalRecord) -> dict[str, str | int | float | None]:
    return {
        "appraisal": appraisal.appraisal_id,
        "status": appraisal.status,
        "version": appraisal.release_version,
        "measured": appraisal.measured.hex(),
    }


def _stage(
    device: Device, appraisal: AppraisalRecord | None, action: Action | None, *, enrolled: bool
) -> str:
    if device.revoked_at is not None:
        return "revoked"
    if action is not None and action.state is ActionState.UNPROVEN:
        return "unproven"
    if appraisal is not None and appraisal.status != Tier.AFFIRMING:
        return "contraindicated"
    if action is not None and action.state in (ActionState.OFFERED, ActionState.RUNNING):
        return "updating"
    if appraisal is not None:
        return "attested"
    return "enrolled" if enrolled else "manufactured"


def _share(part: int, whole: int, *, worst: str = "warn") -> str:
    if whole == 0:
        return "none"
    return "ok" if part == whole else worst


def _layers(devices: list[DeviceReport], present: int, *, development: bool) -> list[LayerReport]:
    live = [device for device in devices if device.revoked is None]
    total = len(live)
    genuine = sum(1 for device in live if device.appraisal)
    affirming = sum(1 for d in live if d.appraisal and d.appraisal.status == Tier.AFFIRMING)
    refused = genuine - affirming
    releases = Counter(device.release or "unknown" for device in live if device.appraisal)
    unproven = [device for device in live if device.stage == "unproven"]
    open_actions = sum(
        1 for d in live if d.action and d.action.state in ("scheduled", "offered", "running", "unproven")
    )
    counters = Counter(device.security_counter for device in live)
    cloud = "warn" if unproven else ("bad" if refused else _share(affirming, total))
    return [
        LayerReport(
            "cloud",
            cloud,
            f"{affirming} of {total} devices attested",
            [
                ("Open update actions", str(open_actions)),
                ("Unproven updates", str(len(unproven))),
                ("Revoked devices", str(len(devices) - total)),
                ("Certificate authority", "development" if development else "production"),
            ],
        ),
        LayerReport(
            "application",
            _share(present, total),
            f"{present} of {total} devices heard from lately",
            [("Channel", "mutual TLS 1.3"), ("Key", "in the secure element")],
        ),
        LayerReport(
            "os",
            "none",
            "the application runs as a process of its own; isolation is not measured yet",
            [("Device class", "embedded Linux")],
        ),
        LayerReport(
            "firmware",
            "bad" if refused else _share(affirming, total),
            ", ".join(f"{version} on {count}" for version, count in sorted(releases.items()))
            or "not measured",
            [("Not a known release", str(refused))],
        ),
        LayerReport(
            "boot",
            "bad" if refused else _share(genuine, total),
            f"{genuine} of {total} devices sent a boot record",
            [("Security counter", ", ".join(f"{c} on {n}" for c, n in sorted(counters.items())))],
        ),
        LayerReport(
            "silicon",
            _share(genuine, total),
            f"{genuine} of {total} instances proved their attestation key",
            [("Root of trust", "virtual secure element (software, not hardware-backed)")],
        ),
    ]
