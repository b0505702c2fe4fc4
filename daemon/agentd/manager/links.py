# SPDX-License-Identifier: Apache-2.0
"""The far end of every link: who may link, and what workers and the watcher say."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from msgspec import structs

from agentd import __version__, errors, link
from agentd.config import Configuration, portable, portable_without_agents
from agentd.errors import (
    AccessDenied,
    AgentdError,
    AlreadyRunning,
    ConfigurationInvalid,
    InvalidRequest,
    NotRunning,
)
from agentd.manager.access import Peer, peer_of
from agentd.manager.container import Container, WorkerEnd
from agentd.manager.freshness import Freshness
from agentd.manager.front_door import FrontDoor
from agentd.manager.jobs import Jobs
from agentd.manager.orders import Orders
from agentd.manager.registry import Registry
from agentd.systemd.events import Event
from agentd.tasks import Tasks

HELLO_SEC = 10.0
BREATH_SEC = 1.0
WATCHER_UNIT = "agentd-watch.service"

log = logging.getLogger(__name__)

UnitOf = Callable[[int, int | None], Awaitable[str]]
"""Takes a pid and a pidfd and returns the unit systemd has the process in."""


class Watch:
    """What is known of the watcher and of the engines it follows."""

    def __init__(self) -> None:
        self.link: link.Link | None = None
        self.pid = 0
        self.engines: dict[str, str] = {}
        """Engine to what is wrong with it; "" for nothing."""


class Links:
    """Listens for workers and the watcher."""

    def __init__(
        self,
        registry: Registry,
        door: FrontDoor,
        jobs: Jobs,
        tasks: Tasks,
        configuration: Callable[[], Configuration],
        *,
        unit_of: UnitOf | None,
    ) -> None:
        """`unit_of` is None where systemd supervises nothing; then the account alone counts."""
        self._registry = registry
        self._door = door
        self._jobs = jobs
        self._tasks = tasks
        self._configuration = configuration
        self._unit_of = unit_of
        self._sock: socket.socket | None = None
        self._closing = False
        self._greetings: set[link.Link] = set()
        self._informed: WeakKeyDictionary[link.Link, link.Settings] = WeakKeyDictionary()
        """The configuration that each has been told of last."""
        self.watch = Watch()
        self.on_watcher: list[Callable[[], None]] = []
        """Called when the watcher has come, gone, or said something of an engine or a network."""
        self.orders = Orders()
        self.freshness = Freshness()

    # Listening

    def listen(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def close(self) -> None:
        self._closing = True
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
        for each in [*self._greetings, self.watch.link]:
            if each is not None:
                each.close()

    def _accept(self, sock: socket.socket) -> None:
        try:
            connection, _ = sock.accept()
        except BlockingIOError:
            return
        except OSError as exc:  # out of descriptors or memory: trying at once again would only burn time
            log.error("cannot accept links for %g s: %s", BREATH_SEC, exc)
            loop = asyncio.get_running_loop()
            loop.remove_reader(sock)
            loop.call_later(BREATH_SEC, self.listen, sock)
            return
        try:
            peer = peer_of(connection, with_pidfd=True)
        except OSError:
            connection.close()  # gone already
            return
        greeting = Greeting(self, connection, peer)
        if peer.uid not in (0, os.geteuid()):  # the group agentd may connect, and must not keep us busy
            greeting.refuse(AccessDenied(f"account {peer.uid} may not link to the manager"))

    # Greeting

    def opened(self, wire: link.Link) -> None:
        self._greetings.add(wire)

    def start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return self._tasks.start(work, "greeting")

    def closed(self, wire: link.Link) -> None:
        self._greetings.discard(wire)

    async def verify(self, peer: Peer, hello: link.Hello) -> None:
        """Raises AccessDenied or InvalidRequest for a peer that is not what it says it is.

        NotRunning for one that is gone, as where it is restarted together with us: what it had said waited
        in the socket.
        """
        _check_version(hello)
        self._refuse_second(hello)
        if self._unit_of is None:
            return
        wanted = f"agentd@{hello.container}.service" if hello.container else WATCHER_UNIT
        unit = await self._unit_of(peer.pid, peer.pidfd if peer.pidfd >= 0 else None)
        if unit != wanted:
            raise AccessDenied(
                f"process {peer.pid} says it is {wanted}, but to systemd it is the main process of "
                f"{unit or 'no unit'}"
            )

    def _refuse_second(self, hello: link.Hello) -> None:
        if not hello.container and self.watch.link is not None and self.watch.pid != hello.pid:
            raise AlreadyRunning(f"process {self.watch.pid} is the watcher")
        for container in self._registry:
            worker = container.worker
            if container.name == hello.container and worker is not None and worker.pid != hello.pid:
                raise AlreadyRunning(f"process {worker.pid} is the worker of {container.name}")

    def welcome(self, wire: link.Link, hello: link.Hello) -> Callable[[link.AnyMessage | None], None]:
        """Take a peer in; returns what takes its messages, and None at its end."""
        wire.send(link.Welcome(version=link.agreed(hello.version)))
        self._inform(wire, hello.container)
        if hello.code != __version__:
            log.info("process %d runs agentd %s, this is %s", hello.pid, hello.code, __version__)
        return self._watcher(wire, hello) if not hello.container else self._worker(wire, hello)

    # Workers

    def _worker(self, wire: link.Link, hello: link.Hello) -> Callable[[link.AnyMessage | None], None]:
        worker = WorkerEnd(wire, hello)
        container = self._registry.attach(hello.container, worker)
        self._jobs.worker_linked(container)
        return lambda message: self._from_worker(container, worker, message)

    def _from_worker(self, container: Container, worker: WorkerEnd, message: link.AnyMessage | None) -> None:
        match message:
            case None if self._closing:
                pass  # we leave, not the worker
            case None:
                if self._registry.detach(container, worker):
                    self._jobs.worker_gone(container)
            case link.State():
                worker.snapshot = message.snapshot
                if container.worker is worker:
                    container.told(message.snapshot)
                    self._jobs.worker_told(container)
                    self._registry.changed(container)
                    self.freshness.heard(container.name)
            case link.Answer():
                self.orders.answered(worker, message)
            case link.Taken():
                self._door.taken(message.connection)
            case link.Failed():
                container.failure = errors.revive(message.reason, message.message)
            case link.Leaving():
                worker.dismissed = True
                if message.container_ended and container.info:
                    container.info = structs.replace(container.info, running=False)
            case link.Progress():
                self._jobs.progress(container, message)
            case link.Ended():
                self._jobs.ended(container, message)
            case _:
                log.warning("%s sent %s", container.name, type(message).__name__)

    # The watcher

    def _watcher(self, wire: link.Link, hello: link.Hello) -> Callable[[link.AnyMessage | None], None]:
        before = self.watch.link
        self.watch.link, self.watch.pid = wire, hello.pid
        self.watch.engines = {}
        if before is not None:
            before.close()
        log.info("the watcher is here")
        self._watcher_told()
        return lambda message: self._from_watcher(wire, message)

    def _from_watcher(self, wire: link.Link, message: link.AnyMessage | None) -> None:
        match message:
            case None if self._closing:
                self.watch.link = None  # we leave, not the watcher
            case None if self.watch.link is wire:
                self.watch.link = None
                log.warning(
                    "the watcher has gone: going on with what is known", extra={"event": Event.WATCHER_LOST}
                )
                self._watcher_told()
            case link.Seen():
                self._registry.seen(message.container)
            case link.Gone():
                self._registry.gone(message.name, message.runtime)
            case link.Listed():
                self._registry.complete.set()
            case link.Measured():
                self._measured(message)
            case link.Engine():
                self.watch.engines[message.runtime] = message.problem
                self._watcher_told()
            case _:
                pass

    def _measured(self, message: link.Measured) -> None:
        if not message.container:
            self.freshness.heard("")
            self._watcher_told()
            return
        for container in self._registry:
            if container.name == message.container:
                container.measured = message

    def _watcher_told(self) -> None:
        for tell in self.on_watcher:
            tell()

    def dismiss_watcher(self) -> None:
        """Have it leave; it may be the child of a manager before us."""
        if self.watch.link is not None:
            self.watch.link.send(link.Leave(timeout=0.0))

    def reload(self) -> None:
        """The configuration has changed: tell those for whom it has."""
        if self.watch.link is not None:
            self._inform(self.watch.link, "")
        for container in self._registry:
            if container.worker is not None:
                self._inform(container.worker.link, container.name)

    def _inform(self, wire: link.Link, container: str) -> None:
        """Tell a worker, or for "" the watcher, what is in force, unless that is what it knows."""
        known = settings(self._configuration(), container)
        if self._informed.get(wire) != known:
            self._informed[wire] = known
            wire.send(known)


def _check_version(hello: link.Hello) -> None:
    try:
        link.agreed(hello.version)
    except InvalidRequest as exc:
        unit = f"agentd@{hello.container}.service" if hello.container else WATCHER_UNIT
        raise InvalidRequest(f"{exc.message}: restart {unit}, which runs agentd {hello.code}") from None


def settings(configuration: Configuration, container: str) -> link.Settings:
    """What the worker of a container is told of the configuration; the watcher, for ""."""
    data = portable(configuration, container) if container else portable_without_agents(configuration)
    return link.Settings(configuration=data)


def check_size(configuration: Configuration) -> None:
    """Raises ConfigurationInvalid for one that cannot be passed on, to whomever."""
    longest = max(configuration.containers, key=len, default="x")
    for container in (longest, ""):
        if not link.fits(settings(configuration, container)):
            whom = f"the worker of {container}" if container else "the watcher"
            raise ConfigurationInvalid(
                f"the configuration is too long for {whom}: {link.MESSAGE_BYTES} bytes at most; "
                "take out agents, values of their env, or containers that a label can opt in"
            )


class Greeting:
    """A link that has not said who it is, or whose word has not been checked."""

    def __init__(self, links: Links, sock: socket.socket, peer: Peer) -> None:
        self._links = links
        self._peer = peer
        self._take: Callable[[link.AnyMessage | None], None] | None = None
        self._hello_seen = False
        self._early: list[link.AnyMessage] = []
        self._link = link.Link(sock, self._message, self._closed)
        self._deadline = asyncio.get_running_loop().call_later(HELLO_SEC, self._link.close)
        links.opened(self._link)

    def _message(self, message: link.AnyMessage, descriptor: int | None) -> None:
        if descriptor is not None:
            os.close(descriptor)  # nobody sends us any
        if self._take is not None:
            self._take(message)
        elif self._hello_seen:
            self._early.append(message)
        elif isinstance(message, link.Hello):
            self._hello_seen = True
            self._links.start(self._check(message)).add_done_callback(lambda _: self._forget_peer())
        else:
            self._link.close()

    def refuse(self, error: AgentdError) -> None:
        """What else it sends would only be kept: it is not listened to any more."""
        log.warning("refused a link: %s", error.message, extra={"event": Event.ACCESS_DENIED})
        self._link.send(link.Refused(reason=error.reason, message=error.message))
        self._link.close()

    async def _check(self, hello: link.Hello) -> None:
        try:
            await self._links.verify(self._peer, hello)
        except NotRunning as exc:
            log.debug("a link came to nothing: %s", exc.message)
            self._link.close()
            return
        except AgentdError as exc:
            self.refuse(exc)
            return
        self._deadline.cancel()
        if self._link.closed:
            return
        self._take = self._links.welcome(self._link, hello)
        for message in self._early:
            self._take(message)

    def _closed(self) -> None:
        self._deadline.cancel()
        if not self._hello_seen:
            self._forget_peer()
        self._links.closed(self._link)
        if self._take is not None:
            self._take(None)

    def _forget_peer(self) -> None:
        """Not before the check is over, which asks about the process though the link may have closed."""
        if self._peer.pidfd >= 0:
            os.close(self._peer.pidfd)
