"""Bringing a database to this program's schema, with Alembic."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from fuseline.errors import SchemaVersion

_MIGRATIONS = Path(__file__).parent / "migrations"


def _config(path: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["url"] = sa.URL.create("sqlite", database=str(path))
    return config


def head() -> str:
    """Return the revision that this program needs."""
    revision = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    assert revision is not None
    return revision


def current(path: Path) -> str | None:
    """Return a database's revision; None for a new one.

    Raises:
        SchemaVersion: It is not a database.
    """
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except sa.exc.DatabaseError as error:
        raise SchemaVersion("this is not a database", path=str(path)) from error
    finally:
        engine.dispose()


def upgrade(path: Path) -> str:
    """Create the database or bring it up to date; returns the revision.

    Raises:
        SchemaVersion: It was written by a newer program, or is not ours.
    """
    path.touch(mode=0o600, exist_ok=True)
    try:
        command.upgrade(_config(path), "head")
    except (CommandError, sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
        raise SchemaVersion(
            "the database cannot be brought to this program's schema", path=str(path), reason=str(error)[:300]
        ) from error
    return head()
