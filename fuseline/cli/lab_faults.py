"""`fuseline lab faults`: glitches in the boot ROM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fuseline.cli.output import AsJson, console, errors, print_json, print_table
from fuseline.device.silicon.memory_map import ResetReason
from fuseline.errors import ChipFileUnreadable
from fuseline.lab.faults.campaign import CampaignReport, Case, Plan, run_campaign
from fuseline.lab.faults.models import Model
from fuseline.lab.faults.page import render_page
from fuseline.lab.faults.roms import HARDENED, rom_named
from fuseline.lab.faults.run import Outcome
from fuseline.lab.faults.targets import Attack

_SHOWN: Final = 40
"""Findings that the terminal shows; the page and `--json` have all of them."""

_Attacks = Literal[
    "unsigned", "forged", "altered", "wrong-key", "revoked", "rollback", "debug", "locks", "all"
]
_Models = Literal["skip", "zero-load", "bitflip", "skip-pair", "all"]
_Resets = Literal["cold", "warm", "update"]


def faults(
    *,
    model: Annotated[_Models, Parameter(help="What a glitch does.")] = "all",
    attack: Annotated[_Attacks, Parameter(help="What stands in the flash.")] = "all",
    sample: Annotated[
        int | None,
        Parameter(validator=Number(gte=1), help="At most so many faults for each attack and model."),
    ] = None,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="Of what is drawn at random.")] = 1,
    reset: Annotated[_Resets, Parameter(help="Why the chip starts.")] = "warm",
    rom: Annotated[
        str, Parameter(help="hardened, unhardened, or a folder that `tools/chip.py build` made.")
    ] = HARDENED,
    workers: Annotated[int, Parameter(validator=Number(gte=1, lte=64), help="Processes.")] = 2,
    report: Annotated[Path | None, Parameter(help="Write one self-contained HTML page.")] = None,
    as_json: AsJson = False,
) -> int:
    """Glitch the boot ROM while an attacker's loader waits; exit status 0 if it holds, 1 if not.

    Without --sample every instruction is skipped, every load zeroed and every close pair skipped once, and
    bit flips are drawn for each instruction of the ROM: some minutes for each attack.
    """
    plan = Plan(
        attacks=tuple(Attack) if attack == "all" else (Attack(attack),),
        models=tuple(Model) if model == "all" else (Model(model),),
        reset=ResetReason[reset.upper()],
        sample=sample,
        seed=seed,
        workers=workers,
    )
    result = _run(plan, rom)
    if report is not None:
        try:
            report.write_text(render_page(result))
        except OSError as error:
            raise ChipFileUnreadable(f"cannot be written: {error.strerror}", file=str(report)) from error
    if as_json:
        print_json(result.as_dict())
    else:
        _show(result)
    return 0 if result.holds else 1


def _run(plan: Plan, rom: str) -> CampaignReport:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bars:
        tasks = {
            Case(attack, model): bars.add_task(f"{attack.value} {model.value}", total=None)
            for attack in plan.attacks
            for model in plan.models
        }
        return run_campaign(
            plan,
            rom_named(rom),
            lambda case, more, total: bars.update(tasks[case], advance=more, total=total),
        )


def _show(result: CampaignReport) -> None:
    seen = [outcome for outcome in Outcome if result.count(outcome)]
    rows = [
        [
            case.case.attack.value,
            case.case.model.value,
            f"{case.faults:,}" + (f" of {case.population:,}" if case.faults < case.population else ""),
            *(f"{case.count(outcome):,}" for outcome in seen),
        ]
        for case in result.cases
    ]
    print_table("Faults", ["attack", "model", "faults", *(outcome.value for outcome in seen)], rows)
    findings = [(case, finding) for case in result.cases for finding in case.findings]
    if findings:
        print_table(
            "Not withstood",
            ["attack", "model", "outcome", "place", "address", "instruction", "fault", "how"],
            [
                [
                    case.case.attack.value,
                    case.case.model.value,
                    finding.outcome.value,
                    finding.place,
                    f"{finding.address:#06x}",
                    str(finding.index),
                    finding.fault,
                    finding.how,
                ]
                for case, finding in findings[:_SHOWN]
            ],
        )
        if len(findings) > _SHOWN:
            console.print(f"and {len(findings) - _SHOWN:,} more")
    rate = result.faults / result.elapsed if result.elapsed else 0.0
    console.print(f"{result.faults:,} faults in {result.elapsed:.0f} s, {rate:,.0f} a second")
    console.print("[green]the ROM holds[/]" if result.holds else "[bold red]there are ways in[/]")
