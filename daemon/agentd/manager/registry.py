# SPDX-License-Identifier: Apache-2.0
"""All containers the manager knows, and getting a worker for one."""

import asyncio
import logging
from collections.abc import Callable, Iterator

from agentd import link
from agentd.config import Configuration
from agentd.errors import (
    AgentdError,
    AlreadyRunning,
    AmbiguousContainer,
    NoSuchContainer,
    NotRunning,
    ShuttingDown,
    WorkerFailed,
)
from agentd.log import Context
from agentd.manager.container import Container, WorkerEnd
from agentd.manager.spawner import STOP_MARGIN_SEC, Spawner
from agentd.systemd.events import Event
from agentd.tasks import Tasks

LAST_WORDS_SEC = 0.5
"""How long a worker's own reason for failing may trail behind its exit."""

COME_BACK_SEC = 5.0
THERE_SEC = 10.0
"""How long somebody who wants no worker started waits for one."""
LEAVE_SEC = 40.0
LISTING_SEC = 5.0
"""How long a connection waits for a watcher to say what there is."""

log = logging.getLogger(__name__)


class Registry:
    """Containers by name. `on_new`, `on_removed` and `on_change` tell whoever shows them (the bus)."""

    def __init__(self, spawner: Spawner, tasks: Tasks) -> None:
        self._spawner = spawner
        self._tasks = tasks
        self._containers: dict[str, Container] = {}
        self.complete = asyncio.Event()
        """Set once the watcher has told of every container: until then one may exist that is not known."""
        self.leave_sec = LEAVE_SEC
        """What a worker may take to leave."""
        self.on_new: list[Callable[[Container], None]] = []
        self.on_removed: list[Callable[[Container], None]] = []
        self.on_change: list[Callable[[Container], None]] = []

    def __iter__(self) -> Iterator[Container]:
        return iter(sorted(self._containers.values(), key=lambda each: each.name))

    def __len__(self) -> int:
        return len(self._containers)

    # Looking up

    def get(self, name: str) -> Container:
        """Raises NoSuchContainer."""
        if name not in self._containers:
            raise NoSuchContainer(
                f"no container called {name} has opted in; see: agentctl list", container=name
            )
        return self._containers[name]

    async def find(self, name: str, allowed: Callable[[str], bool]) -> Container:
        """`choose`, for somebody who can wait: just after a start not everything is known yet."""
        if name not in self._containers and not self.complete.is_set():
            try:
                await asyncio.wait_for(self.complete.wait(), LISTING_SEC)
            except TimeoutError:
                log.warning("no watcher has listed the containers; going by what is known")
                self.complete.set()  # nobody else has to wait for it
        return self.choose(name, allowed)

    def choose(self, name: str, allowed: Callable[[str], bool]) -> Container:
        """The container of that name; for "" the only one that is allowed. Errors list only allowed ones."""
        mine = [each.name for each in self if allowed(each.name) and not each.retired]
        if not name and len(mine) == 1:
            return self._containers[mine[0]]
        if not name:
            text = "say which container" if mine else "no container that you may use has opted in"
            raise (AmbiguousContainer if mine else NoSuchContainer)(text, containers=mine)
        if name not in self._containers or self._containers[name].retired:
            raise NoSuchContainer(
                f"no container called {name} has opted in", container=name, containers=mine
            )
        return self._containers[name]

    def labels(self, name: str) -> Context:
        return Context(log, {"container": name})

    # What is known

    def configure(self, configuration: Configuration) -> None:
        """Containers the configuration names are known whatever the watcher says."""
        for name in configuration.containers:
            self._known(name).configured = True
        for container in list(self):
            configured = container.name in configuration.containers
            taken_out = container.configured and not configured and container.info is None
            container.retired = not configured and (taken_out or container.retired)
            container.configured = configured
            self._drop_if_unknown(container)

    def seen(self, info: link.ContainerInfo) -> None:
        container = self._known(info.name)
        failed = container.failure is not None
        if container.seen(info) and failed:
            self._spawner.forgive(info.name)
        self._part_from_another(container, info)
        self.changed(container)

    def _part_from_another(self, container: Container, info: link.ContainerInfo) -> None:
        """Have a worker leave whose container was renamed, once another one has its name."""
        worker = container.worker
        if worker and not worker.leaving and worker.snapshot.engine_id not in ("", info.id):
            worker.dismissed = True
            worker.link.send(link.Leave(timeout=0.0))

    def gone(self, name: str, runtime: str) -> None:
        container = self._containers.get(name)
        if container is not None and container.runtime in ("", runtime):
            container.info = None
            container.retired = not container.configured
            self._drop_if_unknown(container)

    def changed(self, container: Container) -> None:
        for tell in self.on_change:
            tell(container)

    def _known(self, name: str) -> Container:
        if name not in self._containers:
            container = self._containers[name] = Container(name)
            for tell in self.on_new:
                tell(container)
        return self._containers[name]

    def _drop_if_unknown(self, container: Container) -> None:
        if container.configured or container.info or container.worker or container.start:
            self.changed(container)
            return
        if self._containers.get(container.name) is not container:
            return  # dropped already
        del self._containers[container.name]
        for tell in self.on_removed:
            tell(container)

    # Workers

    def attach(self, name: str, worker: WorkerEnd) -> Container:
        """A worker has linked: one we asked for, one somebody started, or one from before our restart."""
        container = self._known(name)
        before = container.worker
        container.attach(worker)
        if before is not None:
            before.link.close()  # the same process, which has seen the break of its link before us
        self.labels(name).info("worker %d linked", worker.pid, extra={"event": Event.WORKER_STARTED})
        self.changed(container)
        return container

    def detach(self, container: Container, worker: WorkerEnd) -> bool:
        """A link has ended. Returns whether the container is without a worker now."""
        if container.worker is not worker:
            return False
        container.detach()
        if not worker.leaving and container.failure is None and container.start is None:
            container.failure = WorkerFailed(f"the worker of {container.name} ended without a word")
        about = self.labels(container.name)
        about.info("worker %d left", worker.pid, extra={"event": Event.WORKER_GONE})
        self._drop_if_unknown(container)
        return True

    async def worker_of(self, container: Container) -> WorkerEnd:
        """The container's worker, started where there is none. Raises NotRunning, or why it failed."""
        self._check_known(container)
        await self._let_leave(container)
        if not container.ready.is_set():
            if container.stopped:
                raise NotRunning(f"{container.name} is not running; start it and connect again")
            await self._check_not_given_up(container)
            await self._started(container)
        if container.worker is None or not container.ready.is_set():
            await self._check_not_given_up(container)
            raise container.failure or WorkerFailed(f"the worker of {container.name} left at once")
        return container.worker

    async def worker_there(self, container: Container) -> WorkerEnd:
        """The container's worker if there is one, or soon will be; none is started. Raises NotRunning."""
        self._check_known(container)
        await self._let_leave(container)
        try:
            await asyncio.wait_for(container.ready.wait(), THERE_SEC)
        except TimeoutError:
            pass  # said below
        if container.worker is None or not container.ready.is_set():
            raise NotRunning(f"the worker of {container.name} was stopped; connect again to start it")
        return container.worker

    async def start_worker(self, container: Container) -> WorkerEnd:
        """`worker_of`, for somebody who means it: one that has failed too often is tried again."""
        if not container.ready.is_set():
            self._spawner.forgive(container.name)
        return await self.worker_of(container)

    def _check_known(self, container: Container) -> None:
        if self._containers.get(container.name) is not container:
            raise NoSuchContainer(f"{container.name} has just gone", container=container.name)

    async def _let_leave(self, container: Container) -> None:
        """Wait for a worker that is on its way out: the next one cannot be there before."""
        if container.worker is None or not container.worker.leaving:
            return
        try:
            await asyncio.wait_for(container.unlinked.wait(), self.leave_sec)
        except TimeoutError:
            raise WorkerFailed(f"the worker of {container.name} was stopped, but does not end") from None

    async def _check_not_given_up(self, container: Container) -> None:
        if await self._spawner.gave_up(container.name):
            name = container.name
            container.failure = container.failure or WorkerFailed(
                f"the worker of {name} ended without a word"
            )
            self.changed(container)
            raise WorkerFailed(
                f"the worker of {name} fails again and again and is not started any more; the last time: "
                f"{container.failure.message}. When that is mended: {self._spawner.remedy(name)}"
            )

    async def _started(self, container: Container) -> None:
        """Wait for a start, which goes on when we don't. Raises ShuttingDown where a stop came between."""
        start = self._start(container)
        await asyncio.wait((start,))
        if start.cancelled():
            raise ShuttingDown(f"the worker of {container.name} was stopped before it was up; connect again")
        start.result()

    def _start(self, container: Container) -> "asyncio.Task[None]":
        """One start at a time, shared by all who wait for it; a failed one is not remembered."""
        if container.start is None:
            start = self._tasks.start(self._run_start(container), f"start of {container.name}")
            container.start = start
            start.add_done_callback(lambda _: self._start_ended(container))
            self.changed(container)
        return container.start

    def _start_ended(self, container: Container) -> None:
        """Also one that was cancelled before it had begun."""
        container.start = None
        self._drop_if_unknown(container)

    async def _run_start(self, container: Container) -> None:
        before, container.failure = container.failure, None
        try:
            async with container.turn:
                await self._spawner.start(container.name, container.ready)
        except AgentdError as exc:
            await self._last_words(container)
            if isinstance(exc, AlreadyRunning) and await self._comes_back(container):
                return
            # nothing ran where it was given up before: what was said then still counts
            said = before if await self._spawner.gave_up(container.name) else None
            container.failure = container.failure or said or exc
            self.labels(container.name).warning("%s", container.failure.message)

    async def _last_words(self, container: Container) -> None:
        if container.failure is None and container.worker is not None:
            try:
                await asyncio.wait_for(container.unlinked.wait(), LAST_WORDS_SEC)
            except TimeoutError:
                log.debug("%s failed without a word", container.name)

    async def _comes_back(self, container: Container) -> bool:
        """Wait for an earlier worker that is alive, and on its way to link with us."""
        try:
            await asyncio.wait_for(container.ready.wait(), COME_BACK_SEC)
        except TimeoutError:
            return False
        return True

    async def stop_worker(self, container: Container, timeout: float) -> None:
        """Have the worker drain for at most that long, and leave. Raises WorkerFailed.

        A start that was asked for before ends, so that it undoes nothing.
        """
        if container.start is not None:
            container.start.cancel()
            await asyncio.wait((container.start,))
        async with container.turn:
            await self._stop(container, timeout)

    async def _stop(self, container: Container, timeout: float) -> None:
        async def ask() -> None:
            if container.worker is not None:
                container.worker.dismissed = True
                container.worker.link.send(link.Leave(timeout=timeout))
                await asyncio.wait_for(container.unlinked.wait(), timeout + STOP_MARGIN_SEC)

        try:
            await self._spawner.stop(container.name, ask)
        except TimeoutError:
            raise WorkerFailed(f"the worker of {container.name} does not leave") from None

    async def stop_all(self, timeout: float) -> None:
        """Have every worker leave; one that will not is only logged."""
        stops = [self.stop_worker(container, timeout) for container in self if container.worker]
        for problem in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(problem, Exception):
                log.error("%s", problem)

    def hurry(self) -> None:
        """Have those who are leaving wait for nothing any more."""
        for container in self:
            if container.worker is not None:
                container.worker.link.send(link.Leave(timeout=0.0))

    def unit(self, container: Container) -> str:
        return self._spawner.unit(container.name)
