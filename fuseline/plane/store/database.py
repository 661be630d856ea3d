"""The embedded database: SQLite in WAL mode.

Each worker has one reading connection, used on the event loop since a read costs microseconds, and one
writing connection in a thread of its own, since a commit waits for the disk and for other workers.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fuseline.plane.store import schema
from fuseline.plane.store.statements import Statement, insertion

Row = sqlite3.Row
T = TypeVar("T")

_BUSY_TIMEOUT = 10.0  # seconds a writer waits for another worker's transaction
_PAGE_CACHE_KIB = 65_536

_INSERT_EVENT = insertion(schema.events, "at", "kind", "device", "data")


def _connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=_BUSY_TIMEOUT, check_same_thread=False, cached_statements=256
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    # A commit that was acknowledged survives power loss.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA cache_size=-{_PAGE_CACHE_KIB}")
    connection.execute("PRAGMA mmap_size=268435456")
    if readonly:
        connection.execute("PRAGMA query_only=ON")
    return connection


class Transaction:
    """Statements that become true together."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, statement: Statement, **parameters: Any) -> list[Row]:
        """Run one statement; returns the rows it gives, for instance by RETURNING."""
        return self._connection.execute(statement.sql, statement.bind(parameters)).fetchall()

    def one(self, statement: Statement, **parameters: Any) -> Row | None:
        """Run one statement and return its first row."""
        rows = self.run(statement, **parameters)
        return rows[0] if rows else None

    def many(self, statement: Statement, rows: Iterable[Mapping[str, Any]]) -> None:
        """Run one statement for each row of parameters."""
        self._connection.executemany(statement.sql, (statement.bind(row) for row in rows))

    def changed(self, statement: Statement, **parameters: Any) -> int:
        """Run one statement; returns how many rows it changed."""
        return self._connection.execute(statement.sql, statement.bind(parameters)).rowcount

    def emit(self, kind: str, at: float, device: str | None = None, **data: Any) -> None:
        """Tell the world, if and when the transaction commits."""
        self.run(_INSERT_EVENT, at=at, kind=kind, device=device, data=json.dumps(data))


class Database:
    """One worker's connections; make it after the fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _connect(path, readonly=True)
        self._in_snapshot = False
        self._writer = _connect(path, readonly=False)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="fuseline-writer")

    def one(self, statement: Statement, **parameters: Any) -> Row | None:
        """Read the first row."""
        row: Row | None = self._snapshot().execute(statement.sql, statement.bind(parameters)).fetchone()
        return row

    def all(self, statement: Statement, **parameters: Any) -> list[Row]:
        """Read all rows."""
        return self._snapshot().execute(statement.sql, statement.bind(parameters)).fetchall()

    def _snapshot(self) -> sqlite3.Connection:
        """Return the reader, in a read transaction that lasts for this turn of the event loop.

        Taking and dropping the file's read lock is half the price of a small read, so the requests that are
        served in one turn share it. It is no cache: the loop runs callbacks in the order in which they were
        scheduled, so whatever is scheduled after the first read, a request that arrives or a write that
        is acknowledged, runs after the transaction has ended and reads the database as it is then.
        """
        if not self._in_snapshot:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return self._reader  # no loop that would end it: each read stands alone
            self._reader.execute("BEGIN")
            self._in_snapshot = True
            loop.call_soon(self._end_snapshot)
        return self._reader

    def _end_snapshot(self) -> None:
        if self._in_snapshot:
            self._in_snapshot = False
            self._reader.execute("COMMIT")

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction, in this thread; its exception rolls everything back."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            result = work(Transaction(self._writer))
            self._writer.execute("COMMIT")
        except BaseException:
            # A full disk rolls back by itself; a COMMIT that was refused leaves the transaction open.
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        return result

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction, in the writer thread; returns when it is on the disk."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.transact, work)

    def close(self) -> None:
        """Finish what is being written and close."""
        self._thread.shutdown(wait=True)
        self._end_snapshot()
        for connection in (self._reader, self._writer):
            with contextlib.suppress(sqlite3.Error):
                connection.close()
