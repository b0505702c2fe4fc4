# SPDX-License-Identifier: Apache-2.0
"""The manager itself: its parts, put together, and what they do as one."""

import asyncio
import logging
import os
import time
from collections.abc import Callable

from agentd import __version__
from agentd.config import Configuration, Loaded, load
from agentd.errors import ConfigurationInvalid
from agentd.log import Context
from agentd.manager.access import Access, unknown_names
from agentd.manager.container import Container
from agentd.manager.differences import differences, needs_restart
from agentd.manager.drains import Ledger
from agentd.manager.errands import Errands
from agentd.manager.front_door import FrontDoor
from agentd.manager.jobs import Jobs
from agentd.manager.links import Links, UnitOf, check_size
from agentd.manager.registry import Registry
from agentd.manager.sessions import Session, Sessions
from agentd.manager.sockets import ContainerSockets, Inherited
from agentd.manager.spawner import STOP_MARGIN_SEC, Spawner
from agentd.manager.status import (
    ContainerStatus,
    Status,
    WatcherStatus,
    of_container,
    of_job,
    of_session,
)
from agentd.paths import Mode, Paths
from agentd.systemd.events import Event
from agentd.systemd.notify import Notifier
from agentd.tasks import Tasks

Titled = Callable[[int], bool]
"""Whether the title of a session of that owner may be told."""


