# SPDX-License-Identifier: Apache-2.0
"""An agent's stderr: always read, line by line into the log, with its last lines kept for error messages."""

import asyncio
import re
from collections import deque

from agentd.log import Context, Redactor
from agentd.pipes import reading_end
from agentd.printable import TABS, printable
from agentd.systemd.events import Event
from agentd.worker.ration import Ration

LINE_BYTES = 4096
"""Longer lines are logged in pieces."""
TAIL_LINES = 20
COLOUR = re.compile("\x1b\\[[0-9;:]*m")
"""What many programs put around their words, and what says nothing in a log."""


class Stderr(asyncio.Protocol):
    def __init__(self, log: Context, redact: Redactor, ration: Ration) -> None:
        self.heard = 0.0
        self._log = log
        self._redact = redact
        self._ration = ration
        self._partial = b""
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._transport: asyncio.ReadTransport | None = None

    async def over_pipe(self, read_fd: int) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: self, reading_end(read_fd))

    @property
    def tail(self) -> str:
        """The last lines, at most 2,000 characters of them."""
        return "\n".join(filter(None, map(self._text, self._tail)))[-2000:]

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self.heard = asyncio.get_running_loop().time()
        *lines, partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(self._end_of(line))
        self._partial = self._end_of(partial)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._partial:
            self._line(self._partial)

    def _end_of(self, line: bytes) -> bytes:
        """Log a line that is too long in pieces, none of which ends in half a secret; returns the last."""
        most = LINE_BYTES + self._redact.longest
        if len(line) <= most:
            return line
        hidden = self._redact(line.decode(errors="replace")).encode()
        while len(hidden) > most:
            self._line(hidden[:LINE_BYTES])
            hidden = hidden[LINE_BYTES:]
        return hidden

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        self._tail.append(line)
        if self._ration.allows(line) and (text := self._text(line)):
            self._log.info("%s", text, extra={"event": Event.AGENT_STDERR})

    def _text(self, line: bytes) -> str:
        bare = COLOUR.sub("", line.decode(errors="replace"))
        return printable(self._redact(bare.rstrip()), keep=TABS)
