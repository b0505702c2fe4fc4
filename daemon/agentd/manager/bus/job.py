# SPDX-License-Identifier: Apache-2.0
"""org.agentd1.Job."""

from agentd.interface import Interface, method, prop, signal
from agentd.manager.bus import drains
from agentd.manager.bus.authority import Authority
from agentd.manager.job import Job
from agentd.manager.manager import Manager

CHANGING = ("State", "Remaining", "Drained")


class JobFace(Interface, name="org.agentd1.Job"):
    def __init__(self, job: Job, manager: Manager, authority: Authority) -> None:
        super().__init__()
        self._job = job
        self._manager = manager
        self._authority = authority

    @method()
    async def cancel(self) -> None:
        await drains.require(self._manager, self._authority, self._job.aim, "cancel")
        self._manager.jobs.cancel(self._job)
        await self._manager.jobs.kept()

    @signal("uas")
    def progress(self, remaining: int, drained: list[str]) -> None: ...

    @prop("u", emits="const")
    def id(self) -> int:
        return self._job.id

    @prop("s", emits="const")
    def kind(self) -> str:
        return self._job.kind

    @prop("s", emits="const")
    def target(self) -> str:
        return self._job.target

    @prop("s")
    def state(self) -> str:
        return self._job.state

    @prop("u")
    def remaining(self) -> int:
        return self._job.remaining

    @prop("as")
    def drained(self) -> list[str]:
        return self._job.drained

    @prop("t", emits="const")
    def deadline(self) -> int:
        return self._job.deadline_usec
