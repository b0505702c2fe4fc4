# SPDX-License-Identifier: Apache-2.0
"""A client's connection: what comes over it goes where it belongs, and what it is owed comes back.

Every frame is looked at only as far as needed to know where it goes; what the hub has no part in passes in
both directions with nothing changed but its id.
"""

import asyncio
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol

from msgspec import UNSET, Raw

from agentd.acp import envelope, methods
from agentd.acp.envelope import Envelope
from agentd.acp.framing import Torn
from agentd.acp.stream import FrameStream, HangUp
from agentd.config import Limits
from agentd.errors import (
    AgentdError,
    AgentRefused,
    ClientGone,
    FrameTooLarge,
    Internal,
    InvalidArgs,
    InvalidRequest,
    NoSuchSession,
    RequestCancelled,
    TooManyRequests,
)
from agentd.log import Context
from agentd.systemd.events import Event
from agentd.tasks import Tasks
from agentd.worker.calls import MOST, Call, Calls
from agentd.worker.hello import NOBODY, Hello
from agentd.worker.router import Router
from agentd.worker.session import Session
from agentd.worker.sessions import Sessions
from agentd.worker.turns import Prompt

SLOW_BYTES = 1 << 20
"""Bytes unsent at which a client counts as slow: it is sent nothing more that can wait."""
HEARD_BYTES = 1 << 20
"""Of what a slow client sends, read while it is: cancels and answers, which must not wait, but no flood."""
MOST_REQUESTS = 64
"""Requests of one client that the hub itself has under way."""


class Request(NamedTuple):
    """A request that the hub answers itself."""

    client: "Client"
    raw_id: bytes
    method: str
    params: dict[str, Any]
    frame: bytes

    async def put_to(self, router: Router, frame: bytes = b"") -> bytes:
        """The agent's answer to it, or to another frame in its place. Raises AgentRefused, or ours."""
        try:
            return await router.agent.pass_on(
                frame or self.frame, self.method, owner=self.client, raw_id=self.raw_id
            )
        except AgentRefused as exc:
            raise AgentRefused(exc.message, router.to_public(exc.answer)) from None

    @property
    def session_id(self) -> str:
        """Raises InvalidArgs."""
        session_id = self.params.get("sessionId")
        if not isinstance(session_id, str):
            raise InvalidArgs(f"{self.method} needs a sessionId, which is a string")
        return session_id


class Reply:
    """An answer that was sent by the handler itself."""


SENT = Reply()
Handler = Callable[[Request], Awaitable[Any]]
"""Returns the result, the bytes of a whole answer, or SENT. Raises AgentdError."""


