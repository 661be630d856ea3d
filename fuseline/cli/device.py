"""`fuseline device`: running devices, and what the plane knows of them."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from fuseline.cli.output import (
    DEFAULT_STATE,
    AsJson,
    Parent,
    State,
    TlsChoice,
    console,
    print_json,
    print_table,
)
from fuseline.lab.factory import open_fleet

app = App(name="device", help="Run devices of a development fleet, and see and revoke devices of a plane.")


@app.command
def run(
    name: str,
    *,
    plane: str,
    state: State = DEFAULT_STATE,
    tls: TlsChoice = "auto",
    as_json: AsJson = False,
    parent: Parent = 0,
) -> None:
    """Power a device on and let it live until SIGINT or SIGTERM; prints its journal.

    Args:
        name: The device's dNSName.
        plane: The plane's device port, https://HOST:PORT.
        state: Folder that keeps the fleet.
        tls: How TLS uses the element's key.
        as_json: Print JSON lines.
        parent: Process to end with.
    """
    # Loaded here, so that the other verbs need no element, and this one none of the plane's services.
    from fuseline.device.agent.agent import Outcome  # noqa: PLC0415
    from fuseline.device.agent.config import DeviceConfig  # noqa: PLC0415
    from fuseline.device.agent.device import Device  # noqa: PLC0415
    from fuseline.device.agent.journal import Journal  # noqa: PLC0415
    from fuseline.device.agent.link import TlsMode  # noqa: PLC0415
    from fuseline.device.element.hardening import die_with_parent  # noqa: PLC0415

    if parent:
        die_with_parent(parent)
    folder = open_fleet(state.resolve()).device(name)
    config = DeviceConfig.load(folder)
    journal = Journal(sys.stdout if as_json else _Lines(), name)
    device = Device(folder, plane=plane, tls=TlsMode(tls), journal=journal, config=config)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: device.stop())
    if device.run() is Outcome.RESTART:
        # The same process number, and nothing of the old process's memory.
        os.execv(sys.executable, [sys.executable, "-m", "fuseline", *sys.argv[1:]])


class _Lines:
    """Writes journal lines for people."""

    def write(self, line: str) -> int:
        event: dict[str, Any] = json.loads(line)
        moment = dt.datetime.fromtimestamp(event.pop("at"), dt.UTC).strftime("%H:%M:%S.%f")[:-3]
        layer, what = event.pop("layer"), event.pop("event")
        event.pop("device")
        facts = "  ".join(f"{key} {value}" for key, value in event.items())
        console.print(f"{moment}  {layer:<12} {what:<22} {facts}", markup=False, soft_wrap=True)
        return len(line)

    def flush(self) -> None:
        """Nothing is held back."""


def _operator(state: State) -> Any:
    from fuseline.lab.operator import OperatorClient  # noqa: PLC0415 - not for `run`
    from fuseline.plane.config import PlaneConfig  # noqa: PLC0415

    return OperatorClient.for_plane(PlaneConfig.load(state.resolve() / "plane"))


@app.command(name="list")
def list_devices(*, state: State = DEFAULT_STATE, as_json: AsJson = False) -> None:
    """List the devices of the running plane."""
    devices = _operator(state).devices()
    if as_json:
        print_json({"devices": devices})
        return
    rows = [
        [
            device["name"],
            device["stage"],
            device["release"] or "unknown",
            (device["measured"] or "")[:16],
            device["appraisal"]["status"] if device["appraisal"] else "none",
            f"{device['action']['release']} {device['action']['state']}" if device["action"] else "",
        ]
        for device in devices
    ]
    print_table("Devices", ["device", "stage", "release", "measured", "appraisal", "update"], rows)


@app.command
def show(name: str, *, state: State = DEFAULT_STATE, as_json: AsJson = False) -> None:
    """Show one device: its stages, and what proves each."""
    device = _operator(state).device(name)
    if as_json:
        print_json(device)
        return
    console.print(f"[bold]{device['name']}[/]  {device['hardware']}  {device['stage']}")
    if device["action"] and device["action"]["why"]:
        console.print(f"update {device['action']['release']}: {device['action']['why']}", markup=False)
    rows = [
        [
            stage["stage"],
            dt.datetime.fromtimestamp(stage["at"], dt.UTC).isoformat(timespec="seconds"),
            "\n".join(f"{key} {value}" for key, value in stage["evidence"].items()),
        ]
        for stage in device["stages"]
    ]
    print_table("Stages", ["stage", "at", "evidence"], rows)


@app.command
def revoke(
    name: str,
    *,
    reason: Annotated[str, Parameter(help="Why; it is kept and shown.")],
    state: State = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    """Revoke a device: its next request is refused, on open connections too."""
    _operator(state).revoke(name, reason)
    if as_json:
        print_json({"revoked": name})
    else:
        console.print(f"revoked {name}", markup=False)
