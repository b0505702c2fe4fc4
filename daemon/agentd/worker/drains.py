# SPDX-License-Identifier: Apache-2.0
"""What of a container is drained, or drains: all of it, some of its agents, some of its sessions."""

import asyncio
import enum
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from agentd.errors import Draining
from agentd.link import DrainInfo
from agentd.systemd.events import Event
from agentd.tasks import Tasks
from agentd.worker.agent import Place
from agentd.worker.drain import WHOLE, Drain, Report, Scope
from agentd.worker.drain import House as DrainHouse


class Phase(enum.StrEnum):
    """Of the whole container."""

    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"


class House(DrainHouse, Protocol):
    place: Place
    tasks: Tasks


class Begun(NamedTuple):
    """A drain that is in force, whether or not its turns have ended yet. `task`: waits for them."""

    drain: Drain
    task: "asyncio.Task[None]"


class Drains:
    """One a scope, each in force until it is undone. Whoever lets work begin asks `refusal` before.

    `tell` is given the reports of all of them.
    """

    def __init__(self, house: House, tell: Report) -> None:
        self._house = house
        self._tell = tell
        self._begun: dict[Scope, Begun] = {}
        self._ordered: set[Scope] = set()
        """Those that somebody has ordered: a worker also drains of itself, before its end."""
        self._leaving = False

    # What is refused

    def refusal(self, agent: str, session: str = "") -> Draining | None:
        """Why no turn may begin in a session, None where it may. `session`: "" for one that is not made yet.

        `agent`: "" where nobody has said which: then only a drain of the whole container counts.
        """
        if not self._begun:  # as nearly always, and this is asked for every prompt
            return None
        for scope in (WHOLE, Scope(agent), Scope(session=session)):
            if scope in self._begun:
                called = self._called(scope)
                return Draining(f"{called} is being drained: running turns may end, none may begin")
        return None

    def _called(self, scope: Scope) -> str:
        return scope.called(self._house.place.container.name)

    # What is told

    @property
    def phase(self) -> Phase:
        if WHOLE not in self._begun:
            return Phase.SERVING
        return Phase.DRAINED if self._begun[WHOLE].drain.result else Phase.DRAINING

    def whole(self) -> DrainInfo | None:
        """The one of the whole container, where it was ordered."""
        return self._begun[WHOLE].drain.info() if WHOLE in self._ordered else None

    def parts(self) -> Iterable[DrainInfo]:
        """Those of agents and sessions."""
        return (begun.drain.info() for scope, begun in self._begun.items() if scope != WHOLE)

    @property
    def running(self) -> "asyncio.Task[None] | None":
        """Waits for the turns of the whole container to end; None where it is not drained, or done."""
        begun = self._begun.get(WHOLE)
        return None if begun is None or begun.task.done() else begun.task

    # Orders

    def order(self, scope: Scope, job: int, timeout: float) -> None:
        """Drain for a job of the manager's; a drain of that job that has begun is gone on with."""
        self._ordered.add(scope)
        self._begin(scope, job, timeout)

    def leave(self, timeout: float) -> None:
        """Drain the whole container before the end, which nobody can undo; for its job, where it has one."""
        self._leaving = True
        ordered = self._begun[WHOLE].drain.job if WHOLE in self._ordered else 0
        self._begin(WHOLE, ordered, timeout)

    def undo(self, scope: Scope) -> None:
        """Work may begin there again: for the whole container, in all of its agents and sessions too."""
        for each in [each for each in self._begun if scope in (WHOLE, each)]:
            self._ordered.discard(each)
            if not (each == WHOLE and self._leaving):
                self._begun.pop(each).task.cancel()
        self._house.changed()

    def _begin(self, scope: Scope, job: int, timeout: float) -> None:
        before = self._begun.pop(scope, None)
        if before is not None:
            before.task.cancel()
        seen = before.drain.drained if before is not None and before.drain.job == job else ()
        drain = Drain(self._house, scope, self._called(scope), job, timeout, self._tell, drained=seen)
        task = self._house.tasks.start(self._run(drain), f"drain {job} of {drain.called}")
        self._begun[scope] = Begun(drain, task)

    async def _run(self, drain: Drain) -> None:
        log = self._house.place.log.about(**drain.scope._asdict())
        log.info("draining %s", drain.called, extra={"event": Event.DRAIN_STARTED})
        result = await drain.run()
        log.info("%s drained: %s", drain.called, result, extra={"event": Event.DRAIN_ENDED})
