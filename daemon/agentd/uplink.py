# SPDX-License-Identifier: Apache-2.0
"""The near end of the link, a worker's or the watcher's: finds the manager, also after a restart."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from agentd import __version__, link
from agentd.errors import AgentdError, ManagerUnreachable, revive

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
"""Seconds between attempts to reach a manager that is not there; under systemd the socket always is."""
ORPHANED_SEC = 60.0
"""How long somebody whom nobody needs waits for a manager."""
WELCOME_SEC = 20.0

log = logging.getLogger(__name__)


class Uplink:
    """Keeps a link to the manager. What is sent without one is lost: Hello carries the whole state."""

    def __init__(
        self,
        path: str,
        on_order: Callable[[link.AnyMessage, int | None], None],
        *,
        container: str = "",
        snapshot: Callable[[], link.Snapshot] = link.Snapshot,
        on_welcome: Callable[[], None] | None = None,
        needed: Callable[[], bool] = lambda: False,
        patience: float = ORPHANED_SEC,
    ) -> None:
        """`patience`: seconds to wait for a manager while `needed` says that nobody needs us."""
        self._path = path
        self._container = container
        self._snapshot = snapshot
        self._on_order = on_order
        self._on_welcome = on_welcome
        self._needed = needed
        self._patience = patience
        self._link: link.Link | None = None
        self._gone = asyncio.Event()
        self._refusal: AgentdError | None = None
        self._refused = asyncio.Event()
        self._welcomed = asyncio.Event()
        self._here = False

    async def run(self) -> None:
        """Stay connected until cancelled. Raises the manager's refusal; if orphaned, ManagerUnreachable."""
        pause = FIRST_PAUSE
        while self._refusal is None:
            welcomed = await self._stay(await self._connect())
            if (
                not welcomed and self._refusal is None
            ):  # somebody listens, but does not want us: don't hammer
                await asyncio.sleep(pause)
            pause = FIRST_PAUSE if welcomed else min(2 * pause, LONGEST_PAUSE)
        raise self._refusal

    async def _connect(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        pause, patience = FIRST_PAUSE, loop.time() + self._patience
        while True:
            try:
                return link.connect(self._path)
            except OSError as exc:
                log.debug("no manager at %s: %s", self._path, exc)
            if loop.time() > patience and not self._needed():
                raise ManagerUnreachable(f"no manager came back to {self._path}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def first(self, news: asyncio.Event) -> None:
        """Wait for something the manager says to everyone. Raises its refusal, or ManagerUnreachable."""
        waits = [asyncio.ensure_future(each.wait()) for each in (news, self._refused)]
        await asyncio.wait(waits, timeout=WELCOME_SEC, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        if self._refusal is not None:
            raise self._refusal
        if not news.is_set():
            raise ManagerUnreachable(f"no manager answers at {self._path}; is agentd.service running?")

    def send(self, message: link.AnyMessage) -> None:
        if self._link is not None and self._welcomed.is_set():
            self._link.send(message)

    async def _stay(self, sock: socket.socket) -> bool:
        """Serve a link to its end. Returns whether the manager had welcomed us on it."""
        self._gone.clear()
        self._here = False
        self._link = link.Link(sock, self._message, self._gone.set)
        hello = link.Hello(
            version=link.VERSION,
            pid=os.getpid(),
            code=__version__,
            container=self._container,
            snapshot=self._snapshot(),
        )
        self._link.send(hello)
        try:
            await self._gone.wait()
        finally:
            self._link.close()
            self._link = None
        log.debug("the manager has gone")
        return self._here

    def _message(self, message: link.AnyMessage, descriptor: int | None) -> None:
        if isinstance(message, link.Welcome):
            self._be_welcome(message)
        elif isinstance(message, link.Refused):
            self._refuse(revive(message.reason, message.message))
        else:
            self._on_order(message, descriptor)

    def _be_welcome(self, welcome: link.Welcome) -> None:
        try:
            link.agreed(welcome.version)
        except AgentdError as exc:
            self._refuse(type(exc)(f"{exc.message}; restart the manager, which is older: agentd.service"))
            return
        self._welcomed.set()
        self._here = True
        if self._on_welcome is not None:
            self._on_welcome()

    def _refuse(self, refusal: AgentdError) -> None:
        self._refusal = refusal
        self._refused.set()
        self._gone.set()
