# SPDX-License-Identifier: Apache-2.0
"""Starting and stopping workers: through systemd, or as children where there is none."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from agentd.advice import systemctl
from agentd.config import Limits
from agentd.errors import AlreadyRunning, WorkerFailed
from agentd.manager.failures import Failures
from agentd.process import Child, dies_with_us, spawn
from agentd.systemd import limit
from agentd.systemd.units import UnitJobs
from agentd.tasks import Tasks

STOP_MARGIN_SEC = 15.0
"""On top of a worker's own drain, for it to stop its agents and leave."""


class Spawner(Protocol):
    """Whoever supervises the workers."""

    limits: Limits
    """Those in force."""

    def unit(self, name: str) -> str:
        """The systemd unit of a container's worker; "" where there is none."""

    async def start(self, name: str, ready: asyncio.Event) -> None:
        """Start the worker and return when it takes connections. Raises WorkerFailed."""

    async def stop(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        """Stop the worker, which drains first. Raises WorkerFailed.

        `ask` tells it to leave and waits until it has, for whoever has no better way.
        """

    async def gave_up(self, name: str) -> bool:
        """Whether the worker has failed so often that it is not started before somebody says so."""

    def forgive(self, name: str) -> None:
        """Somebody says so: the next start counts as the first."""

    def remedy(self, name: str) -> str:
        """The command with which a person says so."""

    async def close(self) -> None:
        """The manager has ended. What was started for it alone ends too."""


class UnitSpawner:
    """Workers are instances of agentd@.service; systemd does the rest, the watcher included.

    A container's name has only characters that unit names may have, so it is never escaped.
    """

    def __init__(self, jobs: UnitJobs, limits: Limits) -> None:
        self._jobs = jobs
        self.limits = limits
        self._given_up: dict[str, int] = {}
        """By name, when a start was asked for that the unit's limit has barred."""
        self._forgiven: set[str] = set()

    def unit(self, name: str) -> str:
        return f"agentd@{name}.service"

    async def start(self, name: str, ready: asyncio.Event) -> None:
        if name in self._forgiven:
            self._forgiven.discard(name)
            await limit.reset_failed(self._jobs.bus, self.unit(name))
        asked = limit.now()
        try:
            await self._jobs.start(self.unit(name), timeout=self.limits.worker_start_sec)
        except WorkerFailed:
            self._given_up[name] = asked
            await self.gave_up(name)
            raise
        try:
            await asyncio.wait_for(ready.wait(), self.limits.worker_start_sec)
        except TimeoutError:
            see = systemctl(self._jobs.mode, "status", "agentd")
            raise WorkerFailed(f"{self.unit(name)} runs but does not report; see: {see}") from None

    async def stop(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        await self._jobs.stop(self.unit(name), timeout=self.limits.drain_sec + STOP_MARGIN_SEC)

    async def gave_up(self, name: str) -> bool:
        asked = self._given_up.get(name)
        if asked is not None and not await limit.is_barred(self._jobs.bus, self.unit(name), asked):
            self._given_up.pop(name, None)  # it was tried, then or since, or somebody has reset it
        return name in self._given_up

    def forgive(self, name: str) -> None:
        self._given_up.pop(name, None)
        self._forgiven.add(name)

    def remedy(self, name: str) -> str:
        return f"{systemctl(self._jobs.mode, 'reset-failed', self.unit(name))}, and connect again"

    async def close(self) -> None:
        """Workers outlive their manager: that is what they are units for."""


class ChildSpawner:
    """Workers are children. They outlive a manager that crashes, and end with one that is stopped."""

    def __init__(self, arguments: Sequence[str], limits: Limits) -> None:
        """`arguments`: those of our own command line that a child needs to find the same places."""
        self._arguments = arguments
        self.limits = limits
        self._tasks = Tasks()
        self._workers: dict[str, Child] = {}
        self._dismissed: set[Child] = set()
        """Those whose end was wanted, however they end."""
        self._failures: dict[str, Failures] = {}
        self._watcher: Child | None = None

    def unit(self, name: str) -> str:
        return ""

    async def start(self, name: str, ready: asyncio.Event) -> None:
        old = self._workers.get(name)
        if old is not None and await self._watch(old, ready) is None:
            return
        if await self._pause(name, ready):
            return
        child = self._workers[name] = self._spawn(name)  # the old one was on its way out
        self._tasks.start(self._reap(name, child), f"worker {name}")
        status = await self._watch(child, ready)
        if status == AlreadyRunning.exit_status:
            raise AlreadyRunning(f"an earlier worker of {name} lives, but has not linked to this manager")
        if status is not None:
            raise WorkerFailed(f"the worker of {name} ended with status {status}; its log says why")

    async def _pause(self, name: str, ready: asyncio.Event) -> bool:
        """Wait after a failure. True where an earlier worker has linked meanwhile."""
        failures = self._failures.get(name)
        pause = failures.pause(asyncio.get_running_loop().time()) if failures else 0.0
        if pause:
            up = asyncio.ensure_future(ready.wait())
            await asyncio.wait((up,), timeout=pause)
            up.cancel()
        return ready.is_set()

    async def _watch(self, child: Child, ready: asyncio.Event) -> int | None:
        """None once the worker is ready, its exit status if it ends before; too slow a one is killed."""
        ended = asyncio.ensure_future(child.wait())
        up = asyncio.ensure_future(ready.wait())
        limit = self.limits.worker_start_sec
        try:
            await asyncio.wait((ended, up), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not up.done() and not ended.done():
                child.signal(signal.SIGKILL)
            return None if up.done() else await ended
        finally:
            ended.cancel()
            up.cancel()

    def _spawn(self, name: str) -> Child:
        try:
            return spawn(self._command("worker", name), env=os.environ)
        except OSError as exc:
            self._note_failure(name)
            raise WorkerFailed(f"no worker can be started for {name}: {exc.strerror}") from None

    async def stop(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        if child := self._workers.get(name):
            self._dismissed.add(child)
        await ask()  # it may be the child of a manager before us
        if child:
            await child.stop(term=1, kill=self.limits.agent_kill_sec)

    async def gave_up(self, name: str) -> bool:
        return name in self._failures and self._failures[name].too_many

    def forgive(self, name: str) -> None:
        self._failures.pop(name, None)

    def remedy(self, name: str) -> str:
        return f"agentctl start {name}"

    def start_watcher(self) -> None:
        """Keep a watcher running, which is gone when we are."""
        self._tasks.start(self._keep_watcher(), "watcher")

    async def close(self) -> None:
        for child in list(self._workers.values()):
            await child.stop(term=1, kill=self.limits.agent_kill_sec)
        watcher, self._watcher = self._watcher, None
        await self._tasks.close()
        if watcher is not None:
            await watcher.stop(term=2, kill=2)

    async def _keep_watcher(self) -> None:
        pause = 1.0
        while True:
            self._watcher = spawn(dies_with_us(self._command("watch")), env=os.environ)
            await self._watcher.wait()
            await asyncio.sleep(pause)
            pause = min(2 * pause, 60)

    async def _reap(self, name: str, child: Child) -> None:
        status = await child.wait()
        if self._workers.get(name) is child:
            del self._workers[name]
        if status not in (0, AlreadyRunning.exit_status) and child not in self._dismissed:
            self._note_failure(name)
        self._dismissed.discard(child)

    def _note_failure(self, name: str) -> None:
        failures = self._failures.setdefault(name, Failures())
        failures.add(asyncio.get_running_loop().time())

    def _command(self, *verb: str) -> list[str]:
        # where we look for no modules in the current directory, which may be anybody's, they must not either
        isolated = ("-I",) if sys.flags.isolated else ()
        return [sys.executable, *isolated, "-m", "agentd", *verb, *self._arguments]
