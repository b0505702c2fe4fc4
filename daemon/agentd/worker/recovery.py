# SPDX-License-Identifier: Apache-2.0
"""What an earlier worker, or an earlier connection, has left unfinished: said once, and never done again."""

from collections import OrderedDict
from typing import Any, Protocol

from msgspec import structs

from agentd.acp import envelope
from agentd.acp.extensions import Recover, parsed
from agentd.errors import CutOff, Interrupted
from agentd.log import Context
from agentd.store import records
from agentd.store.keeper import Keeper
from agentd.store.records import Asked, Progress
from agentd.systemd.events import Event
from agentd.worker import notices
from agentd.worker.client import Client, Request
from agentd.worker.sessions import Sessions
from agentd.worker.turns import State

STOP_REASONS = ("end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled")
REMEMBERED = 1024
"""Connections that were cut off, and may ask why."""


class House(Protocol):
    """What it takes to tell a client what it has missed."""

    store: Keeper
    sessions: Sessions


class Recovery:
    """Answers `_agentd/recover`."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._cut_off: OrderedDict[str, None] = OrderedDict()

    def cut_off(self, token: str) -> None:
        """This connection has missed something, and must not believe that it has not."""
        self._cut_off[token] = None
        if len(self._cut_off) > REMEMBERED:
            self._cut_off.popitem(last=False)

    async def answer(self, request: Request) -> Any:
        """Answers what is pending, and then itself. Raises CutOff, InvalidArgs, StoreFailed."""
        wish = parsed(request.params, Recover)
        if wish.client in self._cut_off:
            raise CutOff("agentctl did not read what it was sent and was cut off; connect and load again")
        request.client.go_on_from(wish.asked)
        for pending in wish.pending:
            await self._tell(request.client, wish.client, envelope.encode(pending))
        return {}

    async def _tell(self, client: Client, token: str, raw_id: bytes) -> None:
        for session in self._house.sessions.alive.values():
            if session.turns.adopt(token, raw_id, client):
                client.owe()
                return
        turn = await self._house.store.turn_of(token, raw_id)
        mine = turn is not None and turn.owner == client.uid
        client.send(_answer(turn, raw_id) if turn and mine else envelope.failure(raw_id, interrupted()))


def _answer(turn: records.Turn, raw_id: bytes) -> bytes:
    """What has become of a prompt, as far as it was kept."""
    if turn.answer:
        return envelope.with_id(turn.answer, raw_id)
    if turn.outcome in STOP_REASONS:
        return envelope.result(raw_id, {"stopReason": turn.outcome})
    return envelope.failure(raw_id, interrupted())


def interrupted() -> Interrupted:
    return Interrupted("agentd's worker ended in the middle of this, and did not do it again; ask once more")


def interrupt(store: Keeper, unfinished: list[records.Turn], now: float, log: Context) -> None:
    """Put down how the turns of an earlier worker have ended. Those who wait for them ask."""
    sessions = {record.key: record for record in store.sessions.values()}
    for turn in unfinished:
        record = sessions[turn.session]
        about = log.about(session=record.id)
        about.warning("a turn was interrupted", extra={"event": Event.TURN_INTERRUPTED})
        run = turn.said + _interruption(record.id, turn)
        store.append(turn.session, store.span(turn.session)[1], run)
        answer = envelope.failure(turn.raw_id, interrupted())
        store.put_turn(
            structs.replace(
                turn,
                progress=Progress.INTERRUPTED,
                said=b"",
                ended=now,
                outcome=Interrupted.reason,
                answer=answer,
            )
        )
    for record in sessions.values():
        if record.state not in (State.IDLE, State.CLOSED):
            store.save(structs.replace(record, state=State.IDLE))


def expire(store: Keeper, pending: list[records.Permission]) -> None:
    """Nobody can be answered any more who has asked an earlier worker for a permission."""
    for permission in pending:
        store.put_permission(structs.replace(permission, progress=Asked.EXPIRED))


def _interruption(session_id: str, turn: records.Turn) -> bytes:
    done = "was not run" if turn.progress is Progress.QUEUED else "was not done to its end"
    text = f"interrupted: agentd's worker ended, and this prompt {done}"
    return notices.update(session_id, notices.notice(text)) + notices.ended(session_id, Interrupted.reason)
