# SPDX-License-Identifier: Apache-2.0
"""`agentd serve`: the manager's boot chain, its life, and its end, in that order."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator

from agentd import errors
from agentd.bus import Bus
from agentd.config import Limits, load
from agentd.errors import StoreFailed
from agentd.lock import only_one
from agentd.manager.bus.control import Control
from agentd.manager.manager import Manager
from agentd.manager.private_bus import PrivateBus
from agentd.manager.sockets import EVERYBODY, FRONT_DOOR, LINK, OWNER_AND_GROUP, Inherited, take_or_bind
from agentd.manager.spawner import STOP_MARGIN_SEC, ChildSpawner, Spawner, UnitSpawner
from agentd.paths import Mode, Paths, prepare
from agentd.systemd.activation import listen_sockets
from agentd.systemd.notify import Notifier
from agentd.systemd.units import UnitJobs
from agentd.tasks import Tasks

log = logging.getLogger("agentd.manager")


class Service:
    """One run of the manager. `run` returns the process's exit status."""

    def __init__(self, paths: Paths, bus: str, arguments: list[str]) -> None:
        """`bus`: system, session, private or none. `arguments`: those that show children the same places."""
        self._paths = paths
        self._bus = bus
        self._arguments = arguments
        self._notifier = Notifier()
        self._tasks = Tasks()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        prepare(self._paths)
        only_one(self._paths.lock, "a manager")  # held until everything else of this process is gone
        inherited = listen_sockets(os.environ)
        async with self._control_bus() as address:
            await self._serve(inherited, address)
        return self._status

    @contextlib.asynccontextmanager
    async def _control_bus(self) -> AsyncIterator[str]:
        """The address of the bus to be on, "" for none; a private one lives as long as we do."""
        if self._bus != "private":
            yield "" if self._bus == "none" else self._bus
            return
        bus = PrivateBus(self._paths)
        await bus.start()
        kept = self._tasks.start(bus.keep(), "private bus")
        try:
            yield self._paths.bus_address
        finally:
            kept.cancel()
            await bus.stop()

    async def _serve(self, inherited: Inherited, address: str) -> None:
        loaded = load(self._paths.config_files)
        bus = await Bus.connect(address) if address else None
        spawner, units = self._supervision(bus, loaded.configuration.limits)
        manager = Manager(
            self._paths,
            loaded,
            spawner=spawner,
            notifier=self._notifier,
            tasks=self._tasks,
            inherited=inherited,
            unit_of=units.unit_of if units else None,
        )

        def use(new: Bus) -> None:
            if units is not None:
                units.bus = new

        control = Control(manager, address, bus, on_bus=use)
        own_front = FRONT_DOOR not in inherited
        front, link = self._open_doors(inherited)
        try:
            await control.open()
            manager.links.listen(link)
            manager.door.listen(front)
            if isinstance(spawner, ChildSpawner):
                spawner.start_watcher()
            self._watch(manager, control)
            manager.running()
            await self._stop.wait()
        finally:
            await self._close(manager, control, spawner)
            front.close()
            link.close()
            if own_front:
                for path in (self._paths.front_door, self._paths.link):
                    os.unlink(path)

    def _supervision(self, bus: Bus | None, limits: Limits) -> tuple[Spawner, UnitJobs | None]:
        if bus is None or self._paths.mode is Mode.EMBEDDED:
            return ChildSpawner(self._arguments, limits), None
        units = UnitJobs(bus, self._paths.mode)
        return UnitSpawner(units, limits), units

    def _open_doors(self, inherited: Inherited) -> tuple[socket.socket, socket.socket]:
        front = take_or_bind(inherited, FRONT_DOOR, self._paths.front_door, socket.SOCK_STREAM, EVERYBODY)
        link = take_or_bind(inherited, LINK, self._paths.link, socket.SOCK_SEQPACKET, OWNER_AND_GROUP)
        return front, link

    def _watch(self, manager: Manager, control: Control) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload, manager)
        self._tasks.start(manager.tidy(), "tidy")
        kept = self._tasks.start(control.keep(), "bus")
        kept.add_done_callback(self._bus_given_up)
        self._tasks.start(self._notifier.keep_watchdog(lambda: not kept.done()), "watchdog")

    def _bus_given_up(self, kept: "asyncio.Task[None]") -> None:
        if not kept.cancelled() and kept.exception():
            self._status = errors.EX_UNAVAILABLE
            self._stop.set()

    def _reload(self, manager: Manager) -> None:
        self._tasks.start(manager.reload(), "reload")

    # The end

    def _asked_to_stop(self) -> None:
        """A second signal ends the wait for workers."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def _close(self, manager: Manager, control: Control, spawner: Spawner) -> None:
        manager.stopping()
        manager.door.close()
        await manager.door.finish()
        if isinstance(spawner, ChildSpawner):
            manager.links.dismiss_watcher()
            await self._let_workers_go(manager)
        manager.links.close()
        await spawner.close()
        await control.close()
        with contextlib.suppress(StoreFailed):  # logged where it was found
            await manager.jobs.kept()
        await self._tasks.close()
        manager.sockets.close(remove=isinstance(spawner, ChildSpawner))

    async def _let_workers_go(self, manager: Manager) -> None:
        going = asyncio.ensure_future(manager.registry.stop_all(manager.configuration.limits.drain_sec))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait((going, hurry), return_when=asyncio.FIRST_COMPLETED)
        if not going.done():
            manager.registry.hurry()
            await asyncio.wait((going,), timeout=STOP_MARGIN_SEC)
        for each in (going, hurry):
            each.cancel()
        await asyncio.wait((going, hurry))
