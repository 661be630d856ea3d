"""Measure what Fuseline claims, with the peer or the limit beside it, on this machine.

::

    python -m benchmarks [--quick] [--json FILE] [--only ddi|tls|handshake|journey|boots|engines|chips]

It takes under fifteen minutes, most of them for ten thousand chips, with ``--quick`` under three, and exits
with 1 when a target was missed.
What could not be measured (a peer that cannot be installed) is said and is no miss.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks import chip, journey, plane
from benchmarks.claims import FULL, QUICK, Claim, known_errors
from benchmarks.measure import Machine, require_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.claims import Effort

_POLLS: dict[str, Callable[[plane.BenchPlane, Effort], Claim]] = {
    "ddi": plane.ddi,
    "tls": plane.tls,
    "handshake": plane.handshake,
}
_ALONE: dict[str, Callable[[Effort], Claim]] = {
    "journey": journey.journey,
    "boots": chip.boots,
    "engines": chip.engines,
    "chips": chip.chips,
}
_NAMES = (*_POLLS, *_ALONE)
_WIDTH = 120


def _measured(names: Sequence[str], effort: Effort) -> Iterator[Claim]:
    polls = [_POLLS[name] for name in names if name in _POLLS]
    if polls:
        with plane.bench_plane() as running:
            for poll in polls:
                yield poll(running, effort)
    for name in names:
        if name in _ALONE:
            yield _ALONE[name](effort)


def _console() -> Console:
    # A pipe has no width of its own, and rich would break every cell at 80 columns.
    return Console(width=None if sys.stdout.isatty() else _WIDTH)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return 0 when no target was missed, 1 when one was, 2 when nothing ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Fuseline beside its peers.")
    parser.add_argument("--quick", action="store_true", help="shorter rounds, one journey, fewer chips")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--only", choices=_NAMES, action="append", help="one claim; may be repeated")
    arguments = parser.parse_args(argv)
    claims: list[Claim] = []
    with known_errors():
        require_cores()
        machine = Machine.here()
        for claim in _measured(arguments.only or _NAMES, QUICK if arguments.quick else FULL):
            _console().print(claim.show(), "")
            claims.append(claim)
    if arguments.json is not None:
        document = {"machine": asdict(machine), "claims": [claim.as_data() for claim in claims]}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 1 if any(goal.reached is False for claim in claims for goal in claim.goals) else 0


if __name__ == "__main__":
    sys.exit(main())
