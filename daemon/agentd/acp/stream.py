# SPDX-License-Identifier: Apache-2.0
"""Frames over sockets and pipes: asyncio protocols that cut, bound and pace, and know nothing of ACP.

A `FrameStream` is used over one socket, or over two pipes (an agent's stdin and stdout). Whoever owns it is
its `Sink` and gets whole lines in blocks. Writing never blocks and never drops: past `high_water` unsent
bytes the sink is told to stop the flow, and told again when half of it has left.
"""

import asyncio
import logging
import select
import socket
from collections.abc import Callable
from typing import Protocol, cast

from agentd.acp import envelope
from agentd.acp.framing import Framer, Torn
from agentd.errors import AgentdError
from agentd.pipes import reading_end, writing_end

REFUSAL_SEC = 5.0

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Whoever takes what a stream brings. Called from the event loop; none of these may block."""

    def received(self, block: bytes) -> None:
        """One or more whole lines, each with its newline."""

    def oversized(self, message: Torn) -> None:
        """A line over the limit was skipped."""

    def ended(self) -> None:
        """No more will be read: the other side closed, or half-closed. Writing may still work."""

    def lost(self) -> None:
        """The stream is closed in both directions. The last call."""

    def congested(self, full: bool) -> None:
        """Unsent output went over the high-water mark, or has left again."""


class FrameStream(asyncio.Protocol):
    """Lines in, bytes out."""

    def __init__(self, sink: Sink, limit: int, high_water: int) -> None:
        self._sink = sink
        self._framer = Framer(limit, sink.oversized)
        self._high_water = high_water
        self._reader: asyncio.ReadTransport | None = None
        self._writer: asyncio.WriteTransport | None = None
        self._early: list[bytes] = []
        self._two_way = False
        self._open: set[asyncio.BaseTransport] = set()
        self.at_end = False
        """Whether the other side has ended its writing."""
        self._holds: set[str] = set()
        self._closing: Callable[[], None] | None = None

    # Opening

    async def over_socket(self, sock: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._two_way = True  # first: what waits in the socket may be delivered before the next line is
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self, sock)

    async def over_pipes(self, read_fd: int, write_fd: int) -> None:
        """Take over the two ends of an agent's stdout and stdin."""
        loop = asyncio.get_running_loop()
        reader, _ = await loop.connect_read_pipe(lambda: self, reading_end(read_fd))
        writer, _ = await loop.connect_write_pipe(lambda: _WriteEnd(self), writing_end(write_fd))
        self._attach(reader, writer)

    def _attach(self, reader: asyncio.ReadTransport, writer: asyncio.WriteTransport) -> None:
        self._reader, self._writer = reader, writer
        writer.set_write_buffer_limits(high=self._high_water, low=self._high_water // 2)
        early, self._early = self._early, []
        for data in early:
            writer.write(data)
        if self._holds:
            reader.pause_reading()
        if self._closing:
            self._closing()

    # Reading

    def feed(self, data: bytes) -> None:
        """Take what somebody else has read before us."""
        self.data_received(data)

    def data_received(self, data: bytes) -> None:
        block = self._framer.feed(data)
        if block:
            self._sink.received(block)

    def eof_received(self) -> bool:
        self.at_end = True
        self._sink.ended()
        return self._two_way  # a half-closed socket can still be answered

    def hold(self, reason: str, held: bool = True) -> None:
        """Stop reading while there is any reason to: the other side then blocks in its own writes."""
        before = bool(self._holds)
        (self._holds.add if held else self._holds.discard)(reason)
        if before == bool(self._holds) or self._reader is None or self._reader.is_closing() or self.at_end:
            return
        if held:
            self._reader.pause_reading()
        else:
            self._reader.resume_reading()

    def release(self) -> None:
        """Read on, whatever there was against it."""
        for reason in list(self._holds):
            self.hold(reason, False)

    # Writing

    def write(self, data: bytes) -> None:
        """Send bytes that end in a newline; nothing happens where the other side is gone."""
        if self._writer is None:
            self._early.append(data)
        elif not self._writer.is_closing():
            self._writer.write(data)

    def send(self, frame: bytes) -> None:
        """Send one frame."""
        self.write(frame + b"\n")

    @property
    def unsent(self) -> int:
        """Bytes written that have not left yet."""
        return sum(map(len, self._early)) if self._writer is None else self._writer.get_write_buffer_size()

    def pause_writing(self) -> None:
        self._sink.congested(True)

    def resume_writing(self) -> None:
        self._sink.congested(False)

    # Closing

    def finish(self) -> None:
        """Close the writing side once all is sent: an agent's stdin, or the whole socket."""
        if self._writer is None:
            self._closing = self.finish  # as soon as there is something to close
        else:
            self._writer.close()

    def abort(self) -> None:
        """Close at once; what is unsent is lost."""
        if self._writer is None:
            self._closing = self.abort
        elif self._writer in self._open:
            self._writer.abort()
        if self._reader is not None and self._reader in self._open:
            self._reader.close()

    def opened(self, end: asyncio.BaseTransport) -> None:
        self._open.add(end)

    def closed(self, end: asyncio.BaseTransport) -> None:
        self._open.discard(end)
        if not self._open:
            self._sink.lost()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._end = transport
        self.opened(transport)
        if self._two_way:
            self._attach(cast(asyncio.Transport, transport), cast(asyncio.Transport, transport))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed(self._end)


class _WriteEnd(asyncio.BaseProtocol):
    """The protocol of a pipe that is only written to; a socket has no need of one."""

    def __init__(self, stream: FrameStream) -> None:
        self._stream = stream
        self.pause_writing = stream.pause_writing  # type: ignore[method-assign]
        self.resume_writing = stream.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._end = transport
        self._stream.opened(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.closed(self._end)


class HangUp:
    """Calls `on_gone` when the peer of a socket, which writes no more, does not read any more either."""

    def __init__(self, sock: socket.socket, on_gone: Callable[[], None]) -> None:
        self._on_gone = on_gone
        self._poller = select.epoll()
        self._poller.register(sock.fileno(), 0)  # with nothing asked for, HUP and ERR are told
        asyncio.get_running_loop().add_reader(self._poller.fileno(), self._seen)

    def _seen(self) -> None:
        self.close()
        self._on_gone()

    def close(self) -> None:
        """Watch no more; nothing happens the second time."""
        if not self._poller.closed:
            asyncio.get_running_loop().remove_reader(self._poller.fileno())
            self._poller.close()


async def refuse(sock: socket.socket, raw_id: bytes, error: AgentdError) -> None:
    """Answer a connection's first request with an error and close it. The peer may not even be reading."""
    loop = asyncio.get_running_loop()
    try:
        await asyncio.wait_for(loop.sock_sendall(sock, envelope.failure(raw_id, error) + b"\n"), REFUSAL_SEC)
    except (OSError, TimeoutError) as exc:
        log.debug("a refusal was not read: %s", exc)
    finally:
        sock.close()
