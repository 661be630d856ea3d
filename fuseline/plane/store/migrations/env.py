"""Alembic's entry: runs the revisions on one connection, in one transaction."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from fuseline.plane.store.schema import metadata

engine = sa.create_engine(context.config.attributes["url"])
with engine.connect() as connection:
    # SQLite cannot alter tables in place; batch mode writes them anew.
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
