# SPDX-License-Identifier: Apache-2.0
"""A client's connection, and the agent that works for it.

Every frame is looked at only as far as needed to know where it goes; what the hub has no part in passes in
both directions with nothing changed but its id.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from msgspec import Raw

from agentd.acp import envelope, methods
from agentd.acp.envelope import Envelope
from agentd.acp.framing import Torn
from agentd.acp.stream import FrameStream, gone
from agentd.config import Limits
from agentd.errors import AgentdError, AgentExited, ClientGone, FrameTooLarge, InvalidRequest, NoSuchSession
from agentd.log import Context
from agentd.systemd.events import Event
from agentd.worker.agent import Agent
from agentd.worker.calls import Call, Calls
from agentd.worker.session import Prompt, Session, State, cancelled_turn

DETACHED_SEC = 600.0
"""How long a turn may go on after its client has gone."""


class House(Protocol):
    """What a client needs of the hub it lives in."""

    @property
    def limits(self) -> Limits: ...

    def hire(self, client: "Client") -> Agent:
        """Start an agent for this client. Raises AgentdError."""

    def admit_work(self, method: str) -> None:
        """Raises Draining, ShuttingDown or LimitReached where a request of this kind cannot be taken now."""

    def left(self, client: "Client") -> None:
        """The client has gone, and its agent's work with it."""

    def changed(self) -> None:
        """Something that Status shows is no longer as it was."""


