# SPDX-License-Identifier: Apache-2.0
"""A store that is watched, and short words for what is put in it."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from agentd.errors import AgentdError
from agentd.log import Redactor
from agentd.store.records import Asked, Permission, Progress, Record, Turn
from agentd.store.store import Store

NOW = 1_000_000.0


class Watched:
    """A store, and what it has called back."""

    def __init__(self) -> None:
        self.full: list[bool] = []
        self.troubles: list[str | None] = []
        self.store: Store

    async def open(
        self, path: str, *, contents: bool = True, required: bool = True, redact: Redactor | None = None
    ) -> Store:
        self.store = await Store.open(
            path,
            contents=contents,
            required=required,
            redact=redact or Redactor(),
            clock=lambda: NOW,
            on_full=self.full.append,
            on_trouble=lambda error: self.troubles.append(error.reason if error is not None else None),
        )
        return self.store


@contextlib.asynccontextmanager
async def opened(path: str, **options: Any) -> AsyncIterator[Store]:
    store = await Watched().open(path, **options)
    try:
        yield store
    finally:
        await store.close()


def session(store: Store, name: str = "s", **fields: Any) -> Record:
    """A new session, saved."""
    values = {"native": "n", "agent": "a", "owner": 1000, "state": "idle", "created": NOW, "updated": NOW}
    record = msgspec.convert({"key": store.new_key(), "id": name, **values, **fields}, Record)
    store.save(record)
    return record


def turn(store: Store, key: int, **fields: Any) -> Turn:
    """A new turn, put."""
    values = {"session": key, "client": "c", "owner": 1000, "raw_id": b"1", "at": NOW}
    made = Turn(**{"number": store.new_number(), "progress": Progress.RUNNING, **values, **fields})
    store.put_turn(made)
    return made


def permission(store: Store, key: int, **fields: Any) -> Permission:
    values = {"number": store.new_number(), "session": key, "turn": 1, "progress": Asked.PENDING, "at": NOW}
    made = Permission(**{**values, **fields})
    store.put_permission(made)
    return made


async def synced(store: Store) -> AgentdError | None:
    """What sync had to say."""
    done: asyncio.Future[AgentdError | None] = asyncio.get_running_loop().create_future()
    store.sync(done.set_result)
    return await done


async def frames(store: Store, key: int, seq: int = 0) -> bytes:
    """All that can be read, which is where it claims to be."""
    runs, at = b"", None
    for run in await store.read(key, seq, 1 << 40):
        assert run.data.count(b"\n") == run.count
        assert at in (None, run.seq)
        runs, at = runs + run.data, run.end
    return runs


async def in_writer(store: Store, query: str) -> list[Any]:
    """What the connection that writes says to it."""
    connection = store._writer.connection
    assert connection is not None
    return await store._writing.do(lambda: connection.execute(query).fetchall())


def rows(path: str, query: str) -> list[Any]:
    """What another program sees in the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()
