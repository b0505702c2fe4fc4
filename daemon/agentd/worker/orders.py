# SPDX-License-Identifier: Apache-2.0
"""What the manager wants done in the container, for somebody: done, and answered in every case, in time."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from agentd import link
from agentd.errors import AgentdError, InProgress, Internal, NoSuchSession
from agentd.systemd.events import Event
from agentd.tasks import Tasks
from agentd.worker.agent import Place
from agentd.worker.agents import Agents
from agentd.worker.fitting import PERMISSIONS_BYTES, fitting
from agentd.worker.router import Router
from agentd.worker.session import Session
from agentd.worker.sessions import Sessions

ANSWER_SEC = 15.0
"""After which an order that is not done yet is answered with InProgress, and goes on."""
TEXT = 4096
"""Characters of why not. Agents may be quoted in it."""

Order = (
    link.CancelTurn
    | link.CloseSession
    | link.ListPermissions
    | link.ResolvePermission
    | link.StopAgent
    | link.LaunchAgent
)


class House(Protocol):
    """Where it is done."""

    place: Place
    tasks: Tasks
    sessions: Sessions
    agents: Agents

    def admit_work(self, agent: str = "", session: str = "") -> None:
        """Raises why no work may begin now, for this agent, in this session; "" for any."""

    def tell_now(self) -> None:
        """What has changed, if anything, is told before whatever is said next."""

    async def close_native(self, router: Router, native: str) -> None:
        """Have an agent forget a session that has left it, where it can. Takes a few seconds at most."""


class Orders:
    """Takes orders; `send` is given the answers."""

    def __init__(self, house: House, send: Callable[[link.Answer], None]) -> None:
        self._house = house
        self._send = send

    def take(self, order: Order) -> None:
        name = f"order {order.number} ({type(order).__name__})"
        work = self._house.tasks.start(self._obey(order, name), name)
        self._house.tasks.start(self._answer(order.number, work), f"answer to {name}")

    async def _answer(self, number: int, work: "asyncio.Task[link.Answer]") -> None:
        await asyncio.wait((work,), timeout=ANSWER_SEC)
        if work.done():
            self._house.tell_now()  # or who asks at once would see what was before
            self._send(work.result())
            return
        self._send(refused(number, InProgress(f"it is not done after {ANSWER_SEC:g} s; it goes on")))
        if (late := await work).reason:
            self._house.place.log.warning("%s has failed, late: %s", work.get_name(), late.message)

    async def _obey(self, order: Order, name: str) -> link.Answer:
        try:
            return link.Answer(number=order.number, permissions=await self._done(order))
        except AgentdError as exc:
            return refused(order.number, exc)
        except Exception:  # whatever broke, somebody is waiting for an answer
            self._house.place.log.exception("%s has failed", name)
            return refused(order.number, Internal("it failed inside agentd; the journal says where"))

    async def _done(self, order: Order) -> list[link.PermissionInfo]:
        match order:
            case link.CancelTurn():
                self._session(order.session).cancel_turn()
            case link.CloseSession():
                await self._close(self._session(order.session))
            case link.ListPermissions():
                return fitting(self._session(order.session).permissions(), PERMISSIONS_BYTES)
            case link.ResolvePermission():
                self._session(order.session).resolve(order.permission, order.option, order.uid)
            case link.StopAgent():
                await self._house.agents.stop(order.agent)
            case link.LaunchAgent():
                self._house.admit_work(order.agent)
                await self._house.agents.launch(order.agent, order.uid)
        return []

    def _session(self, session_id: str) -> Session:
        session = self._house.sessions.alive.get(session_id)
        if session is None:
            raise NoSuchSession(f"no session {session_id} is open here", sessionId=session_id)
        return session

    async def _close(self, session: Session) -> None:
        """For everybody in it; its agent is told to stop, and to forget it."""
        router, native = session.router, session.native
        if session.busy:
            session.cancel_turn()
        self._house.sessions.end(session)
        session.log.info("closed, as ordered", extra={"event": Event.SESSION_CLOSED})
        if router is not None:
            await self._house.close_native(router, native)


def refused(number: int, error: AgentdError) -> link.Answer:
    return link.Answer(number=number, reason=error.reason, message=error.message[:TEXT])
