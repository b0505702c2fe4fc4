# SPDX-License-Identifier: Apache-2.0
"""A store that is used by a program that dies, at each place in turn where the disk changes.

As a program it reads lines `N PATH LEDGER`, and for each has a process of its own live through the scenario
with a store at PATH, die at boundary N, and write to LEDGER a line for each promise that was kept before.
It answers with that process's wait status.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec

from agentd.errors import AgentdError
from agentd.store import writer
from agentd.store.records import Asked, Permission, Progress, Record, Turn
from support.stored import Watched, permission, session, turn

FRAME = b"x" * 2000 + b"\n"
LONG_AGO = 1000.0


class World(Protocol):
    """Where the scenario takes place: with a store, or with a model of one."""

    store: Any

    def promise(self) -> None:
        """Sync."""

    async def kept(self) -> None:
        """All promises are."""

    async def prune(self, before: float) -> None: ...

    async def reopen(self) -> None: ...


async def scenario(world: World) -> None:
    await beginning(world)
    await side_by_side(world)
    await world.reopen()
    await ending(world)


async def beginning(world: World) -> None:
    """Turns that begin and end, and a session whose id is used again."""
    store = world.store
    one, two = session(store, "one", updated=LONG_AGO), session(store, "two")
    store.save(two, b"facts")
    world.promise()
    await world.kept()
    asked = turn(store, two.key, said=b"hello", progress=Progress.QUEUED)
    world.promise()
    await world.kept()
    store.put_turn(msgspec.structs.replace(asked, progress=Progress.RUNNING, said=b""))
    store.append(two.key, 0, FRAME * 3)
    waiting = permission(store, two.key, frame=b"?\n")
    world.promise()
    await world.kept()
    store.append(two.key, 3, FRAME)
    store.put_permission(msgspec.structs.replace(waiting, progress=Asked.ANSWERED, outcome="yes"))
    store.put_turn(msgspec.structs.replace(asked, progress=Progress.ENDED, outcome="end_turn", answer=b"{}"))
    store.save(msgspec.structs.replace(two, prompted=True, title="hello"))
    world.promise()
    await world.kept()
    store.append(one.key, 0, FRAME * 20)
    world.promise()
    await world.kept()
    store.forget(two.key)
    again = session(store, "two")
    store.append(again.key, 0, b"again\n")
    world.promise()
    await world.kept()


async def side_by_side(world: World) -> None:
    """Promises that are not waited for one by one, so that several share a batch."""
    store = world.store
    sessions = [session(store, f"side {number}", updated=LONG_AGO + number) for number in range(3)]
    for round_ in range(4):
        for each in sessions:
            store.append(each.key, round_, FRAME)
            turn(store, each.key, progress=Progress.ENDED, outcome=f"{round_}")
        world.promise()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await world.kept()
    store.clear(sessions[0].key)
    store.append(sessions[0].key, 4, b"after\n")
    store.clear(sessions[1].key)
    world.promise()
    await world.kept()


async def ending(world: World) -> None:
    """Old sessions go, and turns are left unfinished."""
    store = world.store
    await world.prune(LONG_AGO + 2)
    last = session(store, "one")
    for number, progress in enumerate(Progress):
        turn(store, last.key, progress=progress, raw_id=b"%d" % number)
    permission(store, last.key)
    world.promise()
    await world.kept()


# With a store


class Life:
    """The scenario with a real store. It ends all of a sudden."""

    store: Any

    def __init__(self, path: str) -> None:
        self._path = path
        self._promised = self._kept = 0
        self._changed = asyncio.Event()

    async def open(self) -> None:
        self.store = await Watched().open(self._path)

    def promise(self) -> None:
        self._promised += 1
        self.store.sync(self._on_disk)

    def _on_disk(self, error: AgentdError | None) -> None:
        assert error is None
        self._kept += 1
        os.write(1, b"kept\n")
        self._changed.set()

    async def kept(self) -> None:
        while self._kept < self._promised:
            self._changed.clear()
            await self._changed.wait()

    async def prune(self, before: float) -> None:
        await self.store.prune(before=before, most_bytes=1 << 40, keep=())

    async def reopen(self) -> None:
        await self.store.close()
        await self.open()


async def live(path: str) -> None:
    life = Life(path)
    await life.open()
    await scenario(life)
    await life.store.close()


def dying(at: int) -> Callable[[str], None]:
    left = iter(range(at))

    def boundary(_: str) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    return boundary


def child(at: int, path: str, ledger: str) -> None:
    os.dup2(os.open(ledger, os.O_WRONLY | os.O_CREAT, 0o600), 1)
    writer.CHECKPOINT_BYTES = 100_000
    writer.VACUUM_PAGES = 8
    writer.boundary = dying(at)
    asyncio.run(live(path))


def main() -> None:
    for line in sys.stdin:
        at, path, ledger = line.split()
        if (pid := os.fork()) == 0:
            try:
                child(int(at), path, ledger)
                os._exit(0)
            finally:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        print(os.waitpid(pid, 0)[1], flush=True)


# With a model


class State(msgspec.Struct, frozen=True):
    """All that is in a store, by keys and numbers. `frames`: the span, and the frames."""

    sessions: dict[int, Record]
    facts: dict[int, bytes]
    frames: dict[int, tuple[int, int, bytes]]
    turns: dict[int, Turn]
    permissions: dict[int, Permission]


class Model:
    """What has been said (World and store in one), and every state in which the disk may be found.

    `promised`: for each promise the number of the state that it was made for.
    """

    def __init__(self) -> None:
        self.store = self
        self._now = State({}, {}, {}, {}, {})
        self._last = [0, 0]
        self.states = [msgspec.structs.replace(self._now)]
        self.promised: list[int] = []
        self.step()

    def step(self) -> None:
        copies = {name: dict(getattr(self._now, name)) for name in State.__struct_fields__}
        self.states.append(State(**copies))

    def promise(self) -> None:
        self.step()
        self.promised.append(len(self.states) - 1)

    async def kept(self) -> None: ...

    async def reopen(self) -> None: ...

    async def prune(self, before: float) -> None:
        for record in sorted(self._now.sessions.values(), key=lambda record: record.updated):
            if record.updated < before:
                self.forget(record.key)
                self.step()

    def new_key(self) -> int:
        self._last[0] += 1
        return self._last[0]

    def new_number(self) -> int:
        self._last[1] += 1
        return self._last[1]

    def save(self, record: Record, facts: bytes | None = None) -> None:
        self._now.sessions[record.key] = record
        self._now.frames.setdefault(record.key, (0, 0, b""))
        if facts is not None:
            self._now.facts[record.key] = facts

    def forget(self, key: int) -> None:
        for table in (self._now.sessions, self._now.facts, self._now.frames):
            table.pop(key, None)
        for rows in (self._now.turns, self._now.permissions):
            for number in [number for number, row in rows.items() if row.session == key]:
                del rows[number]

    def append(self, key: int, seq: int, run: bytes) -> None:
        start, end, data = self._now.frames[key]
        assert seq == end
        self._now.frames[key] = (start, end + run.count(b"\n"), data + run)

    def clear(self, key: int) -> None:
        end = self._now.frames[key][1]
        self._now.frames[key] = (end, end, b"")

    def put_turn(self, turn: Turn) -> None:
        self._now.turns[turn.number] = turn

    def put_permission(self, permission: Permission) -> None:
        self._now.permissions[permission.number] = permission


def modelled(work: Callable[[World], Coroutine[Any, Any, None]] = scenario) -> Model:
    """What the scenario should come to."""
    model = Model()
    asyncio.run(work(model))
    return model


if __name__ == "__main__":
    main()
