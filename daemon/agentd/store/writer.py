# SPDX-License-Identifier: Apache-2.0
"""The thread that writes and the one that reads, each with a connection of its own.

With a write-ahead log they don't wait for each other. Nothing of SQLite's is called in any other thread.
"""

import asyncio
import contextlib
import errno
import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from agentd.errors import StoreCorrupt, StoreFailed, StoreFull
from agentd.files import sync_directory
from agentd.store import schema
from agentd.store.batch import Batch, Contents, decoded, encoded
from agentd.store.records import Begun, Permission, Record, Run, Turn
from agentd.store.schema import SEQ_BITS, place, seq_of

BUSY_SEC = 1.0
"""How long somebody else may hold the database, an administrator's sqlite3 say."""

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""So much is written to the log before it goes into the database, and the log begins anew."""

LOG_BYTES = 32 * 1024 * 1024
"""Past this the log is cut: somebody was reading whenever it could have begun anew."""

PAGE_BYTES = 4096
PAGES_OF_A_ROW = 5
"""About so many change with a row, of the table and its indexes."""

VACUUM_PAGES = 256
"""Are given back at a time, which takes some milliseconds."""

TURN_SEC = 0.003
MOMENT_SEC = 0.00005

PROBE_BYTES = 256 * 1024
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


def _nothing(where: str) -> None:
    """See `boundary`."""


boundary: Callable[[str], None] = _nothing
"""Called in the thread that writes wherever the state of the disk changes: tests end the process there."""


# What went wrong


def named(error: Exception, path: str, doing: str) -> StoreFailed:
    """What has become of the database, for people. It looks at the disk: not for the loop."""
    if isinstance(error, StoreFailed):
        return error
    name = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or isinstance(error, _Garbled):
        return StoreCorrupt(
            f"{path} is damaged ({error}): move it away together with {os.path.basename(path)}-wal and "
            "connect again, or set required = false in [store]"
        )
    if name == "SQLITE_FULL" or _says_full(error) or (name.startswith("SQLITE_IOERR") and _is_full(path)):
        return StoreFull(f"there is no space left for {path} ({error}): it goes on once there is some")
    return StoreFailed(
        f"{path} cannot be {doing} ({error or type(error).__name__}): see to it that its directory is there "
        "and may be written, or set required = false in [store]"
    )


class _Garbled(Exception):
    """A row that nobody of ours has written."""


def _says_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in NO_SPACE


def _is_full(path: str) -> bool:
    """Whether nothing can be written beside it: SQLite has no name for some ways in which a disk is full."""
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(path), buffering=0) as probe:
            return probe.write(bytes(PROBE_BYTES)) < PROBE_BYTES
    except OSError as exc:
        return exc.errno in NO_SPACE


# A thread


class Thread:
    """Does one thing after another; what goes wrong comes back as one of the family of StoreFailed."""

    def __init__(self, name: str, path: str, doing: str) -> None:
        self._path = path
        self._doing = doing
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._given = self._done = self._done_before = 0
        self._timer: asyncio.TimerHandle | None = None

    def do(self, work: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, self._carry_out, work, *arguments)
        future.add_done_callback(self._count)
        self._given += 1
        if self._timer is None:
            self._timer = loop.call_later(TURN_SEC, self._give_turn)
        return future

    def close(self, *, wait: bool) -> None:
        """`wait`: until it has ended, where all it was given is done."""
        self._executor.shutdown(wait=wait, cancel_futures=True)
        if self._timer is not None:
            self._timer.cancel()

    def _count(self, _: "asyncio.Future[Any]") -> None:
        self._done += 1

    def _give_turn(self) -> None:
        """Let go of the interpreter for a moment where the thread has got nothing done for a while.

        A loop that always has something to do lets go of it, too, with every system call, but takes it back
        before the thread has woken up: that can go on for seconds, while a client waits for its answer.
        """
        self._timer = None
        if self._done == self._given:
            return
        if self._done == self._done_before:
            time.sleep(MOMENT_SEC)
        self._done_before = self._done
        self._timer = asyncio.get_running_loop().call_later(TURN_SEC, self._give_turn)

    def _carry_out(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return work(*arguments)
        except Exception as exc:
            raise named(exc, self._path, self._doing) from exc


def _connected(path: str) -> sqlite3.Connection:
    """A connection to a file that is there."""
    where = Path(path).absolute().as_uri() + "?mode=rw"
    connection = sqlite3.connect(where, uri=True, timeout=BUSY_SEC, isolation_level=None)
    connection.text_factory = decoded
    return connection


# Writing


class Writer:
    """The connection that writes. Everything but `behind` is for its thread."""

    def __init__(self, path: str, contents: Contents) -> None:
        self._path = path
        self._contents = contents
        self._log_bytes = 0
        self._file = (0, 0)
        self.connection: sqlite3.Connection | None = None

    @property
    def behind(self) -> bool:
        """Whether `tidy` has something to do."""
        return self._log_bytes >= CHECKPOINT_BYTES

    def open(self) -> None:
        self._file = _make_file(self._path)
        boundary("after the file was made")
        self.connection = connection = _connected(self._path)
        schema.prepare(connection, self._path, boundary)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = FAST")  # zeroes what costs nothing to zero
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # `tidy` does it, after promises are kept
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        self._log_bytes = _size(self._path + "-wal")

    def write(self, batch: Batch) -> None:
        """All of it or nothing. It is on disk then."""
        connection = self._opened()
        self._roll_back(connection)
        self._check_file()
        self.tidy()
        if batch:
            self._transact(connection, batch)

    def tidy(self) -> None:
        """Take what was written from the log to the database, if that is worth it."""
        if self.behind:
            cut = _size(self._path + "-wal") > LOG_BYTES
            self._checkpoint("TRUNCATE" if cut else "PASSIVE")

    def vacuum(self) -> int:
        """Give some free pages back to the file system. Returns how many there still are."""
        connection = self._opened()
        boundary("before vacuum")
        connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")  # execute() takes one step
        boundary("after vacuum")
        (left,) = connection.execute("PRAGMA freelist_count").fetchone()
        self._log_bytes += VACUUM_PAGES * PAGE_BYTES
        if left:
            self.tidy()
        else:
            self._checkpoint("PASSIVE")  # only now the file gets shorter
        return int(left)

    def close(self) -> None:
        if self.connection is not None:
            boundary("before close")
            self._roll_back(self.connection)
            self.connection.close()
            self.connection = None
            boundary("after close")

    def _opened(self) -> sqlite3.Connection:
        if self.connection is None:
            raise StoreFailed(f"{self._path} is closed")
        return self.connection

    def _transact(self, connection: sqlite3.Connection, batch: Batch) -> None:
        boundary("before begin")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in batch.statements(self._contents):
                connection.execute(statement, values)
                self._log_bytes += PAGES_OF_A_ROW * PAGE_BYTES
                boundary("after a statement")
            boundary("before commit")
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise
        self._log_bytes += batch.size
        boundary("after commit")

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:  # some errors have rolled it back already
            connection.execute("ROLLBACK")

    def _checkpoint(self, mode: str) -> None:
        boundary("before checkpoint")
        self._opened().execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        self._log_bytes = 0  # also where a reader was in the way: it is tried again after as much
        boundary("after checkpoint")

    def _check_file(self) -> None:
        """Whoever moved the file away must not be told that anything is in it."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._file:
            raise StoreFailed(
                f"{self._path} was moved or replaced while it was in use: restart, so that it is opened anew"
            )


