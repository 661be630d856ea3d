"""Reads of one turn of the event loop share a read transaction; nobody reads what is older than it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from fuseline.plane.store import migrate
from fuseline.plane.store.database import Database, Transaction
from fuseline.plane.store.schema import spent_nonces as nonces
from fuseline.plane.store.statements import compiled

SPEND = compiled(sa.insert(nonces).values(nonce=sa.bindparam("nonce"), expires=sa.bindparam("expires")))
COUNT = compiled(sa.select(sa.func.count()).select_from(nonces))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "fuseline.db"
    migrate.upgrade(file)
    return file


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database(path)
    yield opened
    opened.close()


@pytest.fixture
def other_worker(path: Path) -> Iterator[Database]:
    opened = Database(path)
    yield opened
    opened.close()


def spend(transaction: Transaction, nonce: bytes = b"n") -> None:
    transaction.run(SPEND, nonce=nonce, expires=1.0)


def spent(database: Database) -> int:
    row = database.one(COUNT)
    assert row is not None
    return int(row[0])


def test_a_write_is_read_as_soon_as_it_is_acknowledged(database: Database) -> None:
    async def session() -> list[int]:
        seen = [spent(database)]
        for number in range(50):
            await database.write(functools.partial(spend, nonce=bytes([number])))
            seen.append(spent(database))
        return seen

    assert asyncio.run(session()) == list(range(51))


def test_many_at_once_each_read_their_own_write(database: Database) -> None:
    """Each turn has other requests' reads in it, which began the turn's transaction before."""

    async def session(number: int) -> bool:
        before = spent(database)
        await database.write(functools.partial(spend, nonce=bytes([number])))
        return spent(database) > before

    async def all_sessions() -> list[bool]:
        return await asyncio.gather(*(session(number) for number in range(100)))

    assert all(asyncio.run(all_sessions()))
    assert spent(database) == 100


def test_a_request_after_another_workers_revocation_sees_it(
    database: Database, other_worker: Database
) -> None:
    """The order that counts: the other worker's commit, then the arrival, then the read."""

    async def session() -> tuple[int, int, int]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[int] = loop.create_future()
        before = spent(database)
        other_worker.transact(spend)
        same_turn = spent(database)
        loop.call_soon(lambda: arrived.set_result(spent(database)))
        return before, same_turn, await arrived

    before, same_turn, after = asyncio.run(session())
    assert (before, same_turn) == (0, 0)  # one turn, one state of the database
    assert after == 1


def test_an_idle_loop_holds_no_old_state(database: Database, other_worker: Database) -> None:
    async def session() -> int:
        spent(database)
        await asyncio.sleep(0)
        other_worker.transact(spend)
        return spent(database)

    assert asyncio.run(session()) == 1


def test_without_a_loop_each_read_stands_alone(database: Database, other_worker: Database) -> None:
    assert spent(database) == 0
    other_worker.transact(spend)
    assert spent(database) == 1


def test_a_database_can_be_closed_in_the_turn_in_which_it_was_read(path: Path) -> None:
    async def session() -> int:
        database = Database(path)
        seen = spent(database)
        database.close()
        await asyncio.sleep(0)
        return seen

    assert asyncio.run(session()) == 0
    reopened = Database(path)
    assert spent(reopened) == 0
    reopened.close()
