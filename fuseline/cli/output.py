"""How the command line speaks: people get rich text, machines one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fuseline.errors import FuselineError

DEFAULT_STATE = Path("state")
State = Annotated[Path, Parameter(name="--state", help="Folder that keeps the fleet.")]
TlsChoice = Literal["auto", "provider", "relay"]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document.")]
Parent = Annotated[int, Parameter(name="--parent", show=False)]
"""Process to end with; 0 for none. The lab passes its own, so that its children never outlive it."""

# Wide where no terminal says how wide: a log file takes long lines better than broken ones.
_FILE_WIDTH = 160

console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)
errors = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _FILE_WIDTH)


def print_json(value: Any) -> None:
    """Print one JSON document on one line of standard output."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def fail(error: FuselineError, *, as_json: bool) -> int:
    """Show an error; returns the exit status."""
    if as_json:
        print_json({"error": error.as_dict()})
    else:
        code, _, rest = error.diagnostics().partition(":")
        errors.print(f"[bold red]{code}[/]:{escape(rest)}", soft_wrap=True)
    return 1


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
