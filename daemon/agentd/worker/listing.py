# SPDX-License-Identifier: Apache-2.0
"""session/list: what is kept here, page by page, and then what agents have kept of other times."""

import base64
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from agentd.acp import envelope, methods
from agentd.errors import InvalidArgs
from agentd.store.records import Record
from agentd.worker import translate
from agentd.worker.client import Client, Request
from agentd.worker.pathmap import PathMap
from agentd.worker.router import Router
from agentd.worker.session import Session, rewritten
from agentd.worker.sessions import Sessions

PAGE = 50

Place = tuple[float, str]
"""When a session was last used, and its id: the order of the list, newest first."""


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a page ends: after one of ours, or, once those are through, with each agent's own cursor."""

    ours: Place | None = None
    agents: dict[str, str] = {}


class House(Protocol):
    """What it takes to list sessions."""

    sessions: Sessions

    @property
    def paths(self) -> PathMap: ...


class Listing:
    """Answers session/list."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def answer(self, request: Request) -> Any:
        cursor = _understood(request.params.get("cursor"))
        page, rest = ([], False) if cursor.agents else self._page(request, cursor.ours)
        entries = {session_id: entry for _, session_id, entry in page}
        if rest:
            last, session_id, _ = page[-1]
            return {"sessions": list(entries.values()), "nextCursor": _encoded(Cursor((last, session_id)))}
        result, kept, further = await self._agents_own(request, cursor.agents, entries)
        result["sessions"] = [*entries.values(), *kept]
        return {**result, "nextCursor": _encoded(Cursor(None, further))} if further else result

    # Ours

    def _page(self, request: Request, after: Place | None) -> tuple[list[tuple[float, str, Any]], bool]:
        """A page, each with its place in the order, and whether there are more."""
        client, cwd = request.client, request.params.get("cwd")
        found = [
            *(_of_session(session) for session in self._house.sessions.seen_by(client)),
            *(_of_record(record) for record in self._house.sessions.kept_for(client)),
        ]
        wanted = sorted(
            (
                each
                for each in found
                if (not isinstance(cwd, str) or each[2]["cwd"] == cwd)
                and (after is None or each[:2] < tuple(after))
            ),
            key=lambda each: each[:2],
            reverse=True,
        )
        return wanted[:PAGE], len(wanted) > PAGE

    # The agents'

    async def _agents_own(
        self, request: Request, cursors: dict[str, str], entries: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Any], dict[str, str]]:
        """What else they have answered, the sessions that only they know, and where those go on."""
        result: dict[str, Any] = {}
        kept: list[Any] = []
        further: dict[str, str] = {}
        for router in _listing_agents(request.client, cursors):
            if not await router.can_session("list"):
                continue
            result = await self._agents_list(request, router, cursors.get(router.agent.name))
            kept += self._only_theirs(result.pop("sessions", None), router, entries)
            if isinstance(following := result.pop("nextCursor", None), str):
                further[router.agent.name] = following
        return result, kept, further

    async def _agents_list(self, request: Request, router: Router, cursor: str | None) -> dict[str, Any]:
        """A page of an agent's own list, with the paths of outside."""

        def inward(params: dict[str, Any]) -> bool:
            ours = params.pop("cursor", None)
            if cursor is not None:
                params["cursor"] = cursor
            return translate.to_agent(request.method, params, self._house.paths) or ours != cursor

        result = envelope.result_of(await request.put_to(router, rewritten(request.frame, inward)))
        translate.result_to_client(methods.SESSION_LIST, result, self._house.paths)
        return result if isinstance(result, dict) else {}

    def _only_theirs(self, listed: Any, router: Router, entries: dict[str, Any]) -> list[Any]:
        """What is not ours; what an agent says more of a session that is goes into our entry of it."""
        sessions, theirs = self._house.sessions, []
        ours = sessions.names_by(router.agent.name)
        for each in listed if isinstance(listed, list) else ():
            native = each.get("sessionId") if isinstance(each, dict) else None
            public = router.public(native) if isinstance(native, str) else None
            if public in entries:
                entries[public] = _merged(entries[public], each)
            elif public is None:
                theirs.append(each)
            elif public not in sessions.alive and native not in ours:
                theirs.append({**each, "sessionId": public})
        return theirs


def _listing_agents(client: Client, cursors: dict[str, str]) -> list[Router]:
    """Those the client deals with, one of each name; with cursors, those that have more."""
    named = {router.agent.name: router for router in client.routers if router.agent.alive}
    return [router for name, router in named.items() if not cursors or name in cursors]


def _of_session(session: Session) -> tuple[float, str, dict[str, Any]]:
    return session.facts.updated, session.id, session.facts.listed(session.id)


def _of_record(record: Record) -> tuple[float, str, dict[str, Any]]:
    updated = datetime.fromtimestamp(record.updated, UTC).isoformat(timespec="seconds")
    entry = {"sessionId": record.id, "cwd": record.cwd, "updatedAt": updated}
    if record.title is not None:
        entry["title"] = record.title
    return record.updated, record.id, entry | {"_meta": {"agentd.agent": record.agent}}


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """One entry of session/list out of two: the agent's words, under our name for the session."""
    meta = theirs.get("_meta")
    both = {**(meta if isinstance(meta, dict) else {}), **ours["_meta"]}
    return {**ours, **theirs, "sessionId": ours["sessionId"], "_meta": both}


def _encoded(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode()


def _understood(cursor: Any) -> Cursor:
    """Raises InvalidArgs for one that was not ours."""
    if cursor is None:
        return Cursor()
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cursor), type=Cursor)
    except (TypeError, ValueError, msgspec.DecodeError):
        raise InvalidArgs("cursor must be a nextCursor that session/list has answered") from None
