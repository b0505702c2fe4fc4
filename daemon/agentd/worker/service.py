# SPDX-License-Identifier: Apache-2.0
"""`agentd worker NAME`: the life of a worker, from finding its container to leaving with it."""

import asyncio
import logging
import os
import signal
import socket

from msgspec import structs

from agentd import errors, link, runtimes
from agentd.config import Configuration, from_portable, secrets
from agentd.errors import AgentdError
from agentd.lock import only_one
from agentd.log import Context, Redactor
from agentd.paths import Paths, make_directory
from agentd.proctree import owner_of
from agentd.store.keeper import Keeper, Nothing
from agentd.systemd.events import Event
from agentd.systemd.notify import Notifier
from agentd.tasks import Tasks
from agentd.uplink import Uplink
from agentd.worker.agent import Place
from agentd.worker.drain import WHOLE, Scope
from agentd.worker.hub import Hub
from agentd.worker.keeping import FILE, open_keeper
from agentd.worker.orders import Order, Orders, refused

EXTENSION_SEC = 10.0
"""How much longer systemd is asked to wait at a time, while a drain at its stop goes on."""


class Worker:
    """One container's worker. `run` returns the process's exit status."""

    def __init__(self, name: str, paths: Paths) -> None:
        self._name = name
        self._paths = paths
        self._configuration = Configuration()
        self._configured = asyncio.Event()
        self._log = Context(logging.getLogger("agentd.worker"), {"container": name})
        self._notifier = Notifier()
        self._tasks = Tasks()
        self._hub: Hub | None = None
        self._store: Keeper = Nothing()
        self._orders: Orders | None = None
        self._early: dict[Scope, link.Drain] = {}
        """Drains that were ordered before the hub was there."""
        self._leave = asyncio.Event()
        self._hurry = asyncio.Event()
        self._patience: float | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._uplink = Uplink(
            paths.link, self._order, container=name, snapshot=self._snapshot, needed=self._is_needed
        )

    # Life

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or a login would inherit that it is ignored
        try:
            self._claim()
            await self._serve(self._tasks.start(self._uplink.run(), "link to the manager"))
        except AgentdError as exc:
            self._log.error("%s", exc.message)
            self._notifier.status(exc.message)
            self._uplink.send(link.Failed(reason=exc.reason, message=exc.message))
            return exc.exit_status
        finally:
            self._notifier.stopping()
            await self._store.close()
            await self._tasks.close()
        return 0

    def _claim(self) -> None:
        """Raises AlreadyRunning where another worker lives: its manager may be gone, its clients are not."""
        state = self._paths.container_state(self._name)
        make_directory(state, 0o700)
        only_one(os.path.join(state, "worker.lock"), f"a worker of {self._name}")

    async def _serve(self, linked: "asyncio.Task[None]") -> None:
        await self._uplink.first(self._configured)
        self._hub, ended = await self._open()
        self._orders = Orders(self._hub, self._uplink.send)
        for scope, early in self._early.items():
            self._hub.drains.order(scope, early.job, early.timeout)
        self._report()
        self._log.info("serving %s", self._name, extra={"event": Event.WORKER_STARTED})
        self._notifier.ready()
        self._notifier.status(f"serving {self._name}")
        self._tasks.start(self._notifier.keep_watchdog(), "watchdog")
        leave = self._tasks.start(self._leave.wait(), "wait for an end")
        await asyncio.wait((ended, leave, linked), return_when=asyncio.FIRST_COMPLETED)
        if linked.done() and (refusal := linked.exception()):
            await self._hub.close(errors.WorkerFailed(str(refusal)))
            raise refusal
        await self._end(self._hub, container_ended=ended.done())

    async def _open(self) -> tuple[Hub, "asyncio.Task[None]"]:
        """Find the container and clear away what an earlier worker left in it."""
        runtime, container = await runtimes.locate(self._name, self._configuration)
        if not container.running:
            raise errors.NotRunning(f"{self._name} is not running; start it and connect again")
        owner, limits = owner_of(self._paths.state_dir, self._name), self._configuration.limits
        place = Place(runtime, container, owner, limits, Redactor(secrets(self._configuration)), self._log)
        if left := await runtime.reap(container, owner, term=0.5, kill=limits.agent_kill_sec):
            self._log.warning("%d processes of an earlier worker would not end", left)
        state = self._paths.container_state(self._name)
        self._store = await open_keeper(
            os.path.join(state, FILE),
            self._configuration.store,
            redact=place.redact,
            log=self._log,
            on_full=self._store_full,
            on_trouble=self._store_trouble,
        )
        hub = Hub(
            place, self._configuration, state, self._store, self._tasks, self._report, self._uplink.send
        )
        await hub.budget.restore(self._store, self._log)
        self._tasks.start(hub.sessions.prune(), "retention")
        return hub, self._tasks.start(runtime.wait(container), f"watch over {self._name}")

    def _store_full(self, full: bool) -> None:
        """The disk is slower than the agents, and they have to wait for it; or no longer."""
        if self._hub is not None:
            self._hub.agents.hold(full)

    def _store_trouble(self, error: AgentdError | None) -> None:
        if error is None:
            self._log.warning("sessions are kept again", extra={"event": Event.STORE_RECOVERED})
        else:
            self._log.error("%s", error.message, extra={"event": Event.STORE_FAILED})
        self._notifier.status(error.message if error else f"serving {self._name}")
        self._report()

    # The end

    def _asked_to_end(self) -> None:
        """A second signal ends the wait for turns, a third one everything."""
        if self._hurry.is_set():
            os._exit(errors.EX_TEMPFAIL)
        (self._hurry if self._leave.is_set() else self._leave).set()

    async def _end(self, hub: Hub, *, container_ended: bool) -> None:
        if container_ended:
            self._log.info("%s has ended", self._name, extra={"event": Event.CONTAINER_ENDED})
            reason: AgentdError = errors.NotRunning(f"{self._name} has ended, and its agents with it")
        else:
            await self._drain_before_end(hub)
            reason = errors.ShuttingDown(f"the worker of {self._name} has been stopped; connect again")
        await hub.close(reason)
        self._uplink.send(link.Leaving(container_ended=container_ended))

    async def _drain_before_end(self, hub: Hub) -> None:
        self._notifier.status("draining")
        patience = self._configuration.limits.drain_sec if self._patience is None else self._patience
        hub.drains.leave(patience)
        hurry = self._tasks.start(self._hurry.wait(), "wait for a second signal")
        while (drain := hub.drains.running) is not None and not hurry.done():
            self._notifier.extend_timeout(int(2 * EXTENSION_SEC * 1e6))
            await asyncio.wait((drain, hurry), timeout=EXTENSION_SEC, return_when=asyncio.FIRST_COMPLETED)

    # What the manager wants

    def _order(self, message: link.AnyMessage, descriptor: int | None) -> None:
        match message:
            case link.Connect() if descriptor is not None:
                self._connect(message, descriptor)
            case link.Drain():
                self._drain(message)
            case link.Undrain():
                self._undrain(Scope(message.agent, message.session))
            case _ if isinstance(message, Order):
                self._obey(message)
            case link.Refresh():
                self._uplink.send(link.State(snapshot=self._snapshot()))
            case link.Settings():
                self._configure(message)
            case link.Leave():
                self._patience = message.timeout if self._patience is None else self._patience
                self._asked_to_end()
            case _:
                self._log.warning(
                    "the manager sent %s, which means nothing here now", type(message).__name__
                )
                if descriptor is not None:
                    os.close(descriptor)

    def _connect(self, connect: link.Connect, descriptor: int) -> None:
        sock = socket.socket(fileno=descriptor)
        if self._hub is None or self._leave.is_set():
            sock.close()  # the manager still has it, and will try again with the next worker
            return
        self._uplink.send(link.Taken(connection=connect.connection))
        self._tasks.start(self._hub.accept(connect, sock), f"client {connect.connection}")

    def _drain(self, order: link.Drain) -> None:
        scope = Scope(order.agent, order.session)
        if self._hub is None:
            self._early[scope] = order
        else:
            self._hub.drains.order(scope, order.job, order.timeout)

    def _undrain(self, scope: Scope) -> None:
        if self._hub is not None:
            self._hub.drains.undo(scope)
        elif scope == WHOLE:
            self._early.clear()
        else:
            self._early.pop(scope, None)

    def _obey(self, order: Order) -> None:
        if self._orders is not None:
            self._orders.take(order)
        else:
            error = errors.NotRunning(f"the worker of {self._name} is still starting; try again")
            self._uplink.send(refused(order.number, error))

    def _configure(self, settings: link.Settings) -> None:
        try:
            self._configuration = from_portable(settings.configuration)
        except AgentdError as exc:
            self._log.error("%s", exc.message)
            return  # goes on with the old one; without one, the start ends at its deadline
        self._configured.set()
        if self._hub is not None:
            self._hub.reconfigure(self._configuration)

    # What the manager hears

    def _is_needed(self) -> bool:
        return self._hub is not None and self._hub.is_needed

    def _snapshot(self) -> link.Snapshot:
        known = self._hub.snapshot() if self._hub else link.Snapshot()
        return structs.replace(known, leaving=self._leave.is_set())

    def _report(self) -> None:
        self._uplink.send(link.State(snapshot=self._snapshot()))
        self._look_for_work()

    # Nothing to do

    def _look_for_work(self) -> None:
        """Leave after a while in which there was none; the next connection starts another worker."""
        quiet = self._hub is not None and self._hub.is_quiet
        if self._rest is not None and not quiet:
            self._rest.cancel()
            self._rest = None
        elif self._rest is None and quiet:
            loop = asyncio.get_running_loop()
            self._rest = loop.call_later(self._configuration.limits.worker_idle_sec, self._rested)

    def _rested(self) -> None:
        self._log.info("nothing to do: leaving", extra={"event": Event.WORKER_IDLE})
        self._leave.set()