class House(Protocol):
    """What a client needs of the hub it lives in."""

    tasks: Tasks
    sessions: Sessions

    @property
    def limits(self) -> Limits: ...

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The requests that the hub answers itself, by method."""

    async def router_of(self, client: "Client", session: Session | None) -> Router:
        """The agent that serves a session, or else this client, started where there is none."""

    def admit_work(self, agent: str = "", session: str = "") -> None:
        """Raises why no work may begin now, for this agent, in this session; "" for any.

        Draining, ShuttingDown, or StoreFailed.
        """

    def cut_off(self, client: "Client") -> None:
        """The client does not get to hear the rest."""

    def left(self, client: "Client") -> None:
        """The client has gone."""

    def changed(self) -> None:
        """Something that Status shows is no longer as it was."""


class Client:
    """One connection, from the descriptor to the last byte. `agent_name`: "" where it named none.

    `wanted`: the session that its first session/new is to be answered with, "" for a new one. `comes_back`:
    whether it is an agentctl, which makes a new connection where this one breaks.
    """

    def __init__(
        self,
        number: int,
        uid: int,
        agent_name: str,
        house: House,
        log: Context,
        *,
        wanted: str = "",
        comes_back: bool = False,
    ) -> None:
        self.number = number
        self.uid = uid
        self.agent_name = agent_name
        self.token = secrets.token_hex(16)
        """By which a later connection can ask what has become of this one's prompts."""
        self._wanted = wanted
        self._comes_back = comes_back
        self.hello: Hello = NOBODY
        self.current: Router | None = None
        """The agent that gets what names no session."""
        self._bound: set[Router] = set()
        """Those it has dealt with, which know who it is and may have logged it in."""
        self.sessions: dict[str, Session] = {}
        self.terminal: Terminal | None = None
        self._house = house
        self._log = log.about(client=f"{number} uid {uid}")
        most = house.limits.client_buffer_bytes
        self._stream = FrameStream(self, house.limits.frame_bytes, min(SLOW_BYTES, most))
        self._asked = Calls()
        self._corked: list[bytes] | None = None
        self._owed = 0
        self._at_work: dict[bytes, asyncio.Task[None]] = {}
        self._backlog: deque[bytes] = deque()
        self._next_lines: asyncio.Handle | None = None
        self._closing = False
        self.gone = False
        self.slow = False
        self._sent_slow = 0
        self._run_in_hand = 0
        self._hang_up: HangUp | None = None

    # Life

    async def serve(self, sock: socket.socket, data: bytes) -> None:
        """Take the connection over, beginning with what somebody has read from it already."""
        self._sock = sock
        self._log.info("client attached", extra={"event": Event.CLIENT_ATTACHED})
        self._stream.feed(data)  # before anything that comes after it can be read
        await self._stream.over_socket(sock)

    def close(self, error: AgentdError) -> None:
        """Take nothing more, tell why to whoever asks for an answer, and close once all is sent."""
        self._closing = True
        for raw_id, task in list(self._at_work.items()):
            task.cancel()
            self.reply(envelope.failure(raw_id, error))
        if self._comes_back:
            leaving = {"reason": error.reason, "message": error.message}
            self.send(envelope.notification(methods.LEAVING, leaving))
        self._stream.finish()

    # Coming back

    def take_wanted(self) -> str:
        """The session it was made for, the first time."""
        wanted, self._wanted = self._wanted, ""
        return wanted

    def go_on_from(self, asked: int) -> None:
        """It was asked so many things on an earlier connection, and may answer them yet."""
        self._asked.count_from(asked)

    def owe(self) -> None:
        """It waits for an answer to something it has sent on an earlier connection."""
        self._owed += 1

    # Sessions and agents

    def enter(self, session: Session, *, replay: bool, on_shown: Callable[[], None] = lambda: None) -> None:
        """Take part in a session; `on_shown` is called when what was said has been sent, if it is wanted."""
        self.sessions[session.id] = session
        session.attach(self, replay=replay, on_shown=on_shown)

    def bind(self, router: Router) -> None:
        """From now on this agent gets what names no session."""
        self.current = router
        self._bound.add(router)
        router.bound.add(self)
        router.joined()

    @property
    def routers(self) -> set[Router]:
        """Every agent it has to do with."""
        serving = (session.router for session in self.sessions.values())
        return self._bound.union(router for router in serving if router is not None)

    # From the client

    def received(self, block: bytes) -> None:
        if self.slow:
            self._sent_slow += len(block)
            if self._sent_slow > HEARD_BYTES:
                self._stream.hold("itself", True)
        self._backlog.extend(line for line in block.split(b"\n") if line.strip())
        if self._next_lines is None:
            self._work_off()

    def _work_off(self) -> None:
        """Line by line; what has begun to be answered gets as far as it can before the next one is read."""
        self._next_lines, begun = None, len(self._at_work)
        self._stream.hold("backlog", False)
        while self._backlog and not self._closing:
            self._line(self._backlog.popleft())
            if len(self._at_work) != begun:
                self._next_lines = asyncio.get_running_loop().call_soon(self._work_off)
                self._stream.hold("backlog", True)
                return
        self._finish_if_done()

    def _line(self, line: bytes) -> None:
        try:
            envelope.require_utf8(line)
            message = envelope.decode(line)
        except AgentdError as exc:
            self.send(envelope.failure(envelope.NULL, exc))
            return
        self._owed += message.is_request
        try:
            self._message(line, message)
        except AgentdError as exc:
            if message.is_request:
                self.reply(envelope.failure(message.raw_id, exc))
            else:
                self._log.info("dropped %s: %s", message.method or "an answer", exc.message)

    def _message(self, line: bytes, message: Envelope) -> None:
        if message.is_request:
            self._request(line, message)
        elif message.is_notification:
            self._notification(line, message)
        elif message.is_response:
            self._response(line, message)
        else:
            self.send(
                envelope.failure(
                    message.raw_id, InvalidRequest("neither a request, an answer nor a notification")
                )
            )

    def _request(self, line: bytes, message: Envelope) -> None:
        method = str(message.method)
        if self._owed > MOST:
            raise TooManyRequests(f"{MOST} requests are waiting for an answer already")
        if method in methods.STARTS_WORK:
            self._house.admit_work()
        if method == methods.SESSION_PROMPT:
            self._prompt(line, message)
        elif handler := self._house.handlers.get(method):
            request = Request(self, message.raw_id, method, _params(line), line)
            self._begin(message.raw_id, self._handle(handler, request), method)
        else:
            self._forward(line, message)

    def _prompt(self, line: bytes, message: Envelope) -> None:
        session = self._session(message.session)
        self._house.admit_work(session.facts.agent, session.id)
        session.prompt(Prompt(self, message.raw_id, line))
        self._house.changed()

    def _begin(self, raw_id: bytes, work: Coroutine[Any, Any, None], name: str) -> None:
        if len(self._at_work) >= MOST_REQUESTS or raw_id in self._at_work:
            work.close()
            raise TooManyRequests(f"{MOST_REQUESTS} requests, or one of the same id, are under way already")
        task = self._at_work[raw_id] = self._house.tasks.start(work, f"{name} for client {self.number}")
        task.add_done_callback(lambda _: self._at_work.pop(raw_id, None))

    async def _handle(self, handler: Handler, request: Request) -> None:
        try:
            answer = await handler(request)
            if isinstance(answer, bytes):
                self.reply(answer)
            elif answer is not SENT:
                self.reply(envelope.result(request.raw_id, answer))
        except AgentdError as exc:
            self.reply(envelope.failure(request.raw_id, exc))
        except Exception:  # whatever broke, it is waiting for an answer
            error = Internal(f"{request.method} failed inside agentd; the journal says where")
            self.reply(envelope.failure(request.raw_id, error))
            raise

    def _forward(self, line: bytes, message: Envelope) -> None:
        session = self._session_of(message)
        router = session.router if session else self.current
        if router is not None and router.agent.alive:
            self._send_on(router, session, line, message)
        else:
            self._begin(message.raw_id, self._send_on_later(session, line, message), str(message.method))

    async def _send_on_later(self, session: Session | None, line: bytes, message: Envelope) -> None:
        try:
            router = await self._house.router_of(self, session)
            await router.greeted()
            self._send_on(router, session, line, message)
        except AgentdError as exc:
            self.reply(envelope.failure(message.raw_id, exc))

    def _send_on(self, router: Router, session: Session | None, line: bytes, message: Envelope) -> None:
        method = str(message.method)
        frame = session.to_agent(line, method) if session else line
        router.agent.request(
            frame, Call(Passing(self, router), message.raw_id, method, message.session, self)
        )

    def _notification(self, line: bytes, message: Envelope) -> None:
        if message.method == methods.CANCEL_REQUEST:
            self._cancel_request(line, message)
        elif self.terminal is not None and message.method in methods.TO_TERMINAL:
            self.terminal.told(str(message.method), _params(line))
        elif message.method == methods.SESSION_CANCEL:
            self._session(message.session).cancel(self, line)
        else:
            session = self._session_of(message)
            router = session.router if session else self.current
            if router is not None:  # else there is nobody whom it could still concern
                router.agent.notify(session.to_agent(line, str(message.method)) if session else line)

    def _cancel_request(self, line: bytes, message: Envelope) -> None:
        raw_id = message.params.raw_request_id if message.params else b""
        if any(session.turns.withdraw(self, raw_id) for session in self.sessions.values()):
            return
        if any(router.agent.cancel_request(self, line, raw_id) for router in self.routers):
            return
        if task := self._at_work.pop(raw_id, None):
            task.cancel()
            self.reply(envelope.failure(raw_id, RequestCancelled("the request was withdrawn")))

    def _response(self, line: bytes, message: Envelope) -> None:
        call = self._asked.settle(message.raw_id)
        if call is None:
            self._log.debug("answered a request that nobody waits for")
            return
        if message.error is not UNSET and any(each.native != each.id for each in self.sessions.values()):
            line = envelope.with_member(line, "error", self._native_error(Raw(bytes(message.error))))
        call.asker.answer(call, envelope.with_id(line, call.raw_id))

    def _native_error(self, error: Raw) -> Raw | dict[str, Any]:
        """An error that may name a session, for its agent."""
        told = envelope.value(error)
        match told:
            case {"data": {"sessionId": str(public)} as data} if public in self.sessions:
                data["sessionId"] = self.sessions[public].native
                return dict(told)
        return error

    def _session(self, session_id: str | None) -> Session:
        session = self.sessions.get(session_id or "")
        if session is None:
            raise NoSuchSession(
                f"no session {session_id} is open here: make one, or load it", sessionId=session_id
            )
        return session

    def _session_of(self, message: Envelope) -> Session | None:
        """The session it names, if any; what nobody here is called may be the agent's own.

        Raises NoSuchSession for one that this client is not in.
        """
        if message.session is None or message.session in self.sessions:
            return self.sessions.get(message.session or "")
        named = message.session
        if self._house.sessions.is_taken(named) or (self.current and self.current.houses(named)):
            self._session(named)
        return None

    def oversized(self, message: Torn) -> None:
        error = FrameTooLarge(f"a message may have {self._house.limits.frame_bytes} bytes at most")
        if not message.is_response or message.raw_id is None:
            self.send(envelope.failure(message.raw_id or envelope.NULL, error))
        elif call := self._asked.settle(message.raw_id):
            call.asker.fail(call, error)

    # To the client

    def send(self, frame: bytes) -> None:
        self.relay(frame + b"\n")

    def relay(self, run: bytes) -> None:
        """Lines that are for it, as they are."""
        if self._corked is not None:
            self._corked.append(run)
            return
        if not self.slow:
            self._run_in_hand = len(run)  # however large it is, a client may take its time over one
        self._stream.write(run)
        if self.slow and self._stream.unsent > self._house.limits.client_buffer_bytes + self._run_in_hand:
            self._overflow()

    def cork(self) -> None:
        """Many small runs are about to come: send them as one, when `uncork` says that this is all."""
        self._corked = []

    def uncork(self) -> None:
        runs, self._corked = self._corked, None
        if runs:
            self.relay(b"".join(runs))

    def reply(self, frame: bytes) -> None:
        """Send an answer it is owed."""
        self.send(frame)
        self._owed -= 1
        self._finish_if_done()

    # What agents want of it

    def can(self, method: str) -> bool:
        return not (self._stream.at_end or self.gone) and self.hello.can(method)

    def ask(self, frame: bytes, call: Call) -> None:
        if self._stream.at_end or self.gone:
            raise ClientGone("the client has gone")
        self.send(envelope.with_id(frame, self._asked.issue(call)))

    def retract(self, owner: object, raw_id: bytes, notice: bytes) -> None:
        if known := self.withdraw(owner, raw_id, notice):
            self._asked.settle(known)

    def withdraw(self, owner: object, raw_id: bytes, notice: bytes) -> bytes | None:
        """Pass `$/cancel_request` on, under the id the client knows the request by, which is returned."""
        known = self._asked.id_of(owner, raw_id)
        if known is not None:
            self.send(envelope.with_param(notice, "requestId", known))
        return known

    # Pace

    def hold(self, reason: str, held: bool) -> None:
        self._stream.hold(reason, held)

    def congested(self, full: bool) -> None:
        """The client reads slowly, or no longer so; it is heard all the same."""
        self.slow = full
        if not full:
            self._sent_slow = 0
            self._stream.hold("itself", False)
        if self.terminal is not None:
            self.terminal.hold(full)
        if not full:
            for router in self.routers:
                router.hold(self, False)
            for session in list(self.sessions.values()):
                session.pump(self)

    def _overflow(self) -> None:
        """Its agents wait for it where that harms nobody else; else it is cut off."""
        alone = [router.hold(self, True) for router in self.routers]
        if not all(alone):
            self.fell_behind()

    def fell_behind(self) -> None:
        self._log.warning("cut off: it does not read what it is sent; it may load its sessions again")
        self._house.cut_off(self)
        self._stream.abort()

    # The end

    def ended(self) -> None:
        """The client writes no more. If it still reads, it gets what it waits for."""
        self._answer_for_it()
        self._hang_up = HangUp(self._sock, self._stream.abort)
        self._finish_if_done()

    def _answer_for_it(self) -> None:
        """It will not answer what the agents have asked."""
        for session in self.sessions.values():
            session.deaf(self)
        for call in self._asked.settle_all():
            call.asker.fail(call, ClientGone("the client has gone"))

    def lost(self) -> None:
        self._log.info("client detached", extra={"event": Event.CLIENT_DETACHED})
        self.gone = True
        if self._hang_up is not None:
            self._hang_up.close()
        if self.terminal is not None:
            self.terminal.close()
        self._answer_for_it()
        for router in self.routers:
            router.hold(self, False)
        for session in self.sessions.values():
            session.detach(self)
        self._house.left(self)

    def _finish_if_done(self) -> None:
        """Close once everything it has asked for is answered and it wants nothing more."""
        if self._stream.at_end and not self._owed and not self._backlog:
            self._stream.finish()


class Passing(NamedTuple):
    """A client's request that was passed on to an agent unseen (Asker)."""

    client: Client
    router: Router

    def answer(self, call: Call, frame: bytes) -> None:
        self.client.reply(self.router.to_public(frame))

    def fail(self, call: Call, error: AgentdError) -> None:
        self.client.reply(envelope.failure(call.raw_id, error))


class Terminal(Protocol):
    """A program in the container that this client sits in front of."""

    def told(self, method: str, params: dict[str, Any]) -> None: ...

    def hold(self, held: bool) -> None: ...

    def close(self) -> None: ...


def _params(line: bytes) -> dict[str, Any]:
    """The params of a message, {} where it has none. Raises InvalidArgs for what is not an object."""
    params = envelope.value(envelope.members(line).get("params", b"{}"))
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise InvalidArgs("params must be an object")
    return params
