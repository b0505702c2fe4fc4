# SPDX-License-Identifier: Apache-2.0
"""All sessions of a container: those that are alive here, and those that are only kept."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from agentd.config import Store
from agentd.errors import NoSuchSession, TooManySessions
from agentd.log import Context
from agentd.store.records import Record
from agentd.systemd.events import Event
from agentd.worker.facts import Facts, Picker
from agentd.worker.hello import Hello
from agentd.worker.router import Router
from agentd.worker.session import House as SessionHouse
from agentd.worker.session import Session

DAY_SEC = 86_400.0
AWAITED_SEC = 60.0
"""How long whoever has asked for a session may take to come in."""
LOOK_SEC = 3_600.0
"""How often it is looked for sessions that have become too old, or too many."""


class House(SessionHouse, Protocol):
    """What it takes to have sessions."""

    @property
    def shares_sessions(self) -> bool:
        """Whether they are there for everybody who may use the container."""

    @property
    def keeping(self) -> Store:
        """How long sessions are kept."""

    def picker(self, visitor: "Visitor") -> Picker | None:
        """How somebody picks agents, None for one that has named its own."""

    async def close_native(self, router: Router, native: str) -> None:
        """Have an agent forget a session that has left it, where it can."""


class Visitor(Protocol):
    """Whoever wants to see a session. `agent_name`: "" where it named none."""

    uid: int
    agent_name: str
    hello: Hello


class Place:
    """Kept for a session of this account that was asked for and is not there yet."""

    def __init__(self, owner: int) -> None:
        self.owner = owner


class Sessions:
    """By public id. What is kept comes alive when somebody asks for it, and is put away when nobody does."""

    def __init__(self, house: House, container: str, log: Context) -> None:
        self.alive: dict[str, Session] = {}
        self._house = house
        self._store = house.store
        self._container = container
        self._log = log
        self._in_use: set[int] = set()
        """Keys of those that are alive, for the store to look at while it forgets others."""
        self._waking: dict[int, asyncio.Task[None]] = {}
        self._minted = itertools.count(1)
        self._coming: set[Place] = set()
        self._patience: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> list[Session]:
        """Those in which a turn runs."""
        return [session for session in self.alive.values() if session.busy]

    # Who may see which

    def is_taken(self, session_id: str) -> bool:
        return session_id in self.alive or session_id in self._store.sessions

    def get(self, visitor: Visitor, session_id: str) -> Session | None:
        """One that is alive. Raises NoSuchSession for somebody else's."""
        session = self.alive.get(session_id)
        if session is not None:
            self._check(visitor, session.owner, session_id)
        return session

    def kept(self, visitor: Visitor, session_id: str) -> Record | None:
        """One that is kept, alive or not. Raises NoSuchSession for somebody else's."""
        record = self._store.sessions.get(session_id)
        if record is not None:
            self._check(visitor, record.owner, session_id)
        return record

    def seen_by(self, visitor: Visitor) -> list[Session]:
        return [session for session in self.alive.values() if self._may_see(visitor, session.owner)]

    def kept_for(self, visitor: Visitor) -> list[Record]:
        """Those that are not alive, and in which something was said."""
        return [
            record
            for record in self._store.sessions.values()
            if record.prompted and record.id not in self.alive and self._may_see(visitor, record.owner)
        ]

    def names_by(self, agent: str) -> set[str]:
        """What this agent calls those of ours that it has served last."""
        return {record.native for record in self._store.sessions.values() if record.agent == agent}

    def is_anothers(self, visitor: Visitor, agent: str, native: str) -> bool:
        """Whether an agent calls somebody else's session so, whatever its name is here."""
        alive = ((each.facts.agent, each.native, each.owner) for each in self.alive.values())
        kept = ((each.agent, each.native, each.owner) for each in self._store.sessions.values())
        return any(
            (its, name) == (agent, native) and not self._may_see(visitor, owner)
            for its, name, owner in itertools.chain(alive, kept)
        )

    def _may_see(self, visitor: Visitor, owner: int) -> bool:
        return owner == visitor.uid or self._house.shares_sessions

    def _check(self, visitor: Visitor, owner: int, session_id: str) -> None:
        if not self._may_see(visitor, owner):
            raise unknown(session_id)

    # Coming alive

    @contextlib.contextmanager
    def place(self, owner: int) -> Iterator[Place]:
        """Keeps a place while a session of this account is on its way. Raises TooManySessions.

        Where there are too many, the one that nobody has used for longest is put away.
        """
        limits, mine = self._house.limits, [each for each in self.alive.values() if each.owner == owner]
        if len(mine) + sum(each.owner == owner for each in self._coming) >= limits.sessions_per_uid:
            self._evict(
                mine, f"you have {limits.sessions_per_uid} open sessions in {self._container} already"
            )
        elif len(self.alive) + len(self._coming) >= limits.sessions:
            self._evict(self.alive.values(), f"{self._container} has {limits.sessions} sessions already")
        place = Place(owner)
        self._coming.add(place)
        try:
            yield place
        finally:
            self._coming.discard(place)

    def _evict(self, sessions: Iterable[Session], problem: str) -> None:
        idle = [each for each in sessions if self._may_go(each)]
        if not idle:
            raise TooManySessions(f"{problem}; close one")
        self.put_away(min(idle, key=lambda session: session.last_used))

    def _may_go(self, session: Session) -> bool:
        just_came = session.is_awaited and self._house.now() - session.last_used < AWAITED_SEC
        return session.is_idle and not (session.clients or just_came)

    def admit(self, place: Place, native: str, facts: Facts, *, public: str = "") -> Session:
        """A new session, under this name, or else its agent's name for it where nobody has that."""
        public = public or (native if not self.is_taken(native) else self._mint(native))
        session = Session(public, self._store.new_key(), facts, place.owner, self._house, self._log)
        session.native = native
        session.save(facts=True)
        return self._enter(place, session)

    def _enter(self, place: Place, session: Session) -> Session:
        session.is_awaited = True
        self._coming.discard(place)  # it counts once
        self.alive[session.id] = session
        self._in_use.add(session.key)
        self._house.changed()
        self._watch()
        return session

    def _mint(self, native: str) -> str:
        return next(each for number in self._minted if not self.is_taken(each := f"{native}~{number}"))

    async def find(self, visitor: Visitor, session_id: str, params: dict[str, Any]) -> Session | None:
        """A session, alive from now on. `params`: what the visitor has told of it besides its id.

        Raises NoSuchSession for somebody else's, TooManySessions, StoreFailed.
        """
        record = self.kept(visitor, session_id)
        if record is not None and session_id not in self.alive:
            picker = self._house.picker(visitor)
            facts = Facts(record.agent, visitor.hello, params, picker, now=record.updated)
            await self._wake(record, facts)
        return self.get(visitor, session_id)

    async def _wake(self, record: Record, facts: Facts) -> None:
        """One wakes it; whoever comes meanwhile waits."""
        task = self._waking.get(record.key)
        if task is None:
            task = self._house.tasks.start(self._awaken(record, facts), f"waking of {record.id}")
            self._waking[record.key] = task
            task.add_done_callback(lambda _: self._waking.pop(record.key, None))
        await asyncio.shield(task)

    async def _awaken(self, record: Record, facts: Facts) -> None:
        with self.place(record.owner) as place:
            facts.restore(await self._store.facts(record.key))
            facts.title = record.title
            now = self._store.sessions.get(record.id)
            if now is None or now.key != record.key:
                return  # deleted meanwhile
            session = Session(
                record.id, record.key, facts, record.owner, self._house, self._log, created=record.created
            )
            session.native, session.prompted = record.native, record.prompted
            self._enter(place, session)

    # Leaving

    def remove(self, session: Session) -> None:
        """It is alive no more; whoever calls this has closed it, or does so next."""
        if self.alive.get(session.id) is session:
            del self.alive[session.id]
            self._in_use.discard(session.key)
        self._house.changed()

    def end(self, session: Session) -> None:
        """Close a session for everybody in it, and tell them; it stays kept, and can be loaded again."""
        session.say(
            {"sessionUpdate": "session_info_update", "_meta": {"agentd.session": {"state": "closed"}}}
        )
        session.close(NoSuchSession("the session was closed", sessionId=session.id))
        session.save()
        self.remove(session)

    def put_away(self, session: Session) -> None:
        """Close a session that nobody uses now; it can be loaded again where it is kept."""
        self.remove(session)
        self._end(session)

    def discard(self, session: Session) -> None:
        """Close a session that will never be of use to anybody."""
        self.remove(session)
        self._end(session)
        self._store.forget(session.key)

    def _end(self, session: Session) -> None:
        router, native = session.router, session.native
        session.close(NoSuchSession("the session was closed", sessionId=session.id))
        if router is not None:
            work = self._house.close_native(router, native)
            self._house.tasks.start(work, f"close of session {session.id}")

    # Growing old

    def close(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def _watch(self) -> None:
        """Look again when the first one can have become too old."""
        if self._patience is None and self.alive:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(min(self._house.limits.session_ttl_sec, LOOK_SEC), self._look)

    def _look(self) -> None:
        self._patience = None
        oldest = self._house.now() - self._house.limits.session_ttl_sec
        for session in list(self.alive.values()):
            if session.is_idle and not session.clients and session.last_used <= oldest:
                session.log.info("closed: nobody used it", extra={"event": Event.SESSION_CLOSED})
                self.put_away(session)
        self._watch()
        self._house.tasks.start(self.prune(), "retention")

    async def prune(self) -> None:
        """Forget what is too old, or too much, and what was opened and never used."""
        settings, now = self._house.keeping, self._house.now()
        for record in list(self._store.sessions.values()):
            if not record.prompted and record.updated < now - DAY_SEC and record.key not in self._in_use:
                self._store.forget(record.key)
        before = now - settings.keep_days * DAY_SEC
        gone = await self._store.prune(before=before, most_bytes=settings.keep_bytes, keep=self._in_use)
        if gone:
            self._log.info("forgot %d sessions: too old, or too many", len(gone))


def unknown(session_id: str) -> NoSuchSession:
    """What is said of a session that is not there, and of one that is somebody else's."""
    return NoSuchSession(f"no session {session_id} is known here", sessionId=session_id)
