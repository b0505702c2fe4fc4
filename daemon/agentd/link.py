# SPDX-License-Identifier: Apache-2.0
"""The link between the manager and its workers and watcher: typed messages over a SOCK_SEQPACKET socket.

One message a datagram, MessagePack, tagged with its type. The first is a Hello with the version of this
protocol, answered by Welcome or Refused. A receiver ignores members and messages it does not know: an
older worker and a newer manager work together. A change they could not both live with raises VERSION, and
then each side speaks the lower of the two, which Welcome names.
"""

import asyncio
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from agentd.errors import InvalidRequest

VERSION = 2
"""2: drains of an agent or a session, and orders (`CancelTurn` and so on), which a worker of 1 ignores."""
OLDEST = 1
"""The lowest version that is still spoken here."""
MESSAGE_BYTES = 192 * 1024
"""Longest message; the longest real one carries a client's first line, of 64 KiB by default."""
QUEUE_BYTES = 16 << 20
"""What may wait for a peer that does not read, then the link is given up."""

log = logging.getLogger(__name__)


class Message(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Base of everything on the link."""


# What they speak of


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An agent process. `pid` is the host's number for it or its exec client, 0 once it has ended."""

    name: str
    state: str
    pid: int = 0
    version: str = ""


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A session that is open. `key`: its number in the container's store; `owner`: the uid that made it.

    `permissions`: requests that nobody has decided. Times are microseconds of Unix time.
    """

    id: str
    agent: str
    state: str
    queued: int = 0
    key: int = 0
    title: str = ""
    owner: int = 0
    clients: int = 0
    permissions: int = 0
    created_usec: int = 0
    updated_usec: int = 0


class DrainInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The drain that was ordered last and not undone, as Progress and Ended tell it.

    Of the whole container, of one agent, or of one session. `result`: "" before its end.
    """

    job: int
    agent: str = ""
    session: str = ""
    remaining: int
    drained: list[str] = []
    result: str = ""


class BudgetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Turns that have begun in the last minute and day, and how many may; 0 for as many as one likes."""

    last_minute: int
    last_day: int
    per_minute: int = 0
    per_day: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All the manager knows of a worker's inside: enough for Status, and for a new manager to start from.

    `sessions`: those used last, as many as fit into a message; `sessions_open`: how many there are.
    `drain`: of the whole container, `drains`: of its agents and sessions. `leaving`: it has been asked to
    end, and takes no connections any more. `problem`: why it cannot work at present, a sentence. `frames`:
    messages passed on, in both directions, since `started_usec`. `budget`: None where there is none.
    """

    state: str = "starting"
    runtime: str = ""
    engine_id: str = ""
    clients: int = 0
    turns: int = 0
    sessions: list[SessionInfo] = []
    agents: list[AgentInfo] = []
    drain: DrainInfo | None = None
    leaving: bool = False
    problem: str = ""
    sessions_open: int = 0
    drains: list[DrainInfo] = []
    frames: int = 0
    started_usec: int = 0
    budget: BudgetInfo | None = None


class Mount(msgspec.Struct, frozen=True):
    """A directory or file of the host, `source`, that a container has as `target`."""

    source: str
    target: str


class ContainerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A container as its engine describes it. `pid` is its first process on this host, 0 if unknown.

    `workdir` is where its processes start, "" if unknown; `mounts` are bind mounts, and not more than fit.
    """

    name: str
    runtime: str
    running: bool
    id: str = ""
    pid: int = 0
    image: str = ""
    image_id: str = ""
    workdir: str = ""
    labels: dict[str, str] = {}
    mounts: list[Mount] = []


# Greeting


class Hello(Message, frozen=True, kw_only=True):
    """From a worker (with its container) or from the watcher (container "")."""

    version: int
    pid: int
    code: str
    container: str = ""
    snapshot: Snapshot = Snapshot()


class Welcome(Message, frozen=True, kw_only=True):
    """`version`: the one both sides speak from now on."""

    version: int


class Refused(Message, frozen=True, kw_only=True):
    """The manager does not take this peer; it should end and say why."""

    reason: str
    message: str


# Manager to worker


class Connect(Message, frozen=True, kw_only=True):
    """A client's connection, in the one descriptor that comes along, and what was already read from it.

    `attach_id` is the raw id of the attach request the worker has to answer, b"" where there was none.
    `session`: the one the client means to go on with, "" for none.
    """

    connection: int
    uid: int
    agent: str = ""
    session: str = ""
    attach_id: bytes = b""
    data: bytes = b""


class Drain(Message, frozen=True, kw_only=True):
    """Of the whole container, or of one agent or session."""

    job: int
    timeout: float
    agent: str = ""
    session: str = ""


class Undrain(Message, frozen=True, kw_only=True):
    """Of the whole container, its agents and sessions with it; or of one agent or session."""

    agent: str = ""
    session: str = ""


class Refresh(Message, frozen=True, kw_only=True):
    """Say how you are, though nothing may have changed: answered by State."""


class CancelTurn(Message, frozen=True, kw_only=True):
    """Cancel a session's turn and what waits. This and those that follow are answered by Answer."""

    number: int
    session: str


class CloseSession(Message, frozen=True, kw_only=True):
    number: int
    session: str


class ListPermissions(Message, frozen=True, kw_only=True):
    number: int
    session: str


class ResolvePermission(Message, frozen=True, kw_only=True):
    """`option`: the id of one that was offered, "" to cancel. `uid`: whose decision it is, for the log."""

    number: int
    session: str
    permission: str
    option: str
    uid: int


class StopAgent(Message, frozen=True, kw_only=True):
    number: int
    agent: str


class LaunchAgent(Message, frozen=True, kw_only=True):
    """`uid`: of the account for whose sessions it is."""

    number: int
    agent: str
    uid: int


class Settings(Message, frozen=True, kw_only=True):
    """The configuration in force, as config.portable has it: after Welcome, and whenever it has changed.

    Only the manager reads files, so that nobody starts with one it has refused.
    """

    configuration: dict[str, Any]


class Leave(Message, frozen=True, kw_only=True):
    """Drain for `timeout` seconds at most and end."""

    timeout: float


# Worker to manager


class Taken(Message, frozen=True, kw_only=True):
    """The connection is the worker's now; until then the manager keeps it."""

    connection: int


class State(Message, frozen=True, kw_only=True):
    snapshot: Snapshot


class Failed(Message, frozen=True, kw_only=True):
    """The worker cannot serve, and ends."""

    reason: str
    message: str


class Leaving(Message, frozen=True, kw_only=True):
    """The worker ends, as it should: its container ended (`container_ended`), or somebody asked it to."""

    container_ended: bool


class PermissionOption(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str = ""
    kind: str = ""


class PermissionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A request for permission that nobody has decided. `kind`: of the tool it is for."""

    id: str
    title: str = ""
    kind: str = "other"
    asked_usec: int = 0
    options: list[PermissionOption] = []


class Answer(Message, frozen=True, kw_only=True):
    """To an order of that number: done, or why not. `permissions`: as many as fit, of ListPermissions."""

    number: int
    reason: str = ""
    message: str = ""
    permissions: list[PermissionInfo] = []


class Progress(Message, frozen=True, kw_only=True):
    """A drain: turns still running, and the sessions that have ended theirs."""

    job: int
    remaining: int
    drained: list[str]


class Ended(Message, frozen=True, kw_only=True):
    """A drain's end. `result`: done, or timeout where turns had to be cut off."""

    job: int
    result: str
    drained: list[str]


# Manager to watcher


class Measure(Message, frozen=True, kw_only=True):
    """Say what these containers' own networks are, and have passed.

    Answered by a Measured for each that has one, and in the end by one for no container.
    """

    containers: list[str]


# Watcher to manager


class Measured(Message, frozen=True, kw_only=True):
    """A container's own addresses, and the bytes that its interfaces have received and sent, but for lo.

    `container`: "" where that was all.
    """

    container: str
    addresses: list[str]
    received: int
    sent: int


class Seen(Message, frozen=True, kw_only=True):
    """A container that exists, new or changed."""

    container: ContainerInfo


class Gone(Message, frozen=True, kw_only=True):
    """A container that no longer exists."""

    name: str
    runtime: str


class Listed(Message, frozen=True, kw_only=True):
    """Every engine has been asked once: what was not told of by now is not there."""


class Engine(Message, frozen=True, kw_only=True):
    """An engine is being followed (`problem` empty), or is not, and why."""

    runtime: str
    problem: str = ""


AnyMessage = (
    Hello | Welcome | Refused | Connect | Drain | Undrain | Settings | Leave | Refresh
    | CancelTurn | CloseSession | ListPermissions | ResolvePermission | StopAgent | LaunchAgent | Answer
    | Taken | State | Failed | Leaving | Progress | Ended
    | Measure | Measured | Seen | Gone | Listed | Engine
)  # fmt: skip

MakeOrder = Callable[[int], AnyMessage]
"""Makes an order of the number that its answer will have."""

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


class Link:
    """One end of a link. `on_message(message, descriptor)` owns the descriptor; `on_closed` comes once."""

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[AnyMessage, int | None], None],
        on_closed: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MESSAGE_BYTES)
        self._sock = sock
        self._on_message = on_message
        self._on_closed = on_closed
        self._queue: deque[tuple[bytes, int | None]] = deque()
        self._queued = 0
        self._deaf = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)
        self._ended: asyncio.Future[None] = self._loop.create_future()

    # Sending

    def send(self, message: AnyMessage, descriptor: int | None = None) -> None:
        """Queue a message, with a descriptor that is duplicated, so the caller's stays the caller's."""
        if self.closed or self._deaf:
            return
        data = _encode(message)
        if len(data) > MESSAGE_BYTES:
            log.error("link: a %s of %d bytes cannot be sent", type(message).__name__, len(data))
            self.close()
            return
        self._queue.append((data, None if descriptor is None else os.dup(descriptor)))
        self._queued += len(data)
        if self._queued > QUEUE_BYTES:
            log.error("link: the peer reads nothing, giving it up")
            self.close()
        elif len(self._queue) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._queue:
            data, descriptor = self._queue[0]
            try:
                socket.send_fds(self._sock, [data], [] if descriptor is None else [descriptor])
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._flush)
                return
            except OSError as exc:
                log.debug("link: %s", exc)
                self._deaf = True  # the reader finds the end, after the peer's last words
                break
            self._drop_first()
        self._drop_all()
        self._loop.remove_writer(self._sock)

    def _drop_first(self) -> None:
        data, descriptor = self._queue.popleft()
        self._queued -= len(data)
        if descriptor is not None:
            os.close(descriptor)

    def _drop_all(self) -> None:
        while self._queue:
            self._drop_first()

    # Receiving

    def _readable(self) -> None:
        if self._take() or self.closed:
            return
        while not self.closed and self._take(broken=True):
            continue
        self.close()

    def _take(self, *, broken: bool = False) -> bool:
        """Receive a message, if there is one. False at a reset, which is told before the peer's last words.

        `broken`: there was one: where nothing is there, no more will come, and the loop may not even look.
        """
        try:
            data, descriptor, flags = _receive(self._sock)
        except BlockingIOError:
            return not broken
        except ConnectionResetError:
            return False
        except OSError as exc:
            log.debug("link: %s", exc)
            self.close()
            return True
        message = _understood(data, flags) if data else None
        if message is not None:
            self._on_message(message, descriptor)
        elif descriptor is not None:
            os.close(descriptor)
        if not data:
            self.close()
        return True

    # Closing

    @property
    def closed(self) -> bool:
        return self._ended.done()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._ended)

    def close(self) -> None:
        """Close now; what is queued is lost. Nothing happens the second time."""
        if self.closed:
            return
        self._ended.set_result(None)
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._drop_all()
        self._sock.close()
        self._on_closed()


