"""`fuseline lab chip-attacks`: the catalogue of attacks on the chip."""

from __future__ import annotations

import hashlib
from typing import Annotated

from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fuseline.cli.output import AsJson, console, errors, print_json, print_table
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.lab.chip_attacks.catalogue import CATALOGUE, CatalogueReport, carry_out, choose
from fuseline.lab.chip_attacks.model import Attack, AttackResult, Effort, Verdict
from fuseline.lab.chip_attacks.rig import Rig

_COLOURS = {Verdict.REFUSED: "green", Verdict.ESCAPED: "bold red"}
_SHOWN = 20
"""Escaped attempts that the terminal shows; `--json` has all of them."""


def chip_attacks(
    *,
    only: Annotated[
        list[str] | None, Parameter(help="Name of an attack; may be given several times.")
    ] = None,
    exhaustive: Annotated[
        bool, Parameter(negative="", help="Visit every point of the long sweeps: some minutes.")
    ] = False,
    show_list: Annotated[bool, Parameter(name="--list", negative="", help="List the attacks.")] = False,
    as_json: AsJson = False,
) -> int:
    """Attack an emulated product in every way of the catalogue; exit status 0 if it holds, 1 if not."""
    attacks = choose(only or ())
    if show_list:
        return _list(attacks, as_json=as_json)
    report = _run(attacks, Effort.FULL if exhaustive else Effort.QUICK)
    if as_json:
        print_json(report.as_dict())
    else:
        _show(report)
    return 1 if report.escaped else 0


def _list(attacks: tuple[Attack, ...], *, as_json: bool) -> int:
    if as_json:
        print_json(
            [
                {"name": one.name, "holds": [what.value for what in one.holds], "tries": one.tries}
                for one in attacks
            ]
        )
        return 0
    rows = [[one.name, ", ".join(what.value for what in one.holds), one.tries] for one in attacks]
    print_table(f"{len(CATALOGUE)} attacks", ["name", "the attacker holds", "and"], rows)
    return 0


def _run(attacks: tuple[Attack, ...], effort: Effort) -> CatalogueReport:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results: list[AttackResult] = []
    with Progress(*columns, console=errors, transient=True) as bars:
        task = bars.add_task("victims are provisioned", total=len(attacks))
        rig = Rig(UnicornEngine())
        for attack in attacks:
            results.append(
                carry_out(
                    attack,
                    rig,
                    effort,
                    lambda one, done: bars.update(task, description=f"{one.name}, {done:,} attempts"),
                )
            )
            bars.advance(task)
    return CatalogueReport(effort, hashlib.sha256(rig.rom.binary).hexdigest(), tuple(results))


def _show(report: CatalogueReport) -> None:
    rows = [
        [
            result.attack.name,
            ", ".join(what.value for what in result.attack.holds),
            f"{len(result.attempts):,}",
            result.verdict.value,
            ", ".join(list(result.seen)[:3]),
        ]
        for result in report.results
    ]
    print_table("Attacks", ["name", "the attacker holds", "attempts", "verdict", "mostly by"], rows)
    for result in report.escaped:
        for attempt in result.escaped[:_SHOWN]:
            console.print(
                f"[bold red]{result.attack.name}[/]: {attempt.what}: {attempt.seen}", soft_wrap=True
            )
        if not result.attempts:
            console.print(f"[bold red]{result.attack.name}[/]: nothing could be tried")
    for result in report.results:
        if result.attack.remains:
            console.print(f"[dim]{result.attack.name}: {result.attack.remains}[/]", soft_wrap=True)
    attempts = sum(len(result.attempts) for result in report.results)
    seconds = sum(result.seconds for result in report.results)
    verdict = Verdict.ESCAPED if report.escaped else Verdict.REFUSED
    words = f"{len(report.escaped)} attacks got through" if report.escaped else "the chip holds"
    console.print(f"{attempts:,} attempts in {seconds:.0f} s: [{_COLOURS[verdict]}]{words}[/]")
