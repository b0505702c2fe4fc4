# SPDX-License-Identifier: Apache-2.0
"""The D-Bus connection: the one module that touches a D-Bus library, and knows its traps.

dbus-fast, 5 or later, is used where it is installed, else dbus-next, and of both only the lower half: the
handshake, marshalling and `Message`. What is above is ours, here and in interface.py, since theirs sends
tracebacks to callers, hides the sender, leaks descriptors and announces objects from the wrong path.
"""

import asyncio
import errno
import functools
import importlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

from .errors import BY_REASON, DBUS_PREFIX, AgentdError, AlreadyRunning, InvalidArgs, ShuttingDown
from .interface import (
    FREEDESKTOP_ERROR,
    PROPERTIES,
    BusError,
    Caller,
    Interface,
    Member,
    ObjectManager,
    Objects,
    Repeated,
    Variant,
    caller,
    complete_types,
    current_caller,
    method,
    prop,
    signal,
    signature_of,
    variant,
)

__all__ = [
    "DISCONNECTED",
    "INTERACTIVE_AUTHORIZATION_REQUIRED",
    "LIBRARY",
    "NO_REPLY",
    "NO_SERVER",
    "Bus",
    "BusError",
    "Caller",
    "Interface",
    "ObjectManager",
    "Signal",
    "caller",
    "method",
    "prop",
    "signal",
    "variant",
]


def _load_library() -> Any:
    """dbus-fast before 5 takes no socket of ours, and sends paths that the bus daemon hangs up on."""
    try:
        fast = importlib.import_module("dbus_fast.aio")
    except ImportError:
        return importlib.import_module("dbus_next")
    recent = hasattr(fast.MessageBus, "_create_socket_for_transport")
    return importlib.import_module("dbus_fast" if recent else "dbus_next")


library = _load_library()
LIBRARY: str = library.__name__
Message, MessageType, MessageFlag = library.Message, library.MessageType, library.MessageFlag
MessageBus: Any = importlib.import_module(LIBRARY + ".aio").MessageBus
signature_tree = functools.cache(importlib.import_module(LIBRARY + ".signature").SignatureTree)

logger = logging.getLogger(__name__)

SEND_BUFFER = 1 << 20
READS_PER_PASS = 128  # of the socket: about 64 messages
MAX_CALLS = 256  # of one sender at a time; a system bus lets nobody wait for more than 128 answers
MAX_UNSENT = 20_000  # messages: a bus that lets so many wait is as good as gone
MAX_SENDERS = 1024  # whose credentials are remembered
FLUSH_TIMEOUT = 1.0

DISCONNECTED = FREEDESKTOP_ERROR + "Disconnected"
NO_REPLY = FREEDESKTOP_ERROR + "NoReply"
INTERACTIVE_AUTHORIZATION_REQUIRED = FREEDESKTOP_ERROR + "InteractiveAuthorizationRequired"
NO_SERVER = FREEDESKTOP_ERROR + "NoServer"

DAEMON = "org.freedesktop.DBus"
DO_NOT_QUEUE, PRIMARY_OWNER, ALREADY_OWNER = 4, 1, 4

T = TypeVar("T")

_BY_NAME = {cls.dbus_name: cls for cls in BY_REASON.values()}


@dataclass(frozen=True, slots=True)
class Signal:
    sender: str
    path: str
    interface: str
    member: str
    args: list[Any]


class Credentials(NamedTuple):
    """Of the process behind a name on the bus, as the bus daemon has them from the kernel."""

    uid: int
    groups: frozenset[int]


UNKNOWN = Credentials(-1, frozenset())


@dataclass(frozen=True, slots=True, eq=False)
class _Listener:
    callback: Callable[[Signal], None]
    match: dict[str, str]

    @property
    def rule(self) -> str:
        return ",".join(f"{key}='{value}'" for key, value in {"type": "signal", **self.match}.items())


# Values


