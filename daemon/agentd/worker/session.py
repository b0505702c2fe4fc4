# SPDX-License-Identifier: Apache-2.0
"""A session: who is in it, what was said, and the agent that serves it; its prompts are with its `turns`."""

import functools
from collections.abc import Callable, Collection
from typing import Any, Protocol

from msgspec import Raw

from agentd.acp import envelope, methods
from agentd.errors import AgentdError, ClientGone, NoSuchPermission
from agentd.link import PermissionInfo, SessionInfo
from agentd.log import Context
from agentd.store.records import Asked, Permission, Record
from agentd.tasks import Tasks
from agentd.worker import notices, translate
from agentd.worker.agent import Agent
from agentd.worker.attachment import Attachment, Reader
from agentd.worker.calls import Call
from agentd.worker.facts import Facts
from agentd.worker.pathmap import PathMap
from agentd.worker.question import Addressee, Decision, Question
from agentd.worker.router import Listener, Router
from agentd.worker.transcript import Transcript
from agentd.worker.turns import House as TurnsHouse
from agentd.worker.turns import Prompt, Prompter, State, Turns

TITLE = 80
"""Characters of a title in what the manager is told."""
HELD_BYTES = 1 << 20
"""What an agent may say while an answer is on its way to the disk, before it has to wait."""


class Participant(Reader, Addressee, Listener, Prompter, Protocol):
    """A client in a session."""


class House(TurnsHouse, Protocol):
    """What a session needs of the hub it lives in."""

    tasks: Tasks

    @property
    def paths(self) -> PathMap: ...

    def policy(self, kind: str) -> Decision:
        """What the configuration says to a tool call of this kind."""

    def revive(self, session: "Session") -> None:
        """Start an agent for it; `revived` or `not_revived` is called in the end."""


