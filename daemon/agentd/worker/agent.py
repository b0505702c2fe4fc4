# SPDX-License-Identifier: Apache-2.0
"""An agent process in the container: what goes to it, what comes from it, and its end."""

import asyncio
import enum
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import UNSET

from agentd import proctree
from agentd.acp import envelope, methods
from agentd.acp.envelope import Envelope
from agentd.acp.framing import EDGE, Torn, torn
from agentd.acp.stream import FrameStream
from agentd.config import EnvValue, Limits
from agentd.errors import (
    AgentdError,
    AgentExited,
    AgentFailed,
    AgentMissing,
    AgentRefused,
    AgentTimeout,
    FrameTooLarge,
)
from agentd.link import AgentInfo, ContainerInfo
from agentd.log import Context, Redactor
from agentd.process import Child
from agentd.proctree import MARKER
from agentd.runtimes import Command, Runtime, missing
from agentd.systemd.events import Event
from agentd.worker.calls import MOST, Call, Calls
from agentd.worker.credentials import resolve
from agentd.worker.ration import Ration
from agentd.worker.stderr import Stderr

FLUSH = 1.0
"""Seconds that a dead agent's last output has to come through its pipe."""
LINE = 300
"""Characters of a line of its that is told in an error."""
VERSION = 80
"""Characters of a version in what the manager is told."""
INLET = 1 << 20
"""Bytes unsent to an agent before its clients have to wait."""


