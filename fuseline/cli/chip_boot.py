"""`fuseline chip boot`, `flash`, `run` and `errors`: running machine code, and reading what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fuseline.cli.chip_output import ChipDir, EngineChoice, MaxTime, open_chip, show_boot
from fuseline.cli.output import AsJson, console, errors, fail, print_json, print_table
from fuseline.device.silicon.engine import Limits, StopKind
from fuseline.device.silicon.report import BootReport, Outcome
from fuseline.device.silicon.rom import load_requirements
from fuseline.errors import FuselineError, RomErrorUnknown
from fuseline.lab.chip.bench import LOADER_SLOTS
from fuseline.lab.chip.debug_unlock import read_file

_NOT_ASKED = 2
"""Exit status where the chip could not even be asked: wrong usage, no such folder, no engine."""
_TIMED_OUT = 124
"""Exit status of coreutils' `timeout`."""


def boot(
    folder: ChipDir,
    /,
    *,
    image: Annotated[
        Path | None, Parameter(help="Try this loader, and no other, on a copy; DIR stays as it is.")
    ] = None,
    engine: EngineChoice = "unicorn",
    max_time: MaxTime = None,
    as_json: AsJson = False,
) -> int:
    """Power the chip on and run its ROM; exit status 0 if it started a loader, 1 if not, 2 on an error.

    With --image a copy of the chip boots FILE as its only loader: a question, and not a change.
    """
    try:
        report = _boot(folder, image, engine, max_time)
    except FuselineError as error:
        # A script that compares verdicts must not take a folder that is not there for a refusal.
        fail(error, as_json=as_json)
        return _NOT_ASKED
    if as_json:
        print_json(report.as_dict())
    else:
        show_boot(console, report)
    return 0 if report.outcome is Outcome.BOOTED else 1


def _boot(folder: Path, image: Path | None, engine: EngineChoice, max_time: MaxTime) -> BootReport:
    with open_chip(folder, engine, max_time) as chip:
        bench = chip.bench
        if image is not None:
            bench = bench.copy()
            bench.write_loader(LOADER_SLOTS["primary"], read_file(image))
            bench.write_loader(LOADER_SLOTS["recovery"], b"")
        try:
            return bench.boot()
        finally:
            # Also when the engine failed: what the machine code did until then is done.
            if image is None:
                chip.save()


def flash(
    folder: ChipDir,
    image: Annotated[Path, Parameter(name="FILE", help="A loader, as imgtool signed it.")],
    /,
    *,
    slot: Literal["primary", "recovery"] = "primary",
    as_json: AsJson = False,
) -> None:
    """Write a loader into one of its two slots, as a programmer clipped to the flash does.

    Anything is written: whether it may run is for the ROM to say.
    """
    content = read_file(image)
    with open_chip(folder) as chip:
        changed = chip.bench.write_loader(LOADER_SLOTS[slot], content)
        digest = chip.bench.silicon.flash.digest().hex()
        chip.save()
    if as_json:
        print_json(
            {"chip": str(folder), "slot": slot, "size": len(content), "changed": changed, "flash": digest}
        )
    else:
        what = f"{len(content)} octets written" if changed else "holds this already"
        console.print(f"{slot} loader slot: {what}", soft_wrap=True)


def run(
    program: Annotated[Path, Parameter(name="FILE", help="ELF, or a raw binary for address 0.")],
    /,
    *,
    max_time: MaxTime = None,
) -> int:
    """Run any program that was built for the boards mps2-an385 or mps2-an386.

    UART0 goes to standard output. The exit status is the program's (semihosting), or 124 if --max-time
    ended it. There is no chain of trust here: RAM at address 0, as on that board.
    """
    # Loaded here, so that no other verb waits for the processor's model.
    from fuseline.device.silicon.board import run_program  # noqa: PLC0415

    def output(octets: bytes) -> None:
        sys.stdout.buffer.write(octets)
        sys.stdout.buffer.flush()

    stop = run_program(program, output=output, limits=Limits(seconds=max_time))
    if stop.kind is StopKind.EXIT:
        return stop.value & 0xFF
    errors.print(f"ended by {stop.kind.value} {stop.detail}".rstrip(), soft_wrap=True)
    return _TIMED_OUT if stop.kind is StopKind.TIMEOUT else 1


def errors_table(word: str | None) -> list[dict[str, str]]:
    """Return the ROM's error words, or the one that `word` spells: a number, a code or a requirement.

    Raises:
        RomErrorUnknown: There is no such word.
    """
    rows = [
        {"word": f"{one.word:#010x}", "code": one.code, "requirement": one.id, "text": one.text}
        for one in load_requirements().values()
    ]
    if word is None:
        return rows
    wanted = _canonical(word)
    found = [row for row in rows if wanted in (row["word"], row["code"], row["requirement"])]
    if not found:
        raise RomErrorUnknown("this ROM says no such error word", word=word)
    return found


def _canonical(word: str) -> str:
    try:
        return f"{int(word, 16):#010x}"
    except ValueError:
        return word.upper()


def list_errors(
    word: Annotated[
        str | None, Parameter(name="WORD", help="An error word, a code or the id of a requirement.")
    ] = None,
    /,
    *,
    as_json: AsJson = False,
) -> None:
    """List what the boot ROM says when it refuses, and what it then demands."""
    rows = errors_table(word)
    if as_json:
        print_json({"errors": rows})
        return
    columns = ("word", "code", "requirement", "text")
    print_table("Boot ROM", columns, [[row[column] for column in columns] for row in rows])