class Session:
    """One conversation with one agent.

    `id` is what clients know it by, `key` what the store does, `native` what its agent calls it; `facts`:
    what is known of it. `created`: None for one that has just been made.
    """

    def __init__(
        self,
        session_id: str,
        key: int,
        facts: Facts,
        owner: int,
        house: House,
        log: Context,
        *,
        created: float | None = None,
    ) -> None:
        self.id = session_id
        self.key = key
        self.native = session_id
        self.owner = owner
        self.facts = facts
        self.created = house.now() if created is None else created
        self.router: Router | None = None
        self.prompted = False
        self.is_awaited = False
        """Whether whoever has asked for it has still to come in."""
        self.muted = False
        """Whether what the agent says is known already: it loads the session anew."""
        self.primer = ""
        """What an agent that remembers nothing has to be told with the next prompt."""
        self.transcript = Transcript(key, house.store, house.limits.transcript_bytes, house.tasks)
        self._house = house
        self.log = log.about(session=session_id)
        self.turns = Turns(self, house, self.log)
        self._attachments: dict[Participant, Attachment] = {}
        self._questions: list[Question] = []
        self._terminal_host: Participant | None = None
        self._held: list[Callable[[], None]] | None = None
        self._held_bytes = 0
        self._held_up: Agent | None = None
        """The agent that has to wait with what it says."""
        self._to_tell: list[Attachment] = []
        """Who is to hear of a turn's end, once its answer is on disk."""
        self.last_used = house.now()

    # What it is

    @property
    def state(self) -> State:
        return self.turns.state

    @property
    def busy(self) -> bool:
        return self.turns.busy

    @property
    def is_idle(self) -> bool:
        return self.state is State.IDLE and not self.busy

    @property
    def is_closed(self) -> bool:
        return self.state is State.CLOSED

    @property
    def clients(self) -> Collection[Participant]:
        return self._attachments.keys()

    @property
    def agent(self) -> Agent | None:
        """Its agent, where one is alive."""
        return self.router.agent if self.router is not None and self.router.agent.alive else None

    def info(self) -> SessionInfo:
        return SessionInfo(
            id=self.id,
            agent=self.facts.agent,
            state=self.state,
            queued=self.turns.waiting,
            key=self.key,
            title=(self.facts.title or "")[:TITLE],
            owner=self.owner,
            clients=len(self._attachments),
            permissions=len(self._questions),
            created_usec=int(self.created * 1e6),
            updated_usec=int(self.last_used * 1e6),
        )

    def save(self, *, facts: bool = False, state: State | None = None) -> None:
        """Have it kept as it is now, or about to be; `facts`: more of it than its record has changed."""
        record = Record(
            key=self.key,
            id=self.id,
            native=self.native,
            agent=self.facts.agent,
            owner=self.owner,
            state=state or self.state,
            created=self.created,
            updated=self.facts.updated,
            prompted=self.prompted,
            cwd=self.facts.cwd,
            title=self.facts.title,
        )
        self._house.store.save(record, self.facts.kept() if facts else None)

    # Coming and going

    def attach(self, client: Participant, *, replay: bool, on_shown: Callable[[], None]) -> None:
        """Let a client in. `replay`: it is shown what was said; `on_shown` is called after that."""
        self.is_awaited = False
        since = self.transcript.first if replay else self.transcript.end
        if client in self._attachments:
            self._attachments[client].end()
        self._attachments[client] = attachment = Attachment(
            client, self.transcript, since, on_shown=on_shown, on_live=lambda: self._put_questions(client)
        )
        self.last_used = self._house.now()
        if self.router is not None:
            self.router.joined()
        attachment.pump()
        self._house.changed()

    def pump(self, client: Participant) -> None:
        """The client has read what it was sent: on with what it has missed, if anything."""
        if client in self._attachments:
            self._attachments[client].pump()

    def detach(self, client: Participant) -> None:
        """A client has gone. Its turn goes on, and so do the prompts it has waiting."""
        attachment = self._attachments.pop(client, None)
        if attachment is None:
            return
        attachment.end()
        self._terminal_host = None if self._terminal_host is client else self._terminal_host
        self.last_used = self._house.now()
        self.deaf(client)

    def deaf(self, client: Participant) -> None:
        """A client will answer nothing more: what it was asked is for others to decide."""
        for question in list(self._questions):
            question.left(client)

    # The agent's comings and goings

    def resume(self) -> None:
        """Have an agent started that serves it; until then prompts wait."""
        self.turns.set_out()
        self._house.revive(self)

    def revived(self, router: Router, native: str) -> None:
        """An agent is there again."""
        self.settle_in(router, native)
        if self.is_closed:
            self.leave_agent()
        else:
            self.save(facts=True)
            self.turns.revived()

    def move(self, facts: Facts) -> None:
        """It begins again with another agent; nothing was said that anybody would have to know."""
        self.leave_agent()
        self.facts = facts
        self.transcript.clear()

    def settle_in(self, router: Router, native: str) -> None:
        """From now on this is the agent that serves it."""
        self.router, self.native = router, native
        router.house(native, self)

    def leave_agent(self) -> None:
        """Its agent serves it no more."""
        if self.router is not None:
            router, self.router = self.router, None
            router.left(self)

    def agent_left(self) -> None:
        """The agent has ended; its calls have failed already."""
        for question in list(self._questions):
            question.close()
        self.router = None

    def cut_off(self, error: AgentdError) -> None:
        """End the turn without its agent, which does not."""
        if self.router is not None:
            self.router.give_up_on(self, error)
        else:
            self.turns.fail(error)

    def close(self, error: AgentdError) -> None:
        """Nobody is served here any more; whoever waits for something gets the error."""
        for question in list(self._questions):
            question.cancel()
        self.turns.close(error)
        for attachment in self._attachments.values():
            attachment.end()
        self._attachments.clear()
        self.transcript.close()
        self.leave_agent()

    # Turns

    def prompt(self, prompt: Prompt) -> None:
        """Run the prompt now, or after those before it. Raises QueueFull, NoSuchSession for a closed one."""
        self.turns.prompt(prompt)
        self.prompted = True

    def cancel(self, client: Participant | None, frame: bytes) -> None:
        """Pass session/cancel on; what this client has waiting here will not run either.

        What the agent has asked is answered after that: it is not to go on, as if somebody had said no.
        """
        asked = list(self._questions)
        self.turns.cancel(client, lambda: self._pass_on_cancel(frame))
        for question in asked:
            question.cancel()

    def cancel_turn(self) -> None:
        """The turn that runs and the prompts that wait, whoever has sent them."""
        self.cancel(None, cancel_notification(self.id))

    def _pass_on_cancel(self, frame: bytes) -> None:
        if self.router is not None:
            self.router.agent.notify(self.to_agent(frame, methods.SESSION_CANCEL))

    def answer(self, call: Call, frame: bytes) -> None:
        """The agent has answered the prompt (Asker)."""
        self.primer = ""
        self.turns.answer(self.router.to_public(frame) if self.router is not None else frame)

    def fail(self, call: Call, error: AgentdError) -> None:
        """The agent will not answer it (Asker)."""
        self.turns.fail(error)

    def said(self, prompt: Prompt) -> bytes:
        before, after = _around_content(self.id)
        return b"".join(before + bytes(block) + after for block in envelope.prompt_blocks(prompt.frame))

    def inward(self, prompt: Prompt) -> bytes:
        frame = self.to_agent(prompt.frame, methods.SESSION_PROMPT)
        return _primed(frame, self.primer) if self.primer else frame

    def begun(self, prompt: Prompt) -> None:
        self.prompted = True
        self._append(self.said(prompt), but=prompt.client)
        self.facts.entitle(prompt.frame, self._house.now())
        self.save()
        self._house.changed()

    def ending(self, prompt: Prompt, outcome: str) -> None:
        self._to_tell = [
            each for client, each in self._attachments.items() if each.live and client is not prompt.client
        ]
        self.transcript.append(notices.ended(self.id, outcome))
        self.save(state=State.IDLE)

    def ended(self, outcome: str) -> None:
        to_tell, self._to_tell = self._to_tell, []
        for attachment in to_tell:
            attachment.relay(notices.ended(self.id, outcome))
        for attachment in self._attachments.values():
            attachment.pump()

    def rested(self) -> None:
        self.last_used = self._house.now()
        if self.router is not None and (self.router.retired or not self.clients):
            self.router.settle()
        self._house.changed()

    def hold(self) -> None:
        self._held, self._held_bytes = [], 0

    def release(self) -> None:
        held, self._held = self._held or [], None
        for deliver in held:
            deliver()
        if self._held_up is not None:
            self._held_up.hold(f"session {self.key}", False)
            self._held_up = None

    def _keep_back(self, held: list[Callable[[], None]], deliver: Callable[[], None], size: int) -> None:
        """Something of the agent's has to wait for an answer that is not out yet."""
        held.append(deliver)
        self._held_bytes += size
        if self._held_up is None and self._held_bytes > HELD_BYTES and self.agent is not None:
            self._held_up = self.agent
            self._held_up.hold(f"session {self.key}", True)

    # From the agent

    def updated(self, block: bytes) -> None:
        """A run of session/update notifications."""
        if self.muted:
            return
        if self._held is not None:
            self._keep_back(self._held, lambda: self.updated(block), len(block))
            return
        if b'_update"' in block or self._may_have_paths(block):
            block = self._looked_at(block, self._noticed)
        elif self._is_rewritten:
            block = self._looked_at(block, self._renamed)
        self._append(block)

    def notified(self, block: bytes, method: str) -> None:
        """Another notification that names this session: for those who are there now."""
        if self._held is not None:
            self._keep_back(self._held, lambda: self.notified(block, method), len(block))
            return
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
        if self._held is not None:
            self._keep_back(self._held, lambda: self.asked(frame, call), len(frame))
            return
        try:
            if self.is_closed:
                raise ClientGone("the session was closed")
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

    def _append(self, run: bytes, *, but: object = None) -> None:
        if run:
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
            on_settled=self._settled,
            log=self.log,
        )
        self._questions.append(question)
        if not question.decide(self._house.policy):
            question.number, question.at = self._house.store.new_number(), self._house.now()
            self._put_permission(question, Asked.PENDING)
            for client, attachment in self._attachments.items():
                if attachment.live:
                    question.put_to(client)
            self._house.changed()

    def _settled(self, question: Question) -> None:
        self._questions.remove(question)
        if question.number:
            self._put_permission(question, Asked.ANSWERED if question.outcome else Asked.EXPIRED)
            self._house.changed()

    def _put_permission(self, question: Question, progress: Asked) -> None:
        permission = Permission(
            number=question.number,
            session=self.key,
            turn=self.turns.number,
            progress=progress,
            at=self._house.now(),
            frame=question.frame,
            outcome=question.outcome,
        )
        self._house.store.put_permission(permission)

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
        chosen = next((client for client in able if client is self.turns.prompter), able[0])
        if method == methods.TERMINAL_CREATE:
            self._terminal_host = chosen
        return chosen

    def permissions(self) -> list[PermissionInfo]:
        """Those that nobody has decided."""
        return [question.info() for question in self._questions]

    def resolve(self, permission: str, option: str, uid: int) -> None:
        """Decide a permission in place of whoever was asked. Raises NoSuchPermission, InvalidArgs."""
        for question in self._questions:
            if str(question.number) == permission:
                question.resolve(option, uid)
                return
        raise NoSuchPermission(f"permission {permission} is not open in session {self.id}: it was decided")

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

        line = rewritten(line, look)
        if self.facts.fresh:
            self.save(facts=True)
            self._house.changed()
        return line

    def tell_choices(self) -> None:
        """The agent has forgotten what was chosen: nobody must believe that it still holds."""
        mode, _ = self.facts.choices
        if mode is not None:
            self.say({"sessionUpdate": "current_mode_update", "currentModeId": mode})
        if (options := self.facts.shown_options()) is not None:
            self.say({"sessionUpdate": "config_option_update", "configOptions": options})

    def say(self, update: dict[str, Any], *, but: object = None) -> None:
        """An update of our own, for all who are there and who come later."""
        if self.facts.fresh:
            self.save(facts=True)
        self._append(notices.update(self.id, update), but=but)


def rewritten(frame: bytes, change: Callable[[dict[str, Any]], bool]) -> bytes:
    """The message with its params changed in place; the same bytes where `change` says that it has not."""
    fields = envelope.members(frame)
    params = envelope.value(fields.get("params", envelope.NULL))
    if not isinstance(params, dict) or not change(params):
        return frame
    fields["params"] = Raw(envelope.encode(params))
    return envelope.encode(fields)


def cancel_notification(session_id: str) -> bytes:
    return envelope.notification(methods.SESSION_CANCEL, {"sessionId": session_id})


def _primed(frame: bytes, primer: str) -> bytes:
    """A prompt with something to read before it."""

    def change(params: dict[str, Any]) -> bool:
        content = params.get("prompt")
        params["prompt"] = [
            {"type": "text", "text": primer},
            *(content if isinstance(content, list) else ()),
        ]
        return True

    return rewritten(frame, change)


@functools.lru_cache(maxsize=256)
def _around_content(session_id: str) -> tuple[bytes, bytes]:
    """What stands before and after the content in a chunk of what a user has said."""
    before, after = notices.update(session_id, {"sessionUpdate": "user_message_chunk", "content": 0}).rsplit(
        b"0", 1
    )
    return before, after
