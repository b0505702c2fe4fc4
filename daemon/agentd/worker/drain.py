# SPDX-License-Identifier: Apache-2.0
"""A drain: no turn begins in what it is of, the running ones may end, and past a deadline they are ended."""

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from agentd import link
from agentd.errors import Draining
from agentd.worker.fitting import DRAINED_BYTES, TOLD_BYTES, fitting
from agentd.worker.session import Session
from agentd.worker.sessions import Sessions

CUT_OFF_SEC = 3.0
"""What a turn has to end itself in once the drain's time is over and it was cancelled."""

Report = Callable[[link.Progress | link.Ended], None]


class Scope(NamedTuple):
    """What is drained: an agent, or a session, by its public id; the whole container where both are ""."""

    agent: str = ""
    session: str = ""

    def covers(self, session: Session) -> bool:
        return self.agent in ("", session.facts.agent) and self.session in ("", session.id)

    def called(self, container: str) -> str:
        """As people are told of it."""
        if self.session:
            return f"session {self.session} of {container}"
        return f"agent {self.agent} of {container}" if self.agent else container


WHOLE = Scope()


class House(Protocol):
    """Where turns run."""

    sessions: Sessions
    turn_changed: asyncio.Event
    """Set whenever a turn may have ended; whoever waits for that clears it."""

    def changed(self) -> None:
        """Something that Status shows is no longer as it was."""


class Drain:
    """One drain, of the turns that run when it begins. `drained` names sessions that really ended theirs."""

    def __init__(
        self,
        house: House,
        scope: Scope,
        called: str,
        job: int,
        timeout: float,
        report: Report,
        *,
        drained: Iterable[str] = (),
    ) -> None:
        """`called`: what it is of, for people. `job`: of the manager's, 0 for none.

        `drained`: what an earlier drain of that job has seen end.
        """
        self.scope = scope
        self.called = called
        self.job = job
        self.result = ""
        """How it has ended, "" before."""
        self._house = house
        self._timeout = timeout
        self._report = report
        self._left = self._busy()
        self.drained = list(drained)

    def info(self) -> link.DrainInfo:
        """How far it is, for a manager that was not there to hear the reports."""
        return link.DrainInfo(
            job=self.job,
            agent=self.scope.agent,
            session=self.scope.session,
            remaining=len(self._left),
            drained=fitting(self.drained, DRAINED_BYTES),
            result=self.result,
        )

    async def run(self) -> str:
        """Returns `done`, or `timeout` where turns were cut off. Whoever cancels it says what comes next."""
        self._left = self._busy()
        refusal = Draining(f"{self.called} is being drained: this prompt was not started")
        for session in self._house.sessions.alive.values():
            if self.scope.covers(session):
                session.turns.refuse_queued(refusal)
        self._house.changed()
        self._tell_progress()
        self.result = "done" if await self._ended_within(self._timeout) else await self._cut_off()
        self._house.changed()
        self._report(link.Ended(job=self.job, result=self.result, drained=self._told()))
        return self.result

    def _busy(self) -> list[Session]:
        return [session for session in self._house.sessions.busy if self.scope.covers(session)]

    async def _cut_off(self) -> str:
        for session in self._left:
            session.cancel_turn()
        if not await self._ended_within(CUT_OFF_SEC):
            error = Draining(f"{self.called} was drained and the turn did not end in time")
            for session in self._left:
                session.cut_off(error)
            await self._ended_within(CUT_OFF_SEC)
        return "timeout"

    async def _ended_within(self, seconds: float) -> bool:
        """Wait for all turns to end, reporting each; False when time is over."""
        return await come_true(self._house.turn_changed, self._have_ended, seconds)

    def _have_ended(self) -> bool:
        ended = [session.id for session in self._left if not session.busy]
        if ended:
            self.drained += ended
            self._left = [session for session in self._left if session.busy]
            self._tell_progress()
        return not self._left

    def _tell_progress(self) -> None:
        self._report(link.Progress(job=self.job, remaining=len(self._left), drained=self._told()))

    def _told(self) -> list[str]:
        """What fits into a report."""
        return fitting(self.drained, TOLD_BYTES)


async def come_true(changed: asyncio.Event, condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, looked at whenever `changed` is set; False when time is over."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                changed.clear()
                await changed.wait()
            return True
    except TimeoutError:
        return condition()
