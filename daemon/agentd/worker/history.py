# SPDX-License-Identifier: Apache-2.0
"""What sessions there are, and what was said in one: for people who look, without waking anything."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from msgspec import Raw

from agentd.acp import envelope
from agentd.acp.extensions import (
    Entry,
    HistoryPage,
    HistoryWish,
    PermissionReport,
    SessionList,
    SessionReport,
    TurnReport,
    parsed,
)
from agentd.errors import AgentdError, StoreFailed
from agentd.store.keeper import Keeper
from agentd.store.records import Permission, Record, Run, Turn
from agentd.worker.client import Client, Request
from agentd.worker.session import Session
from agentd.worker.sessions import Sessions, unknown
from agentd.worker.transcript import Transcript

MOST = 1000
"""Sessions in a list; turns, and permissions, of a history."""
PAGE_BYTES = 1 << 20
"""Frames after which a page ends, whatever number of them was asked for."""
TITLE = 256
"""Characters of a title. Agents make them as long as they like."""
KEPT = "kept"


class House(Protocol):
    """What it takes to tell what was."""

    sessions: Sessions
    store: Keeper

    async def kept(self) -> None:
        """Returns when all that was said so far is on disk. Raises StoreFailed."""


class Place(NamedTuple):
    """Where the frames of a session are. `transcript`: None for one that is only kept."""

    key: int
    agent: str
    transcript: Transcript | None


class History:
    """Answers `_agentd/sessions` by `sessions`, and `_agentd/history` by `page`."""

    def __init__(self, house: House) -> None:
        self._house = house

    # Sessions

    async def sessions(self, request: Request) -> Any:
        sessions, client = self._house.sessions, request.client
        found = [
            *(_of_session(session) for session in sessions.seen_by(client)),
            *(_of_record(record) for record in sessions.kept_for(client)),
        ]
        found.sort(key=lambda each: (each.updated, each.id), reverse=True)
        return SessionList(sessions=found[:MOST], more=len(found) > MOST)

    # One session

    async def page(self, request: Request) -> Any:
        """Raises InvalidArgs, NoSuchSession also for somebody else's, and StoreFailed."""
        wish = parsed(request.params, HistoryWish)
        place = self._find(request.client, wish.session_id)
        with contextlib.suppress(StoreFailed):  # what cannot be written is still in memory
            await self._house.kept()
        is_first = wish.after is None
        turns = await self._turns(place.key) if is_first else []
        permissions = await self._permissions(place.key) if is_first else []
        number = 0 if wish.after is None else wish.after + 1
        entries = list(_entries(await self._runs(place, number), wish.limit))
        first, end = self._span(place)
        return HistoryPage(
            agent=place.agent,
            entries=entries,
            turns=turns,
            permissions=permissions,
            next=entries[-1].seq if entries and entries[-1].seq + 1 < end else None,
            first=first,
            end=end,
            kept=self._house.store.keeps_frames,
        )

    def _find(self, client: Client, session_id: str) -> Place:
        session = self._house.sessions.get(client, session_id)
        if session is not None:
            return Place(session.key, session.facts.agent, session.transcript)
        record = self._house.sessions.kept(client, session_id)
        if record is None:
            raise unknown(session_id)
        return Place(record.key, record.agent, None)

    def _span(self, place: Place) -> tuple[int, int]:
        if place.transcript is not None:
            return place.transcript.first, place.transcript.end
        return self._house.store.span(place.key)

    async def _runs(self, place: Place, number: int) -> Iterable[Run]:
        """Frames from this number on, or from the first after it: from the disk, else from memory."""
        runs = await self._house.store.read(place.key, number, PAGE_BYTES)
        if runs or place.transcript is None:
            return runs
        return _in_memory(place.transcript, number)

    async def _turns(self, key: int) -> list[TurnReport]:
        return [_of_turn(turn) for turn in (await self._house.store.turns(key))[-MOST:]]

    async def _permissions(self, key: int) -> list[PermissionReport]:
        return [_of_permission(each) for each in (await self._house.store.permissions(key))[-MOST:]]


# Frames


def _in_memory(transcript: Transcript, number: int) -> Iterator[Run]:
    """Without times, which only the store knows."""
    number, size = max(number, transcript.start), 0
    while number < transcript.end and size < PAGE_BYTES:
        data = transcript.run(number)
        run = Run(number, data.count(b"\n"), 0.0, data)
        number, size = run.end, size + len(data)
        yield run


def _entries(runs: Iterable[Run], most: int) -> Iterator[Entry]:
    size = 0
    for run in runs:
        for seq, line in enumerate(run.data.split(b"\n")[:-1], run.seq):
            if most == 0 or size >= PAGE_BYTES:
                return
            most, size = most - 1, size + len(line)
            yield Entry(seq=seq, at=run.at or None, frame=_update(line))


def _update(line: bytes) -> Raw:
    """What a session/update says, as its own bytes; the half characters in it are made whole."""
    params = envelope.members(line).get("params", Raw(envelope.NULL))
    update = bytes(envelope.members(params).get("update", Raw(envelope.NULL)))
    return Raw(envelope.whole_characters(update) if b"\\u" in update else update)


# Reports


def _of_session(session: Session) -> SessionReport:
    return SessionReport(
        id=session.id,
        agent=session.facts.agent,
        state=session.state.value,
        title=_cut(session.facts.title),
        cwd=session.facts.cwd,
        owner=session.owner,
        created=session.created,
        updated=session.facts.updated,
        clients=len(session.clients),
        queued=session.turns.waiting,
        prompted=session.prompted,
    )


def _of_record(record: Record) -> SessionReport:
    return SessionReport(
        id=record.id,
        agent=record.agent,
        state=KEPT,
        title=_cut(record.title),
        cwd=record.cwd,
        owner=record.owner,
        created=record.created,
        updated=record.updated,
        prompted=record.prompted,
    )


def _of_turn(turn: Turn) -> TurnReport:
    return TurnReport(
        number=turn.number, progress=turn.progress, at=turn.at, ended=turn.ended, outcome=turn.outcome
    )


def _of_permission(permission: Permission) -> PermissionReport:
    title, options = _question(permission.frame)
    return PermissionReport(
        turn=permission.turn,
        at=permission.at,
        title=_cut(title) or "",
        progress=permission.progress,
        outcome=permission.outcome,
        choice=_cut(_name_of(options, permission.outcome)) or "",
    )


def _question(frame: bytes) -> tuple[str, list[Any]]:
    """The title and the options of a request for permission, as far as it has any."""
    try:
        params = envelope.value(envelope.members(frame).get("params", envelope.NULL))
    except AgentdError:
        return "", []  # it was asked in words that nobody can read
    call = params.get("toolCall") if isinstance(params, dict) else None
    title = call.get("title") if isinstance(call, dict) else None
    options = params.get("options") if isinstance(params, dict) else None
    return title if isinstance(title, str) else "", options if isinstance(options, list) else []


def _name_of(options: list[Any], option_id: str) -> str:
    for option in options:
        match option:
            case {"optionId": str(its), "name": str(name)} if its == option_id:
                return name
    return ""


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:TITLE]
