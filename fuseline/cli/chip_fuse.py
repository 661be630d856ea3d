"""`fuseline chip fuse`: blowing fuses, never before a copy has shown what comes of it."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.markup import escape
from rich.prompt import Confirm

from fuseline.cli.chip_output import ChipDir, EngineChoice, describe_error, open_chip
from fuseline.cli.output import AsJson, console, print_json, print_table
from fuseline.device.silicon.fuse_map import FUSE_WORDS, Counter, KeyType, LifeCycle
from fuseline.device.silicon.report import BootReport
from fuseline.errors import FuseArgument, FuseNotConfirmed, FuseRehearsalRefused
from fuseline.lab.chip.bench import Bench
from fuseline.lab.chip.debug_unlock import ask_challenge, give_response, read_authority_key, sign_response
from fuseline.lab.chip.manifest import read_public_key
from fuseline.lab.chip.rehearsal import (
    FuseRequest,
    NewKey,
    Prepare,
    Rehearsal,
    blow,
    plan_request,
)
from fuseline.lab.chip.rehearsal import rehearse as rehearse_plan


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Wanted:
    """What to blow."""

    life_cycle: Annotated[
        str | None, Parameter(help="Move to TEST, DEV, PROD, RMA or SCRAP, over every state between.")
    ] = None
    revoke: Annotated[tuple[int, ...], Parameter(negative="", help="Key slot to take out of use.")] = ()
    counter: Annotated[
        tuple[str, ...], Parameter(negative="", help="NAME=N: raise loader, firmware_0 or firmware_1 to N.")
    ] = ()
    key: Annotated[
        tuple[str, ...], Parameter(negative="", help="SLOT=FILE: bring a loader key (PEM) into use.")
    ] = ()
    key_type: Annotated[str, Parameter(help="What --key may sign for: test, dev or prod.")] = "prod"
    debug_authority: Annotated[Path | None, Parameter(help="Key (PEM) that may unlock debug.")] = None
    blow: Annotated[tuple[str, ...], Parameter(negative="", help="WORD=MASK: these very bits.")] = ()


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Consent:
    """How far to go."""

    rehearse: Annotated[bool, Parameter(negative="", help="End after the rehearsal.")] = False
    yes: Annotated[bool, Parameter(negative="", help="Do not ask.")] = False
    even_if_it_no_longer_boots: Annotated[
        bool, Parameter(negative="", help="Blow although the chip is lost by it.")
    ] = False
    cut_at: Annotated[
        int | None,
        Parameter(
            validator=Number(gte=1), help="Only rehearse, with a supply that fails at the N-th operation."
        ),
    ] = None


def fuse(
    folder: ChipDir,
    /,
    *,
    wanted: Wanted | None = None,
    consent: Consent | None = None,
    debug_key: Annotated[
        Path | None, Parameter(help="Debug authority's private key: unlocks a chip in PROD first.")
    ] = None,
    engine: EngineChoice = "unicorn",
    as_json: AsJson = False,
) -> int:
    """Blow fuses, for ever. First a copy of the chip gets them, every bit is shown, and the copy is booted.

    What would cost the chip its last boot is refused; a rehearsal of it ends with exit status 1.
    """
    wanted, consent = wanted or Wanted(), consent or Consent()
    request = _request(wanted)
    with open_chip(folder, engine) as chip:
        planned = plan_request(request, chip.bench.silicon.fuses.life_cycle)
        prepare = _preparation(debug_key)
        rehearsal = rehearse_plan(chip.bench, planned, prepare=prepare, cut_at=consent.cut_at)
        if not as_json:
            _show(rehearsal)
        done = False
        if not consent.rehearse and consent.cut_at is None:
            _agree(rehearsal, consent, as_json=as_json)
            try:
                prepare(chip.bench)
                blow(chip.bench, planned)
            finally:
                chip.save()
            done = True
    if as_json:
        print_json({"chip": str(folder), "blown": done, "rehearsal": rehearsal.as_dict()})
    elif done:
        console.print("[bold]blown[/]")
    return 1 if rehearsal.verdict.harmful and not done else 0


def _preparation(debug_key: Path | None) -> Prepare:
    if debug_key is None:
        return lambda bench: bench.silicon.reset()
    key = read_authority_key(debug_key)

    def unlock(bench: Bench) -> BootReport:
        return give_response(bench, sign_response(ask_challenge(bench), key))

    return unlock


def _agree(rehearsal: Rehearsal, consent: Consent, *, as_json: bool) -> None:
    """Go on only if the rehearsal was good and somebody said so.

    Raises:
        FuseRehearsalRefused: The chip would be lost.
        FuseNotConfirmed: Nobody confirmed it.
    """
    if rehearsal.verdict.harmful and not consent.even_if_it_no_longer_boots:
        error = rehearsal.after.error
        raise FuseRehearsalRefused(
            "the copy no longer boots after this",
            verdict=rehearsal.verdict.value,
            rom_error=error.as_dict() if error else None,
        )
    if consent.yes:
        return
    if as_json or not sys.stdin.isatty() or not Confirm.ask("Blow these fuses for ever?", default=False):
        raise FuseNotConfirmed("nothing was blown", bits=sum(change.bits for change in rehearsal.changes))


def _request(wanted: Wanted) -> FuseRequest:
    key_type = _member(KeyType, wanted.key_type, "key type")
    keys = []
    for text in wanted.key:
        slot, file = _pair(text, "SLOT=FILE")
        digest = hashlib.sha256(read_public_key(Path(file))[0]).digest()
        keys.append(NewKey(_number(slot, "key slot"), digest, key_type))
    authority = wanted.debug_authority
    return FuseRequest(
        keys=tuple(keys),
        debug_authority=hashlib.sha256(read_public_key(authority)[0]).digest() if authority else None,
        counters=tuple(_counter(text) for text in wanted.counter),
        revoke=wanted.revoke,
        raw=tuple(_raw(text) for text in wanted.blow),
        life_cycle=_member(LifeCycle, wanted.life_cycle, "life cycle") if wanted.life_cycle else None,
    )


def _counter(text: str) -> tuple[Counter, int]:
    name, value = _pair(text, "NAME=N")
    return _member(Counter, name.replace("-", "_"), "counter"), _number(value, "counter value")


def _raw(text: str) -> tuple[int, int]:
    word, mask = _pair(text, "WORD=MASK")
    number = _number(word, "fuse word")
    if number >= FUSE_WORDS:
        raise FuseArgument(f"there is no fuse word {number}", word=number)
    return number, _number(mask, "mask")


def _pair(text: str, form: str) -> tuple[str, str]:
    left, separator, right = text.partition("=")
    if not (left and separator and right):
        raise FuseArgument(f"`{text}` is not of the form {form}")
    return left, right


def _number(text: str, what: str) -> int:
    try:
        number = int(text, 0)
    except ValueError as error:
        raise FuseArgument(f"`{text}` is no number for a {what}") from error
    if number < 0:
        raise FuseArgument(f"a {what} is not negative", value=number)
    return number


_Member = TypeVar("_Member", KeyType, LifeCycle, Counter)


def _member(kind: type[_Member], name: str, what: str) -> _Member:
    try:
        return kind[name.upper()]
    except KeyError as error:
        raise FuseArgument(
            f"there is no {what} `{name}`", known=[one.name.lower() for one in kind]
        ) from error


def _show(rehearsal: Rehearsal) -> None:
    bits = sum(change.bits for change in rehearsal.changes)
    if rehearsal.cut:
        console.print(f"[yellow]the copy's supply was cut at operation {rehearsal.cut_at}[/]")
    title = f"Rehearsed on a copy: {bits} fuses blown for ever"
    rows = [
        [
            str(change.word),
            change.field,
            f"{change.before:08x}",
            f"{change.after:08x}",
            f"{change.half_blown:08x}" if change.half_blown else "",
            change.meaning,
        ]
        for change in rehearsal.changes
    ]
    print_table(title, ["word", "field", "before", "after", "half-blown", "meaning"], rows)
    for fault in rehearsal.new_faults:
        advice = "can be completed" if fault.completable else "for ever"
        console.print(f"[red]integrity fault[/] {escape(f'{fault.field}: {fault.problem}, {advice}')}")
    console.print(f"boots now         {_outcome(rehearsal.before)}", soft_wrap=True)
    console.print(f"copy afterwards   {_outcome(rehearsal.after)}", soft_wrap=True)
    colour = "red" if rehearsal.verdict.harmful else "green"
    console.print(f"verdict           [bold {colour}]{rehearsal.verdict.value}[/]")


def _outcome(report: BootReport) -> str:
    why = f"  {describe_error(report.error)}" if report.error else ""
    return escape(f"{report.outcome.value}, life cycle {report.life_cycle.name}{why}")
