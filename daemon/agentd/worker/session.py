# SPDX-License-Identifier: Apache-2.0
"""A session: its state, who is in it, the prompts that wait for their turn, and what was said."""

import asyncio
import enum
import functools
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

from msgspec import Raw

from agentd.acp import envelope, methods
from agentd.config import Limits
from agentd.errors import (
    AgentdError,
    AgentTimeout,
    ClientGone,
    NoSuchSession,
    QueueFull,
    RequestCancelled,
)
from agentd.link import SessionInfo
from agentd.log import Context
from agentd.systemd.events import Event
from agentd.worker import translate
from agentd.worker.attachment import Attachment, Reader
from agentd.worker.calls import Call
from agentd.worker.facts import Facts
from agentd.worker.pathmap import PathMap
from agentd.worker.question import Addressee, Decision, Question
from agentd.worker.router import Listener, Router
from agentd.worker.transcript import Transcript


class State(enum.StrEnum):
    IDLE = "idle"
    PROMPTING = "prompting"
    CANCELLING = "cancelling"
    RESUMING = "resuming"
    CLOSED = "closed"


class Participant(Reader, Addressee, Listener, Protocol):
    """A client in a session."""

    def reply(self, frame: bytes) -> None:
        """Send the answer to a request of its own."""


class Prompt(NamedTuple):
    """A session/prompt request as it came, and who wants its answer."""

    client: Participant
    raw_id: bytes
    frame: bytes


class House(Protocol):
    """What a session needs of the hub it lives in."""

    @property
    def limits(self) -> Limits: ...

    @property
    def paths(self) -> PathMap: ...

    def policy(self, kind: str) -> Decision:
        """What the configuration says to a tool call of this kind."""

    def revive(self, session: "Session") -> None:
        """Start an agent for it; `revived` or `not_revived` is called in the end."""

    def changed(self) -> None:
        """Something that Status shows is no longer as it was."""


