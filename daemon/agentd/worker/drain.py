# SPDX-License-Identifier: Apache-2.0
"""Draining a worker: no turn begins, the running ones may end, and past a deadline they are ended."""

import asyncio
from collections.abc import Callable, Iterable

from agentd import link
from agentd.errors import Draining
from agentd.worker.hub import Hub, Phase
from agentd.worker.session import cancel_notification

CUT_OFF_SEC = 3.0
"""What a turn has to end itself in once the drain's time is over and it was cancelled."""

Report = Callable[[link.Progress | link.Ended], None]


class Drain:
    """One drain, of the turns that run when it begins. `drained` names sessions that really ended theirs."""

    def __init__(
        self, hub: Hub, job: int, timeout: float, report: Report, *, drained: Iterable[str] = ()
    ) -> None:
        """`job`: of the manager's, 0 for none. `drained`: what an earlier drain of that job has seen end."""
        self.job = job
        self._hub = hub
        self._timeout = timeout
        self._report = report
        self._left = hub.sessions.busy
        self._result = ""
        self.drained = list(drained)

    @property
    def info(self) -> link.DrainInfo:
        """How far it is, for a manager that was not there to hear the reports."""
        return link.DrainInfo(
            job=self.job, remaining=len(self._left), drained=self.drained, result=self._result
        )

    async def run(self) -> str:
        """Returns `done`, or `timeout` where turns were cut off. Whoever cancels it says what comes next."""
        self._hub.phase = Phase.DRAINING
        self._left = self._hub.sessions.busy
        for session in self._left:
            session.turns.refuse_queued(
                Draining("the container is being drained: this prompt was not started")
            )
        self._hub.changed()
        self._tell_progress()
        self._result = "done" if await self._ended_within(self._timeout) else await self._cut_off()
        self._hub.phase = Phase.DRAINED
        self._hub.changed()
        self._report(link.Ended(job=self.job, result=self._result, drained=list(self.drained)))
        return self._result

    async def _cut_off(self) -> str:
        for session in self._left:
            session.cancel(None, cancel_notification(session.id))
        if not await self._ended_within(CUT_OFF_SEC):
            for session in self._left:
                session.cut_off(Draining("the container was drained and the turn did not end in time"))
            await self._ended_within(CUT_OFF_SEC)
        return "timeout"

    async def _ended_within(self, seconds: float) -> bool:
        """Wait for all turns to end, reporting each; False when time is over."""
        try:
            async with asyncio.timeout(seconds):
                while self._still_running():
                    self._hub.turn_changed.clear()
                    await self._hub.turn_changed.wait()
                return True
        except TimeoutError:
            return not self._still_running()

    def _still_running(self) -> bool:
        ended = [session.id for session in self._left if not session.busy]
        if ended:
            self.drained += ended
            self._left = [session for session in self._left if session.busy]
            self._tell_progress()
        return bool(self._left)

    def _tell_progress(self) -> None:
        progress = link.Progress(job=self.job, remaining=len(self._left), drained=list(self.drained))
        self._report(progress)
