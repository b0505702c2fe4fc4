# SPDX-License-Identifier: Apache-2.0
"""An agent's own login: a program on a terminal in the container, with a client's keys and screen."""

import asyncio
import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from agentd.errors import AgentdError, AgentExited, AgentTimeout, LimitReached
from agentd.process import Child, Size, resize
from agentd.proctree import MARKER
from agentd.runtimes import Command

if TYPE_CHECKING:
    from agentd.worker.agent import Place

LOGIN_SEC = 900.0
"""For all of it; people have to find passwords, and wait for mails."""
OUTPUT_BYTES = 24 << 10
"""Of one piece of output, which base64 makes 32 KiB."""
INPUT_BYTES = 64 << 10
"""That the program may leave unread."""
FLUSH = 1.0
"""Seconds for the last output, where something that is not ours to end still has the terminal."""


class Login:
    """One run of a login's program. `on_output` gets what it writes, at most OUTPUT_BYTES at a time."""

    def __init__(self, place: "Place", on_output: Callable[[bytes], None]) -> None:
        self._place = place
        self._mark = f"{place.owner}/{secrets.token_hex(4)}"
        self._on_output = on_output
        self._terminal: int | None = None
        self._size: Size | None = None
        self._unsent = bytearray()
        self._held = False
        self._may_be_held = True
        self._over = asyncio.Event()
        self._output_ended = asyncio.Event()
        self._error: AgentdError | None = None

    # Life

    async def run(self, command: Command, columns: int, rows: int) -> int:
        """Run it to its end, and end what it leaves behind. Returns the exit status as shells have it.

        Raises what the runtime raises where it cannot be started, AgentTimeout past the deadline,
        LimitReached where it reads too little of its input, AgentExited where it was closed. Cancelled, it
        only hangs up.
        """
        self._raise()
        child, self._terminal = self._start(command, self._size or Size(columns, rows))
        try:
            self._listen()
            self._write(self._terminal)  # what was typed before there was a terminal
            await self._until_over(child)
            await self._end(child)
            await self._flush()
        finally:
            self._hang_up()
        self._raise()
        if child.status is None:
            raise AgentTimeout(f"{command.argv[0]} cannot be ended, not even by SIGKILL")
        return child.status if child.status >= 0 else 128 - child.status

    def _start(self, command: Command, size: Size) -> tuple[Child, int]:
        command = command._replace(env={**command.env, MARKER: self._mark})
        return self._place.runtime.terminal(self._place.container, command, size)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    async def _until_over(self, child: Child) -> None:
        ended = asyncio.ensure_future(child.wait())
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((ended, over), timeout=LOGIN_SEC, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self._give_up(AgentTimeout(f"the login took longer than {LOGIN_SEC:g} s; start it again"))
            self._over.set()
        finally:
            ended.cancel()
            over.cancel()

    async def _end(self, child: Child) -> None:
        """The whole tree, in the container too; at last the engine's exec client itself."""
        limits, runtime = self._place.limits, self._place.runtime
        left = await runtime.reap(
            self._place.container, self._mark, term=limits.agent_stop_sec, kill=limits.agent_kill_sec
        )
        if left:
            self._place.log.error("%d processes of a login would not end", left)
        await child.stop(term=0.2, kill=limits.agent_kill_sec)

    async def _flush(self) -> None:
        """Let the last words through: the program has gone, what it wrote may still be in the terminal."""
        self._release()
        try:
            await asyncio.wait_for(self._output_ended.wait(), FLUSH)
        except TimeoutError:
            self._place.log.debug("somebody still holds the terminal of a login")

    def close(self) -> None:
        """End it: nobody is there for it any more. `run` returns when it has ended."""
        self._give_up(AgentExited("the login was ended before its program had"))

    def _give_up(self, error: AgentdError) -> None:
        if not self._over.is_set():
            self._error = error
            self._over.set()
            self._on_output = _drop  # it may have to get rid of output before it can end
            self._release()

    # From the program

    def hold(self, held: bool) -> None:
        """Stop or go on reading its output: it then waits in its own writes."""
        self._held = held and self._may_be_held
        if self._terminal is not None:
            self._listen()

    def _release(self) -> None:
        self._may_be_held = False
        self.hold(False)

    def _listen(self) -> None:
        assert self._terminal is not None
        loop = asyncio.get_running_loop()
        if self._held or self._output_ended.is_set():
            loop.remove_reader(self._terminal)
        else:
            loop.add_reader(self._terminal, self._read, self._terminal)

    def _read(self, terminal: int) -> None:
        try:
            data = os.read(terminal, OUTPUT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # EIO: nobody has the other end open any more
        if data:
            self._on_output(data)
        else:
            self._output_ended.set()
            self._listen()

    # To the program

    def input(self, data: bytes) -> None:
        """Type something. A program that leaves too much unread is ended: nothing is dropped silently."""
        if self._over.is_set():
            return
        if len(self._unsent) + len(data) > INPUT_BYTES:
            self._give_up(LimitReached(f"the login's program has left {INPUT_BYTES} bytes of input unread"))
            return
        self._unsent += data
        if self._terminal is not None:
            self._write(self._terminal)

    def _write(self, terminal: int) -> None:
        try:
            if self._unsent:
                del self._unsent[: os.write(terminal, self._unsent)]
        except BlockingIOError:
            pass  # the writer below waits for room
        except OSError:
            self._unsent.clear()  # EIO: there is nobody to read it
        loop = asyncio.get_running_loop()
        if self._unsent:
            loop.add_writer(terminal, self._write, terminal)
        else:
            loop.remove_writer(terminal)

    def resize(self, columns: int, rows: int) -> None:
        """The client's window has another size now."""
        self._size = Size(columns, rows)
        if self._terminal is not None:
            resize(self._terminal, self._size)

    def _hang_up(self) -> None:
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(terminal)
            loop.remove_writer(terminal)
            os.close(terminal)


def _drop(data: bytes) -> None:
    """Nobody wants it any more."""
