# SPDX-License-Identifier: Apache-2.0

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import StoreCorrupt, StoreTooNew
from agentd.store import schema
from agentd.store.schema import APPLICATION, MIGRATIONS, VERSION, Migrations, prepare

NEWER: Migrations = (
    *MIGRATIONS,
    ("ALTER TABLE session ADD COLUMN mood TEXT", "CREATE TABLE mood (name TEXT)"),
)
BROKEN: Migrations = (*MIGRATIONS, ("CREATE TABLE mood (name TEXT)", "CREATE TABLE mood (name TEXT)"))


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as connection:
        yield connection


def prepared(connection: sqlite3.Connection, migrations: Migrations = MIGRATIONS) -> list[str]:
    """Where the boundaries were."""
    passed: list[str] = []
    prepare(connection, "/path/db", passed.append, migrations)
    return passed


def header(connection: sqlite3.Connection) -> tuple[int, ...]:
    names = ("application_id", "user_version", "auto_vacuum")
    return tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)


def everything(connection: sqlite3.Connection) -> list[str]:
    return list(connection.iterdump())


def test_an_empty_file_becomes_a_database_of_ours(connection: sqlite3.Connection) -> None:
    passed = prepared(connection)
    assert header(connection) == (APPLICATION, VERSION, 2)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (passed[0], passed[-1]) == ("before migration", "after migration")


def test_one_that_is_up_to_date_is_left_alone(connection: sqlite3.Connection) -> None:
    prepared(connection)
    before = everything(connection)
    assert prepared(connection) == []
    assert everything(connection) == before


def test_an_older_one_is_migrated_with_what_is_in_it(connection: sqlite3.Connection) -> None:
    prepared(connection)
    connection.execute("INSERT INTO facts VALUES (1, x'00')")
    prepared(connection, NEWER)
    assert header(connection) == (APPLICATION, VERSION + 1, 2)
    assert connection.execute("SELECT * FROM facts").fetchall() == [(1, b"\0")]
    assert connection.execute("SELECT mood FROM session").fetchall() == []


def test_turns_of_the_first_version_are_there_in_the_second(connection: sqlite3.Connection) -> None:
    prepared(connection, MIGRATIONS[:1])
    connection.execute(
        "INSERT INTO turn VALUES (7, 1, 'c', 1000, x'31', 'ended', 5.0, x'', 6.0, 'x', x'7b')"
    )
    prepared(connection)
    assert header(connection) == (APPLICATION, 2, 2)
    assert connection.execute("SELECT number, at, answer, begun FROM turn").fetchall() == [
        (7, 5.0, b"{", 0.0)
    ]


def test_an_empty_file_goes_through_all_migrations(connection: sqlite3.Connection) -> None:
    prepared(connection, NEWER)
    assert connection.execute("SELECT mood FROM session").fetchall() == []


def test_a_migration_that_fails_changes_nothing(connection: sqlite3.Connection) -> None:
    prepared(connection)
    before = everything(connection)
    with pytest.raises(sqlite3.OperationalError, match="mood already exists"):
        prepared(connection, BROKEN)
    assert (everything(connection), connection.in_transaction) == (before, False)
    assert header(connection) == (APPLICATION, VERSION, 2)
    prepared(connection, NEWER)


def test_one_of_a_newer_agentd_is_refused_and_left_alone(connection: sqlite3.Connection) -> None:
    prepared(connection, NEWER)
    before = everything(connection)
    with pytest.raises(
        StoreTooNew, match=rf"^/path/db was written by a newer agentd: its version is {VERSION + 1}"
    ):
        prepared(connection)
    assert everything(connection) == before


@pytest.mark.parametrize(
    "statement",
    ["PRAGMA application_id = 7", "PRAGMA user_version = 1", "CREATE TABLE session (key INTEGER)"],
)
def test_that_of_another_program_is_refused_and_left_alone(
    connection: sqlite3.Connection, statement: str
) -> None:
    connection.execute(statement)
    before = everything(connection)
    with pytest.raises(StoreCorrupt, match=r"^/path/db is the database of another program"):
        prepared(connection)
    assert everything(connection) == before
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_place_is_a_session_and_a_number_in_it() -> None:
    last = (1 << schema.SEQ_BITS) - 1
    assert schema.place(7, last) + 1 == schema.place(8, 0)
    assert schema.seq_of(schema.place(7, last)) == last
