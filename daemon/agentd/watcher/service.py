# SPDX-License-Identifier: Apache-2.0
"""`agentd watch`: tells the manager which containers there are that opted in, and what becomes of them."""

import asyncio
import logging
import signal

from agentd import link
from agentd.config import Configuration, from_portable
from agentd.errors import AgentdError
from agentd.paths import Mode, Paths
from agentd.runtimes import runtime
from agentd.systemd.notify import Notifier
from agentd.tasks import Tasks
from agentd.uplink import ORPHANED_SEC, Uplink
from agentd.watcher.follow import Follow
from agentd.watcher.measure import Meter

log = logging.getLogger("agentd.watch")


CHILD_PATIENCE_SEC = 5.0
"""For a child of a manager, whose next one starts a child of its own."""


class Watcher:
    """Follows every engine. `run` returns the process's exit status."""

    def __init__(self, paths: Paths) -> None:
        self._notifier = Notifier()
        self._tasks = Tasks()
        self._configuration: Configuration | None = None
        self._configuring = asyncio.Lock()
        self._follows: list[Follow] = []
        self._stop = asyncio.Event()
        patience = CHILD_PATIENCE_SEC if paths.mode is Mode.EMBEDDED else ORPHANED_SEC
        self._uplink = Uplink(paths.link, self._order, on_welcome=self._tell_all, patience=patience)
        self._meter = Meter(self._tasks, self._uplink.send)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        linked = self._tasks.start(self._uplink.run(), "link to the manager")
        stop = self._tasks.start(self._stop.wait(), "wait for a signal")
        self._notifier.ready()
        self._tasks.start(self._notifier.keep_watchdog(), "watchdog")
        await asyncio.wait((linked, stop), return_when=asyncio.FIRST_COMPLETED)
        refusal = linked.exception() if linked.done() else None
        self._notifier.stopping()
        for each in self._follows:
            await each.stop()
        await self._tasks.close()
        return refusal.exit_status if isinstance(refusal, AgentdError) else 0

    def _follow(self, configuration: Configuration) -> None:
        """Follow the engines this configuration speaks of, knowing what is known of them already."""
        before = {each.name: each.known for each in self._follows}
        self._follows = [
            Follow(
                runtime(name, configuration),
                configuration,
                self._uplink,
                before.pop(name, {}),
                self._tell_if_listed,
            )
            for name in engines(configuration)
        ]
        for name, known in before.items():
            for container in known:
                self._uplink.send(link.Gone(name=container, runtime=name))
        for each in self._follows:
            each.start(self._tasks)

    def _tell_all(self) -> None:
        """A manager has just linked: it knows nothing yet."""
        for each in self._follows:
            each.tell_all()
        self._tell_if_listed()

    def _tell_if_listed(self) -> None:
        if self._configuration is not None and all(each.listed for each in self._follows):
            self._uplink.send(link.Listed())

    def _order(self, message: link.AnyMessage, descriptor: int | None) -> None:
        if isinstance(message, link.Settings):
            self._tasks.start(self._configure(message), "configure")
        elif isinstance(message, link.Measure):
            self._meter.measure(self._known(message.containers))
        elif isinstance(message, link.Leave):
            self._stop.set()

    def _known(self, names: list[str]) -> list[link.ContainerInfo]:
        """The containers of these names, as far as they are followed."""
        known = {name: each for follow in self._follows for name, each in follow.known.items()}
        return [known[name] for name in names if name in known]

    async def _configure(self, settings: link.Settings) -> None:
        try:
            configuration = from_portable(settings.configuration)
        except AgentdError as exc:
            log.error("going on with the old configuration: %s", exc.message)
            return
        async with self._configuring:
            if configuration != self._configuration:
                self._configuration = configuration
                for each in self._follows:
                    await each.stop()
                self._follow(configuration)


def engines(configuration: Configuration) -> list[str]:
    """The runtimes that are configured, for all or for one container."""
    chosen = (each.runtime for each in configuration.containers.values() if each.runtime)
    return list(dict.fromkeys([*configuration.runtimes, *chosen]))
