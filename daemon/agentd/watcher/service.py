# SPDX-License-Identifier: Apache-2.0
"""`agentd watch`: tells the manager which containers there are that opted in, and what becomes of them."""

import asyncio
import logging
import signal
import time

from agentd import link
from agentd.config import Configuration, Loaded, load
from agentd.errors import AgentdError, EngineFailed, EngineMissing, NoSuchContainer
from agentd.paths import Paths
from agentd.runtimes import ENABLE_LABEL, Runtime, runtime
from agentd.systemd.notify import Notifier
from agentd.tasks import Tasks
from agentd.uplink import Uplink

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before an engine that failed is asked again."""

log = logging.getLogger("agentd.watch")


class Watcher:
    """Follows every engine. `run` returns the process's exit status."""

    def __init__(self, paths: Paths, loaded: Loaded) -> None:
        self._paths = paths
        self._configuration = loaded.configuration
        self._notifier = Notifier()
        self._tasks = Tasks()
        self._follows: list[Follow] = []
        self._stop = asyncio.Event()
        self._uplink = Uplink(paths.link, self._order, on_welcome=self._tell_all)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        linked = self._tasks.start(self._uplink.run(), "link to the manager")
        stop = self._tasks.start(self._stop.wait(), "wait for a signal")
        self._follow(self._configuration)
        self._notifier.ready()
        self._tasks.start(self._keep_watchdog(), "watchdog")
        await asyncio.wait((linked, stop), return_when=asyncio.FIRST_COMPLETED)
        refusal = linked.exception() if linked.done() else None
        self._notifier.stopping()
        for each in self._follows:
            await each.stop()
        await self._tasks.close()
        return refusal.exit_status if isinstance(refusal, AgentdError) else 0

    async def _keep_watchdog(self) -> None:
        while (interval := self._notifier.watchdog_interval) is not None:
            self._notifier.ping()
            await asyncio.sleep(interval)

    def _follow(self, configuration: Configuration) -> None:
        names: list[str] = list(configuration.runtimes)
        names += (
            ["host"] if any(each.runtime == "host" for each in configuration.containers.values()) else []
        )
        names += [each.runtime for each in configuration.containers.values() if each.runtime]
        self._follows = [
            Follow(runtime(name, configuration), configuration, self._uplink)
            for name in dict.fromkeys(names)
        ]
        for each in self._follows:
            each.start(self._tasks)

    def _tell_all(self) -> None:
        for each in self._follows:
            each.tell_all()

    def _order(self, message: link.AnyMessage, descriptor: int | None) -> None:
        if isinstance(message, link.Reload):
            self._tasks.start(self._reload(), "reload")

    async def _reload(self) -> None:
        try:
            configuration = load(self._paths.config_files).configuration
        except AgentdError as exc:
            log.error("keeping the old configuration: %s", exc.message)
            return
        for each in self._follows:
            await each.stop()
        self._follow(configuration)


class Follow:
    """One engine: the containers it has that opted in, kept up by its events."""

    def __init__(self, engine: Runtime, configuration: Configuration, uplink: Uplink) -> None:
        self._engine = engine
        self._configuration = configuration
        self._uplink = uplink
        self._known: dict[str, link.ContainerInfo] = {}
        self._problem = ""
        self._task: asyncio.Task[None] | None = None

    def start(self, tasks: Tasks) -> None:
        self._task = tasks.start(self._run(), f"follow {self._engine.name}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def tell_all(self) -> None:
        """A manager has just linked: it knows nothing yet."""
        self._uplink.send(link.Engine(runtime=self._engine.name, problem=self._problem))
        for container in self._known.values():
            self._uplink.send(link.Seen(container=container))

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                await self._follow()
            except EngineMissing as exc:
                self._report(exc.message)
                return  # asked again when the configuration is reloaded: waking up for it would be polling
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
        for name in self._known.keys() - containers.keys():
            self._gone(name)
        for container in containers.values():
            self._seen(container)

    def _seen(self, container: link.ContainerInfo) -> None:
        if self._known.get(container.name) != container:
            self._known[container.name] = container
            self._uplink.send(link.Seen(container=container))

    def _gone(self, name: str) -> None:
        if self._known.pop(name, None) is not None:
            self._uplink.send(link.Gone(name=name, runtime=self._engine.name))

    def _report(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem
        self._uplink.send(link.Engine(runtime=self._engine.name, problem=problem))
