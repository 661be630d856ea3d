"""The database: migrations that equal the schema, transactions that are whole, two connections."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fuseline.errors import SchemaVersion
from fuseline.plane.store import migrate, schema
from fuseline.plane.store.database import Database, Transaction
from fuseline.plane.store.statements import compiled, insertion

NONCES = schema.spent_nonces
SPEND = compiled(
    sa.insert(NONCES)
    .values(nonce=sa.bindparam("nonce"), expires=sa.bindparam("expires"))
    .returning(NONCES.c.nonce)
)
# executemany takes no RETURNING: older Pythons pass over the rows, newer ones refuse.
SPEND_MANY = insertion(NONCES, "nonce", "expires")
COUNT = compiled(sa.select(sa.func.count()).select_from(NONCES))
EVENTS = compiled(sa.select(schema.events).order_by(schema.events.c.id))
SHOW_FLOOR = compiled(
    sa.insert(schema.floors).values(device_id=sa.bindparam("device_id"), security_counter=1)
)


class Trouble(Exception):
    """Something went wrong in the middle of a transaction."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    migrate.upgrade(tmp_path / "plane.db")
    return tmp_path / "plane.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


def spend(database: Database, nonce: bytes) -> None:
    database.transact(lambda transaction: transaction.run(SPEND, nonce=nonce, expires=1.0))


def spent(database: Database) -> int:
    row = database.one(COUNT)
    assert row is not None
    return int(row[0])


# --- migrations ------------------------------------------------------------------------------------


def test_migrating_from_nothing_makes_the_schema(path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()
    assert migrate.current(path) == migrate.head()


def test_the_comparison_would_notice(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP INDEX ux_actions_open_device")
        connection.execute("ALTER TABLE devices DROP COLUMN revoked_reason")
    connection.close()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as open_connection:
        context = MigrationContext.configure(open_connection)
        found = {entry[0] for entry in compare_metadata(context, schema.metadata)}
    engine.dispose()
    assert found == {"add_index", "add_column"}


def test_migrating_again_keeps_what_is_there(path: Path, database: Database) -> None:
    spend(database, b"n")
    assert migrate.upgrade(path) == migrate.head()
    assert spent(database) == 1


def test_the_file_is_its_owner_s_alone(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_database_of_a_newer_program_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(SchemaVersion) as caught:
        migrate.upgrade(path)
    assert "9999" in caught.value.evidence["reason"]
    assert migrate.current(path) == "9999"


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "plane.db"
    path.write_bytes(b"a letter to my grandmother " * 100)
    with pytest.raises(SchemaVersion):
        migrate.upgrade(path)
    assert path.read_bytes().startswith(b"a letter")


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plane.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE devices (mine TEXT)")
        connection.execute("INSERT INTO devices VALUES ('precious')")
    connection.close()
    with pytest.raises(SchemaVersion):
        migrate.upgrade(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT mine FROM devices").fetchall() == [("precious",)]
    connection.close()


# --- transactions ----------------------------------------------------------------------------------


def test_a_transaction_is_whole(database: Database) -> None:
    def work(transaction: Transaction) -> int:
        transaction.many(SPEND_MANY, [{"nonce": bytes([n]), "expires": 1.0} for n in range(3)])
        transaction.emit("spent", 2.0, "dev-1", count=3)
        return 3

    assert database.transact(work) == 3
    assert spent(database) == 3
    [event] = database.all(EVENTS)
    assert (event["kind"], event["at"], event["device"]) == ("spent", 2.0, "dev-1")
    assert json.loads(event["data"]) == {"count": 3}


@pytest.mark.parametrize("trouble", [Trouble, KeyboardInterrupt])
def test_trouble_rolls_back_everything_and_tells_nobody(
    database: Database, trouble: type[BaseException]
) -> None:
    def work(transaction: Transaction) -> None:
        transaction.run(SPEND, nonce=b"n", expires=1.0)
        transaction.emit("spent", 2.0)
        raise trouble

    with pytest.raises(trouble):
        database.transact(work)
    assert spent(database) == 0
    assert database.all(EVENTS) == []
    spend(database, b"n")
    assert spent(database) == 1


def test_a_broken_constraint_rolls_back_everything(database: Database) -> None:
    spend(database, b"n")

    def replay(transaction: Transaction) -> None:
        transaction.emit("answered", 2.0)
        transaction.run(SPEND, nonce=b"n", expires=1.0)

    with pytest.raises(sqlite3.IntegrityError):
        database.transact(replay)
    assert database.all(EVENTS) == []
    assert spent(database) == 1


def test_a_commit_that_is_refused_rolls_back_and_blocks_nobody(database: Database) -> None:
    defer = compiled(sa.text("PRAGMA defer_foreign_keys = ON"))

    def work(transaction: Transaction) -> None:
        transaction.run(defer)
        transaction.run(SPEND, nonce=b"n", expires=1.0)
        transaction.run(SHOW_FLOOR, device_id=404)

    with pytest.raises(sqlite3.IntegrityError):
        database.transact(work)
    assert spent(database) == 0
    spend(database, b"n")
    assert spent(database) == 1


def test_foreign_keys_hold(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        database.transact(lambda transaction: transaction.run(SHOW_FLOOR, device_id=404))


def test_the_number_of_changed_rows_is_told(database: Database) -> None:
    for nonce in (b"a", b"b"):
        spend(database, nonce)
    wipe = compiled(sa.delete(NONCES).where(NONCES.c.nonce == sa.bindparam("nonce")))
    assert database.transact(lambda transaction: transaction.changed(wipe, nonce=b"a")) == 1
    assert database.transact(lambda transaction: transaction.changed(wipe, nonce=b"a")) == 0
    assert spent(database) == 1


def test_the_reading_connection_cannot_write(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError):
        database.all(SPEND, nonce=b"n", expires=1.0)
    assert spent(database) == 0


# --- two connections -------------------------------------------------------------------------------


def test_another_worker_sees_a_change_once_it_is_committed_only(path: Path, database: Database) -> None:
    other = Database(path)

    def work(transaction: Transaction) -> int:
        transaction.run(SPEND, nonce=b"n", expires=1.0)
        return spent(other)

    assert database.transact(work) == 0
    assert spent(other) == 1
    other.close()


def test_of_two_workers_one_spends_a_nonce(path: Path, database: Database) -> None:
    other = Database(path)

    async def race() -> list[object]:
        def work(transaction: Transaction) -> int:
            transaction.run(SPEND, nonce=b"n", expires=1.0)
            return 1

        return list(await asyncio.gather(database.write(work), other.write(work), return_exceptions=True))

    results = asyncio.run(race())
    assert sorted(type(result).__name__ for result in results) == ["IntegrityError", "int"]
    assert spent(database) == spent(other) == 1
    other.close()


def test_writers_of_two_workers_wait_for_each_other(path: Path, database: Database) -> None:
    other = Database(path)

    def spending(nonce: bytes) -> Callable[[Transaction], None]:
        def work(transaction: Transaction) -> None:
            transaction.run(SPEND, nonce=nonce, expires=1.0)

        return work

    async def both() -> None:
        workers = enumerate((database, other))
        writes = [worker.write(spending(bytes([side, n]))) for side, worker in workers for n in range(20)]
        await asyncio.gather(*writes)

    asyncio.run(both())
    assert spent(database) == 40
    other.close()