class State(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    EXITED = "exited"


class Place(NamedTuple):
    """Where a worker's agents run, and the mark that every one of their processes carries."""

    runtime: Runtime
    container: ContainerInfo
    owner: str
    limits: Limits
    redact: Redactor
    log: Context


class Recipe(NamedTuple):
    """How an agent is come by: a command to run in the container, or a port on which it listens there."""

    command: Command
    env: Mapping[str, EnvValue]
    port: int | None = None
    frame_bytes: int | None = None
    """The longest message it takes, where that is less than what clients may send."""


class Audience(Protocol):
    """Whoever brings an agent's words to those they are for. Called from the event loop."""

    def relay(self, block: bytes, messages: Sequence[Envelope]) -> None:
        """Notifications, as they came, and their envelopes."""

    def asked(self, frame: bytes, message: Envelope) -> None:
        """A request from the agent."""

    def withdrawn(self, frame: bytes, message: Envelope) -> None:
        """The agent no longer wants an answer to a request of its own (`$/cancel_request`)."""

    def hung(self, call: Call, error: AgentdError) -> None:
        """The agent has been silent for too long over a call that is still open."""

    def congested(self, full: bool) -> None:
        """The agent reads more slowly than it is written to, or no longer."""

    def changed(self) -> None:
        """The agent's state is another."""

    def exited(self, error: AgentdError) -> None:
        """The agent has ended and every call to it has been answered."""


class Answer:
    """An asker that waits for the answer: a whole message, which is a result."""

    def __init__(self, on_answer: Callable[[], None] = lambda: None) -> None:
        self._frame: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._on_answer = on_answer

    def answer(self, call: Call, frame: bytes) -> None:
        self._on_answer()
        if self._frame.done():
            return
        refusal = envelope.members(frame).get("error")
        if refusal is None:
            self._frame.set_result(frame)
        else:
            text = envelope.text(envelope.members(refusal).get("message"))
            self._frame.set_exception(AgentRefused(text or "the agent refused", frame))

    def fail(self, call: Call, error: AgentdError) -> None:
        if not self._frame.done():
            self._frame.set_exception(error)

    async def frame(self) -> bytes:
        return await self._frame


class Agent:
    """One process. Started by `run`, which returns when it and all its descendants have ended."""

    def __init__(self, name: str, recipe: Recipe, place: Place, audience: Audience) -> None:
        self.name = name
        self.instance = secrets.token_hex(4)
        self.state = State.STARTING
        self.version = ""
        self.frames = 0
        """Messages that were written to it, and came from it."""
        self._recipe = recipe
        self._place = place
        self._audience = audience
        self.log = place.log.about(agent=name)
        self._ration = Ration(self.log)
        self._stderr = Stderr(self.log, place.redact, self._ration)
        self._stray = ""
        """The last line on stdout that was no message: docker tells there why it has started nothing."""
        self._stream = FrameStream(self, place.limits.frame_bytes, INLET)
        self._streams_lost = asyncio.Event()
        self._child: Child | None = None
        self._calls = Calls(MOST * place.limits.clients)  # each client has a bound of its own
        self._given_up: AgentdError | None = None
        self._has_answered = False
        self.dismissed = False
        """Whether it ends because nobody needs it, and not by a fault of its own."""
        self._stop_asked = asyncio.Event()
        self._held: list[bytes] | None = []
        """What has to wait until it was introduced to its client."""
        self._heard = 0.0
        self.active = asyncio.get_running_loop().time()
        """When it last said or was told something, in the loop's time; at first, when it was started."""
        self._watches: dict[bytes, asyncio.TimerHandle] = {}

    def info(self) -> AgentInfo:
        return AgentInfo(
            name=self.name,
            state=self.state,
            pid=self._child.pid if self._child else 0,
            version=self.version[:VERSION],
        )

    @property
    def alive(self) -> bool:
        return self.state in (State.STARTING, State.READY)

    async def processor_sec(self) -> float:
        """What it and all its descendants have used of processors."""
        return await asyncio.to_thread(proctree.processor_sec, self._mark)

    @property
    def _mark(self) -> str:
        """By which its processes are known."""
        return f"{self._place.owner}/{self.instance}"

    # Life

    async def run(self) -> None:
        """Start, live, end. Every call is answered and the whole process tree is gone when this returns."""
        try:
            status = await self._live()
            error = self._given_up or self._epitaph(status)
        except AgentdError as exc:
            error = exc
        except asyncio.CancelledError:
            self._over(AgentExited(f"{self.name} was stopped", agent=self.name))
            raise
        self._over(error)
        await self._reap()

    async def _live(self) -> int:
        if self._recipe.port is not None:
            return await self._live_at(self._recipe.port)
        command = await asyncio.to_thread(self._prepared)
        self._child, pipes = self._place.runtime.exec(self._place.container, command)
        self.log.info("%s started", self.name, extra={"event": Event.AGENT_STARTED})
        await self._stderr.over_pipe(pipes.stderr)
        await self._stream.over_pipes(pipes.stdout, pipes.stdin)
        ended = asyncio.ensure_future(self._child.wait())
        asked = asyncio.ensure_future(self._stop_asked.wait())
        try:
            await asyncio.wait((ended, asked), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._end(self._child)
            self._stop()  # nobody may be given to it while its last words are heard
            await self._flush()
            return await asyncio.wait_for(ended, self._place.limits.agent_kill_sec)
        except TimeoutError:
            raise AgentTimeout(
                f"{self.name} cannot be ended, not even by SIGKILL", agent=self.name
            ) from None
        finally:
            ended.cancel()
            asked.cancel()
            self._stream.abort()
            self._stderr.close()

    async def _live_at(self, port: int) -> int:
        """An agent that runs already, as a server: the connection is all of it that is ours."""
        sock = await self._place.runtime.connect(self._place.container, port)
        await self._stream.over_socket(sock)
        self.log.info("%s connected", self.name, extra={"event": Event.AGENT_STARTED})
        try:
            await self._stop_asked.wait()
            self._stream.finish()
            await self._flush()
        finally:
            self._stream.abort()
        return 0

    def _prepared(self) -> Command:
        """The command with its whole environment; reads files, so it is run in a thread."""
        env = resolve(self._recipe.env)
        self._place.redact.add(env.values())
        return self._recipe.command._replace(env={**env, MARKER: self._mark})

    async def _end(self, child: Child) -> None:
        """EOF and SIGTERM to the whole tree, then SIGKILL; at last the engine's exec client itself."""
        self._stream.finish()
        await self._reap()
        await child.stop(term=0.2, kill=self._place.limits.agent_kill_sec)

    async def _reap(self) -> None:
        limits = self._place.limits
        left = await self._place.runtime.reap(
            self._place.container, self._mark, term=limits.agent_stop_sec, kill=limits.agent_kill_sec
        )
        if left:
            self.log.error("%d processes of %s would not end", left, self.name)

    async def _flush(self) -> None:
        """Let the last words through: the process has gone, what it wrote may still be in the pipe."""
        self._stream.release()
        try:
            await asyncio.wait_for(self._streams_lost.wait(), FLUSH)
        except TimeoutError:
            self.log.debug("somebody still holds the pipes of %s", self.name)

    def _epitaph(self, status: int) -> AgentdError:
        details = {"agent": self.name, "exit_status": status, "stderr_tail": self._stderr.tail}
        if self._has_answered:
            return AgentExited(f"{self.name} ended (exit status {status}) before it had answered", **details)
        said = (self._stderr.tail or self._stray).strip()
        program = next(iter(self._recipe.command.argv), "")
        if missing.is_missing(program, status, said):
            return AgentMissing(
                f"{self._place.container.name} has no program {program} to run {self.name}", **details
            )
        why = f": {line[:LINE]}" if (line := missing.reason(status, said)) else ""
        text = f"{self.name} ended before it had answered anything (exit status {status}){why}"
        return AgentFailed(text, **details)

    def _over(self, error: AgentdError) -> None:
        self._ration.settle()
        level = logging.INFO if self.dismissed else logging.WARNING
        self.log.log(level, "%s", error.message, extra={"event": Event.AGENT_EXITED})
        self.state = State.EXITED
        self._fail_all(error)
        self._audience.exited(error)

    def dismiss(self, reason: AgentdError) -> None:
        """End it because it is no longer needed; whoever still waits for it gets the reason."""
        self.dismissed = True
        self.give_up(reason)

    def give_up(self, error: AgentdError) -> None:
        """End it because it no longer does what it must; whoever waits for it gets this error, now."""
        self._given_up = self._given_up or error
        self._stop()
        self._fail_all(error)

    def _stop(self) -> None:
        """`run` returns when it has ended."""
        if self.alive:
            self.state = State.STOPPING
            self._stop_asked.set()
            self._audience.changed()

    # To the agent

    def request(self, frame: bytes, call: Call) -> None:
        """Send a request under an id of ours. The call is answered in every case, now or later."""
        try:
            self._admit(frame)
            raw_id = self._calls.issue(call)
        except AgentdError as exc:
            call.asker.fail(call, exc)
            return
        if call.method in methods.HANDSHAKES:
            self._expect(raw_id, call)
        self._send(envelope.with_id(frame, raw_id))

    def _admit(self, frame: bytes) -> None:
        if not self.alive:
            raise self._given_up or AgentExited(f"{self.name} has ended", agent=self.name)
        if self._recipe.frame_bytes is not None and len(frame) > self._recipe.frame_bytes:
            raise FrameTooLarge(f"{self.name} takes {self._recipe.frame_bytes} bytes in a message at most")

    async def pass_on(
        self,
        frame: bytes,
        method: str,
        *,
        owner: object = None,
        raw_id: bytes = envelope.NULL,
        on_answer: Callable[[], None] = lambda: None,
    ) -> bytes:
        """Send a request and return its answer, under `raw_id`. Raises AgentRefused for an error, or ours.

        `owner` and `raw_id`: on whose behalf, so that they can cancel it. `on_answer` is called before
        anything is heard of what the agent says after its answer.
        """
        asked = Answer(on_answer)
        self.request(frame, Call(asked, raw_id, method, owner=owner))
        return await asked.frame()

    async def ask(self, method: str, params: object) -> Any:
        """Ask something of our own; returns the result. Raises AgentRefused, or ours."""
        return envelope.result_of(await self.pass_on(envelope.request(0, method, params), method))

    async def introduce(self, params: object) -> Any:
        """Say hello, before everything else, and return its answer."""
        asked = Answer()
        call = Call(asked, envelope.NULL, methods.INITIALIZE)
        raw_id = self._calls.issue(call)
        self._expect(raw_id, call)
        self._write(envelope.with_id(envelope.request(0, methods.INITIALIZE, params), raw_id))
        return envelope.result_of(await asked.frame())

    def notify(self, frame: bytes) -> None:
        """Send a notification, or an answer, as it is."""
        self._send(frame)

    def cancel_request(self, owner: object, frame: bytes, raw_id: bytes) -> bool:
        """Pass `$/cancel_request` on, under the id the agent knows the request by, if it knows it."""
        known = self._calls.id_of(owner, raw_id)
        if known is not None:
            self._send(envelope.with_param(frame, "requestId", known))
        return known is not None

    def abandon(self, asker: object, error: AgentdError) -> None:
        """Fail an asker's calls now; what the agent may still answer them is nobody's business."""
        for call in self._calls.settle_all(asker):
            call.asker.fail(call, error)

    def call(self, raw_id: bytes) -> Call | None:
        """The open call that the agent knows by this id."""
        return self._calls.get(raw_id)

    def hold(self, reason: str, held: bool) -> None:
        """Stop or go on reading its output."""
        self._stream.hold(reason, held)

    def _send(self, frame: bytes) -> None:
        if self._held is not None:
            self._held.append(frame)
        else:
            self._write(frame)

    def _write(self, frame: bytes) -> None:
        self._trace("to", frame)
        self.active = asyncio.get_running_loop().time()
        self.frames += 1
        self._stream.send(frame)

    def _let_go(self) -> None:
        held, self._held = self._held or [], None
        for frame in held:
            self._send(frame)

    # Answers to what the agent asked (Asker)

    def answer(self, call: Call, frame: bytes) -> None:
        self._send(frame)

    def fail(self, call: Call, error: AgentdError) -> None:
        """A question nobody will answer: who asks for permission does not get it, others get an error."""
        if call.method == methods.REQUEST_PERMISSION:
            self._send(envelope.result(call.raw_id, {"outcome": {"outcome": "cancelled"}}))
        else:
            self._send(envelope.failure(call.raw_id, error))

    # Deadlines of silence

    def _expect(self, raw_id: bytes, call: Call) -> None:
        """Report the agent if it is silent for too long over a request that nobody has to think about."""
        self._heard = asyncio.get_running_loop().time()
        self._watch(raw_id, call, self._place.limits.agent_handshake_sec)

    def _watch(self, raw_id: bytes, call: Call, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._watches[raw_id] = loop.call_later(seconds, self._check_silence, raw_id, call)

    def _check_silence(self, raw_id: bytes, call: Call) -> None:
        patience = self._place.limits.agent_handshake_sec
        quiet = asyncio.get_running_loop().time() - max(self._heard, self._stderr.heard)
        if quiet < patience:
            self._watch(raw_id, call, patience - quiet)
            return
        del self._watches[raw_id]
        text = f"{self.name} was silent for {patience:g} s over {call.method}"
        self._audience.hung(call, AgentTimeout(text, agent=self.name))

    def _settle(self, raw_id: bytes) -> Call | None:
        if watch := self._watches.pop(raw_id, None):
            watch.cancel()
        return self._calls.settle(raw_id)

    def _fail_all(self, error: AgentdError) -> None:
        while self._watches:
            self._watches.popitem()[1].cancel()
        for call in self._calls.settle_all():
            call.asker.fail(call, error)

    # From the agent

    def received(self, block: bytes) -> None:
        """Lines from stdout: runs of notifications go on as one piece, everything else one by one."""
        if self._given_up is not None:
            return  # everybody has been told that it is over
        self._heard = self.active = asyncio.get_running_loop().time()
        messages = envelope.decode_block(block) if envelope.is_utf8(block) else None
        if messages is None or self.log.isEnabledFor(logging.DEBUG):
            self.frames += block.count(b"\n")
            for line in block.split(b"\n"):
                self._line(line)
            return
        self.frames += len(messages)
        if all(map(_just_passes, messages)):
            self._audience.relay(block, messages)
        elif len(messages) == 1:  # the answer to a prompt, mostly: nothing to take apart
            self._message(block[:-1], messages[0])
        else:
            self._mixed(block, messages)

    def _mixed(self, block: bytes, messages: list[Envelope]) -> None:
        lines, passing = block.split(b"\n"), [_just_passes(message) for message in messages]
        start = 0
        for at, passes in enumerate(passing):
            if not passes:
                self._relay(lines[start:at], messages[start:at])
                self._message(lines[at], messages[at])
                start = at + 1
        self._relay(lines[start:-1], messages[start:])  # split ends with an empty piece

    def _relay(self, lines: list[bytes], messages: list[Envelope]) -> None:
        if messages:
            self._audience.relay(b"\n".join([*lines, b""]), messages)

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        self._trace("from", line)
        try:
            envelope.require_utf8(line)
            message = envelope.decode(line)
        except AgentdError as exc:
            shown = self._stray = self._place.redact(line[:EDGE].decode(errors="replace"))[:200]
            if self._ration.allows(line[:EDGE]):
                text = "%s wrote something on stdout that is not ACP (%s): %s"
                self.log.warning(text, self.name, exc.reason, shown)
            if line.startswith(b"{"):
                self._answer_for(torn(line[:EDGE], line[-EDGE:]), exc)
            return
        self._message(line, message)

    def _message(self, line: bytes, message: Envelope) -> None:
        if _just_passes(message):
            self._audience.relay(line + b"\n", [message])
        elif message.is_notification:
            self._audience.withdrawn(line, message)
        elif message.is_request:
            self._audience.asked(line, message)
        elif message.is_response:
            self._response(line, message.raw_id)
        elif self._ration.allows(line[:EDGE]):
            self.log.warning("%s sent a message that is neither request, answer nor notification", self.name)

    def _response(self, line: bytes, raw_id: bytes) -> None:
        call = self._settle(raw_id)
        if call is None:
            self.log.debug("%s answered a request that nobody waits for", self.name)
            return
        self._has_answered = True
        if self.state is State.STARTING:
            self.state = State.READY
        call.asker.answer(call, envelope.with_id(line, call.raw_id))
        if call.method == methods.INITIALIZE:
            self.version = envelope.agent_version(line) or self.version
            self._audience.changed()
            self._let_go()

    def oversized(self, message: Torn) -> None:
        error = FrameTooLarge(
            f"{self.name} sent a message of more than {self._place.limits.frame_bytes} bytes"
        )
        if self._ration.allows(error.message.encode()):
            self.log.warning("%s", error.message)
        if message.raw_id is None and message.is_response:
            self.give_up(error)  # somebody waits for this, and nobody can tell who
        else:
            self._answer_for(message, error)

    def _answer_for(self, message: Torn, error: AgentdError) -> None:
        """Whoever waits for something that came as what cannot be passed on gets an error."""
        if message.raw_id is None:
            return
        if not message.is_response:
            self._send(envelope.failure(message.raw_id, error))
        elif call := self._settle(message.raw_id):
            call.asker.fail(call, error)

    def ended(self) -> None:
        self._stop()  # who closes stdout is done, and will mostly have ended already

    def lost(self) -> None:
        self._streams_lost.set()

    def congested(self, full: bool) -> None:
        self._audience.congested(full)

    def _trace(self, direction: str, frame: bytes) -> None:
        if self.log.isEnabledFor(logging.DEBUG):
            self.log.debug(
                "%s %s: %s", direction, self.name, self._place.redact(frame.decode(errors="replace"))
            )


def _just_passes(message: Envelope) -> bool:
    """Whether a message is a notification in which nothing has to be rewritten. Called for every frame."""
    return message.id is UNSET and message.method is not UNSET and message.method != methods.CANCEL_REQUEST
