"""`fuseline chip debug` and `debug-sign`: opening a chip's debug port, with the authority's consent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from fuseline.cli.chip_output import ChipDir, EngineChoice, open_chip, show_boot
from fuseline.cli.output import AsJson, console, print_json
from fuseline.device.files import write_durably
from fuseline.device.silicon.report import BootReport
from fuseline.errors import ChipFileUnreadable
from fuseline.lab.chip.debug_unlock import (
    DebugChallenge,
    ask_challenge,
    give_response,
    read_authority_key,
    read_challenge,
    read_response,
    sign_response,
)

Out = Annotated[Path | None, Parameter(help="Write it to this file instead of the terminal.")]


def debug(
    folder: ChipDir,
    /,
    *,
    respond: Annotated[
        Path | None, Parameter(help="Debug authority's private key (PEM): ask and answer in one go.")
    ] = None,
    response: Annotated[
        Path | None, Parameter(help="Response from `debug-sign` to the challenge asked before.")
    ] = None,
    out: Out = None,
    engine: EngineChoice = "unicorn",
    as_json: AsJson = False,
) -> None:
    """Unlock debug until the next reset. Without a response: print the chip's challenge.

    The next boot of the chip has to be the one with the response: each challenge is good for one.
    """
    key = read_authority_key(respond) if respond else None
    answer = read_response(response) if response else None
    with open_chip(folder, engine) as chip:
        try:
            challenge = ask_challenge(chip.bench) if answer is None else None
            if challenge is not None and key is not None:
                answer = sign_response(challenge, key)
            report = give_response(chip.bench, answer) if answer else None
        finally:
            chip.save()
    if report is not None:
        _show_unlocked(report, as_json=as_json)
    elif challenge is not None:
        _give(challenge.as_dict(), out)


def _show_unlocked(report: BootReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
        return
    console.print("[bold green]debug was open in this boot[/], until the chip's next reset")
    show_boot(console, report)


def debug_sign(
    challenge: Annotated[Path, Parameter(name="CHALLENGE", help="As `fuseline chip debug` printed it.")],
    key: Annotated[Path, Parameter(name="KEY", help="Debug authority's private key (PEM).")],
    /,
    *,
    out: Out = None,
) -> None:
    """Answer a challenge where the debug authority's key is, which is not where the chip is."""
    question: DebugChallenge = read_challenge(challenge)
    _give(sign_response(question, read_authority_key(key)).as_dict(), out)


def _give(document: dict[str, object], out: Path | None) -> None:
    if out is None:
        print_json(document)
        return
    try:
        write_durably(out, msgspec.json.encode(document) + b"\n")
    except OSError as error:
        raise ChipFileUnreadable(f"cannot be written: {error.strerror}", file=str(out)) from error