class Manager:
    """Everything the manager knows and does, apart from how it is reached over D-Bus."""

    def __init__(
        self,
        paths: Paths,
        loaded: Loaded,
        *,
        spawner: Spawner,
        notifier: Notifier,
        tasks: Tasks,
        inherited: Inherited,
        unit_of: UnitOf | None,
    ) -> None:
        check_size(loaded.configuration)
        self.paths = paths
        self.loaded = loaded
        self.state = "starting"
        self.started_usec = int(time.time() * 1e6)
        self.configured_usec = self.started_usec
        self.on_change: list[Callable[[], None]] = []
        self._notifier = notifier
        self._said = ""
        self._summing = False
        self._reading = asyncio.Lock()
        self._log = Context(logging.getLogger("agentd.manager"))
        self._spawner = spawner
        self.registry = Registry(spawner, tasks)
        self.sessions = Sessions()
        ledger = Ledger(os.path.join(paths.manager_state, "drains.json"), tasks)
        self.jobs = Jobs(
            self.registry,
            self._log,
            ledger,
            default_sec=lambda: self.configuration.limits.drain_sec,
            check_agent=self._check_agent,
        )
        self.door = FrontDoor(self.registry, tasks, lambda: self.configuration.limits)
        self.links = Links(
            self.registry, self.door, self.jobs, tasks, lambda: self.configuration, unit_of=unit_of
        )
        self.sockets = ContainerSockets(paths, self.door, notifier, inherited)
        self.errands = Errands(tasks)
        self._wire()
        self.jobs.restore()
        self._apply()

    @property
    def configuration(self) -> Configuration:
        return self.loaded.configuration

    def _wire(self) -> None:
        self.registry.on_new.append(self.sockets.add)
        self.registry.on_removed.append(self.sockets.remove)
        self.registry.on_removed.append(self.sessions.told)
        self.registry.on_change.append(self.sessions.told)
        for told in (self.registry.on_new, self.registry.on_removed, self.registry.on_change):
            told.append(lambda _: self._changed())
        for heard in (self.jobs.on_new, self.jobs.on_progress, self.jobs.on_ended, self.jobs.on_removed):
            heard.append(lambda _: self._changed())
        self.jobs.on_drained.append(self._drained)
        self.links.on_watcher.append(self._changed)

    def _apply(self) -> None:
        self.door.access = Access(self.configuration, any_account=self.paths.mode is Mode.SYSTEM)
        self.registry.leave_sec = self.configuration.limits.drain_sec + STOP_MARGIN_SEC
        self._spawner.limits = self.configuration.limits
        self.registry.configure(self.configuration)

    def _drained(self) -> None:
        self.door.draining = self.jobs.all_drained
        if self.state in ("running", "draining"):
            self.state = "draining" if self.jobs.all_drained else "running"
        self._changed()

    def _changed(self) -> None:
        for tell in self.on_change:
            tell()
        if not self._summing:
            self._summing = True
            asyncio.get_running_loop().call_soon(self._say)

    def _say(self) -> None:
        """Tell systemd, once for all that has changed in a pass of the loop."""
        self._summing = False
        if (summary := self.summary()) != self._said:
            self._said = summary
            self._notifier.status(summary)

    # What it is asked

    def summary(self) -> str:
        """One line, as `systemctl status` shows it."""
        clients, turns = self.clients, self.turns
        return f"{self.state}: {len(self.registry)} containers, {clients} clients, {turns} turns running"

    @property
    def clients(self) -> int:
        return sum(container.snapshot.clients for container in self.registry)

    @property
    def sessions_open(self) -> int:
        return sum(container.sessions_open for container in self.registry)

    @property
    def turns(self) -> int:
        return sum(container.snapshot.turns for container in self.registry)

    async def refresh(self) -> None:
        """Have counters that are a second old at most."""
        await self.links.freshness.ensure(self.registry, self.links.watch.link)

    def status(self, titled: Titled, path_of: Callable[[Session], str]) -> Status:
        """Everything that is known."""
        watch = self.links.watch
        return Status(
            version=__version__,
            mode=self.paths.mode,
            state=self.state,
            pid=os.getpid(),
            draining=self.jobs.all_drained,
            started_usec=self.started_usec,
            configured_usec=self.configured_usec,
            watcher=WatcherStatus(connected=watch.link is not None, engines=watch.engines),
            containers=[self._container_status(each, titled, path_of) for each in self.registry],
            jobs=[of_job(job) for job in self.jobs],
        )

    def _container_status(
        self, container: Container, titled: Titled, path_of: Callable[[Session], str]
    ) -> ContainerStatus:
        sessions = [
            of_session(
                each,
                path=path_of(each),
                drained=self.is_drained(each),
                title=each.info.title if titled(each.info.owner) else "",
            )
            for each in self.sessions.of(container.name)
        ]
        return of_container(
            container,
            unit=self.registry.unit(container),
            socket=self.paths.container_socket(container.name),
            drained=self.jobs.drained_of(container.name),
            sessions=sessions,
        )

    def is_drained(self, session: Session) -> bool:
        """By itself, or with its agent or container."""
        return self.jobs.is_drained(session.container.name, session.info.agent, session.id)

    def _check_agent(self, container: str, agent: str) -> None:
        """Raises NoSuchAgent for one that the configuration does not know."""
        self.configuration.agent_of(container, agent)

    # Orders

    async def start(self, container: Container) -> None:
        """Start its worker. Raises InProgress, or why it does not serve."""
        await self.errands.run(container.name, "start", lambda: self.registry.start_worker(container))

    async def stop(self, container: Container) -> None:
        """Drain its worker and stop it. Raises InProgress or WorkerFailed."""
        patience = self.configuration.limits.drain_sec
        self.errands.give_up(container.name, "start")
        await self.errands.run(
            container.name, "stop", lambda: self.registry.stop_worker(container, patience)
        )

    # What it is told

    async def tidy(self) -> None:
        """Once it is known what there is, let go of what is no more."""
        await self.registry.complete.wait()
        self.sockets.drop_unclaimed()

    def running(self) -> None:
        self._be_running()
        self._notifier.ready()
        self._changed()
        self._log.info("%s", self.summary(), extra={"event": Event.MANAGER_READY})

    def _be_running(self) -> None:
        self.state = "draining" if self.jobs.all_drained else "running"

    def stopping(self) -> None:
        self.state = "stopping"
        self._notifier.stopping()
        self._changed()
        self._log.info("stopping", extra={"event": Event.MANAGER_STOPPING})

    # The configuration

    async def reload(self) -> dict[str, list[str]]:
        """Read the configuration again and apply it. Raises ConfigurationInvalid, and nothing has changed.

        Returns what was `applied`, what will only be when workers are started again (`needs_restart`), and
        `warnings`: sentences.
        """
        async with self._reading:
            self._notifier.reloading()
            if self.state in ("running", "draining"):
                self.state = "reloading"
            self._changed()
            try:
                return self._take(await asyncio.to_thread(self._read))
            except ConfigurationInvalid as exc:
                self._log.error(
                    "kept the old configuration: %s", exc.message, extra={"event": Event.CONFIG_REFUSED}
                )
                raise
            finally:
                if self.state == "reloading":
                    self._be_running()
                self._notifier.ready()
                self._changed()

    def _read(self) -> Loaded:
        loaded = load(self.paths.config_files)
        check_size(loaded.configuration)
        return loaded

    def _take(self, loaded: Loaded) -> dict[str, list[str]]:
        old, self.loaded = self.configuration, loaded
        self.configured_usec = int(time.time() * 1e6)
        changed = differences(old, loaded.configuration)
        self._apply()
        if changed:
            self.links.reload()
        self._log.info(
            "configuration: %s", ", ".join(changed) or "unchanged", extra={"event": Event.CONFIG_RELOADED}
        )
        later = needs_restart(old, loaded.configuration, self._serving())
        return {
            "applied": [key for key in changed if key not in later],
            "needs_restart": later,
            "warnings": unknown_names(loaded.configuration),
        }

    def _serving(self) -> set[str]:
        return {container.name for container in self.registry if container.worker is not None}
