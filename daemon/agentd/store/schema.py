# SPDX-License-Identifier: Apache-2.0
"""The tables, and how a database of any earlier version gets them."""

import sqlite3
from collections.abc import Callable, Iterable
from itertools import chain

from agentd.errors import StoreCorrupt, StoreFailed, StoreTooNew

APPLICATION = 0x61677464
"""`agtd`, in the file's header: `file` and SQLite's own tools show it."""

SEQ_BITS = 36
"""A run's place is its session's key and, in this many bits, the number of its first frame. So the frames of
a session lie side by side: they are read in one go, and whole pages are free when it is forgotten."""

TO_1 = (
    """CREATE TABLE session (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        native TEXT NOT NULL,
        agent TEXT NOT NULL,
        owner INTEGER NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        prompted INTEGER NOT NULL,
        cwd TEXT NOT NULL,
        title TEXT,
        start INTEGER NOT NULL DEFAULT 0 -- frames are numbered from here on if there are none
    )""",
    "CREATE TABLE facts (session INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    """CREATE TABLE run (
        place INTEGER PRIMARY KEY,
        count INTEGER NOT NULL,
        at REAL NOT NULL,
        data BLOB NOT NULL
    )""",
    """CREATE TABLE turn (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        session INTEGER NOT NULL,
        client TEXT NOT NULL,
        owner INTEGER NOT NULL,
        raw_id BLOB NOT NULL,
        progress TEXT NOT NULL,
        at REAL NOT NULL,
        said BLOB NOT NULL,
        ended REAL NOT NULL,
        outcome TEXT NOT NULL,
        answer BLOB NOT NULL
    )""",
    "CREATE INDEX turn_of_session ON turn (session)",
    "CREATE INDEX turn_of_client ON turn (client, raw_id)",
    "CREATE INDEX turn_unfinished ON turn (number) WHERE progress IN ('queued', 'running')",
    """CREATE TABLE permission (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        session INTEGER NOT NULL,
        turn INTEGER NOT NULL,
        progress TEXT NOT NULL,
        at REAL NOT NULL,
        frame BLOB NOT NULL,
        outcome TEXT NOT NULL
    )""",
    "CREATE INDEX permission_of_session ON permission (session)",
    "CREATE INDEX permission_pending ON permission (number) WHERE progress = 'pending'",
)

TO_2 = (
    "ALTER TABLE turn ADD COLUMN begun REAL NOT NULL DEFAULT 0",
    "CREATE INDEX turn_begun ON turn (begun, session) WHERE begun > 0",
)

Migrations = tuple[tuple[str, ...], ...]

MIGRATIONS: Migrations = (TO_1, TO_2)
"""What makes of each version the next one, beginning with version 0, the empty file."""

VERSION = len(MIGRATIONS)


def place(key: int, seq: int) -> int:
    return key << SEQ_BITS | seq


def seq_of(place: int) -> int:
    return place & ((1 << SEQ_BITS) - 1)


def prepare(
    connection: sqlite3.Connection,
    path: str,
    boundary: Callable[[str], None],
    migrations: Migrations = MIGRATIONS,
) -> None:
    """Make the file a database of the newest version, with a write-ahead log; `path` is for messages.

    Raises StoreTooNew, StoreCorrupt for the database of another program, StoreFailed where the file system
    is not fit for it, or sqlite3.Error. Where it raises, the tables are as they were.
    """
    version = _checked_version(connection, path, len(migrations))
    _set_up_file(connection, path)
    if version < len(migrations):
        _migrate(connection, chain(*migrations[version:]), len(migrations), boundary)


def _checked_version(connection: sqlite3.Connection, path: str, newest: int) -> int:
    version, owner = _pragma(connection, "user_version"), _pragma(connection, "application_id")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if owner != APPLICATION and (owner or version or tables):
        raise StoreCorrupt(
            f"{path} is the database of another program: move it away, or set required = false in [store]"
        )
    if version > newest:
        raise StoreTooNew(
            f"{path} was written by a newer agentd: its version is {version}, this agentd knows {newest} at "
            "most. Install the newer agentd again, move the file away, or set required = false in [store]"
        )
    return version


def _set_up_file(connection: sqlite3.Connection, path: str) -> None:
    """What the file's header says: only an empty file lets its first setting be changed."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreFailed(
            f"{path} cannot have a write-ahead log there: put it on a local file system, "
            "or set required = false in [store]"
        )


def _migrate(
    connection: sqlite3.Connection, steps: Iterable[str], version: int, boundary: Callable[[str], None]
) -> None:
    boundary("before migration")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in (*steps, f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {version}"):
            connection.execute(step)
            boundary("in migration")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have rolled it back already
            connection.execute("ROLLBACK")
        raise
    boundary("after migration")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
