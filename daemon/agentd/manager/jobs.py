# SPDX-License-Identifier: Apache-2.0
"""Drain jobs: what somebody ordered, how far it is, and how it ended."""

import asyncio
import enum
import time
from collections.abc import Callable, Iterator

from agentd import link
from agentd.errors import InvalidArgs, NoSuchContainer, NoSuchJob, NotDraining
from agentd.log import Context
from agentd.manager.container import Container
from agentd.manager.drains import Drains, JobRecord, Ledger, PartRecord
from agentd.manager.registry import Registry
from agentd.systemd.events import Event

LINGER_SEC = 60.0
"""How long the result of a job can be read after its end."""
GRACE_SEC = 15.0
"""On top of a job's timeout, for workers to cut turns off and say so."""
LONGEST_SEC = 7 * 86400.0
"""A drain may take at most that long."""
ALL = ""
"""The target that means every container."""


class State(enum.StrEnum):
    RUNNING = "running"
    DONE = "done"
    TIMEOUT = "timeout"
    CANCELED = "canceled"
    FAILED = "failed"


KNOWN = {state.value: state for state in State}


class Part:
    """One container's share of a job. `pid`: the worker that was told."""

    def __init__(self, remaining: int, pid: int, drained: list[str] | None = None, result: str = "") -> None:
        self.remaining = remaining
        self.pid = pid
        self.drained = drained or []
        self.result = result

    def record(self) -> PartRecord:
        return PartRecord(remaining=self.remaining, pid=self.pid, drained=self.drained, result=self.result)


class Job:
    """A drain. It ends by itself, at the latest a little after its deadline."""

    def __init__(
        self, number: int, target: str, deadline_usec: int, state: State = State.RUNNING, ended_usec: int = 0
    ) -> None:
        self.id = number
        self.kind = "drain"
        self.target = target
        self.state = state
        self.deadline_usec = deadline_usec
        self.ended_usec = ended_usec
        self.parts: dict[str, Part] = {}
        self.overdue: asyncio.TimerHandle | None = None

    def record(self) -> JobRecord:
        return JobRecord(
            id=self.id,
            target=self.target,
            state=self.state,
            deadline_usec=self.deadline_usec,
            ended_usec=self.ended_usec,
            parts={name: part.record() for name, part in self.parts.items()},
        )

    @property
    def time_left(self) -> float:
        """Seconds until turns are cut off."""
        return min(max(0.0, self.deadline_usec / 1e6 - time.time()), LONGEST_SEC)

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


def revived(record: JobRecord) -> Job:
    """A job that an earlier manager has written down."""
    state = KNOWN.get(record.state, State.FAILED)
    job = Job(record.id, record.target, record.deadline_usec, state, record.ended_usec)
    for name, part in record.parts.items():
        job.parts[name] = Part(part.remaining, part.pid, list(part.drained), part.result)
    return job


