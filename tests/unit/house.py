# SPDX-License-Identifier: Apache-2.0
"""Containers, the workers of some of them, and the jobs: what tests of drains live in."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from agentd import link
from agentd.config import Configuration
from agentd.config import Container as Entry
from agentd.errors import NoSuchAgent
from agentd.log import Context
from agentd.manager.container import WorkerEnd
from agentd.manager.drains import Drains
from agentd.manager.job import Job
from agentd.manager.jobs import Jobs
from agentd.manager.registry import Registry
from agentd.tasks import Tasks
from unit.wire import Wire

MINUTE = 60.0
DEFAULT = 25.0
"""What a drain may take where nobody said."""


def check_agent(container: str, agent: str) -> None:
    if agent not in ("claude", "codex"):
        raise NoSuchAgent(f"no agent called {agent} in {container}")


class Spawner:
    """Starts nothing."""

    def unit(self, name: str) -> str:
        return ""

    async def start(self, name: str, ready: asyncio.Event) -> None:
        raise AssertionError

    async def stop(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        raise AssertionError

    async def close(self) -> None:
        raise AssertionError

    async def gave_up(self, name: str) -> bool:
        raise AssertionError

    def forgive(self, name: str) -> None:
        raise AssertionError

    def remedy(self, name: str) -> str:
        raise AssertionError


class Paper:
    """A ledger that no disk is needed for."""

    def __init__(self, drains: Drains) -> None:
        self.last = drains

    def load(self) -> Drains:
        return self.last

    def put(self, state: Callable[[], Drains]) -> None:
        self.last = state()


class House:
    """Containers, the workers of some of them, and the jobs."""

    def __init__(self, drains: Drains | None = None, **turns: int) -> None:
        """For each container the turns that run there; -1 for no worker. `drains`: what is on disk."""
        self.registry = Registry(Spawner(), Tasks())
        self.registry.configure(Configuration(containers={name: Entry() for name in turns}))
        self.paper = Paper(drains or Drains())
        self.jobs = Jobs(
            self.registry,
            Context(logging.getLogger("test")),
            self.paper,  # type: ignore[arg-type]
            default_sec=lambda: DEFAULT,
            check_agent=check_agent,
        )
        self.jobs.restore()
        self.workers = {name: self.link(name, turns=count) for name, count in turns.items() if count >= 0}
        self.told: list[str] = []
        self.jobs.on_new.append(lambda job: self._note("new", job))
        self.jobs.on_progress.append(lambda job: self._note(f"{job.remaining} left", job))
        self.jobs.on_ended.append(lambda job: self._note("ended", job))
        self.jobs.on_removed.append(lambda job: self._note("removed", job))

    def _note(self, what: str, job: Job) -> None:
        self.told.append(f"{job.id}: {what}")

    def link(
        self,
        name: str,
        *,
        pid: int = 5,
        turns: int = 0,
        state: str = "serving",
        drain: link.DrainInfo | None = None,
        drains: Iterable[link.DrainInfo] = (),
        sessions: Iterable[link.SessionInfo] = (),
        leaving: bool = False,
        version: int = link.VERSION,
        wire: Wire | None = None,
    ) -> Wire:
        """A worker links: it takes the place of the one that is there."""
        wire = wire or Wire()
        snapshot = link.Snapshot(
            state=state,
            turns=turns,
            drain=drain,
            drains=list(drains),
            sessions=list(sessions),
            leaving=leaving,
        )
        hello = link.Hello(version=version, pid=pid, code="0", container=name, snapshot=snapshot)
        self.jobs.worker_linked(self.registry.attach(name, WorkerEnd(wire, hello)))  # type: ignore[arg-type]
        return wire

    def drained(self) -> list[str]:
        return [each.name for each in self.registry if each.drained]

    def progress(self, job: Job, name: str, remaining: int, *drained: str) -> None:
        message = link.Progress(job=job.id, remaining=remaining, drained=list(drained))
        self.jobs.progress(self.registry.get(name), message)

    def ended(self, job: Job, name: str, result: str = "done", *drained: str) -> None:
        message = link.Ended(job=job.id, result=result, drained=list(drained))
        self.jobs.ended(self.registry.get(name), message)

    def lose(self, name: str) -> None:
        container = self.registry.get(name)
        assert container.worker is not None
        self.registry.detach(container, container.worker)
        self.jobs.worker_gone(container)


def after(house: House, **turns: int) -> House:
    """The next manager, before any worker has linked to it."""
    return House(house.paper.last, **dict.fromkeys(turns or ["box"], -1))


def drain(
    job: int, remaining: int, *drained: str, result: str = "", agent: str = "", session: str = ""
) -> link.DrainInfo:
    return link.DrainInfo(
        job=job, remaining=remaining, drained=list(drained), result=result, agent=agent, session=session
    )


def session(name: str, agent: str = "claude", state: str = "idle") -> link.SessionInfo:
    return link.SessionInfo(id=name, agent=agent, state=state)
