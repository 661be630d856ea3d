"""SQLAlchemy Core statements, compiled once and then run on the bare driver.

Running a compiled statement on `sqlite3` costs a fiftieth of what an async Core execution costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement

_DIALECT = sqlite.dialect(paramstyle="named")


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL text with named parameters, and the values of the constants inside it."""

    sql: str
    constants: Mapping[str, Any] = field(default_factory=dict)

    def bind(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Join constants and parameters."""
        return {**self.constants, **parameters} if self.constants else parameters


def insertion(table: sa.Table, *columns: str, returning: str | None = None) -> Statement:
    """Compile an INSERT of named columns, each a parameter of its own name.

    Args:
        table: Where to.
        columns: The columns to fill.
        returning: A column of the new row to give back.
    """
    statement = sa.insert(table).values({name: sa.bindparam(name) for name in columns})
    return compiled(statement.returning(table.c[returning]) if returning else statement)


def compiled(clause: ClauseElement) -> Statement:
    """Compile a Core statement for the embedded engine.

    Schema types are plain (integers, floats, texts, bytes), so no result needs converting.
    """
    result = clause.compile(dialect=_DIALECT)
    constants = {name: value for name, value in result.params.items() if value is not None}
    return Statement(str(result), constants)
