# SPDX-License-Identifier: Apache-2.0
"""Drain jobs: what somebody ordered, how far it is, and how it ended."""

import asyncio
import enum
import itertools
import time
from collections.abc import Callable, Iterator

from agentd import link
from agentd.errors import InvalidArgs, NoSuchContainer, NoSuchJob, NotDraining
from agentd.log import Context
from agentd.manager.container import Container
from agentd.manager.registry import Registry
from agentd.systemd.events import Event

LINGER_SEC = 60.0
"""How long the result of a job can be read after its end."""
GRACE_SEC = 15.0
"""On top of a job's timeout, for workers to cut turns off and say so."""
ALL = ""
"""The target that means every container."""


class State(enum.StrEnum):
    RUNNING = "running"
    DONE = "done"
    TIMEOUT = "timeout"
    CANCELED = "canceled"
    FAILED = "failed"


class Part:
    """One container's share of a job."""

    def __init__(self, remaining: int) -> None:
        self.remaining = remaining
        self.drained: list[str] = []
        self.result = ""


class Job:
    """A drain. It ends by itself, at the latest a little after its deadline."""

    def __init__(self, number: int, target: str, timeout: float) -> None:
        self.id = number
        self.kind = "drain"
        self.target = target
        self.state = State.RUNNING
        self.deadline_usec = int((time.time() + timeout) * 1e6)
        self.parts: dict[str, Part] = {}
        self.overdue: asyncio.TimerHandle | None = None

    @property
    def remaining(self) -> int:
        """Turns that still run."""
        return sum(part.remaining for part in self.parts.values())

    @property
    def drained(self) -> list[str]:
        """The sessions that have really ended their turn."""
        return [session for part in self.parts.values() for session in part.drained]

    @property
    def running(self) -> bool:
        return self.state is State.RUNNING


