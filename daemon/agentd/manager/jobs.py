# SPDX-License-Identifier: Apache-2.0
"""Drain jobs: what somebody ordered, and what workers are told of it and say."""

import asyncio
import time
from collections.abc import Callable, Iterator

from agentd import link
from agentd.config import Limits
from agentd.errors import InvalidArgs, NoSuchContainer, NoSuchJob, NotDraining, WorkerOutdated
from agentd.log import Context
from agentd.manager import shares
from agentd.manager.container import Container
from agentd.manager.drained import Drained
from agentd.manager.drains import Drains, Ledger
from agentd.manager.job import LONGEST_SEC, Job, Part, State, revived
from agentd.manager.registry import Registry
from agentd.manager.targets import EVERYTHING, Scope, Target
from agentd.systemd.events import Event

LINGER_SEC = 60.0
"""How long the result of a job can be read after its end."""
KEPT = 500
"""Of how many that have ended at most: one that ended earlier goes first."""
GRACE_SEC = 15.0
"""On top of a job's timeout, for workers to cut turns off and say so."""
ALL = ""
"""The target that means every container."""


class Jobs:
    """All jobs, running and just ended. The `on_…` lists tell whoever shows them (the bus).

    What is ordered is in force at once; `kept` says when it is on disk too.
    """

    def __init__(
        self,
        registry: Registry,
        log: Context,
        ledger: Ledger,
        *,
        default_sec: Callable[[], float] = lambda: Limits().drain_sec,
        check_agent: Callable[[str, str], None] = lambda container, agent: None,
    ) -> None:
        """`default_sec`: what a drain may take where nobody said. `check_agent` raises NoSuchAgent for one
        that a container does not have.
        """
        self._registry = registry
        self._log = log
        self._ledger = ledger
        self._default_sec = default_sec
        self._check_agent = check_agent
        self._next = 1
        self._jobs: dict[int, Job] = {}
        self._running: dict[Target, Job] = {}
        self._drained = Drained(registry)
        self._orders: dict[Target, int] = {}
        """The job whose order the worker of something drained was given last."""
        self.on_new: list[Callable[[Job], None]] = []
        self.on_progress: list[Callable[[Job], None]] = []
        self.on_ended: list[Callable[[Job], None]] = []
        self.on_removed: list[Callable[[Job], None]] = []
        self.on_drained = self._drained.on_change
        registry.on_new.append(self._drained.appeared)
        registry.on_removed.append(self._container_removed)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, number: int) -> Job:
        """Raises NoSuchJob."""
        if number not in self._jobs:
            raise NoSuchJob(f"there is no job {number}; ended ones are kept for {LINGER_SEC:g} s")
        return self._jobs[number]

    # What is drained

    @property
    def all_drained(self) -> bool:
        """Whether everything was ordered to drain, containers that appear later included."""
        return self._drained.everything

    def drained_of(self, name: str) -> list[str]:
        """What of a container is drained or drains, as targets."""
        return [str(each) for each in self._drained.targets.of(name)]

    def is_drained(self, container: str, agent: str, session: str) -> bool:
        """Whether a session is drained or drains, by itself or with its agent or container."""
        return self._drained.covers(container, agent, session)

    # What outlives us

    def restore(self) -> None:
        """Go on with what an earlier manager has ordered."""
        drains = self._ledger.load()
        self._next = drains.next_job
        self._orders = {Target.split(text): number for text, number in drains.orders.items()}
        for record in drains.jobs:
            self._take_up(revived(record))
        self._drained.restore(drains)

    def _take_up(self, job: Job) -> None:
        lingers = LINGER_SEC - (time.time() - job.ended_usec / 1e6)
        if job.running:
            self._jobs[job.id] = self._running[job.aim] = job
            self._watch(job)
        elif lingers > 0:
            self._jobs[job.id] = job
            self._let_linger(job, min(lingers, LINGER_SEC))

    def _keep(self) -> None:
        self._ledger.put(self._record)

    def _record(self) -> Drains:
        return Drains(
            next_job=self._next,
            all_drained=self.all_drained,
            drained=[str(each) for each in self._drained.targets],
            orders={str(each): number for each, number in self._orders.items()},
            unheard=[str(each) for each in self._drained.unheard],
            jobs=[job.record() for job in self._jobs.values()],
        )

    async def kept(self) -> None:
        """Return once every order is on disk. Raises StoreFailed; the orders are in force all the same."""
        await self._ledger.written()

    # Orders

    def drain(self, text: str, timeout: float | None = None) -> Job:
        """Drain a target. Draining what is being drained already joins that job.

        `timeout`: in seconds; None for the default, or for that of the job that is joined. Raises
        NoSuchTarget, NoSuchContainer, NoSuchAgent, NoSuchSession, WorkerOutdated, AlreadyDraining where the
        job to join has another timeout, or InvalidArgs for one that is not a sensible number of seconds.
        """
        target = Target.parse(text)
        if timeout is not None and not 0 < timeout <= LONGEST_SEC:
            raise InvalidArgs("a drain's timeout lies between a microsecond and a week")
        if (job := self._running.get(target)) is not None:
            job.check_timeout(timeout)
            if target.is_all and not self.all_drained:
                self._complete(job)
            return job
        self._check_drainable(target)
        job = self._new(target, min(self._default_sec(), LONGEST_SEC) if timeout is None else timeout)
        self._drained.mark(target)
        self._log.info("draining %s", job.name, extra={"event": Event.DRAIN_STARTED})
        self._tell(self.on_new, job)
        self._watch(job)
        self._begin(job, job.timeout)
        self._settle(job)
        self._keep()
        return job

    def undrain(self, text: str) -> None:
        """Let work begin again in all that the target covers.

        Raises NoSuchTarget, NoSuchContainer or NotDraining.
        """
        self._undo(Target.parse(text))

    def cancel(self, job: Job) -> None:
        """Give a running drain up: its target serves again. Nothing happens to one that has ended."""
        if job.running:
            try:
                self._undo(job.aim)
            except (NotDraining, NoSuchContainer):
                self._end(job, State.CANCELED)  # somebody has undone it already, bit by bit
                self._keep()

    # Draining

    def _check_drainable(self, target: Target) -> None:
        """Raises what `drain` does, for what is not there or has too old a worker."""
        if target.is_all:
            return
        container = self._registry.get(target.container)
        if target.scope is Scope.AGENT:
            self._check_agent(container.name, target.agent)
        elif target.scope is Scope.SESSION and target not in self._drained.targets:
            shares.check_open(container, target.session)
        if container.worker is not None and not shares.can_drain(container.worker, target):
            raise WorkerOutdated(shares.outdated(container.worker, target))

    def _new(self, target: Target, timeout: float) -> Job:
        job = Job(self._next, target, int((time.time() + timeout) * 1e6), timeout=timeout)
        self._jobs[job.id] = self._running[target] = job
        self._next += 1
        return job

    def _begin(self, job: Job, timeout: float) -> None:
        """First all parts, then the orders: a link that breaks on the way ends its part and no other."""
        begun: list[Container] = []
        for container in self._drained.containers(job.aim):
            share, worker = job.share_of(container.name), container.worker
            if share not in job.parts:
                begun.append(container)
                if worker is not None:
                    job.parts[share] = Part(shares.turns(container.snapshot, job.aim), worker.pid)
        for container in begun:
            if container.worker is not None:
                self._orders[job.share_of(container.name)] = job.id
                container.worker.link.send(shares.order(job.aim, job.id, timeout))
            self._registry.changed(container)

    def _complete(self, job: Job) -> None:
        """Some of what it is about serves again by now: drain that with the rest, by the same deadline."""
        self._drained.mark(job.aim)
        self._begin(job, job.time_left)
        self._tell(self.on_progress, job)
        self._settle(job)
        self._keep()

    def _watch(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        job.timer = loop.call_later(job.time_left + GRACE_SEC, self._overdue, job)

    # Undoing

    def _undo(self, target: Target) -> None:
        self._drained.check(target)
        for job in [job for job in self._running.values() if target.covers(job.aim)]:
            self._end(job, State.CANCELED)
        undone = self._drained.unmark(target)
        self._leave_out(undone)
        for container in self._drained.containers(target):
            self._send_undrain(container, target)
            self._registry.changed(container)
        self._keep()

    def _leave_out(self, undone: list[Target]) -> None:
        """What serves again is no longer part of any drain, nor do reports on it count."""
        for each in undone:
            self._orders.pop(each, None)
            everything = self._running.get(EVERYTHING)
            if everything is not None and each in everything.parts:
                del everything.parts[each]
                self._settle(everything)

    def _send_undrain(self, container: Container, target: Target) -> None:
        worker = container.worker
        if worker is not None and shares.can_drain(worker, target):
            worker.link.send(link.Undrain(agent=target.agent, session=target.session))

    # What workers report: each drains a thing once, for every job that it is part of

    def progress(self, container: Container, message: link.Progress) -> None:
        for job, part in self._reported(container, message.job):
            if (part.remaining, part.drained) != (message.remaining, message.drained):
                part.remaining, part.drained = message.remaining, message.drained
                self._tell(self.on_progress, job)
                self._keep()

    def ended(self, container: Container, message: link.Ended) -> None:
        for job, part in self._reported(container, message.job):
            part.remaining, part.drained, part.result = 0, message.drained, message.result
            self._settle(job)
            self._keep()

    def worker_told(self, container: Container) -> None:
        """A worker says how it is: a report that an earlier manager, or nobody, has heard counts now."""
        for info in shares.told(container).values():
            if info.result:
                self.ended(container, link.Ended(job=info.job, result=info.result, drained=info.drained))
            else:
                known = link.Progress(job=info.job, remaining=info.remaining, drained=info.drained)
                self.progress(container, known)

    def _reported(self, container: Container, number: int) -> list[tuple[Job, Part]]:
        """What a report is about: nothing, where another order has taken the place of that job's."""
        ours = [
            each for each in self._drained.targets.of(container.name) if self._orders.get(each) == number
        ]
        return [pair for each in ours for pair in self._waiting(each)]

    def _waiting(self, share: Target) -> list[tuple[Job, Part]]:
        """The parts of running jobs that wait for this to be drained."""
        jobs = [job for target in (EVERYTHING, share) if (job := self._running.get(target)) is not None]
        parts = [(job, job.parts.get(share)) for job in jobs]
        return [(job, part) for job, part in parts if part is not None and not part.result]

    # Workers that come and go

    def worker_linked(self, container: Container) -> None:
        """A worker has come, or has come back: what it knows that we don't, and what it has to know."""
        worker = container.worker
        if worker is None:
            return
        self._fail_parts(container, unless=worker.pid)
        self.worker_told(container)
        told = shares.told(container)
        self._next = max([self._next, *(info.job + 1 for info in told.values())])  # of jobs not written down
        undone = self._drained.heard(container)
        for each in undone:
            self._send_undrain(container, each)
        known = set(told) | ({Target(container.name)} if worker.was_drained else set())
        self._drained.adopt(container, [each for each in known if not _covered(each, undone)])
        for each in self._drained.targets.of(container.name):
            if _covered(each, undone) or not self._knows(container, each):
                self._order_again(container, each)
        if undone or self._drained.targets.of(container.name):
            self._keep()

    def _knows(self, container: Container, share: Target) -> bool:
        """Whether a worker drains this, and for the job that waits for it, if one does."""
        info, job = shares.told(container).get(share), self._newest(share)
        if info is None:
            return not share.is_part and container.snapshot.state in ("draining", "drained")
        return job in (0, info.job)

    def _newest(self, share: Target) -> int:
        return max((job.id for job, _ in self._waiting(share)), default=0)

    def _order_again(self, container: Container, share: Target) -> None:
        """Have a worker drain that has not been told, or whose order was lost with an earlier manager."""
        worker, job = container.worker, self._newest(share)
        if worker is None:
            return
        if not shares.can_drain(worker, share):
            self._log.warning("%s", shares.outdated(worker, share))
            return
        patience = LONGEST_SEC if container.snapshot.turns else 0.0  # nobody has said how long: cut off none
        if job:
            self._orders[share], patience = job, self._jobs[job].time_left
        worker.link.send(shares.order(share, job, patience))

    def worker_gone(self, container: Container) -> None:
        """A worker that is no more runs no turns; how they ended is not known."""
        for each in self._drained.targets.of(container.name):
            self._orders.pop(each, None)
        self._fail_parts(container)

    def _container_removed(self, container: Container) -> None:
        self.worker_gone(container)
        if self._drained.forget(container):
            self._keep()

    def _fail_parts(self, container: Container, *, unless: int = 0) -> None:
        """End the parts that wait for a worker that has gone, which that process is not."""
        ours = self._drained.targets.of(container.name)
        for job, part in [pair for each in ours for pair in self._waiting(each)]:
            if part.pid != unless:
                part.remaining, part.result = 0, State.FAILED
                self._settle(job)
                self._keep()

    # Ends

    def _settle(self, job: Job) -> None:
        if job.running and job.result is not None:
            self._end(job, job.result)

    def _overdue(self, job: Job) -> None:
        """Who has not reported by now is silent, or did not come back."""
        there = {container.name for container in self._registry if container.worker is not None}
        for share, part in job.parts.items():
            part.result = part.result or (State.TIMEOUT if share.container in there else State.FAILED)
        self._settle(job)
        self._keep()

    def _end(self, job: Job, state: State) -> None:
        job.state, job.ended_usec = state, int(time.time() * 1e6)
        del self._running[job.aim]
        self._log.info("drain of %s: %s", job.name, state, extra={"event": Event.DRAIN_ENDED})
        self._tell(self.on_progress, job)
        self._tell(self.on_ended, job)
        self._let_linger(job, LINGER_SEC)

    def _let_linger(self, job: Job, seconds: float) -> None:
        if job.timer is not None:
            job.timer.cancel()
        job.timer = asyncio.get_running_loop().call_later(seconds, self._forget, job)
        if len(self._jobs) - len(self._running) > KEPT:
            ended = [each for each in self._jobs.values() if not each.running]
            self._forget(min(ended, key=lambda each: each.ended_usec))

    def _forget(self, job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
        del self._jobs[job.id]
        self._tell(self.on_removed, job)

    def _tell(self, listeners: list[Callable[[Job], None]], job: Job) -> None:
        for tell in listeners:
            tell(job)


def _covered(share: Target, by: list[Target]) -> bool:
    return any(each.covers(share) for each in by)
