# SPDX-License-Identifier: Apache-2.0
"""The front door: takes connections, reads their first line, and hands them to the worker they are for."""

import asyncio
import itertools
import logging
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from agentd import link
from agentd.acp import envelope
from agentd.acp.stream import refuse
from agentd.config import Limits
from agentd.errors import (
    AccessDenied,
    AgentdError,
    Draining,
    Internal,
    ShuttingDown,
    TooManyConnections,
    WorkerFailed,
)
from agentd.manager.access import Access, Peer, peer_of
from agentd.manager.container import Container, WorkerEnd
from agentd.manager.handshake import Opening, first_line, understand
from agentd.manager.registry import Registry
from agentd.systemd.events import Event
from agentd.tasks import Tasks

ACCEPTED_AT_ONCE = 64
"""Connections taken in one pass of the loop, so that a flood does not starve everything else."""
BREATH_SEC = 1.0
FINISH_SEC = 1.0
"""What connections have to find their worker in when the manager ends."""
STRANGERS = -1
"""Those that may use nothing count as one account: whoever has subordinate uids has 65,536 of them."""
STOPPING = "agentd is being stopped or restarted: connect again"
TAKE_SEC = 10.0
"""What a worker has to say that it took a connection."""
WORKERS = 3
"""How many are tried: the first may leave just as the connection is on its way to it."""

log = logging.getLogger(__name__)


