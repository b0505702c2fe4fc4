# SPDX-License-Identifier: Apache-2.0
"""Following one container engine."""

import asyncio
import logging
import time
from collections.abc import Callable

from agentd import link
from agentd.config import Configuration
from agentd.errors import AgentdError, EngineFailed, EngineMissing, NoSuchContainer
from agentd.runtimes import ENABLE_LABEL, Runtime
from agentd.tasks import Tasks
from agentd.uplink import Uplink

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before an engine that failed is asked again."""

log = logging.getLogger(__name__)


class Follow:
    """One engine: the containers it has that opted in, kept up by its events."""

    def __init__(
        self,
        engine: Runtime,
        configuration: Configuration,
        uplink: Uplink,
        known: dict[str, link.ContainerInfo],
        on_listed: Callable[[], None],
    ) -> None:
        """`known`: what the manager has been told of this engine."""
        self._engine = engine
        self._configuration = configuration
        self._uplink = uplink
        self.known = known
        self._problem = ""
        self.listed = False
        """Whether the engine has been asked once, with whatever success."""
        self._on_listed = on_listed
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._engine.name

    def start(self, tasks: Tasks) -> None:
        self._task = tasks.start(self._run(), f"follow {self._engine.name}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def tell_all(self) -> None:
        self._uplink.send(link.Engine(runtime=self._engine.name, problem=self._problem))
        for container in self.known.values():
            self._uplink.send(link.Seen(container=container))

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                await self._follow()
            except EngineMissing as exc:
                self._report(exc.message, logging.INFO)  # few hosts have all engines that may be looked for
                return  # whoever installs it restarts us, as our packages do: to look again would be polling
            except AgentdError as exc:
                self._report(exc.message)
            pause = (
                FIRST_PAUSE if time.monotonic() - began > LONGEST_PAUSE else min(2 * pause, LONGEST_PAUSE)
            )
            await asyncio.sleep(pause)

    async def _follow(self) -> None:
        since = time.time()
        self._replace({each.name: each for each in await self._engine.containers()})
        self._report("")
        async for name in self._engine.events(since):
            await self._look(name)
        raise EngineFailed(f"{self._engine.name} has stopped telling of events")

    async def _look(self, name: str) -> None:
        try:
            container = await self._engine.inspect(name)
        except NoSuchContainer:
            self._gone(name)
            return
        for old in [
            each.name for each in self.known.values() if each.id == container.id and each.name != name
        ]:
            self._gone(old)  # it was renamed
        if self._opted_in(container):
            self._seen(container)
        else:
            self._gone(name)

    def _opted_in(self, container: link.ContainerInfo) -> bool:
        key, _, value = ENABLE_LABEL.partition("=")
        entry = self._configuration.containers.get(container.name)
        if entry is not None:
            return entry.runtime in (None, self._engine.name)
        return container.labels.get(key) == value

    def _replace(self, containers: dict[str, link.ContainerInfo]) -> None:
        for name in self.known.keys() - containers.keys():
            self._gone(name)
        for container in containers.values():
            self._seen(container)

    def _seen(self, container: link.ContainerInfo) -> None:
        if self.known.get(container.name) != container:
            self.known[container.name] = container
            self._uplink.send(link.Seen(container=container))

    def _gone(self, name: str) -> None:
        if self.known.pop(name, None) is not None:
            self._uplink.send(link.Gone(name=name, runtime=self._engine.name))

    def _report(self, problem: str, level: int = logging.WARNING) -> None:
        if problem and problem != self._problem:
            log.log(level, "%s", problem)
        self._problem = problem
        self._uplink.send(link.Engine(runtime=self._engine.name, problem=problem))
        if not self.listed:
            self.listed = True
            self._on_listed()
