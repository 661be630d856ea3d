"""`fuseline factory`: making fleets."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from fuseline.cli.output import DEFAULT_STATE, AsJson, State, errors, print_json
from fuseline.lab.factory import FleetPlan, ensure_fleet

app = App(name="factory", help="Make development fleets.")


@app.command
def init(
    *,
    state: State = DEFAULT_STATE,
    devices: Annotated[
        int | None, Parameter(validator=Number(gte=1, lte=200), help="Devices to make; 3 unless told.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a development fleet: authorities, release keys, releases, devices and their manifest."""
    fleet = ensure_fleet(state.resolve(), FleetPlan(devices=devices), errors.print)
    if as_json:
        print_json({"state": str(fleet.state), "development": True, "devices": fleet.device_names})
    else:
        errors.print(f"development fleet of {len(fleet.device_names)} devices in {fleet.state}")
