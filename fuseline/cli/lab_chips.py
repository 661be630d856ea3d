"""`fuseline lab chips`: thousands of distinct chips, made, provisioned and booted."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fuseline.cli.output import AsJson, console, errors, print_json, print_table
from fuseline.errors import ChipFileUnreadable
from fuseline.lab.chip.fleet import FleetPlan, FleetReport, corners, product_of_its_own, run_fleet
from fuseline.lab.chip.fleet_page import (
    CONDITION_COLUMNS,
    FAILURE_COLUMNS,
    condition_rows,
    failure_row,
    render_page,
    verdict,
)

_SHOWN: Final = 40
"""Failures that the terminal shows; `--json` has all of them."""


def chips(
    *,
    count: Annotated[int, Parameter(validator=Number(gte=1), help="Chips to make.")] = 1000,
    workers: Annotated[int, Parameter(validator=Number(gte=1, lte=64), help="Processes.")] = 2,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="Makes the same chips again.")] = 1,
    temperature: Annotated[
        tuple[float, ...],
        Parameter(negative="", help="°C at which a share of the chips boots; may be repeated."),
    ] = (),
    age: Annotated[
        tuple[float, ...],
        Parameter(negative="", help="Years that a share of the chips has aged; may be repeated."),
    ] = (),
    manifest: Annotated[
        Path | None, Parameter(help="A product's manifest; a development product made for this unless told.")
    ] = None,
    report: Annotated[Path | None, Parameter(help="Write one self-contained HTML page.")] = None,
    as_json: AsJson = False,
) -> int:
    """Make distinct chips, provision each by the factory's flow, and boot each through its ROM.

    Every chip has cells, fuses and an id of its own. With --temperature or --age the chips take room
    temperature and the given corners in turn. Exit status 0 if all boot with distinct identities, 1 if not.
    """
    plan = FleetPlan(count, seed, workers, corners(temperature, age))
    if manifest is None:
        with tempfile.TemporaryDirectory(prefix="fuseline-chips-") as folder:
            result = _run(plan, product_of_its_own(Path(folder) / "factory"))
    else:
        result = _run(plan, manifest)
    if report is not None:
        try:
            report.write_text(render_page(result), encoding="utf-8")
        except OSError as error:
            raise ChipFileUnreadable(f"cannot be written: {error.strerror}", file=str(report)) from error
    if as_json:
        print_json(result.as_dict())
    else:
        _show(result)
    return 0 if result.held else 1


def _run(plan: FleetPlan, manifest: Path) -> FleetReport:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bars:
        task = bars.add_task("chips", total=plan.count)
        return run_fleet(plan, manifest, lambda done, total: bars.update(task, completed=done, total=total))


def _show(result: FleetReport) -> None:
    colour = "green" if result.held else "red"
    console.print(f"[bold {colour}]{verdict(result)}[/]")
    print_table("Corrected readings of the PUF", CONDITION_COLUMNS, condition_rows(result))
    if result.failures:
        codes = ", ".join(f"{code} {times:,}" for code, times in result.codes.items())
        console.print(f"codes: {codes}", soft_wrap=True)
        print_table("Did not boot", FAILURE_COLUMNS, [failure_row(row) for row in result.failures[:_SHOWN]])
        if len(result.failures) > _SHOWN:
            console.print(f"and {len(result.failures) - _SHOWN:,} more")
    effort = result.effort
    console.print(
        f"{effort.runs:,} runs of machine code, {result.plan.count / result.seconds:.0f} chips/s, "
        f"{result.seconds:.1f} s, largest worker {effort.peak_rss / 2**20:.0f} MiB"
    )