class Jobs:
    """All jobs, running and just ended. The `on_…` lists tell whoever shows them (the bus)."""

    def __init__(self, registry: Registry, log: Context) -> None:
        self._registry = registry
        self._log = log
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._orders: dict[str, int] = {}
        """The job whose order a container's worker was given last."""
        self.all_drained = False
        """Whether everything was ordered to drain, containers that appear later included."""
        self.on_new: list[Callable[[Job], None]] = []
        self.on_progress: list[Callable[[Job], None]] = []
        self.on_ended: list[Callable[[Job], None]] = []
        self.on_removed: list[Callable[[Job], None]] = []
        self.on_drained: list[Callable[[], None]] = []

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, number: int) -> Job:
        """Raises NoSuchJob."""
        if number not in self._jobs:
            raise NoSuchJob(f"there is no job {number}; ended ones are kept for {LINGER_SEC:g} s")
        return self._jobs[number]

    # Orders

    def drain(self, target: str, timeout: float) -> Job:
        """Drain a container, or all. Draining what is being drained already joins that job.

        Raises NoSuchContainer, or InvalidArgs for a timeout that is not a sensible number of seconds.
        """
        if not 0 < timeout <= 7 * 86400:
            raise InvalidArgs("a drain's timeout lies between a microsecond and a week")
        containers = list(self._registry) if target == ALL else [self._registry.get(target)]
        for job in self._jobs.values():
            if job.running and job.target == target:
                return job
        job = Job(next(self._numbers), target, timeout)
        self._jobs[job.id] = job
        self._set_drained(target, containers, True)
        self._log.info("draining %s", target or "everything", extra={"event": Event.DRAIN_STARTED})
        self._tell(self.on_new, job)
        self._begin(job, containers, timeout)
        self._settle(job)
        return job

    def undrain(self, target: str) -> None:
        """Let work begin again. Raises NoSuchContainer or NotDraining."""
        containers = list(self._registry) if target == ALL else [self._registry.get(target)]
        was = self.all_drained if target == ALL else containers[0].drained
        if not was and not any(container.drained for container in containers):
            raise NotDraining(
                f"{target or 'nothing'} is being drained or has been; there is nothing to undo"
            )
        for job in self._running():
            if target in (ALL, job.target):
                self._end(job, State.CANCELED)
        self._set_drained(target, containers, False)
        for container in containers:
            self._forget_part(container)
            if container.worker is not None:
                container.worker.link.send(link.Undrain())
            self._registry.changed(container)

    def cancel(self, job: Job) -> None:
        """Give a running drain up: its targets serve again. Nothing happens to one that has ended."""
        if job.running:
            try:
                self.undrain(job.target)
            except (NotDraining, NoSuchContainer):
                self._end(job, State.CANCELED)  # somebody has undone it already, bit by bit

    def _begin(self, job: Job, containers: list[Container], timeout: float) -> None:
        """First all parts, then the orders: a link that breaks on the way ends its part and no other."""
        working = [container for container in containers if container.worker is not None]
        job.parts = {container.name: Part(container.snapshot.turns) for container in working}
        for container in containers:
            if container.worker is not None:
                self._orders[container.name] = job.id
                container.worker.link.send(link.Drain(job=job.id, timeout=timeout))
            self._registry.changed(container)
        loop = asyncio.get_running_loop()
        job.overdue = loop.call_later(timeout + GRACE_SEC, self._end, job, State.TIMEOUT)

    def _forget_part(self, container: Container) -> None:
        """A container that serves again is no longer part of any drain."""
        self._orders.pop(container.name, None)
        for job in self._running():
            if job.parts.pop(container.name, None):
                self._settle(job)

    def _set_drained(self, target: str, containers: list[Container], drained: bool) -> None:
        if target == ALL or not drained:
            self.all_drained = drained and target == ALL
        for container in containers:
            container.drained = drained
        for tell in self.on_drained:
            tell()

    # What workers report: a worker drains once, for every job that its container is part of

    def progress(self, container: Container, message: link.Progress) -> None:
        if message.job != self._orders.get(container.name):
            return  # of a drain that another one has taken the place of
        for job, part in self._parts_of(container):
            part.remaining, part.drained = message.remaining, message.drained
            self._tell(self.on_progress, job)

    def ended(self, container: Container, message: link.Ended) -> None:
        if message.job != self._orders.get(container.name):
            return
        for job, part in self._parts_of(container):
            part.remaining, part.drained, part.result = 0, message.drained, message.result
            self._settle(job)

    def worker_linked(self, container: Container) -> None:
        """A new worker of a container that is to be drained learns of it at once."""
        wanted = self.all_drained or container.drained
        if wanted and container.worker and container.snapshot.state not in ("draining", "drained"):
            container.drained = True
            container.worker.link.send(link.Drain(job=0, timeout=0.0))

    def worker_gone(self, container: Container) -> None:
        """A worker that is no more runs no turns; how they ended is not known."""
        self._orders.pop(container.name, None)
        for job, part in self._parts_of(container):
            part.remaining, part.result = 0, State.FAILED
            self._settle(job)

    def _running(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.running]

    def _parts_of(self, container: Container) -> list[tuple[Job, Part]]:
        """The parts of running jobs that wait for this container."""
        parts = [(job, job.parts.get(container.name)) for job in self._running()]
        return [(job, part) for job, part in parts if part is not None and not part.result]

    # Ends

    def _settle(self, job: Job) -> None:
        results = {part.result for part in job.parts.values()}
        if not job.running or "" in results:
            return
        if results <= {State.DONE, State.TIMEOUT}:
            self._end(job, State.TIMEOUT if State.TIMEOUT in results else State.DONE)
        else:
            self._end(job, State.FAILED)

    def _end(self, job: Job, state: State) -> None:
        job.state = state
        if job.overdue is not None:
            job.overdue.cancel()
        self._log.info(
            "drain of %s: %s", job.target or "everything", state, extra={"event": Event.DRAIN_ENDED}
        )
        self._tell(self.on_progress, job)
        self._tell(self.on_ended, job)
        asyncio.get_running_loop().call_later(LINGER_SEC, self._forget, job)

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        self._tell(self.on_removed, job)

    def _tell(self, listeners: list[Callable[[Job], None]], job: Job) -> None:
        for tell in listeners:
            tell(job)