def _wire(value: Any) -> Any:
    """The value as both libraries take it, without the NUL and surrogates that would end the connection."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
        case Variant():
            return library.Variant(value.signature, _wire(value.value))
        case dict():
            return {_wire(key): _wire(item) for key, item in value.items()}
        case list() | tuple():
            return [_wire(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    match value:
        case library.Variant():
            return _plain(value.value)
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return value


def _pack(signature: str, values: Sequence[Any]) -> tuple[list[Any], list[int]]:
    body, fds = [], []
    for kind, value in zip(complete_types(signature), values, strict=True):
        if kind == "h":
            fds.append(value)
        body.append(len(fds) - 1 if kind == "h" else _wire(value))
    signature_tree(signature).verify(body)  # dbus-fast would send a bad path, and the daemon hang up
    return body, fds


def _ready(signature: str, member: Member, result: Any) -> tuple[list[Any], list[int]]:
    """The result of a method, ready to be sent."""
    if not isinstance(result, Repeated):
        return _pack(signature, result if len(member.gives) > 1 else [result][: len(member.gives)])
    if result.body is None:
        result.body, _ = _pack(signature, [result.value])
    return result.body, []


def _unpack(message: Any) -> list[Any]:
    pairs = list(zip(complete_types(message.signature), message.body, strict=True))
    if any(kind == "h" and value >= len(message.unix_fds) for kind, value in pairs):
        raise InvalidArgs(f"{message.member} comes without its descriptor")
    return [message.unix_fds[value] if kind == "h" else _plain(value) for kind, value in pairs]


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _results(reply: Any) -> list[Any]:
    if reply is None:
        raise _disconnected()
    if reply.message_type is MessageType.ERROR:
        text = str(reply.body[0]) if reply.body else reply.error_name
        known = _BY_NAME.get(reply.error_name)
        raise known(text) if known else BusError(reply.error_name, text)
    return _unpack(reply)


def _disconnected() -> BusError:
    return BusError(DISCONNECTED, "the connection to the D-Bus is lost")


def _log_refusal(reply: Any) -> None:
    if reply is not None and reply.message_type is MessageType.ERROR:
        logger.error("the bus daemon refuses a match rule: %s", reply.body)


# Under the library


class _Socket(socket.socket):
    """The libraries take a full socket for the end, and read for as long as there is something to read."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.setblocking(False)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._descriptors: Any = ()
        self._reads = READS_PER_PASS

    def send(self, data: Any, flags: int = 0, /) -> int:
        """0 when it fails: both libraries go on with a partial write when the socket is writable. That the
        connection is lost is for the reader to find, at the end of file."""
        if self._descriptors:
            return self.sendmsg([data])
        try:
            return super().send(data, flags)
        except (BlockingIOError, ConnectionError):
            return 0

    def sendmsg(self, buffers: Any, ancillary: Any = (), *args: Any) -> int:
        """The libraries forget descriptors after one try; here they wait for the first byte that goes."""
        self._descriptors = ancillary or self._descriptors
        try:
            sent = super().sendmsg(buffers, self._descriptors, *args)
        except (BlockingIOError, ConnectionError):
            return 0
        self._descriptors = ()
        return sent

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Used in the handshake only, where dbus-next would spin at the end of file and never yield."""
        data = super().recv(size, flags)
        if not data:
            raise ConnectionResetError("the bus hung up")
        return data

    def recvmsg(self, size: int, ancillary_size: int = 0, flags: int = 0, /) -> Any:
        """Claims now and then to be empty, or one client that floods us would have the loop to itself."""
        if self._reads == 0:
            self._reads = READS_PER_PASS
            raise BlockingIOError(errno.EAGAIN, "later")
        self._reads -= 1
        return super().recvmsg(size, ancillary_size, flags | socket.MSG_CMSG_CLOEXEC)


class _Connection(MessageBus):  # type: ignore[misc]  # to the type checker neither library has types
    """The library's bus on our socket: dbus-fast asks for it to connect, dbus-next as soon as it is made."""

    def _setup_socket(self) -> None:
        self._sock, self._stream, address = self._create_socket_for_transport(*self._bus_address[0])
        self._fd = self._sock.fileno()
        try:
            self._sock.connect(address)  # never waits: a local socket connects at once, or says EAGAIN
        except OSError:
            self.discard()
            raise

    @staticmethod
    def _create_socket_for_transport(transport: str, options: dict[str, str]) -> tuple[_Socket, Any, str]:
        if transport != "unix" or not options.keys() & {"path", "abstract"}:
            raise OSError(f"a {transport} bus is not one on this host's own sockets")
        sock = _Socket()
        return sock, sock.makefile("rwb"), options.get("path") or "\0" + options["abstract"]

    def discard(self) -> None:
        """Close what the libraries leave open when the connection ends, or never comes about."""
        if self._sock is not None and self._sock.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._sock.fileno())
            loop.remove_writer(self._sock.fileno())
            self._stream.close()
            self._sock.close()