def _receive(sock: socket.socket) -> tuple[bytes, int | None, int]:
    """A message, its descriptor if any, and flags. Not socket.recv_fds, whose descriptors are inherited."""
    room = socket.CMSG_LEN(struct.calcsize("i"))  # for one and no more: the kernel closes the others
    data, ancillary, flags, _ = sock.recvmsg(MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    rights = [c for level, kind, c in ancillary if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)]
    return data, struct.unpack_from("i", rights[0])[0] if rights else None, flags


def agreed(theirs: int) -> int:
    """The version to speak with a peer of that one. Raises InvalidRequest where there is none."""
    if theirs < OLDEST:
        raise InvalidRequest(f"version {theirs} of the link is no longer spoken, only {OLDEST} to {VERSION}")
    return min(theirs, VERSION)


def fits(message: AnyMessage) -> bool:
    """Whether a message is short enough to be sent."""
    return len(_encode(message)) <= MESSAGE_BYTES


def _understood(data: bytes, flags: int) -> AnyMessage | None:
    if flags & socket.MSG_TRUNC:
        log.error("link: a message over %d bytes was cut off and is ignored", MESSAGE_BYTES)
        return None
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as exc:
        log.warning("link: ignoring a message of another version: %s", exc)
        return None


def connect(path: str) -> socket.socket:
    """A connected link socket. Raises OSError where nobody listens, or too many wait; never blocks."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock
