"""What a benchmark says in the end: its table, and each target beside the figure that was measured."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.text import Text

from fuseline.errors import FuselineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from benchmarks.measure import Spread


@dataclass(frozen=True, slots=True)
class Goal:
    """A target and what was measured against it.

    Args:
        what: The figure in words, for example ``requests/s, ours / goosebit``.
        measured: The figure over the rounds; None when one side of it could not be measured.
        limit: The bound on its median.
        at_least: Whether the bound is from below.
        why_not: Why it was not measured.
    """

    what: str
    measured: Spread | None
    limit: float
    at_least: bool
    why_not: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the median keeps the bound; None when there is no figure."""
        if self.measured is None:
            return None
        median = self.measured.median
        return median >= self.limit if self.at_least else median <= self.limit

    def show(self) -> Text:
        """Return it as a line for people."""
        bound = f"{'at least' if self.at_least else 'at most'} {self.limit:g}"
        if self.measured is None:
            return Text(f"  not measured  {self.what}: target {bound} ({self.why_not})", style="yellow")
        word, style = ("reached", "green") if self.reached else ("MISSED", "red")
        return Text(f"  {word:<12}  {self.what}: {self.measured.show(2)}, target {bound}", style=style)

    def as_data(self) -> dict[str, object]:
        """Return it as JSON-able data."""
        return asdict(self) | {"reached": self.reached}


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim after its measurement.

    Args:
        name: How ``--only`` calls it.
        table: Ours and the peers' rows.
        goals: Its targets.
        data: Everything measured, JSON-able.
    """

    name: str
    table: Table
    goals: tuple[Goal, ...]
    data: dict[str, object]

    def show(self) -> RenderableType:
        """Return the table with the targets below it."""
        return Group(self.table, *(goal.show() for goal in self.goals))

    def as_data(self) -> dict[str, object]:
        """Return it as JSON-able data."""
        return {"name": self.name, "goals": [goal.as_data() for goal in self.goals], **self.data}


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Args:
        rounds: How often each row of a comparison is measured.
        seconds: Length of a round.
        warm_up_seconds: Load before the first round.
        journeys: How often the whole fleet is started.
        chips: How many emulated chips are made by one command.
    """

    rounds: int
    seconds: float
    warm_up_seconds: float
    journeys: int
    chips: int


FULL = Effort(rounds=5, seconds=3.0, warm_up_seconds=1.0, journeys=3, chips=10_000)
QUICK = Effort(rounds=3, seconds=1.5, warm_up_seconds=0.5, journeys=1, chips=200)

# Progress goes to where nobody parses it.
console = Console(stderr=True, highlight=False)


def say(words: str) -> None:
    """Tell the person who waits what is being done."""
    console.print(f"  {words} …", style="dim")


@contextlib.contextmanager
def known_errors() -> Iterator[None]:
    """End the program with the diagnostics of an error that Fuseline raises on purpose."""
    try:
        yield
    except FuselineError as error:
        console.print(error.diagnostics(), style="red", markup=False)
        sys.exit(2)