class Session:
    """Prompts go to the agent one at a time, in order. Every way out of a turn ends in idle or closed.

    `id` is what clients know it by, `native` what its agent calls it; `facts`: what is known of it.
    """

    def __init__(self, session_id: str, facts: Facts, owner: int, house: House, log: Context) -> None:
        self.id = session_id
        self.native = session_id
        self.owner = owner
        self.facts = facts
        self.state = State.IDLE
        self.router: Router | None = None
        self.prompted = False
        self.muted = False
        """Whether what the agent says is known already: it loads the session anew."""
        self.transcript = Transcript(house.limits.transcript_bytes)
        self._house = house
        self.log = log.about(session=session_id)
        self._turn: Prompt | None = None
        self._queue: deque[Prompt] = deque()
        self._attachments: dict[Participant, Attachment] = {}
        self._questions: list[Question] = []
        self._terminal_host: Participant | None = None
        self._backstop: asyncio.TimerHandle | None = None
        self.last_used = asyncio.get_running_loop().time()

    @property
    def busy(self) -> bool:
        """Whether a turn runs, or a prompt waits for its agent to be there."""
        return self._turn is not None

    @property
    def is_idle(self) -> bool:
        return self.state is State.IDLE

    @property
    def is_closed(self) -> bool:
        return self.state is State.CLOSED

    @property
    def clients(self) -> Collection[Participant]:
        return self._attachments.keys()

    def info(self) -> SessionInfo:
        return SessionInfo(id=self.id, agent=self.facts.agent, state=self.state, queued=len(self._queue))

    # Coming and going

    def attach(self, client: Participant, *, replay: bool, on_shown: Callable[[], None]) -> None:
        """Let a client in. `replay`: it is shown what was said; `on_shown` is called after that."""
        since = self.transcript.start if replay else self.transcript.end
        self._attachments[client] = attachment = Attachment(
            client, self.transcript, since, on_shown=on_shown, on_live=lambda: self._put_questions(client)
        )
        if self.router is not None:
            self.router.joined()
        attachment.pump()

    def pump(self, client: Participant) -> None:
        """The client has read what it was sent: on with what it has missed, if anything."""
        if client in self._attachments:
            self._attachments[client].pump()

    def detach(self, client: Participant) -> None:
        """A client has gone. Its turn goes on, and so do the prompts it has waiting."""
        if self._attachments.pop(client, None) is None:
            return
        self._terminal_host = None if self._terminal_host is client else self._terminal_host
        self.last_used = asyncio.get_running_loop().time()
        self.deaf(client)

    def deaf(self, client: Participant) -> None:
        """A client will answer nothing more: what it was asked is for others to decide."""
        for question in list(self._questions):
            question.left(client)

    # Turns

    def prompt(self, prompt: Prompt) -> None:
        """Run the prompt now, or after those before it. Raises QueueFull, NoSuchSession for a closed one."""
        if self.state is State.CLOSED:
            raise NoSuchSession(f"session {self.id} has ended", sessionId=self.id)
        self.prompted = True
        if not self.busy and self.state is State.IDLE:
            self._begin(prompt)
        elif len(self._queue) < self._house.limits.prompt_queue:
            self._queue.append(prompt)
        else:
            most = self._house.limits.prompt_queue
            raise QueueFull(f"{most} prompts wait in this session already; let one end first")

    def _begin(self, prompt: Prompt) -> None:
        self._turn = prompt
        if self.router is None or not self.router.agent.alive:
            self.resume()
        else:
            self._run(self.router, prompt)

    def _run(self, router: Router, prompt: Prompt) -> None:
        self.state = State.PROMPTING
        self.log.debug("a turn begins", extra={"event": Event.TURN_STARTED})
        call = Call(self, prompt.raw_id, methods.SESSION_PROMPT, self.id, prompt.client)
        try:
            frame = self.to_agent(prompt.frame, methods.SESSION_PROMPT)
        except AgentdError as exc:
            self.fail(call, exc)
            return
        self._show(_said(self.id, prompt.frame), prompt)
        self.facts.entitle(prompt.frame)
        router.agent.request(frame, call)

    def resume(self) -> None:
        """Have an agent started that serves it; until then prompts wait."""
        self.set_out()
        self._house.revive(self)

    def set_out(self) -> None:
        """Its agent is on its way; `revived` or `not_revived` has to follow."""
        self.state = State.RESUMING
        self._house.changed()

    def revived(self, router: Router, native: str) -> None:
        """An agent is there again."""
        self.settle_in(router, native)
        if self.state is State.CLOSED:
            self.leave_agent()
            return
        self.state = State.IDLE
        if self._turn is not None:
            self._run(router, self._turn)
        else:
            self._next()

    def not_revived(self, error: AgentdError) -> None:
        """No agent could be had: the prompt that wanted it fails, and the next one tries again."""
        if self.state is State.CLOSED:
            return
        self.state = State.IDLE
        if self._turn is not None:
            self._end_turn(envelope.failure(self._turn.raw_id, error), error.reason)
        else:
            self._next()

    def move(self, facts: Facts) -> None:
        """It begins again with another agent; nothing was said that anybody would have to know."""
        self.leave_agent()
        self.facts = facts
        self.transcript.clear()

    def settle_in(self, router: Router, native: str) -> None:
        """From now on this is the agent that serves it."""
        self.router, self.native = router, native
        router.house(native, self)

    def answer(self, call: Call, frame: bytes) -> None:
        """The agent has answered the prompt (Asker)."""
        frame = self.router.to_public(frame) if self.router is not None else frame
        self._end_turn(frame, envelope.stop_reason(frame) or "error")

    def fail(self, call: Call, error: AgentdError) -> None:
        """The agent will not answer it (Asker); to whoever has cancelled it, that is just as well."""
        if self.state is State.CANCELLING:
            self._end_turn(cancelled_turn(call.raw_id), "cancelled")
        else:
            self._end_turn(envelope.failure(call.raw_id, error), error.reason)

    def _end_turn(self, answer: bytes, outcome: str) -> None:
        self._disarm()
        prompt, self._turn = self._turn, None
        if prompt is None:
            return
        prompt.client.reply(answer)
        self.log.info("a turn has ended", extra={"event": Event.TURN_ENDED})
        self._show(_ended(self.id, outcome), prompt)
        self.last_used = asyncio.get_running_loop().time()
        if self.state not in (State.CLOSED, State.RESUMING):
            self.state = State.IDLE
            self._next()
        if self.router is not None and (self.router.retired or not self.clients):
            self.router.settle()
        self._house.changed()

    def _next(self) -> None:
        if self._queue:
            self._begin(self._queue.popleft())

    def _show(self, run: bytes, prompt: Prompt) -> None:
        """What the one who sent the prompt knows already, for everybody else and for later."""
        self._append(run, but=prompt.client)

    # Ending turns early

    def cancel(self, client: Participant | None, frame: bytes) -> None:
        """Pass session/cancel on; what this client has waiting here will not run either."""
        self._cancel_queued(client)
        for question in list(self._questions):
            question.cancel()
        if self.state is State.RESUMING and self._turn is not None:
            self._end_turn(cancelled_turn(self._turn.raw_id), "cancelled")
            return
        if self.router is not None:
            self.router.agent.notify(self.to_agent(frame, methods.SESSION_CANCEL))
        if self.state is State.PROMPTING:
            self.state = State.CANCELLING
            loop = asyncio.get_running_loop()
            self._backstop = loop.call_later(self._house.limits.cancel_sec, self._cancel_ignored)

    def withdraw(self, client: Participant, raw_id: bytes) -> bool:
        """Take a prompt out that still waits. Returns whether there was one."""
        for prompt in self._queue:
            if prompt.client is client and prompt.raw_id == raw_id:
                self._queue.remove(prompt)
                prompt.client.reply(envelope.failure(raw_id, RequestCancelled("the prompt was withdrawn")))
                return True
        return False

    def refuse_queued(self, error: AgentdError) -> None:
        """Answer all prompts that wait with an error."""
        while self._queue:
            prompt = self._queue.popleft()
            prompt.client.reply(envelope.failure(prompt.raw_id, error))

    def close(self, error: AgentdError) -> None:
        """Nobody is served here any more; whoever waits for something gets the error."""
        self.state = State.CLOSED
        self.refuse_queued(error)
        for question in list(self._questions):
            question.cancel()
        if self._turn is not None:
            self._end_turn(envelope.failure(self._turn.raw_id, error), error.reason)
        self._disarm()
        self._attachments.clear()
        self.leave_agent()

    def leave_agent(self) -> None:
        """Its agent serves it no more."""
        if self.router is not None:
            router, self.router = self.router, None
            router.left(self)

    def _cancel_queued(self, client: Participant | None) -> None:
        mine = [prompt for prompt in self._queue if client in (None, prompt.client)]
        self._queue = deque(prompt for prompt in self._queue if prompt not in mine)
        for prompt in mine:
            prompt.client.reply(cancelled_turn(prompt.raw_id))

    def _cancel_ignored(self) -> None:
        waited = f"{self._house.limits.cancel_sec:g} s"
        text = f"{self.facts.agent} did not end its turn within {waited} of a cancel"
        self.cut_off(AgentTimeout(text, agent=self.facts.agent))

    def cut_off(self, error: AgentdError) -> None:
        """End the turn without its agent, which does not."""
        if self.router is not None:
            self.router.give_up_on(self, error)
        elif self._turn is not None:
            self._end_turn(envelope.failure(self._turn.raw_id, error), error.reason)

    def _disarm(self) -> None:
        if self._backstop is not None:
            self._backstop.cancel()
            self._backstop = None

    # From the agent

    def updated(self, block: bytes) -> None:
        """A run of session/update notifications."""
        if self.muted:
            return
        if b'_update"' in block or self._may_have_paths(block):
            block = self._looked_at(block, self._noticed)
        elif self._is_rewritten:
            block = self._looked_at(block, self._renamed)
        self._append(block)

    def notified(self, block: bytes, method: str) -> None:
        """Another notification that names this session: for those who are there now."""
        if self._is_rewritten or self._may_have_paths(block):
            block = self._looked_at(block, lambda line: self._to_client(line, method))
        for client in self._attachments:
            client.relay(block)

    def _looked_at(self, block: bytes, look: Callable[[bytes], bytes]) -> bytes:
        """Each line as clients must see it; one in which nothing can be found, or changed, is left out."""
        lines = []
        for line in block.split(b"\n")[:-1]:
            try:
                lines.append(look(line))
            except AgentdError as exc:
                self.log.warning("left out what %s has sent: %s", self.facts.agent, exc.message)
        return b"".join(line + b"\n" for line in lines)

    def _may_have_paths(self, block: bytes) -> bool:
        return not self._house.paths.same and translate.needs_look(block)

    def unmute(self) -> None:
        self.muted = False

    def asked(self, frame: bytes, call: Call) -> None:
        """A request of the agent's."""
        try:
            if self._is_rewritten or not self._house.paths.is_everything:
                frame = self._to_client(frame, call.method)
            if call.method == methods.REQUEST_PERMISSION:
                self._decide(frame, call)
            else:
                self._somebody_for(call.method).ask(frame, call)
        except AgentdError as exc:
            call.asker.fail(call, exc)

    def withdrawn(self, raw_id: bytes, notice: bytes) -> bool:
        """The agent does not want a permission any more. Returns whether it had asked here."""
        for question in self._questions:
            if question.raw_id == raw_id:
                question.cancel(notice)
                return True
        return False

    def agent_left(self) -> None:
        """The agent has ended; its calls have failed already."""
        for question in list(self._questions):
            question.close()
        self.router = None

    def _append(self, run: bytes, *, but: Participant | None = None) -> None:
        self.transcript.append(run)
        for client, attachment in self._attachments.items():
            if client is not but:
                attachment.relay(run)
            elif not attachment.live:
                attachment.pump()

    def _decide(self, frame: bytes, call: Call) -> None:
        question = Question(
            call.asker,
            call,
            frame,
            wait_sec=self._house.limits.permission_wait_sec,
            on_settled=self._questions.remove,
            log=self.log,
        )
        self._questions.append(question)
        if not question.decide(self._house.policy):
            for client, attachment in self._attachments.items():
                if attachment.live:
                    question.put_to(client)

    def _put_questions(self, client: Participant) -> None:
        for question in list(self._questions):
            question.put_to(client)

    def _somebody_for(self, method: str) -> Participant:
        """Whose turn it is, if it can; terminals all stay with one client, for their ids are its own."""
        if method.startswith("terminal/") and self._terminal_host is not None:
            return self._terminal_host
        able = [client for client in self._attachments if client.can(method)] or list(self._attachments)
        if not able:
            raise ClientGone("no client is there to answer this")
        chosen = self._turn.client if self._turn and self._turn.client in able else able[0]
        if method == methods.TERMINAL_CREATE:
            self._terminal_host = chosen
        return chosen

    # Rewriting

    @property
    def _is_rewritten(self) -> bool:
        return self.native != self.id or (self.router is not None and self.router.renames)

    def to_agent(self, frame: bytes, method: str) -> bytes:
        """A client's frame as its agent must see it. Raises UnmappedPath."""
        if self.native == self.id and self._house.paths.is_everything:
            return frame
        return rewritten(frame, lambda params: self._inward(method, params))

    def _inward(self, method: str, params: dict[str, Any]) -> bool:
        params["sessionId"] = self.native
        return translate.to_agent(method, params, self._house.paths) or self.native != self.id

    def _renamed(self, line: bytes) -> bytes:
        """An update in which at most the names of sessions are to change."""
        if b"SessionId" in line:  # it may name others
            return self._to_client(line, methods.SESSION_UPDATE)
        return envelope.with_param(line, "sessionId", envelope.encode(self.id))

    def _to_client(self, line: bytes, method: str) -> bytes:
        return rewritten(line, lambda params: self._outward(method, params))

    def _outward(self, method: str, params: dict[str, Any]) -> bool:
        params["sessionId"] = self.id
        named = self.router is not None and self.router.make_public(params.get("update"))
        return translate.to_client(method, params, self._house.paths) or named or self.native != self.id

    def _noticed(self, line: bytes) -> bytes:
        """An update, of which we keep what somebody who comes later has to know."""

        def look(params: dict[str, Any]) -> bool:
            changed = self._outward(methods.SESSION_UPDATE, params)
            return self.facts.notice(params.get("update")) or changed

        return rewritten(line, look)

    def tell_choices(self) -> None:
        """The agent has forgotten what was chosen: nobody must believe that it still holds."""
        mode, _ = self.facts.choices
        if mode is not None:
            self.say({"sessionUpdate": "current_mode_update", "currentModeId": mode})
        if (options := self.facts.shown_options()) is not None:
            self.say({"sessionUpdate": "config_option_update", "configOptions": options})

    def say(self, update: dict[str, Any], *, but: Participant | None = None) -> None:
        """An update of our own, for all who are there and who come later."""
        self._append(_update(self.id, update), but=but)