def _address(bus: str) -> str:
    match bus:
        case "":
            raise ValueError("no address is given")
        case "system":
            return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
        case "session":
            socket_path = os.environ.get("XDG_RUNTIME_DIR", "/nonexistent") + "/bus"
            return os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={quote(socket_path)}"
    return bus


class Bus:
    """A connection. When it is lost, what waits fails, exports and subscriptions are gone, and `wait_closed`
    returns: connect another one."""

    # Initialization

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._replies: dict[int, Callable[[Any], None]] = {}
        self._objects = Objects(self._emit)
        self._listeners: list[_Listener] = []
        self._rules: Counter[str] = Counter()
        self._owners: dict[str, str] = {}
        self._credentials: dict[str, asyncio.Task[Credentials]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._busy: Counter[str] = Counter()
        self._in_flight: set[int] = set()
        self._unsent: set[asyncio.Future[Any]] = set()
        self._closing = False
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watch_task = asyncio.create_task(self._watch())
        connection.add_message_handler(self._receive)

    @classmethod
    async def connect(cls, bus: str, *, timeout: float = 10.0) -> Self:
        """Connect to `bus`: "system", "session" or an address. BusError, called NO_SERVER, if that fails."""
        connection = None
        try:
            async with asyncio.timeout(timeout):
                connection = _Connection(bus_address=_address(bus), negotiate_unix_fd=True)
                await connection.connect()
            return cls(connection)
        except Exception as error:
            reason = f"cannot connect to the D-Bus ({bus}): {str(error) or 'it does not answer'}"
            raise BusError(NO_SERVER, reason) from error
        finally:
            if connection is not None and not connection.connected:
                connection.discard()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def unique_name(self) -> str:
        return str(self._connection.unique_name)

    @property
    def connected(self) -> bool:
        return bool(self._connection.connected)

    # Calling others

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *args: object,
        timeout: float = 25.0,
        interactive: bool = False,
    ) -> list[Any]:
        """Call a method and return its results; descriptors among them are the caller's to close.

        An error of agentd's own comes back as its class, any other as a BusError with its name; so do the
        loss of the connection (DISCONNECTED) and the deadline (NO_REPLY).
        """
        body, fds = _pack(signature, args)
        message = Message(destination, path, interface, member, signature=signature, body=body)
        message.unix_fds = [os.dup(fd) for fd in fds]  # the caller may give up before they are on their way
        if interactive:
            message.flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION
        try:
            async with asyncio.timeout(timeout):
                return _results(await self._round_trip(message))
        except TimeoutError:
            raise BusError(NO_REPLY, f"{destination} did not answer {member} in {timeout:g} s") from None

    async def property(
        self, destination: str, path: str, interface: str, name: str, *, timeout: float = 25.0
    ) -> Any:
        """Read a property. Raises as `call` does."""
        [value] = await self.call(
            destination, path, PROPERTIES, "Get", "ss", interface, name, timeout=timeout
        )
        return value

    async def request_name(self, name: str) -> None:
        """Own `name` for as long as the connection lasts, or raise AlreadyRunning."""
        [result] = await self._ask("RequestName", "su", name, DO_NOT_QUEUE)
        if result not in (PRIMARY_OWNER, ALREADY_OWNER):
            raise AlreadyRunning(f"another process has the D-Bus name {name}: stop that one first")

    async def has_owner(self, name: str, *, timeout: float = 25.0) -> bool:
        """Whether anybody has `name`; nobody is started for it. Raises as `call` does."""
        ask = (DAEMON, "/org/freedesktop/DBus", DAEMON, "NameHasOwner", "s", name)
        [owned] = await self.call(*ask, timeout=timeout)
        return bool(owned)

    async def credentials(self, sender: str) -> Credentials:
        """The account behind a unique name. It is remembered: such a name is never used again."""
        if sender not in self._credentials:
            if len(self._credentials) >= MAX_SENDERS:
                self._forget_senders()
            self._credentials[sender] = asyncio.create_task(self._look_up(sender))
        return await asyncio.shield(self._credentials[sender])

    def _forget_senders(self) -> None:
        """All but those that are being asked for."""
        self._credentials = {name: task for name, task in self._credentials.items() if not task.done()}

    async def _look_up(self, sender: str) -> Credentials:
        try:
            [known] = await self._ask("GetConnectionCredentials", "s", sender)
        except AgentdError as error:
            logger.debug("%s: %s", sender, error.message)
            self._credentials.pop(sender, None)
            return UNKNOWN
        return Credentials(known.get("UnixUserID", UNKNOWN.uid), frozenset(known.get("UnixGroupIDs", ())))

    async def until(self, awaitable: Awaitable[T]) -> T:
        """Wait for what the bus is to bring about, or raise BusError, called DISCONNECTED, if it is lost."""
        waiting = asyncio.ensure_future(awaitable)
        either: set[asyncio.Future[Any]] = {waiting, self._closed}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise _disconnected()
            return waiting.result()
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})

    async def _ask(self, member: str, signature: str, *args: object) -> list[Any]:
        return await self.call(DAEMON, "/org/freedesktop/DBus", DAEMON, member, signature, *args)

    async def _round_trip(self, message: Any) -> Any:
        answer = asyncio.get_running_loop().create_future()

        def answered(reply: Any) -> None:
            if not answer.done():
                answer.set_result(reply)
            elif reply is not None:
                _close(reply.unix_fds)

        try:
            self._begin(message, answered)
            return await answer
        finally:
            self._replies.pop(message.serial, None)

    def _tell_daemon(self, member: str, argument: str, then: Callable[[Any], None]) -> None:
        """Not waited for: the daemon does what it is told in the order in which it is told."""
        message = Message(DAEMON, "/org/freedesktop/DBus", DAEMON, member, signature="s", body=[argument])
        self._begin(message, then)

    # Listening

    def subscribe(
        self,
        callback: Callable[[Signal], None],
        *,
        interface: str,
        member: str,
        path: str = "",
        sender: str = "",
        arg0: str = "",
    ) -> Callable[[], None]:
        """Call `callback` for every such signal, until the function that is returned is called.

        With a `sender`, only what the owner of that name sends counts: anybody may send us any signal.
        """
        if sender and not sender.startswith(":") and sender != DAEMON:
            self._follow_owner(sender)
        match = {"interface": interface, "member": member, "path": path, "sender": sender, "arg0": arg0}
        listener = _Listener(callback, {key: value for key, value in match.items() if value})
        self._listeners.append(listener)
        self._rules[listener.rule] += 1
        if self._rules[listener.rule] == 1:
            self._tell_daemon("AddMatch", listener.rule, _log_refusal)
        return functools.partial(self._unsubscribe, listener)

    def _unsubscribe(self, listener: _Listener) -> None:
        if listener not in self._listeners:
            return
        self._listeners.remove(listener)
        self._rules[listener.rule] -= 1
        if self._rules[listener.rule] == 0:
            self._tell_daemon("RemoveMatch", listener.rule, _log_refusal)

    def _follow_owner(self, name: str) -> None:
        """Ask for the owner before the match for its signals is added, so that the answer is here first."""
        if name in self._owners:
            return

        def found(reply: Any) -> None:
            if reply is not None and reply.message_type is MessageType.METHOD_RETURN:
                self._owners[name] = reply.body[0]

        def changed(news: Signal) -> None:
            self._owners[name] = news.args[2]

        self._owners[name] = ""
        self.subscribe(changed, interface=DAEMON, member="NameOwnerChanged", sender=DAEMON, arg0=name)
        self._tell_daemon("GetNameOwner", name, found)

    def _heard(self, message: Any) -> None:
        heard = [each.callback for each in self._listeners if self._matches(each.match, message)]
        args = _unpack(message) if heard else []
        for callback in heard:
            try:
                callback(Signal(message.sender, message.path, message.interface, message.member, args))
            except Exception:
                logger.exception("a listener to %s.%s failed", message.interface, message.member)

    def _matches(self, match: dict[str, str], message: Any) -> bool:
        sender = match.get("sender", message.sender)
        return (
            match["member"] == message.member
            and match["interface"] == message.interface
            and match.get("path", message.path) == message.path
            and self._owners.get(sender, sender) == message.sender
            and ("arg0" not in match or message.body[:1] == [match["arg0"]])
        )

    # Serving

    def export(self, path: str, interface: Interface) -> None:
        """Answer calls to it, until `unexport` or the end of the connection."""
        self._objects.add(path, interface)

    def unexport(self, path: str) -> None:
        self._objects.remove(path)

    def _emit(self, path: str, interface: str, member: str, signature: str, *args: object) -> None:
        body, _ = _pack(signature, args)
        self._send(Message.new_signal(path, interface, member, signature, body))

    def _called(self, message: Any) -> bool:
        if self._closing:
            self._refuse(message, ShuttingDown("agentd is stopping: try again in a moment"))
            return False
        if self._busy[message.sender] >= MAX_CALLS:
            self._refuse(message, BusError(FREEDESKTOP_ERROR + "LimitsExceeded", "too many calls at a time"))
            return False
        task = asyncio.create_task(self._serve(message))
        self._calls.add(task)
        self._busy[message.sender] += 1
        task.add_done_callback(functools.partial(self._served, message))
        return True

    def _served(self, message: Any, task: asyncio.Task[None]) -> None:
        _close(message.unix_fds)
        self._calls.remove(task)
        self._busy[message.sender] -= 1
        if not self._busy[message.sender]:
            del self._busy[message.sender]

    async def _serve(self, message: Any) -> None:
        interactive = bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
        try:
            who = await self.credentials(message.sender)
            current_caller.set(Caller(message.sender, interactive, who.uid, who.groups))
            interface, member = self._objects.find(message.path, message.interface or "", message.member)
            if message.signature != (expected := signature_of(member.takes)):
                raise InvalidArgs(f"{member.name} takes ({expected}), not ({message.signature})")
            result = await getattr(interface, member.attribute)(*_unpack(message))
            self._reply(message, member, result)
        except asyncio.CancelledError as error:
            stopping = ShuttingDown(f"agentd is stopping: {message.member} was not finished")
            self._refuse(message, stopping if self._closing else error)
        except Exception as error:
            self._refuse(message, error)

    def _reply(self, message: Any, member: Member, result: Any) -> None:
        signature = signature_of(member.gives)
        body, fds = _ready(signature, member, result)
        reply = Message.new_method_return(message, signature, body)
        reply.unix_fds = fds
        self._answer(message, reply)

    def _refuse(self, message: Any, error: BaseException) -> None:
        if isinstance(error, AgentdError):
            name, text = error.dbus_name, error.message
        else:
            logger.error("%s.%s failed", message.interface, message.member, exc_info=error)
            name, text = DBUS_PREFIX + "Internal", "internal error; see the journal"
        self._answer(message, Message.new_error(message, name, _wire(text)))

    def _answer(self, message: Any, reply: Any) -> None:
        if message.flags & MessageFlag.NO_REPLY_EXPECTED:
            _close(reply.unix_fds or [])
        else:
            self._send(reply)

    # Messages

    def _receive(self, message: Any) -> bool:
        """Every message comes here first, and none is left to the library, which knows worse."""
        message.unix_fds = list(message.unix_fds)  # dbus-fast adds the next message's to an empty list
        try:
            taken = self._dispatch(message)
        except Exception:
            logger.exception("a message from %s could not be handled", message.sender)
            taken = False
        if not taken:
            _close(message.unix_fds)
        return True

    def _dispatch(self, message: Any) -> bool:
        """Whether somebody else closes its descriptors."""
        if "h" not in message.signature:
            _close(message.unix_fds)
            message.unix_fds = []
        if message.message_type is MessageType.METHOD_CALL:
            return self._called(message)
        if message.message_type is MessageType.SIGNAL:
            self._heard(message)
        elif then := self._replies.pop(message.reply_serial, None):
            then(message)
            return True
        return False

    def _begin(self, message: Any, then: Callable[[Any], None]) -> None:
        """Send a call. `then` gets the reply the moment it is read, or None when the connection is lost."""
        message.serial = self._connection.next_serial()
        self._replies[message.serial] = then
        self._send(message)
        if not self.connected:
            self._replies.pop(message.serial)(None)

    def _send(self, message: Any) -> None:
        """Send it if anybody is there. Its descriptors are closed, but not before they are on their way."""
        fds = message.unix_fds or []
        if not self.connected:
            _close(fds)
            return
        try:
            sent = self._connection.send(message)
        except BaseException:
            _close(fds)
            raise
        self._in_flight.update(fds)
        self._unsent.add(sent)
        sent.add_done_callback(functools.partial(self._sent, fds))
        if len(self._unsent) > MAX_UNSENT:
            logger.error("the bus takes nothing any more: %d messages wait", len(self._unsent))
            self._connection.disconnect()

    def _sent(self, fds: list[int], sent: asyncio.Future[Any]) -> None:
        self._unsent.discard(sent)
        if not sent.cancelled():
            sent.exception()  # retrieved: what it says is told by the end of the connection
        self._release(fds)

    def _release(self, fds: Iterable[int]) -> None:
        _close(self._in_flight.intersection(fds))
        self._in_flight.difference_update(fds)

    # The end

    async def wait_closed(self) -> None:
        """Return when the connection is lost or closed."""
        await asyncio.shield(self._closed)

    async def close(self) -> None:
        """End what is being served, send what is waiting, hang up."""
        self._closing = True
        calls = self._calls - {asyncio.current_task()}
        for task in calls:
            task.cancel()
        if calls:
            await asyncio.wait(calls, timeout=FLUSH_TIMEOUT)
        if self._unsent and self.connected:
            await asyncio.wait(self._unsent, timeout=FLUSH_TIMEOUT)
        if self.connected:
            self._connection.disconnect()
        await self.wait_closed()

    async def _watch(self) -> None:
        try:
            await self._connection.wait_for_disconnect()
        except Exception as error:
            logger.debug("the D-Bus connection has ended: %r", error)
        finally:
            self._end()

    def _end(self) -> None:
        self._connection.discard()
        self._objects.clear()
        self._listeners.clear()
        self._release(list(self._in_flight))
        replies, self._replies = self._replies, {}
        for then in replies.values():
            then(None)
        self._closed.set_result(None)