def _make_file(path: str) -> tuple[int, int]:
    """Make the file if it is not there, for nobody else to read. Returns which one it is.

    Its descriptor is closed before SQLite opens the file, for that would give up SQLite's locks on it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise StoreFailed(
                f"{path} is not a file of ours: move it away, or set required = false in [store]"
            )
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    sync_directory(os.path.dirname(path))  # SQLite does it for the log, but has not made the database
    return found.st_dev, found.st_ino


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


# Reading


class Loaded(NamedTuple):
    """What is known from the start. `spans`: by key, as Store.span has them."""

    records: list[Record]
    spans: dict[int, tuple[int, int]]
    unfinished: list[Turn]
    pending: list[Permission]
    last_key: int
    last_number: int


def _columns(row: type[msgspec.Struct]) -> str:
    return ", ".join(row.__struct_fields__)


SESSIONS = f"""
    SELECT {_columns(Record)}, start,
        (SELECT min(place) FROM run WHERE place >= key << {SEQ_BITS} AND place < (key + 1) << {SEQ_BITS}),
        (SELECT place + count FROM run WHERE place >= key << {SEQ_BITS} AND place < (key + 1) << {SEQ_BITS}
            ORDER BY place DESC LIMIT 1)
    FROM session ORDER BY key"""  # noqa: S608, names of ours
RUNS = """
    SELECT place, count, at, data FROM run
    WHERE place >= coalesce((SELECT max(place) FROM run WHERE place >= ? AND place <= ?), ?)
        AND place < ? AND place + count > ?
    ORDER BY place"""
TURNS = f"SELECT {_columns(Turn)} FROM turn "  # noqa: S608, names of ours
PERMISSIONS = f"SELECT {_columns(Permission)} FROM permission "  # noqa: S608, names of ours
UNFINISHED = TURNS + "WHERE progress IN ('queued', 'running') ORDER BY number"
TURNS_OF_SESSION = TURNS + "WHERE session = ? ORDER BY number"
TURN_OF_CLIENT = TURNS + "WHERE client = CAST(? AS TEXT) AND raw_id = ? ORDER BY number DESC LIMIT 1"
BEGUN = """
    SELECT session, begun FROM turn WHERE begun > 0 AND begun > ? AND begun < ?
    ORDER BY begun DESC LIMIT ?"""
PENDING = PERMISSIONS + "WHERE progress = 'pending' ORDER BY number"
PERMISSIONS_OF_SESSION = PERMISSIONS + "WHERE session = ? ORDER BY number"
FACTS = "SELECT data FROM facts WHERE session = ?"
LAST = "SELECT name, seq FROM sqlite_sequence"


class Reader:
    """The connection that reads. Everything is for its thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def open(self) -> Loaded:
        self._connection = _connected(self._path)
        self._connection.execute("PRAGMA query_only = ON")
        records, spans = self._sessions()
        last = dict(self._rows(LAST))
        return Loaded(
            records,
            spans,
            [_turn(row) for row in self._rows(UNFINISHED)],
            [_permission(row) for row in self._rows(PENDING)],
            last.get("session", 0),
            max(last.get("turn", 0), last.get("permission", 0)),
        )

    def _sessions(self) -> tuple[list[Record], dict[int, tuple[int, int]]]:
        records, spans = [], {}
        for *row, start, first, end in self._rows(SESSIONS):
            records.append(record := _record(row))
            spans[record.key] = (start, start) if first is None else (seq_of(first), seq_of(end))
        return records, spans

    def runs(self, key: int, seq: int, most_bytes: int) -> list[Run]:
        """As Store.read has it."""
        found, size = list[Run](), 0
        begin, here, end = place(key, 0), place(key, seq), place(key + 1, 0)
        asked = self._each(RUNS, begin, here, here, end, here)
        with contextlib.closing(asked) as rows:  # a cursor left open holds up the log
            for row in rows:
                found.append(run := _cut(_run(row), seq))
                size += len(run.data)
                if size >= most_bytes:
                    break
        return found

    def facts(self, key: int) -> bytes:
        rows = self._rows(FACTS, key)
        return bytes(rows[0][0]) if rows else b""

    def turns(self, key: int) -> list[Turn]:
        return [_turn(row) for row in self._rows(TURNS_OF_SESSION, key)]

    def permissions(self, key: int) -> list[Permission]:
        return [_permission(row) for row in self._rows(PERMISSIONS_OF_SESSION, key)]

    def turn_of(self, client: str, raw_id: bytes) -> Turn | None:
        rows = self._rows(TURN_OF_CLIENT, encoded(client), raw_id)
        return _turn(rows[0]) if rows else None

    def begun(self, since: float, until: float, most: int) -> list[Begun]:
        return [_begun(row) for row in self._rows(BEGUN, since, until, most)]

    def used_bytes(self) -> int:
        """What the database takes, pages that are free left out."""
        pages, free, size = (
            self._rows(f"PRAGMA {name}")[0][0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreFailed(f"{self._path} is closed")
        return self._connection

    def _rows(self, query: str, *values: object) -> list[Any]:
        return list(self._each(query, *values))

    def _each(self, query: str, *values: object) -> Generator[Any, None, None]:
        with contextlib.closing(self._opened().execute(query, values)) as cursor:
            try:
                yield from cursor
            except UnicodeDecodeError as exc:
                raise _Garbled(str(exc)) from exc


def _record(row: Iterable[Any]) -> Record:
    return _converted(Record, row)


def _turn(row: Iterable[Any]) -> Turn:
    return _converted(Turn, row)


def _begun(row: Iterable[Any]) -> Begun:
    return _converted(Begun, row)


def _permission(row: Iterable[Any]) -> Permission:
    return _converted(Permission, row)


def _run(row: tuple[int, int, float, bytes]) -> Run:
    where, *rest = row
    return _converted(Run, (seq_of(where), *rest))


def _converted(kind: type[S], row: Iterable[Any]) -> S:
    """A row of ours, or _Garbled: what SQLite takes for a row need not be one."""
    try:
        values = dict(zip(kind.__struct_fields__, row, strict=True))
        return msgspec.convert(values, kind, strict=False, builtin_types=(bytes,))
    except msgspec.ValidationError as exc:
        raise _Garbled(f"a {kind.__name__.lower()} in it is none: {exc}") from exc


def _cut(run: Run, seq: int) -> Run:
    """The same without frames before that number."""
    if (before := seq - run.seq) <= 0:
        return run
    *_, rest = run.data.split(b"\n", before)
    return Run(seq, run.count - before, run.at, rest)