class Jobs:
    """All jobs, running and just ended. The `on_…` lists tell whoever shows them (the bus).

    What is ordered is in force at once; `kept` says when it is on disk too.
    """

    def __init__(self, registry: Registry, log: Context, ledger: Ledger) -> None:
        self._registry = registry
        self._log = log
        self._ledger = ledger
        self._next = 1
        self._jobs: dict[int, Job] = {}
        self._names: set[str] = set()
        """The containers that are drained, also those that are not there now."""
        self._undone: set[str] = set()
        """Those that were to serve again while no worker of theirs was there to hear it."""
        self._orders: dict[str, int] = {}
        """The job whose order a container's worker was given last."""
        self.all_drained = False
        """Whether everything was ordered to drain, containers that appear later included."""
        self.on_new: list[Callable[[Job], None]] = []
        self.on_progress: list[Callable[[Job], None]] = []
        self.on_ended: list[Callable[[Job], None]] = []
        self.on_removed: list[Callable[[Job], None]] = []
        self.on_drained: list[Callable[[], None]] = []
        registry.on_new.append(self._container_appeared)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, number: int) -> Job:
        """Raises NoSuchJob."""
        if number not in self._jobs:
            raise NoSuchJob(f"there is no job {number}; ended ones are kept for {LINGER_SEC:g} s")
        return self._jobs[number]

    # What outlives us

    def restore(self) -> None:
        """Go on with what an earlier manager has ordered."""
        drains = self._ledger.load()
        self._next, self.all_drained = drains.next_job, drains.all_drained
        self._names, self._orders = set(drains.drained), dict(drains.orders)
        for record in drains.jobs:
            self._take_up(revived(record))
        for container in self._registry:
            self._container_appeared(container)
        for tell in self.on_drained:
            tell()

    def _take_up(self, job: Job) -> None:
        lingers = LINGER_SEC - (time.time() - job.ended_usec / 1e6)
        if job.running:
            self._jobs[job.id] = job
            self._watch(job)
        elif lingers > 0:
            self._jobs[job.id] = job
            asyncio.get_running_loop().call_later(min(lingers, LINGER_SEC), self._forget, job)

    def _container_appeared(self, container: Container) -> None:
        container.drained = self.all_drained or container.name in self._names
        if container.drained:
            self._names.add(container.name)

    def _keep(self) -> None:
        drains = Drains(
            next_job=self._next,
            all_drained=self.all_drained,
            drained=sorted(self._names),
            orders=dict(self._orders),
            jobs=[job.record() for job in self._jobs.values()],
        )
        self._ledger.put(drains)

    async def kept(self) -> None:
        """Return once every order is on disk. Raises StoreFailed; the orders are in force all the same."""
        await self._ledger.written()

    # Orders

    def drain(self, target: str, timeout: float) -> Job:
        """Drain a container, or all. Draining what is being drained already joins that job.

        Raises NoSuchContainer, or InvalidArgs for a timeout that is not a sensible number of seconds.
        """
        if not 0 < timeout <= LONGEST_SEC:
            raise InvalidArgs("a drain's timeout lies between a microsecond and a week")
        containers = list(self._registry) if target == ALL else [self._registry.get(target)]
        for job in self._running():
            if job.target == target:
                return job
        job = self._jobs[self._next] = Job(self._next, target, int((time.time() + timeout) * 1e6))
        self._next += 1
        self._set_drained(target, containers, True)
        self._log.info("draining %s", target or "everything", extra={"event": Event.DRAIN_STARTED})
        self._tell(self.on_new, job)
        self._begin(job, containers, timeout)
        self._settle(job)
        self._keep()
        return job

    def undrain(self, target: str) -> None:
        """Let work begin again. Raises NoSuchContainer or NotDraining."""
        containers = self._drainable(target)
        was = self.all_drained or bool(self._names) if target == ALL else target in self._names
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
            else:
                self._undone.add(container.name)
            self._registry.changed(container)
        self._keep()

    def _drainable(self, target: str) -> list[Container]:
        """Those that an order to undo is about: none for one that is drained and not there now."""
        if target != ALL and target not in self._names:
            self._registry.get(target)
        return [container for container in self._registry if target in (ALL, container.name)]

    def cancel(self, job: Job) -> None:
        """Give a running drain up: its targets serve again. Nothing happens to one that has ended."""
        if job.running:
            try:
                self.undrain(job.target)
            except (NotDraining, NoSuchContainer):
                self._end(job, State.CANCELED)  # somebody has undone it already, bit by bit
                self._keep()

    def _begin(self, job: Job, containers: list[Container], timeout: float) -> None:
        """First all parts, then the orders: a link that breaks on the way ends its part and no other."""
        job.parts = {
            container.name: Part(container.snapshot.turns, container.worker.pid)
            for container in containers
            if container.worker is not None
        }
        for container in containers:
            if container.worker is not None:
                self._orders[container.name] = job.id
                container.worker.link.send(link.Drain(job=job.id, timeout=timeout))
            self._registry.changed(container)
        self._watch(job)

    def _watch(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        job.overdue = loop.call_later(job.time_left + GRACE_SEC, self._overdue, job)

    def _forget_part(self, container: Container) -> None:
        """A container that serves again is no longer part of any drain."""
        self._orders.pop(container.name, None)
        for job in self._running():
            if job.parts.pop(container.name, None):
                self._settle(job)

    def _set_drained(self, target: str, containers: list[Container], drained: bool) -> None:
        if target == ALL or not drained:
            self.all_drained = drained and target == ALL
        names = {target} - {ALL} | {container.name for container in containers}
        self._names = self._names | names if drained else set() if target == ALL else self._names - names
        self._undone = set() if target == ALL else self._undone - names
        for container in containers:
            container.drained = drained
        for tell in self.on_drained:
            tell()

    # What workers report: a worker drains once, for every job that its container is part of

    def progress(self, container: Container, message: link.Progress) -> None:
        if message.job != self._orders.get(container.name):
            return  # of a drain that another one has taken the place of
        for job, part in self._parts_of(container):
            if (part.remaining, part.drained) != (message.remaining, message.drained):
                part.remaining, part.drained = message.remaining, message.drained
                self._tell(self.on_progress, job)
                self._keep()

    def ended(self, container: Container, message: link.Ended) -> None:
        if message.job != self._orders.get(container.name):
            return
        for job, part in self._parts_of(container):
            part.remaining, part.drained, part.result = 0, message.drained, message.result
            self._settle(job)
            self._keep()

    def worker_linked(self, container: Container) -> None:
        """A worker has come, or has come back: what it knows that we don't, and what it has to know."""
        worker, drain = container.worker, container.snapshot.drain
        if worker is None:
            return
        self._fail_parts(container, unless=worker.pid)
        if drain is not None and drain.job >= self._next:
            self._next = drain.job + 1  # of a job that was never written down
        self.worker_told(container)
        if container.name in self._undone:
            self._undone.discard(container.name)
            container.drained = False
            worker.link.send(link.Undrain())
        elif self.all_drained or container.drained:
            container.drained = True
            self._names.add(container.name)
            self._order(container, worker.link)
            self._keep()

    def _order(self, container: Container, wire: link.Link) -> None:
        """Have a worker drain that has not been told, or whose order was lost with an earlier manager."""
        job = max((job.id for job, _ in self._parts_of(container)), default=0)
        drain, state = container.snapshot.drain, container.snapshot.state
        if state in ("draining", "drained") and (drain is None or not job or drain.job == job):
            return
        patience = LONGEST_SEC if container.snapshot.turns else 0.0  # nobody has said how long: cut off none
        if job:
            self._orders[container.name], patience = job, self._jobs[job].time_left
        wire.send(link.Drain(job=job, timeout=patience))

    def worker_told(self, container: Container) -> None:
        """A worker says how it is: a report that an earlier manager, or nobody, has heard counts now."""
        drain = container.snapshot.drain
        if drain is None:
            return
        if drain.result:
            self.ended(container, link.Ended(job=drain.job, result=drain.result, drained=drain.drained))
        else:
            known = link.Progress(job=drain.job, remaining=drain.remaining, drained=drain.drained)
            self.progress(container, known)

    def worker_gone(self, container: Container) -> None:
        """A worker that is no more runs no turns; how they ended is not known."""
        self._orders.pop(container.name, None)
        self._fail_parts(container)

    def _fail_parts(self, container: Container, *, unless: int = 0) -> None:
        """End the parts that wait for a worker that has gone, which that process is not."""
        for job, part in self._parts_of(container):
            if part.pid != unless:
                part.remaining, part.result = 0, State.FAILED
                self._settle(job)
                self._keep()

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

    def _overdue(self, job: Job) -> None:
        """Who has not reported by now is silent, or did not come back."""
        there = {container.name for container in self._registry if container.worker is not None}
        for name, part in job.parts.items():
            part.result = part.result or (State.TIMEOUT if name in there else State.FAILED)
        self._settle(job)
        self._keep()

    def _end(self, job: Job, state: State) -> None:
        job.state, job.ended_usec = state, int(time.time() * 1e6)
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
