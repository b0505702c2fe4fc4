# SPDX-License-Identifier: Apache-2.0
"""The manager itself: its parts, put together, and what they do as one."""

import logging
import os
import time
from collections.abc import Callable

from agentd import __version__
from agentd.config import Configuration, Loaded, load
from agentd.errors import ConfigurationInvalid
from agentd.log import Context
from agentd.manager import status
from agentd.manager.access import Access
from agentd.manager.drains import Ledger
from agentd.manager.front_door import FrontDoor
from agentd.manager.jobs import Jobs
from agentd.manager.links import Links, UnitOf, check_size
from agentd.manager.registry import Registry
from agentd.manager.sockets import ContainerSockets, Inherited
from agentd.manager.spawner import STOP_MARGIN_SEC, Spawner
from agentd.paths import Mode, Paths
from agentd.systemd.events import Event
from agentd.systemd.notify import Notifier
from agentd.tasks import Tasks

NEEDS_RESTART: tuple[str, ...] = ("runtimes",)
"""Settings that running workers have used already and will not look at again."""


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
        self._log = Context(logging.getLogger("agentd.manager"))
        self.registry = Registry(spawner, tasks)
        ledger = Ledger(os.path.join(paths.manager_state, "drains.json"), tasks)
        self.jobs = Jobs(self.registry, self._log, ledger)
        self.door = FrontDoor(self.registry, tasks, lambda: self.configuration.limits)
        self.links = Links(
            self.registry, self.door, self.jobs, tasks, lambda: self.configuration, unit_of=unit_of
        )
        self.sockets = ContainerSockets(paths, self.door, notifier, inherited)
        self._wire()
        self.jobs.restore()
        self._apply()

    @property
    def configuration(self) -> Configuration:
        return self.loaded.configuration

    def _wire(self) -> None:
        self.registry.on_new.append(self.sockets.add)
        self.registry.on_removed.append(self.sockets.remove)
        self.registry.on_change.append(lambda _: self._changed())
        self.jobs.on_drained.append(self._drained)

    def _apply(self) -> None:
        self.door.access = Access(self.configuration, any_account=self.paths.mode is Mode.SYSTEM)
        self.registry.leave_sec = self.configuration.limits.drain_sec + STOP_MARGIN_SEC
        self.registry.configure(self.configuration)

    def _drained(self) -> None:
        self.door.draining = self.jobs.all_drained
        if self.state in ("running", "draining"):
            self.state = "draining" if self.jobs.all_drained else "running"
        self._changed()

    def _changed(self) -> None:
        if (summary := self.summary()) != self._said:
            self._said = summary
            self._notifier.status(summary)
        for tell in self.on_change:
            tell()

    # What it is asked

    def summary(self) -> str:
        """One line, as `systemctl status` shows it."""
        clients, turns = self.clients, self.turns
        return f"{self.state}: {len(self.registry)} containers, {clients} clients, {turns} turns running"

    @property
    def clients(self) -> int:
        return sum(container.snapshot.clients for container in self.registry)

    @property
    def sessions(self) -> int:
        return sum(len(container.snapshot.sessions) for container in self.registry)

    @property
    def turns(self) -> int:
        return sum(container.snapshot.turns for container in self.registry)

    def status(self) -> status.Status:
        watch = self.links.watch
        return status.Status(
            version=__version__,
            mode=self.paths.mode,
            state=self.state,
            pid=os.getpid(),
            draining=self.jobs.all_drained,
            watcher=status.WatcherStatus(connected=watch.link is not None, engines=watch.engines),
            containers=[status.of_container(each, self.registry.unit(each)) for each in self.registry],
            jobs=[status.of_job(job) for job in self.jobs],
        )

    # What it is told

    async def tidy(self) -> None:
        """Once it is known what there is, let go of what is no more."""
        await self.registry.complete.wait()
        self.sockets.drop_unclaimed()

    def running(self) -> None:
        self.state = "draining" if self.jobs.all_drained else "running"
        self._notifier.ready()
        self._changed()
        self._log.info("%s", self.summary(), extra={"event": Event.MANAGER_READY})

    def stopping(self) -> None:
        self.state = "stopping"
        self._notifier.stopping()
        self._changed()
        self._log.info("stopping", extra={"event": Event.MANAGER_STOPPING})

    def reload(self) -> dict[str, list[str]]:
        """Read the configuration again and apply it. Raises ConfigurationInvalid, and nothing has changed.

        Returns what was applied, and what will only be when workers and watcher are started again.
        """
        self._notifier.reloading()
        try:
            loaded = load(self.paths.config_files)
            check_size(loaded.configuration)
        except ConfigurationInvalid as exc:
            self._log.error(
                "kept the old configuration: %s", exc.message, extra={"event": Event.CONFIG_REFUSED}
            )
            raise
        finally:
            self._notifier.ready()
        changed = differences(self.configuration, loaded.configuration)
        self.loaded, self.configured_usec = loaded, int(time.time() * 1e6)
        self._apply()
        if changed:
            self.links.reload()
        self._log.info(
            "configuration: %s", ", ".join(changed) or "unchanged", extra={"event": Event.CONFIG_RELOADED}
        )
        self._changed()
        later = [key for key in changed if key in NEEDS_RESTART]
        return {"applied": [key for key in changed if key not in later], "needs_restart": later}


def differences(old: Configuration, new: Configuration) -> list[str]:
    """The top-level keys, and the agents and containers one by one, that are not the same in both."""
    changed = [
        field
        for field in old.__struct_fields__
        if field not in ("agents", "containers") and getattr(old, field) != getattr(new, field)
    ]
    for table in ("agents", "containers"):
        before, after = getattr(old, table), getattr(new, table)
        names = sorted(before.keys() | after.keys())
        changed += [f"{table}.{name}" for name in names if before.get(name) != after.get(name)]
    return changed
