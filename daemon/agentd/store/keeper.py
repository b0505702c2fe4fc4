# SPDX-License-Identifier: Apache-2.0
"""What a worker needs of whoever keeps its sessions: the store, or nobody."""

import asyncio
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from agentd.errors import AgentdError
from agentd.store.records import Begun, Permission, Record, Run, Turn

Then = Callable[[AgentdError | None], None]
"""Told that everything so far is on disk, or why it is not."""


class Keeper(Protocol):
    """Nothing here waits but what is `async`. What is said in one go is kept together, or not at all."""

    @property
    def keeps_frames(self) -> bool:
        """Whether what was said can be read again."""

    @property
    def sessions(self) -> Mapping[str, Record]:
        """Every session, by its public id."""

    @property
    def trouble(self) -> AgentdError | None:
        """Why nothing may begin at present."""

    def new_key(self) -> int:
        """For a new Record."""

    def new_number(self) -> int:
        """For a new Turn, or Permission."""

    def save(self, record: Record, facts: bytes | None = None) -> None:
        """A session, new or changed. `facts`: what else is to be known of it, None for what was."""

    def forget(self, key: int) -> None:
        """A session, and all that was said and done in it."""

    def append(self, key: int, seq: int, run: bytes) -> None:
        """Frames of a session, each with its newline, the first of them number `seq`."""

    def clear(self, key: int) -> None:
        """What was said in a session until now."""

    def put_turn(self, turn: Turn) -> None: ...

    def put_permission(self, permission: Permission) -> None: ...

    def sync(self, then: Then, key: int | None = None) -> None:
        """Have all that was said so far written now; with a `key`, of frames only those of that session.

        `then` may be called before this returns.
        """

    def span(self, key: int) -> tuple[int, int]:
        """The numbers of a session's first frame and of the one after its last."""

    def written(self, key: int) -> int:
        """Frames below this number need not be in memory."""

    async def read(self, key: int, seq: int, most_bytes: int) -> list[Run]:
        """Frames from number `seq` on. Raises StoreFailed."""

    async def facts(self, key: int) -> bytes:
        """What was saved beside a Record. Raises StoreFailed."""

    async def turns(self, key: int) -> list[Turn]: ...

    async def permissions(self, key: int) -> list[Permission]: ...

    async def turn_of(self, client: str, raw_id: bytes) -> Turn | None:
        """The turn for a prompt that came by this connection under this id."""

    async def begun(self, since: float, until: float, most: int) -> list[Begun]:
        """Turns that have begun between these times: the latest `most`, latest first. Raises StoreFailed."""

    async def prune(self, *, before: float, most_bytes: int, keep: Collection[int]) -> list[Record]:
        """Forget the longest unused sessions, except some, and return them."""

    async def close(self) -> None: ...


async def synced(store: Keeper) -> None:
    """Returns when all that was said so far is on disk. Raises StoreFailed."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def then(error: AgentdError | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    store.sync(then)
    await done


class Nothing:
    """Keeps nothing (Keeper)."""

    keeps_frames = False
    trouble: AgentdError | None = None

    def __init__(self) -> None:
        self.sessions: dict[str, Record] = {}
        self._numbers = itertools.count(1)

    def new_key(self) -> int:
        return next(self._numbers)

    def new_number(self) -> int:
        return next(self._numbers)

    def save(self, record: Record, facts: bytes | None = None) -> None: ...

    def forget(self, key: int) -> None: ...

    def append(self, key: int, seq: int, run: bytes) -> None: ...

    def clear(self, key: int) -> None: ...

    def put_turn(self, turn: Turn) -> None: ...

    def put_permission(self, permission: Permission) -> None: ...

    def sync(self, then: Then, key: int | None = None) -> None:
        then(None)

    def span(self, key: int) -> tuple[int, int]:
        return 0, 0

    def written(self, key: int) -> int:
        """Nothing is anywhere else, but it may be lost."""
        return 1 << 62

    async def read(self, key: int, seq: int, most_bytes: int) -> list[Run]:
        return []

    async def facts(self, key: int) -> bytes:
        return b"{}"

    async def turns(self, key: int) -> list[Turn]:
        return []

    async def permissions(self, key: int) -> list[Permission]:
        return []

    async def turn_of(self, client: str, raw_id: bytes) -> Turn | None:
        return None

    async def begun(self, since: float, until: float, most: int) -> list[Begun]:
        return []

    async def prune(self, *, before: float, most_bytes: int, keep: Collection[int]) -> list[Record]:
        return []

    async def close(self) -> None: ...