class Client:
    """One connection, from the descriptor to the last byte. Its agent is its own."""

    def __init__(self, number: int, uid: int, agent_name: str, house: House, log: Context) -> None:
        self.number = number
        self.uid = uid
        self.agent_name = agent_name
        self.sessions: dict[str, Session] = {}
        self._house = house
        self._log = log.about(client=f"{number} uid {uid}")
        self._stream = FrameStream(self, house.limits.frame_bytes, house.limits.client_buffer_bytes)
        self._asked = Calls()
        self._agent: Agent | None = None
        self._hello: bytes | None = None
        self._closing = False
        self._gone = False
        self._detached: asyncio.TimerHandle | None = None
        self._requests: dict[str, Callable[[bytes, Envelope], None]] = {
            methods.INITIALIZE: self._initialize,
            methods.SESSION_PROMPT: self._prompt,
        }

    # Life

    async def serve(self, sock: socket.socket, data: bytes) -> None:
        """Take the connection over, beginning with what somebody has read from it already."""
        self._sock = sock
        self._log.info("client attached", extra={"event": Event.CLIENT_ATTACHED})
        self._stream.feed(data)  # before anything that comes after it can be read
        await self._stream.over_socket(sock)

    @property
    def turns(self) -> int:
        return sum(session.busy for session in self.sessions.values())

    @property
    def agent(self) -> Agent | None:
        return self._agent

    def close(self, error: AgentdError) -> None:
        """Tell the client why, by every answer it still waits for, and close once that is sent."""
        self._closing = True
        for session in self.sessions.values():
            session.refuse_queued(error)
        if self._agent is not None:
            self._agent.dismiss(error)
        self._stream.finish()

    # From the client

    def received(self, block: bytes) -> None:
        for line in block.split(b"\n"):
            if line.strip() and not self._closing:
                self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            envelope.require_utf8(line)
            message = envelope.decode(line)
        except AgentdError as exc:
            self.send(envelope.failure(envelope.NULL, exc))
            return
        try:
            self._message(line, message)
        except AgentdError as exc:
            if message.is_request:
                self.send(envelope.failure(message.raw_id, exc))
            else:
                self._log.info("dropped %s: %s", message.method or "an answer", exc.message)

    def _message(self, line: bytes, message: Envelope) -> None:
        if message.is_request:
            self._requests.get(str(message.method), self._forward)(line, message)
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

    def _initialize(self, line: bytes, message: Envelope) -> None:
        self._hello = line
        self._forward(line, message)

    def _prompt(self, line: bytes, message: Envelope) -> None:
        self._house.admit_work(methods.SESSION_PROMPT)
        session = self._session(message.session)
        session.prompt(Prompt(self, message.raw_id, line))
        self._house.changed()

    def _forward(self, line: bytes, message: Envelope) -> None:
        method = str(message.method)
        if method in methods.STARTS_WORK:
            self._house.admit_work(method)
        agent = self._working_agent(is_hello=method == methods.INITIALIZE)
        agent.request(line, Call(self, message.raw_id, method, message.session))

    def _notification(self, line: bytes, message: Envelope) -> None:
        agent = self._agent
        if agent is None or not agent.alive:
            return  # there is nobody whom it could still concern
        if message.method == methods.CANCEL_REQUEST and isinstance(message.params, envelope.Params):
            agent.cancel_request(self, line, message.params.raw_request_id)
        elif message.method == methods.SESSION_CANCEL and message.session in self.sessions:
            self.sessions[message.session].cancel(self, line)
        else:
            agent.notify(line)

    def _response(self, line: bytes, message: Envelope) -> None:
        call = self._asked.settle(message.raw_id)
        if call is None:
            self._log.debug("answered a request that nobody waits for")
        elif call.asker is not None:
            call.asker.answer(call, envelope.with_id(line, call.raw_id))

    def _session(self, session_id: str | None) -> Session:
        session = self.sessions.get(session_id or "")
        if session is None:
            raise NoSuchSession(
                f"no session {session_id} is open here: make one, or load it", sessionId=session_id
            )
        return session

    def _working_agent(self, *, is_hello: bool = False) -> Agent:
        """This client's agent, started anew where it has ended and told what the client said at first."""
        if self._agent is not None and self._agent.alive:
            return self._agent
        self._agent = self._house.hire(self)
        if self._hello is not None and not is_hello:
            self._agent.introduce(self._hello)
        return self._agent

    def oversized(self, message: Torn) -> None:
        error = FrameTooLarge(f"a message may have {self._house.limits.frame_bytes} bytes at most")
        if not message.is_response or message.raw_id is None:
            self.send(envelope.failure(message.raw_id or envelope.NULL, error))
        elif (call := self._asked.settle(message.raw_id)) and call.asker is not None:
            call.asker.fail(call, error)

    # To the client

    def send(self, frame: bytes) -> None:
        self._stream.send(frame)

    def answer(self, call: Call, frame: bytes) -> None:
        self._stream.send(frame)

    def fail(self, call: Call, error: AgentdError) -> None:
        session = self.sessions.get(call.session or "")
        if (
            call.method == methods.SESSION_PROMPT
            and session is not None
            and session.state is State.CANCELLING
        ):
            self.send(cancelled_turn(call.raw_id))  # it asked for just that
        else:
            self.send(envelope.failure(call.raw_id, error))

    # From the agent (Audience)

    def relay(self, block: bytes) -> None:
        self._stream.write(block)

    def asked(self, agent: Agent, frame: bytes, message: Envelope) -> None:
        call = Call(agent, message.raw_id, str(message.method), message.session)
        if self._stream.at_end or self._gone:
            agent.fail(call, ClientGone("the client has gone"))
            return
        try:
            self.send(envelope.with_id(frame, self._asked.issue(call)))
        except AgentdError as exc:
            agent.fail(call, exc)

    def withdrawn(self, agent: Agent, frame: bytes, message: Envelope) -> None:
        known = message.params and self._asked.id_of(agent, message.params.raw_request_id)
        if known:
            self.send(envelope.with_param(frame, "requestId", known))

    def answered(self, agent: Agent, call: Call, frame: bytes | None) -> None:
        if call.method == methods.SESSION_PROMPT:
            self._turn_ended(call.session)
        elif frame is not None:
            self._note_session(agent, call, envelope.members(frame).get("result"))
        self._leave_if_done()

    def _turn_ended(self, session_id: str | None) -> None:
        session = self.sessions.get(session_id or "")
        if session is not None:
            session.turn_ended()
            self._house.changed()

    def _note_session(self, agent: Agent, call: Call, result: Raw | None) -> None:
        """What a successful answer says about which sessions there are."""
        if result is None:
            return
        if call.method in methods.CREATES_SESSION:
            self._open_session(envelope.text(envelope.members(result).get("sessionId")), agent)
        elif call.method in methods.OPENS_SESSION:
            self._open_session(call.session, agent)
        elif call.method in methods.ENDS_SESSION and call.session in self.sessions:
            self.sessions.pop(call.session).close(NoSuchSession("the session was closed"))
            self._house.changed()

    def _open_session(self, session_id: str | None, agent: Agent) -> None:
        if session_id is None or session_id in self.sessions:
            return
        limits = self._house.limits
        session = Session(
            session_id, agent, agent.log, queue=limits.prompt_queue, cancel_sec=limits.cancel_sec
        )
        self.sessions[session_id] = session
        self._house.changed()

    def agent_congested(self, full: bool) -> None:
        self._stream.hold("agent", full)

    def agent_exited(self, agent: Agent, error: AgentdError) -> None:
        self._asked.settle_all(agent)
        for session in [each for each in self.sessions.values() if each.agent is agent]:
            session.close(error)
            del self.sessions[session.id]
        self._house.changed()
        self._leave_if_done()

    def congested(self, full: bool) -> None:
        """The client reads slowly: its agent waits, and so does whatever else it wants."""
        self._stream.hold("itself", full)
        if self._agent is not None:
            self._agent.hold("client", full)

    # The end

    def ended(self) -> None:
        """The client writes no more. If it still reads, it gets what it waits for."""
        self._answer_for_it()
        if gone(self._sock):
            self._stream.abort()
        else:
            self._leave_if_done()

    def _answer_for_it(self) -> None:
        """Nobody will answer what the agent has asked any more."""
        for call in self._asked.settle_all():
            if call.asker is not None:
                call.asker.fail(call, ClientGone("the client has gone"))

    def lost(self) -> None:
        self._log.info("client detached", extra={"event": Event.CLIENT_DETACHED})
        self._gone = True
        self._answer_for_it()
        for session in self.sessions.values():
            session.forget(self)
        if self._agent is not None:
            self._agent.hold("client", False)
        self._detached = asyncio.get_running_loop().call_later(DETACHED_SEC, self._dismiss)
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        """Close once everything asked for is answered; go once no turn runs on without the client."""
        if self._gone and not self.turns:
            self._dismiss()
        elif self._stream.at_end and not (self._agent and self._agent.owes(self)):
            self._stream.finish()

    def _dismiss(self) -> None:
        if self._detached is not None:
            self._detached.cancel()
        if self._agent is not None:
            self._agent.dismiss(AgentExited("its client has gone"))
        self._house.left(self)
