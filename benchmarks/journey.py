"""From nothing to a fleet that is attested on its new release: the seconds of ``fuseline up``.

One run makes the certificate authorities, the releases and three devices, starts the plane and the devices,
enrols and attests them, rolls the second release out, and ends when each has attested it. No other program
has this journey, so what stands beside it is the patience of somebody who tries it for the first time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.claims import Claim, Goal, say
from benchmarks.measure import ROOT, Spread
from fuseline.errors import SetupError

if TYPE_CHECKING:
    from benchmarks.claims import Effort

GOAL_SECONDS = 60.0  # on two shared cores; a first try that takes longer is a first try that is given up
_PATIENCE_SECONDS = 150.0  # the command's own limit is 120


@dataclass(frozen=True, slots=True)
class Run:
    """One journey.

    Args:
        devices: How many devices were attested on the new release.
        attested_seconds: Until the last of them was, by the command's own clock.
        whole_seconds: The whole command by ours: with starting Python and stopping the fleet.
    """

    devices: int
    attested_seconds: float
    whole_seconds: float


def journey(effort: Effort) -> Claim:
    """Start a fleet in a new folder, as often as the effort says, and time each until it is attested.

    Raises:
        SetupError: The command fails, or says nothing that can be read.
    """
    runs = [_run(number) for number in range(1, effort.journeys + 1)]
    table = Table(title="From `fuseline up` to every device attested on the new release")
    for heading in ("run", "devices attested", "seconds until attested", "seconds of the whole command"):
        table.add_column(heading, justify="right")
    for number, run in enumerate(runs, 1):
        cells = (number, run.devices, f"{run.attested_seconds:.1f}", f"{run.whole_seconds:.1f}")
        table.add_row(*map(str, cells))
    whole = Spread.of([run.whole_seconds for run in runs])
    goal = Goal("seconds of the whole command", whole, GOAL_SECONDS, at_least=False)
    return Claim("journey", table, (goal,), {"runs": [asdict(run) for run in runs]})


def _run(number: int) -> Run:
    say(f"fuseline up, run {number}")
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fuseline-bench-") as name:
        command = [sys.executable, "-m", "fuseline", "up", "--until-attested", "--json"]
        try:
            done = subprocess.run(
                [*command, "--state", str(Path(name) / "state")],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SetupError("`fuseline up` does not get there", seconds=_PATIENCE_SECONDS) from error
        whole = time.perf_counter() - begun
    if done.returncode:
        raise SetupError("`fuseline up` fails", status=done.returncode, stderr=done.stderr[-800:])
    return _read(done.stdout, whole)


def _read(output: str, whole: float) -> Run:
    """Read the command's report, and believe it only if each device is attested.

    Raises:
        SetupError: It is no such report, or a device is not.
    """
    try:
        report = json.loads(output)
        devices, seconds = [bool(device["attested"]) for device in report["devices"]], report["seconds"]
        attested = Run(len(devices), float(seconds), whole)
    except (KeyError, TypeError, ValueError) as error:
        raise SetupError("`fuseline up` says nothing that can be read", stdout=output[-800:]) from error
    if not devices or not all(devices):
        raise SetupError("`fuseline up` ended with devices that are not attested", stdout=output[-800:])
    return attested
