"""The command line: one command, `fuseline`, noun then verb."""

from __future__ import annotations

import sys

from cyclopts import App

import fuseline
from fuseline.cli.output import fail
from fuseline.errors import FuselineError

app = App(
    name="fuseline",
    help="The IoT device security stack, from the fuses in the silicon to the cloud that runs the fleet.",
    version=fuseline.__version__,
    result_action="return_value",
)
# Loaded when called: a device needs nothing of the plane, and the other way round.
app.command("fuseline.cli.up:up", name="up")
app.command("fuseline.cli.doctor:doctor", name="doctor")
app.command("fuseline.cli.factory:app", name="factory")
app.command("fuseline.cli.plane:app", name="plane")
app.command("fuseline.cli.device:app", name="device")
app.command("fuseline.cli.release:app", name="release")
app.command("fuseline.cli.rollout:app", name="rollout")
app.command("fuseline.cli.chip:app", name="chip")
app.command("fuseline.cli.lab:app", name="lab")


def main() -> None:
    """Run the command line; a coded error ends it with status 1, wrong usage with 2."""
    try:
        result = app(exit_on_error=True)
    except FuselineError as error:
        sys.exit(fail(error, as_json="--json" in sys.argv))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)
