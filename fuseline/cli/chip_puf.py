"""`fuseline chip puf`: what the chips' physical unclonable function is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.progress import Progress

from fuseline.cli.output import AsJson, console, errors, print_json, print_table
from fuseline.errors import ChipFileUnreadable
from fuseline.lab.puf.facts import PufFacts, PufStudyPlan, Spread
from fuseline.lab.puf.report import PufStudy, write_report

app = App(name="puf", help="Study the PUF of many simulated chips.")


@app.command
def report(
    *,
    chips: Annotated[int, Parameter(validator=Number(gte=2, lte=10_000), help="Chips to simulate.")] = 64,
    reconstructions: Annotated[
        int,
        Parameter(
            validator=Number(gte=0),
            help="Key reconstructions to simulate over all of them; each injected bit error gets a 200th.",
        ),
    ] = 100_000,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="Of the first chip.")] = 1,
    out: Annotated[Path | None, Parameter(help="Write one self-contained HTML page with plots.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure reliability, uniqueness, uniformity, bit-aliasing and key failure, the worst chip's named."""
    plan = PufStudyPlan(
        chips=chips,
        reconstructions=reconstructions,
        injected_reconstructions=max(1, reconstructions // 200),
        seed=seed,
    )
    study = PufStudy(plan)
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task(f"{chips} chips", total=None)
        facts = study.run(lambda done, total: progress.update(task, completed=done, total=total))
    if out is not None:
        try:
            write_report(facts, out)
        except OSError as error:
            raise ChipFileUnreadable(f"cannot be written: {error.strerror}", file=str(out)) from error
    if as_json:
        print_json(facts.as_dict())
    else:
        _show(facts, out)


def _show(facts: PufFacts, out: Path | None) -> None:
    measures = {
        "reliability": facts.reliability,
        "uniqueness": facts.uniqueness,
        "uniformity": facts.uniformity,
        "bit-aliasing": facts.bit_aliasing,
    }
    rows = [[name, *_spread(spread)] for name, spread in measures.items()]
    print_table(f"PUF of {facts.study.chips} chips", ["measure", "mean", "least", "greatest", "ideal"], rows)
    conditions = [
        [
            f"{one.temperature_c:g}",
            f"{one.age_years:g}",
            f"{one.bit_error_worst:.2%}",
            f"{one.key_failure_worst:.2g}" if one.key_failure_worst else "< 1e-300",
            str(one.worst_chip),
        ]
        for one in facts.conditions
    ]
    columns = ["temperature °C", "age in years", "bit error", "key failure", "chip"]
    print_table("Worst chip", columns, conditions)
    campaign = facts.campaign
    console.print(f"{campaign.failures} failures in {campaign.reconstructions:,} simulated reconstructions")
    if out is not None:
        console.print(f"page {out}", soft_wrap=True)


def _spread(spread: Spread) -> list[str]:
    return [f"{value:.3%}" for value in (spread.mean, spread.least, spread.greatest, spread.ideal)]
