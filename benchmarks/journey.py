"""From nothing to a fleet that is attested on its new release: the seconds of ``fuseline up``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.claims import Claim, Goal, say
from benchmarks.measure import ROOT, Spread
from fuseline.errors import SetupError

if TYPE_CHECKING:
    from benchmarks.claims import Effort

# A newcomer's patience with a first command; the rest of it is in the README's first lines.
GOAL_SECONDS = 60.0
_PATIENCE = 150.0


def journey(effort: Effort) -> Claim:
    """Start a fleet in a new folder, as often as the effort says, and time each until it is attested.

    Raises:
        SetupError: The command fails, or says nothing that can be read.
    """
    seconds = [_run(number) for number in range(1, effort.journeys + 1)]
    spread = Spread.of(seconds)
    table = Table(title="From `fuseline up` to every device attested on the new release")
    for heading in ("run", "seconds"):
        table.add_column(heading, justify="right")
    for number, took in enumerate(seconds, 1):
        table.add_row(str(number), f"{took:.1f}")
    goal = Goal("seconds until attested", spread, GOAL_SECONDS, at_least=False)
    return Claim("journey", table, (goal,), {"seconds": seconds})


def _run(number: int) -> float:
    say(f"fuseline up, run {number}")
    with tempfile.TemporaryDirectory(prefix="fuseline-bench-") as name:
        command = [sys.executable, "-m", "fuseline", "up", "--until-attested", "--json"]
        try:
            done = subprocess.run(
                [*command, "--state", str(Path(name) / "state")],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SetupError("`fuseline up` does not get there", seconds=_PATIENCE) from error
    if done.returncode:
        raise SetupError("`fuseline up` fails", status=done.returncode, stderr=done.stderr[-800:])
    return _seconds(done.stdout)


def _seconds(output: str) -> float:
    """Read the command's last line of JSON."""
    try:
        return float(json.loads(output.strip().splitlines()[-1])["seconds"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise SetupError("`fuseline up` does not say how long it took", stdout=output[-800:]) from error
