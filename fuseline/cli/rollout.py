"""`fuseline rollout`: bringing a release to devices."""

from __future__ import annotations

from cyclopts import App

from fuseline.cli.output import DEFAULT_STATE, AsJson, State, console, print_json
from fuseline.lab.operator import OperatorClient
from fuseline.plane.config import PlaneConfig

app = App(name="rollout", help="Roll releases out.")


@app.command
def start(
    version: str, *, vendor: str, hardware: str, state: State = DEFAULT_STATE, as_json: AsJson = False
) -> None:
    """Roll a published release out to all devices of its hardware class.

    Args:
        version: The release's version.
        vendor: Vendor domain of the hardware class.
        hardware: Name of the hardware class.
        state: Folder that keeps the fleet.
        as_json: Print one JSON document.
    """
    client = OperatorClient.for_plane(PlaneConfig.load(state.resolve() / "plane"))
    started = client.roll_out(version, vendor=vendor, hardware=hardware)
    if as_json:
        print_json(started)
        return
    console.print(f"rollout {started['rollout']}: {len(started['devices'])} devices")
    for name, why in started["skipped"].items():
        console.print(f"  left out {name}: {why}", markup=False)
