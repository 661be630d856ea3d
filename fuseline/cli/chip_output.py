"""What the chip commands share: opening a chip, choosing an engine, showing a boot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.markup import escape

from fuseline.device.silicon.engine import Limits
from fuseline.device.silicon.folder import ChipFolder
from fuseline.device.silicon.report import BootError, BootReport, Outcome
from fuseline.lab.chip.bench import DEFAULT_LIMITS, Bench

if TYPE_CHECKING:
    from fuseline.device.silicon.run import Engine

ChipDir = Annotated[Path, Parameter(name="DIR", help="Folder of the chip.")]
EngineChoice = Annotated[
    Literal["unicorn", "qemu"], Parameter(name="--engine", help="What runs the machine code.")
]
MaxTime = Annotated[
    float | None,
    Parameter(name="--max-time", validator=Number(gt=0), help="Seconds after which the run is given up."),
]

_COLOURS = {Outcome.BOOTED: "green", Outcome.PROVISIONED: "green", Outcome.STOPPED: "yellow"}
_BAR = 24


@dataclass(frozen=True, slots=True)
class OpenChip:
    """A chip taken from its folder, held by this process alone.

    Attributes:
        folder: Where it is kept.
        bench: The chip itself.
    """

    folder: ChipFolder
    bench: Bench

    def save(self) -> None:
        """Write the chip back."""
        self.folder.save(self.bench.chip)


@contextmanager
def open_chip(path: Path, engine: str | None = None, max_time: float | None = None) -> Iterator[OpenChip]:
    """Take a chip from its folder; what is not saved has not happened to it.

    Without an engine it cannot boot, and opens sooner.

    Raises:
        SiliconError: There is no chip, or another process has it.
    """
    limits = DEFAULT_LIMITS if max_time is None else Limits(seconds=max_time)
    with ChipFolder.open(path) as folder:
        yield OpenChip(folder, Bench(folder.load().silicon, make_engine(engine) if engine else None, limits))


def make_engine(choice: str) -> Engine:
    """Return an engine by its name; only the one that is used is loaded."""
    if choice == "qemu":
        from fuseline.device.silicon.qemu_engine import QemuEngine  # noqa: PLC0415

        return QemuEngine()
    from fuseline.device.silicon.unicorn_engine import UnicornEngine  # noqa: PLC0415

    return UnicornEngine()


def bar(value: int, highest: int) -> str:
    """Draw a value as a bar."""
    filled = min(_BAR, -(-_BAR * value // highest)) if highest else 0
    return "█" * filled + "░" * (_BAR - filled)


def show_boot(out: Console, report: BootReport) -> None:
    """Show a boot to a person."""
    colour = _COLOURS.get(report.outcome, "red")
    out.print(f"[bold {colour}]{report.outcome.value}[/]  on {report.engine}, {report.life_cycle.name}")
    for line in report.console.splitlines():
        out.print(f"  [dim]│[/] {escape(line)}", soft_wrap=True)
    _fact(out, "stages", " → ".join(stage.name for stage in report.stages) or "none")
    if report.error is not None:
        _fact(out, "refused", describe_error(report.error))
    if report.recovery_error is not None:
        _fact(out, "primary passed over", describe_error(report.recovery_error))
    _fact(out, "ended by", " ".join(filter(None, (report.stop.kind.value, report.stop.detail))))
    if report.exit_status is not None:
        _fact(out, "exit status", str(report.exit_status))
    _fact(out, "debug", report.debug.name)
    if report.record is not None:
        copy = "recovery" if report.record.recovery else "primary"
        signer = f"signed by key slot {report.record.key_slot}"
        _fact(out, "loader", f"{report.record.loader_version}, {copy} copy, {signer}")
        _fact(out, "measurement", report.record.measurement.hex())
    counters = "  ".join(f"{name.name.lower()} {value}" for name, value in report.counters.items())
    _fact(out, "counters", counters)
    _fact(out, "fuses", report.fuse_digest.hex())
    _fact(out, "flash", report.flash_digest.hex())


def describe_error(error: BootError) -> str:
    """Say in one line why the ROM refused."""
    requirement = f", {error.requirement}" if error.requirement else ""
    return f"{error.code} ({error.word:#010x}{requirement}): {error.text}"


def _fact(out: Console, name: str, value: str) -> None:
    out.print(f"  [dim]{name:<20}[/]{escape(value)}", soft_wrap=True)
