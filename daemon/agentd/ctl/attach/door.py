# SPDX-License-Identifier: Apache-2.0
"""How an editor's bridge gets to a container's worker, the first time and again.

It is on the way to an editor's first byte: no event loop here, and no more imports than it takes.
"""

from __future__ import annotations

import os
import socket
import time

from agentd.ctl.places import front_door
from agentd.errors import (
    AccessDenied,
    AgentdError,
    FrameTooLarge,
    InvalidArgs,
    ManagerUnreachable,
    ShuttingDown,
    revive,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

RESTART_SEC = 0.3
CHUNK = 1 << 18
LINE_BYTES = 1 << 28
ANSWER_SEC = 120.0
"""A worker may have to be started, and its container's engine may be slow."""
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class Lines:
    """Cuts what is read into blocks of whole lines. Half a line at the end is dropped."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._kept: list[bytes] = []
        self._size = 0
        self._early = b""

    def block(self) -> bytes:
        """What has come, up to its last newline; b"" at the end. Raises FrameTooLarge."""
        if self._early:
            early, self._early = self._early, b""
            return early
        while data := self._read(CHUNK):
            if end := data.rfind(b"\n") + 1:
                return self._take(data, end)
            self._keep(data)
        return b""

    def line(self) -> bytes:
        """The next line, without its newline; the others of its block come later. b"" at the end."""
        line, _, self._early = self.block().partition(b"\n")
        return line

    def _take(self, data: bytes, end: int) -> bytes:
        block = b"".join((*self._kept, data[:end])) if self._kept else data[:end]
        self._kept, self._size = [], 0
        if end < len(data):
            self._keep(data[end:])
        return block

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._size += len(data)
        if self._size > LINE_BYTES:
            raise FrameTooLarge(f"a message may have {LINE_BYTES >> 20} MiB at most")


class Broken(Exception):
    """The connection is at its end, where more was to come."""


class Connection:
    """A connection to a worker: whole lines both ways, with a deadline or without."""

    def __init__(self, sock: socket.socket) -> None:
        self.client = ""
        """What the worker calls this connection; "" for one that cannot be recovered."""
        self.goodbye: AgentdError | None = None
        """Why the worker closes, where it has said so."""
        self._sock = sock
        self._deadline: float | None = None
        self._lines = Lines(self._receive)
        self.block, self.line = self._lines.block, self._lines.line

    def allow(self, seconds: float | None) -> None:
        """From now on `block`, `line` and `send` raise TimeoutError once that has passed."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._sock.settimeout(seconds)

    def _receive(self, size: int) -> bytes:
        try:
            if self._deadline is not None:
                self._sock.settimeout(self._left(self._deadline))
            return self._sock.recv(size)
        except ConnectionResetError:
            return b""  # closed with something of ours unread

    def _left(self, deadline: float) -> float:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        return left

    def send(self, lines: bytes) -> None:
        """Raises Broken."""
        try:
            self._sock.sendall(lines)
        except TimeoutError:
            raise
        except OSError:
            raise Broken from None

    def finish(self) -> None:
        """Nothing more will be sent."""
        self._shut(socket.SHUT_WR)

    def abort(self) -> None:
        """Whatever waits for this connection, in any thread, waits no longer."""
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except OSError:
            pass  # the other side was quicker

    def close(self) -> None:
        self._sock.close()


class Door:
    """Where the connections of one editor come from: all from the manager that the first one found."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Raises InvalidArgs for what cannot be a name or a session's id."""
        self._options = options
        self._path = ""
        self._asking: Connection | None = None
        self._needless = False
        for name in (options.container, options.agent):
            if not PLAIN.issuperset(name):
                raise InvalidArgs(f"{name!r} has characters that no container's or agent's name can have")
        if not (options.session.isascii() and options.session.isprintable()):
            raise InvalidArgs(f"{options.session!r} has characters that no session's id can have")

    def first(self) -> Connection:
        """Raises ManagerUnreachable, AccessDenied, or what the manager says against it."""
        sock = front_door(self._options)
        self._path = sock.getpeername()
        try:
            return self._attach(sock, self._options.session, start=True)
        except ShuttingDown:
            time.sleep(RESTART_SEC)  # it may be on its way back, and its socket is systemd's
            return self._attach(self._connected(), self._options.session, start=True)

    def again(self, *, start: bool) -> Connection:
        """Another connection, in place of one that broke. `start`: start the worker if there is none.

        Raises ManagerUnreachable where that may pass, AccessDenied, or what the manager says against it.
        """
        return self._attach(self._connected(), "", start=start)

    def _connected(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(ANSWER_SEC)
            sock.connect(self._path)
        except PermissionError:
            sock.close()
            raise AccessDenied(f"your account may not open {self._path} any more") from None
        except OSError as exc:
            sock.close()
            raise ManagerUnreachable(f"agentd is gone ({self._path}: {exc.strerror})") from None
        return sock

    @property
    def is_there(self) -> bool:
        """Whether anything could answer."""
        return os.path.exists(self._path)

    def _attach(self, sock: socket.socket, session: str, *, start: bool) -> Connection:
        self._asking = connection = Connection(sock)
        if self._needless:
            connection.abort()
        try:
            connection.client = attach(connection, self._params(session, start))
        except BaseException:
            connection.close()
            raise
        return connection

    def abort(self) -> None:
        """Nobody needs another connection: whatever waits for one, in any thread, waits no longer."""
        self._needless = True
        if self._asking is not None:
            self._asking.abort()

    def _params(self, session: str, start: bool) -> str:
        members = [f'"container":"{self._options.container}"']
        if self._options.agent:
            members.append(f'"agent":"{self._options.agent}"')
        if session:
            quoted = session.replace("\\", "\\\\").replace('"', '\\"')
            members.append(f'"session":"{quoted}"')
        if not start:
            members.append('"start":false')
        return f"{{{','.join(members)}}}"


def attach(connection: Connection, params: str) -> str:
    """Ask for a container; returns the worker's name for the connection, "" where it gets none.

    Raises ManagerUnreachable where no answer comes, or the error the manager gave.
    """
    connection.allow(ANSWER_SEC)
    try:
        answer = _answer(
            connection, f'{{"jsonrpc":"2.0","id":0,"method":"_agentd/attach","params":{params}}}\n'
        )
    except TimeoutError:
        raise ManagerUnreachable(f"agentd did not answer within {ANSWER_SEC:g} s") from None
    connection.allow(None)
    if isinstance(result := answer.get("result"), dict):
        return str(result.get("client") or "")
    raise refusal(answer)


def _answer(connection: Connection, request: str) -> dict[str, Any]:
    try:
        connection.send(request.encode())
    except Broken:
        pass  # what it had to say before can still be read
    from agentd.ctl.attach.ledger import message_of  # while the answer is on its way

    return message_of(connection.line())


def refusal(answer: dict[str, Any]) -> AgentdError:
    """What an answer that is an error says, or that there is none."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return ManagerUnreachable("agentd closed the connection without an answer")
    data = error.get("data")
    reason = data.get("reason") if isinstance(data, dict) else None
    return revive(str(reason), str(error.get("message")))
