"""`fuseline up`: the main job, end to end."""

from __future__ import annotations

import signal
import threading
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.markup import escape

from fuseline.cli.output import DEFAULT_STATE, AsJson, State, TlsChoice, console, errors, fail, print_json
from fuseline.errors import FuselineError
from fuseline.lab.factory import FleetPlan
from fuseline.lab.journey import Journey, JourneyOptions, failure
from fuseline.plane.config import PlaneConfig

_COLOURS = {
    "factory": "bright_black",
    "silicon": "yellow",
    "boot": "magenta",
    "firmware": "blue",
    "os": "cyan",
    "application": "green",
    "cloud": "bold white",
}
# What of an event is worth a person's line; the rest is in --json.
_SHOWN = (
    "text",
    "version",
    "release",
    "status",
    "counter",
    "slot",
    "ldevid_serial",
    "tls",
    "digest",
    "measured",
    "explanation",
    "reason",
    "code",
    "message",
    "device_url",
    "operator_url",
    "devices",
    "new",
    "bytes",
    "took",
)


def up(
    *,
    state: State = DEFAULT_STATE,
    until_attested: Annotated[
        bool, Parameter(negative="", help="End once every device attests the new release.")
    ] = False,
    as_json: AsJson = False,
    devices: Annotated[
        int | None, Parameter(validator=Number(gte=1, lte=200), help="Devices to make; 3 unless told.")
    ] = None,
    timeout: Annotated[float, Parameter(validator=Number(gt=0), help="Seconds for the journey.")] = 120.0,
    tls: Annotated[TlsChoice, Parameter(help="How TLS uses the element's key.")] = "auto",
    device_port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 0,
    operator_port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 0,
) -> int:
    """Run a development fleet: boot, enrol, attest, update, attested on the new release.

    The first run makes the fleet in the state folder; later runs go on from it. Ports of 0 take free
    ones. Without --until-attested the fleet stays up with the console's address until Ctrl-C.
    """
    options = JourneyOptions(
        state=state.resolve(),
        plan=FleetPlan(devices=devices),
        timeout=timeout,
        device_port=device_port,
        operator_port=operator_port,
        tls=tls,
    )
    # With --json, standard output is one document; the story goes to standard error.
    out = errors if as_json else console
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopper(stop))
    journey = Journey(options, lambda event: _show(out, event))
    try:
        with journey.running():
            report = journey.attest_everything()
            if as_json:
                print_json(report)
            if not until_attested:
                _invite(out, journey)
                journey.watch(stop)
    except FuselineError as error:
        if as_json:
            print_json(failure(error, journey))
            return 1
        return fail(error, as_json=False)
    except KeyboardInterrupt:
        return 0 if stop.is_set() and not until_attested else 130
    return 0


def _stopper(stop: threading.Event) -> Any:
    def handler(_number: int, _frame: object) -> None:
        if stop.is_set():
            return  # a second Ctrl-C must not keep children from being ended
        stop.set()
        raise KeyboardInterrupt

    return handler


def _show(out: Console, event: dict[str, Any]) -> None:
    layer = event["layer"]
    device = (event.get("device") or "").split(".")[0]
    facts = [f"{key} {_short(event[key])}" for key in _SHOWN if event.get(key) is not None]
    text = event.pop("text", None)
    what = text if text is not None else f"{event['event']:<22} {'  '.join(facts)}"
    colour = _COLOURS.get(layer, "white")
    out.print(
        f"[dim]{event['seconds']:7.2f}[/]  {device:<8} [{colour}]{layer:<12}[/]{escape(what)}",
        soft_wrap=True,
    )


def _short(value: Any) -> str:
    text = str(value)
    is_digest = len(text) >= 40 and all(letter in "0123456789abcdef" for letter in text)
    return f"{text[:16]}…" if is_digest else text


def _invite(out: Console, journey: Journey) -> None:
    assert journey.fleet is not None
    config = PlaneConfig.load(journey.fleet.plane)
    facts = journey.report()["plane"]
    out.print()
    out.print("[bold]Every device runs the new release, and it was measured.[/]")
    out.print(f"  console   {facts['operator_url']}/")
    out.print(f"  token     {config.operator_token}")
    out.print(f"            (kept in {config.folder / 'operator.token'})", soft_wrap=True)
    out.print("  This is a development fleet: its keys were made here and are worthless elsewhere.")
    out.print("  Ctrl-C ends everything; the next run goes on from here.")
    out.print()
