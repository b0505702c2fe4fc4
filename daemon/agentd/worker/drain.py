# SPDX-License-Identifier: Apache-2.0
"""Draining a worker: no turn begins, the running ones may end, and past a deadline they are ended."""

import asyncio
from collections.abc import Callable

from agentd.errors import Draining
from agentd.worker.hub import Hub, Phase
from agentd.worker.session import Session, cancel_notification

CUT_OFF_SEC = 3.0
"""What a turn has to end itself in once the drain's time is over and it was cancelled."""

Report = Callable[[int, list[str]], None]
"""Takes the number of turns still running and the ids of the sessions that have ended theirs."""


class Drain:
    """One drain, of the turns that run when it begins. `drained` names sessions that really ended theirs."""

    def __init__(self, hub: Hub, timeout: float, report: Report) -> None:
        self._hub = hub
        self._timeout = timeout
        self._report = report
        self._left: list[Session] = []
        self.drained: list[str] = []

    async def run(self) -> str:
        """Returns `done`, or `timeout` where turns were cut off. Whoever cancels it says what comes next."""
        self._hub.phase = Phase.DRAINING
        self._left = self._hub.busy
        for session in self._left:
            session.refuse_queued(Draining("the container is being drained: this prompt was not started"))
        self._hub.changed()
        result = "done" if await self._ended_within(self._timeout) else await self._cut_off()
        self._hub.phase = Phase.DRAINED
        self._hub.changed()
        return result

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
        ended = [session for session in self._left if not session.busy]
        if ended or not self.drained:
            self.drained += [session.id for session in ended]
            self._left = [session for session in self._left if session.busy]
            self._report(len(self._left), self.drained)
        return bool(self._left)