def rewritten(frame: bytes, change: Callable[[dict[str, Any]], bool]) -> bytes:
    """The message with its params changed in place; the same bytes where `change` says that it has not."""
    fields = envelope.members(frame)
    params = envelope.value(fields.get("params", envelope.NULL))
    if not isinstance(params, dict) or not change(params):
        return frame
    fields["params"] = Raw(envelope.encode(params))
    return envelope.encode(fields)


def cancelled_turn(raw_id: bytes) -> bytes:
    """The answer to a prompt that was cancelled."""
    return envelope.result(raw_id, {"stopReason": "cancelled"})


def cancel_notification(session_id: str) -> bytes:
    return envelope.notification(methods.SESSION_CANCEL, {"sessionId": session_id})


def _update(session_id: str, update: dict[str, Any]) -> bytes:
    return envelope.notification(methods.SESSION_UPDATE, {"sessionId": session_id, "update": update}) + b"\n"


def _said(session_id: str, prompt: bytes) -> bytes:
    """A prompt as those see it who did not send it."""
    before, after = _around_content(session_id)
    return b"".join(before + bytes(block) + after for block in envelope.prompt_blocks(prompt))


@functools.lru_cache(maxsize=256)
def _around_content(session_id: str) -> tuple[bytes, bytes]:
    """What stands before and after the content in a chunk of what a user has said."""
    before, after = _update(session_id, {"sessionUpdate": "user_message_chunk", "content": 0}).rsplit(
        b"0", 1
    )
    return before, after


@functools.lru_cache(maxsize=256)
def _ended(session_id: str, outcome: str) -> bytes:
    told = {"agentd.turn": {"state": "ended", "outcome": outcome}}
    return _update(session_id, {"sessionUpdate": "session_info_update", "_meta": told})
