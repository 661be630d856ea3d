"""`fuseline chip new`, `factory` and `provision`: making chips, and making products of them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.serialization import Encoding
from cyclopts import Parameter
from cyclopts.validators import Number

from fuseline.cli.chip_output import ChipDir, EngineChoice, OpenChip, open_chip
from fuseline.cli.output import AsJson, console, errors, print_json
from fuseline.device.silicon.folder import ChipFolder
from fuseline.device.silicon.fuse_view import read_fuses
from fuseline.lab.chip.factory import make_factory
from fuseline.lab.chip.manifest import ChipManifest, read_manifest
from fuseline.lab.chip.provisioning import Provisioned, Provisioning, Step, wafer_test


def new(
    folder: ChipDir,
    /,
    *,
    seed: Annotated[
        int | None,
        Parameter(validator=Number(gte=0), help="Makes the same chip again; random unless told."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a chip as it leaves wafer test: it has its id, and life cycle TEST."""
    with ChipFolder.create(folder, seed) as made:
        chip = made.load()
        wafer_test(chip.silicon)
        made.save(chip)
        view = read_fuses(chip.silicon.fuses.words())
    assert view.chip_id is not None
    if as_json:
        print_json({"chip": str(folder), "chip_id": view.chip_id.hex(), "life_cycle": view.life_cycle.name})
    else:
        console.print(
            f"chip {view.chip_id.hex()}, life cycle {view.life_cycle.name}, in {folder}", soft_wrap=True
        )


def factory(
    folder: Annotated[Path, Parameter(name="DIR", help="New folder.")], /, *, as_json: AsJson = False
) -> None:
    """Make a DEVELOPMENT factory: CA, loader keys, debug authority, a signed loader and their manifest.

    Its keys are worthless: they were made on this machine and lie beside each other.
    """
    made = make_factory(folder)
    if as_json:
        print_json({"factory": str(folder), "development": True, "manifest": str(made.manifest)})
        return
    errors.print(
        "[bold yellow]DEVELOPMENT factory: its keys are worthless. Never put a product under them.[/]"
    )
    console.print(f"manifest {made.manifest}", soft_wrap=True)


def provision(
    folder: ChipDir,
    /,
    *,
    manifest: Annotated[Path, Parameter(help="What goes into the chip; see docs/chip.md.")],
    rehearse: Annotated[
        bool, Parameter(negative="", help="Only on a copy; the chip stays as it is.")
    ] = False,
    engine: EngineChoice = "unicorn",
    as_json: AsJson = False,
) -> None:
    """Make a product of a chip: fuses, loader, life cycle PROD, and an identity from the factory CA.

    The whole flow runs on a copy of the chip first. If it is cut anywhere, run the same command again: each
    step looks at what the chip already is.
    """
    plan = read_manifest(manifest)
    if plan.development:
        errors.print("[yellow]development factory: worthless keys[/]")
    with open_chip(folder, engine) as chip:
        rehearsed = _run(chip, plan, rehearsal=True, only=rehearse)
        result = rehearsed if rehearse else _run(chip, plan, rehearsal=False)
    document = _document(folder, result, rehearsal=rehearse)
    if as_json:
        print_json(document)
    else:
        what = "would be" if rehearse else "is"
        console.print(f"[bold green]{result.name}[/] {what} a product: life cycle PROD, DICE chain verified")


def _run(chip: OpenChip, plan: ChipManifest, *, rehearsal: bool, only: bool = False) -> Provisioned:
    bench = chip.bench.copy() if rehearsal else chip.bench

    def progress(step: Step) -> None:
        if not rehearsal:
            chip.save()
        elif not only:
            return
        sign = "[green]✓[/]" if step.changed else "[dim]·[/]"
        errors.print(f"{sign} {step.name:<28}{step.detail}", soft_wrap=True)

    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    errors.print("[dim]rehearsing on a copy[/]" if rehearsal else "[dim]on the chip[/]")
    try:
        return Provisioning(bench, plan, now=now, progress=progress).run()
    finally:
        # Also when a step failed: what was blown until then stays blown.
        if not rehearsal:
            chip.save()


def _document(folder: Path, result: Provisioned, *, rehearsal: bool) -> dict[str, object]:
    return {
        "chip": str(folder),
        "rehearsal": rehearsal,
        "chip_id": result.chip_id.hex(),
        "name": result.name,
        "life_cycle": result.boot.life_cycle.name,
        "steps": [{"step": one.name, "changed": one.changed, "detail": one.detail} for one in result.steps],
        "certificate": result.certificate.public_bytes(Encoding.PEM).decode(),
        "loader": {
            "measurement": result.chain.layers[0].measurement.hex(),
            "security_counter": result.chain.layers[0].svn,
        },
        "boot": result.boot.as_dict(),
    }