class FrontDoor:
    """Listening sockets and the connections that have not found their worker yet."""

    def __init__(self, registry: Registry, tasks: Tasks, limits: Callable[[], Limits]) -> None:
        self._registry = registry
        self._tasks = tasks
        self._limits = limits
        self.access: Access
        self.draining = False
        self._pending: Counter[int] = Counter()
        self._numbers = itertools.count(1)
        self._offers: dict[int, asyncio.Future[None]] = {}
        self._listeners: dict[socket.socket, str] = {}
        self._on_the_way: set[asyncio.Task[None]] = set()
        """One for each connection that has not found its worker yet."""

    # Listening

    def listen(self, sock: socket.socket, container: str = "") -> None:
        """Accept from this socket, for one container or for whichever the first line names."""
        sock.setblocking(False)
        self._listeners[sock] = container
        asyncio.get_running_loop().add_reader(sock, self._accept, sock, container)

    def unlisten(self, sock: socket.socket) -> None:
        if self._listeners.pop(sock, None) is not None:
            asyncio.get_running_loop().remove_reader(sock)

    def close(self) -> None:
        for sock in list(self._listeners):
            self.unlisten(sock)

    def _accept(self, sock: socket.socket, container: str) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _ = sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:  # out of descriptors or memory: trying at once again would only burn time
                log.error("cannot accept connections for %g s: %s", BREATH_SEC, exc)
                self.unlisten(sock)
                asyncio.get_running_loop().call_later(BREATH_SEC, self.listen, sock, container)
                return
            connection.setblocking(False)
            self._begin(self._welcome(connection, container))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.start(work, "connection")
        self._on_the_way.add(task)
        task.add_done_callback(self._on_the_way.discard)

    async def finish(self) -> None:
        """After `close`: who is on the way to a worker gets there, or is told to connect again."""
        if self._on_the_way:
            await asyncio.wait(self._on_the_way, timeout=FINISH_SEC)
        for task in self._on_the_way:
            task.cancel()
        if self._on_the_way:
            await asyncio.wait(self._on_the_way)

    # Over D-Bus

    async def open(self, peer: Peer, opening: Opening) -> socket.socket:
        """A connection for somebody who has been let in already; what becomes of it is said on it.

        Raises NoSuchContainer, AmbiguousContainer, Draining, TooManyConnections. The socket is the caller's.
        """
        container = await self._registry.find(opening.container, lambda _: True)
        self._check_draining(container)
        if self._pending[peer.uid] >= self._limits().pending_per_uid:
            raise _too_many(self._limits())
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._pending[peer.uid] += 1
        work = self._pass_on(ours, peer, opening._replace(container=container.name))
        self._begin(self._counted(peer.uid, ours, work))
        return theirs

    async def _pass_on(self, sock: socket.socket, peer: Peer, opening: Opening) -> None:
        try:
            await self._hand_over(sock, peer, opening, admitted=True)
        except AgentdError as exc:
            await refuse(sock, envelope.NULL, exc)
        except asyncio.CancelledError:
            await refuse(sock, envelope.NULL, ShuttingDown(STOPPING))
            raise

    # One connection

    async def _welcome(self, sock: socket.socket, container: str) -> None:
        """From accept to a worker, or to an error the client can read."""
        try:
            peer = peer_of(sock)
        except OSError:
            sock.close()  # gone already
            return
        account = peer.uid if self.access.may_any(peer) else STRANGERS
        self._pending[account] += 1
        await self._counted(account, sock, self._serve(sock, peer, account, container))

    async def _counted(self, account: int, sock: socket.socket, work: Coroutine[Any, Any, None]) -> None:
        """What an account has on the way to a worker is limited: this was one more, and ends."""
        try:
            await work
        except OSError as exc:
            log.debug("a connection broke off: %s", exc)
            sock.close()
        finally:
            self._pending[account] -= 1
            if not self._pending[account]:
                del self._pending[account]

    async def _serve(self, sock: socket.socket, peer: Peer, account: int, container: str) -> None:
        raw_id = envelope.NULL
        try:
            read = await self._first_line(sock, account)
            if read is None:
                sock.close()
                return
            line, rest = read
            raw_id = envelope.first_id(line)
            opening = understand(line, rest)
            await self._hand_over(sock, peer, opening._replace(container=container or opening.container))
        except AgentdError as exc:
            log.info("refused a connection: %s", exc.message)
            await refuse(sock, raw_id, exc)
        except asyncio.CancelledError:
            await refuse(sock, raw_id, ShuttingDown(STOPPING))
            raise
        except OSError:
            raise
        except Exception:
            log.exception("a connection failed")
            await refuse(sock, raw_id, Internal("internal error; the journal has the details"))

    async def _first_line(self, sock: socket.socket, account: int) -> tuple[bytes, bytes] | None:
        limits = self._limits()
        if self._pending[account] > limits.pending_per_uid:
            raise _too_many(limits)
        return await first_line(sock, limit=limits.front_door_bytes, deadline=limits.front_door_sec)

    async def _hand_over(
        self, sock: socket.socket, peer: Peer, opening: Opening, *, admitted: bool = False
    ) -> None:
        """`admitted`: it was found out already that this peer may."""
        may = (lambda _: True) if admitted else (lambda name: self.access.may(peer, name))
        container = await self._registry.find(opening.container, may)
        find = self._registry.worker_of if opening.start else self._registry.worker_there
        for _ in range(WORKERS):
            self._check_access(peer, container, may)
            self._check_draining(container)
            worker = await find(container)
            if await self._offer(worker, sock, peer, opening):
                sock.close()
                return
        raise WorkerFailed(f"the worker of {container.name} does not take connections; see: agentctl status")

    def _check_access(self, peer: Peer, container: Container, may: Callable[[str], bool]) -> None:
        if not may(container.name):
            about = self._registry.labels(container.name)
            about.warning("denied to uid %d", peer.uid, extra={"event": Event.ACCESS_DENIED})
            raise AccessDenied(
                f"account {peer.uid} may not use {container.name}; see [access] in agentd.toml",
                container=container.name,
            )

    def _check_draining(self, container: Container) -> None:
        if self.draining or container.drained:
            raise Draining(f"{container.name} is being drained; try again later", container=container.name)

    async def _offer(self, worker: WorkerEnd, sock: socket.socket, peer: Peer, opening: Opening) -> bool:
        """Pass the descriptor; ours stays open until the worker has said that it has it."""
        number = next(self._numbers)
        taken = self._offers[number] = asyncio.get_running_loop().create_future()
        message = link.Connect(
            connection=number,
            uid=peer.uid,
            agent=opening.agent,
            session=opening.session,
            attach_id=opening.attach_id,
            data=opening.data,
        )
        worker.link.send(message, sock.fileno())
        gone = asyncio.ensure_future(worker.link.wait_closed())
        try:
            await asyncio.wait((taken, gone), timeout=TAKE_SEC, return_when=asyncio.FIRST_COMPLETED)
            if worker.leaving:  # it takes its time, and the next one is asked at its end
                patience = self._registry.leave_sec
                await asyncio.wait((taken, gone), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not taken.done() and not gone.done():  # it may take it yet: nobody else must have it
                raise WorkerFailed(f"the worker did not take the connection within {TAKE_SEC:g} s")
            return taken.done()
        finally:
            gone.cancel()
            del self._offers[number]

    def taken(self, number: int) -> None:
        """A worker has the connection."""
        offer = self._offers.get(number)
        if offer is not None and not offer.done():
            offer.set_result(None)


def _too_many(limits: Limits) -> TooManyConnections:
    return TooManyConnections(f"{limits.pending_per_uid} connections of yours wait for a worker already")
