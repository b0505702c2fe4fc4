# SPDX-License-Identifier: Apache-2.0
"""The turns of a session, one at a time and in order: each is on disk before anybody acts on it."""

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from agentd.acp import envelope, methods
from agentd.config import Limits
from agentd.errors import (
    AgentdError,
    AgentTimeout,
    BudgetExhausted,
    NoSuchSession,
    QueueFull,
    RequestCancelled,
)
from agentd.log import Context
from agentd.store import records
from agentd.store.keeper import Keeper
from agentd.store.records import Progress
from agentd.systemd.events import Event
from agentd.worker.agent import Agent
from agentd.worker.budget import Budget
from agentd.worker.calls import Asker, Call
from agentd.worker.facts import Facts


class State(enum.StrEnum):
    IDLE = "idle"
    PROMPTING = "prompting"
    CANCELLING = "cancelling"
    RESUMING = "resuming"
    CLOSED = "closed"


class Prompter(Protocol):
    """A client that has sent a prompt. `token` names its connection for as long as anybody may ask."""

    token: str
    uid: int

    def reply(self, frame: bytes) -> None:
        """Send the answer to a request of its own."""


class Prompt(NamedTuple):
    """A session/prompt request as it came, and who wants its answer."""

    client: Prompter
    raw_id: bytes
    frame: bytes


class Turn:
    """A prompt on its way through."""

    def __init__(self, prompt: Prompt, number: int, at: float) -> None:
        self.prompt = prompt
        self.number = number
        self.at = at
        self.begun = 0.0
        self.recorded = False
        self.sent = False
        self.ending = False
        """Whether its answer is there already, and only has to reach the disk."""


class Owner(Asker, Protocol):
    """What a session's turns need of it. What its agent answers to a prompt, it hands on to them."""

    id: str
    key: int
    facts: Facts

    @property
    def agent(self) -> Agent | None:
        """The agent, where one is alive."""

    def resume(self) -> None:
        """Have an agent started; `revived` or `not_revived` is called in the end."""

    def said(self, prompt: Prompt) -> bytes:
        """A prompt as those see it who did not send it."""

    def inward(self, prompt: Prompt) -> bytes:
        """A prompt as its agent must see it. Raises UnmappedPath."""

    def begun(self, prompt: Prompt) -> None:
        """A turn has begun: show the prompt to everybody else, and note what it tells of the session."""

    def ending(self, prompt: Prompt, outcome: str) -> None:
        """A turn has ended: note it, to be kept together with its answer."""

    def ended(self, outcome: str) -> None:
        """The answer is on disk and was sent: show that to everybody else."""

    def rested(self) -> None:
        """Whatever could follow a turn has begun."""

    def hold(self) -> None:
        """Keep back what the agent says, until `release`: it comes after an answer that is not out yet."""

    def release(self) -> None: ...

    def cut_off(self, error: AgentdError) -> None:
        """The agent does not end its turn."""


class House(Protocol):
    """What turns need of the hub."""

    store: Keeper
    budget: Budget

    @property
    def limits(self) -> Limits: ...

    def now(self) -> float:
        """Unix time."""

    def changed(self) -> None:
        """Something that Status shows is no longer as it was."""


class Turns:
    """The turn that runs and the prompts that wait. Every way out of a turn ends in idle or closed."""

    def __init__(self, owner: Owner, house: House, log: Context) -> None:
        self.state = State.IDLE
        self._owner = owner
        self._house = house
        self._store = house.store
        self._log = log
        self._turn: Turn | None = None
        self._queue: deque[Turn] = deque()
        self._exhausted = False
        """Whether the last prompt was one too many for the budget."""
        self._backstop: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether a turn runs, or a prompt waits for its agent to be there."""
        return self._turn is not None

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def prompter(self) -> Prompter | None:
        """Whose turn it is."""
        return self._turn.prompt.client if self._turn else None

    @property
    def number(self) -> int:
        """The running turn's in the store, 0 where there is none."""
        return self._turn.number if self._turn else 0

    # Beginning

    def prompt(self, prompt: Prompt) -> None:
        """Run the prompt now, or after those before it.

        Raises QueueFull, BudgetExhausted, NoSuchSession for a closed one.
        """
        if self.state is State.CLOSED:
            raise NoSuchSession(f"session {self._owner.id} has ended", sessionId=self._owner.id)
        most = self._house.limits.prompt_queue
        if self.busy or self.state is not State.IDLE:
            if len(self._queue) >= most:
                raise QueueFull(f"{most} prompts wait in this session already; let one end first")
            self._wait(self._new(prompt))
        else:
            self._begin(self._new(prompt))

    def _new(self, prompt: Prompt) -> Turn:
        self._admit()
        return Turn(prompt, self._store.new_number(), self._house.now())

    def _admit(self) -> None:
        """Raises BudgetExhausted, which is logged once, and not for each prompt of one that runs wild."""
        try:
            self._house.budget.admit(self._owner.key)
        except BudgetExhausted as exc:
            if not self._exhausted:
                self._log.warning("%s", exc.message, extra={"event": Event.BUDGET_EXHAUSTED})
            self._exhausted = True
            raise
        self._exhausted = False

    def _wait(self, turn: Turn) -> None:
        self._queue.append(turn)
        self._put(turn, Progress.QUEUED, said=self._owner.said(turn.prompt))

    def _begin(self, turn: Turn) -> None:
        self._turn = turn
        turn.begun = self._house.now()
        self._house.budget.begun(self._owner.key)
        if self._owner.agent is None:
            self._owner.resume()
        else:
            self._record(turn)

    def _record(self, turn: Turn) -> None:
        """The agent gets the prompt once it is on disk."""
        self.state = State.PROMPTING
        self._log.debug("a turn begins", extra={"event": Event.TURN_STARTED})
        try:
            frame = self._owner.inward(turn.prompt)
        except AgentdError as exc:
            self._fail(turn, exc)
            return
        if turn.recorded:
            self._send(turn, frame)
            return
        turn.recorded = True
        self._owner.begun(turn.prompt)
        self._put(turn, Progress.RUNNING)
        self._store.sync(lambda error: self._recorded(turn, frame, error), self._owner.key)

    def _recorded(self, turn: Turn, frame: bytes, error: AgentdError | None) -> None:
        if turn is not self._turn or turn.ending:
            return
        if error is not None:
            self._fail(turn, error)
        elif self._owner.agent is None:  # it has ended in between
            self._owner.resume()
        else:
            self._send(turn, frame)

    def _send(self, turn: Turn, frame: bytes) -> None:
        agent, prompt = self._owner.agent, turn.prompt
        assert agent is not None
        turn.sent = True
        agent.request(
            frame,
            Call(self._owner, prompt.raw_id, methods.SESSION_PROMPT, self._owner.id, prompt.client),
        )

    # The agent's comings and goings

    def set_out(self) -> None:
        """Its agent is on its way; `revived` or `not_revived` has to follow."""
        self.state = State.RESUMING
        self._house.changed()

    def revived(self) -> None:
        """An agent is there again."""
        self._come_to_rest()
        if self._turn is None:
            self._next()
        elif not self._turn.ending:  # or the next one begins when this one is over
            self._record(self._turn)

    def not_revived(self, error: AgentdError) -> None:
        """No agent could be had: the prompt that wanted it fails, and the next one tries again."""
        if self.state is State.CLOSED:
            return
        self._come_to_rest()
        if self._turn is not None:
            self._fail(self._turn, error)
        else:
            self._next()

    def _come_to_rest(self) -> None:
        self.state = State.IDLE
        self._house.changed()

    # Ending

    def answer(self, frame: bytes) -> None:
        """The agent has answered the prompt."""
        self._end(frame, envelope.stop_reason(frame) or "error")

    def fail(self, error: AgentdError) -> None:
        """Nobody will answer it; to whoever has cancelled it, that is just as well."""
        if self._turn is None:
            return
        if self.state is State.CANCELLING:
            self._end(cancelled_turn(self._turn.prompt.raw_id), "cancelled")
        else:
            self._fail(self._turn, error)

    def _fail(self, turn: Turn, error: AgentdError) -> None:
        self._end(envelope.failure(turn.prompt.raw_id, error), error.reason)

    def _end(self, answer: bytes, outcome: str) -> None:
        """The client gets the answer once it is on disk."""
        self._disarm()
        turn = self._turn
        if turn is None or turn.ending:
            return
        turn.ending = True
        self._owner.hold()
        if turn.recorded:  # nobody has heard of any other
            self._owner.ending(turn.prompt, outcome)
        self._put(turn, Progress.ENDED, outcome=outcome, answer=answer)
        self._store.sync(lambda error: self._over(turn, answer, outcome, error), self._owner.key)

    def _over(self, turn: Turn, answer: bytes, outcome: str, error: AgentdError | None) -> None:
        self._turn = None
        if error is not None and turn.sent:
            answer = _not_kept(turn.prompt.raw_id, outcome, error)
        turn.prompt.client.reply(answer)
        self._log.info("a turn has ended", extra={"event": Event.TURN_ENDED})
        if self.state not in (State.CLOSED, State.RESUMING):
            self.state = State.IDLE
        self._owner.ended(outcome)
        self._owner.release()
        if self.state is State.IDLE:
            self._next()
        self._owner.rested()

    def _next(self) -> None:
        if self._queue:
            self._begin(self._queue.popleft())

    # Ending early

    def cancel(self, client: Prompter | None, tell: Callable[[], None]) -> None:
        """What this client (None: whoever) has waiting will not run; `tell` tells the agent the rest."""
        self._cancel_queued(client)
        turn = self._turn
        if turn is not None and not turn.ending and not turn.sent:
            self._end(cancelled_turn(turn.prompt.raw_id), "cancelled")
            return
        tell()
        if self.state is State.PROMPTING and turn is not None and not turn.ending:
            self.state = State.CANCELLING
            self._house.changed()
            loop = asyncio.get_running_loop()
            self._backstop = loop.call_later(self._house.limits.cancel_sec, self._cancel_ignored)

    def withdraw(self, client: Prompter, raw_id: bytes) -> bool:
        """Take a prompt out that still waits. Returns whether there was one."""
        for turn in self._queue:
            if turn.prompt.client is client and turn.prompt.raw_id == raw_id:
                self._queue.remove(turn)
                error = RequestCancelled("the prompt was withdrawn")
                self._answer_queued(turn, envelope.failure(raw_id, error), error.reason)
                return True
        return False

    def refuse_queued(self, error: AgentdError) -> None:
        """Answer all prompts that wait with an error."""
        while self._queue:
            turn = self._queue.popleft()
            self._answer_queued(turn, envelope.failure(turn.prompt.raw_id, error), error.reason)

    def close(self, error: AgentdError) -> None:
        """Nothing runs here any more; whoever waits for something gets the error."""
        self.state = State.CLOSED
        self.refuse_queued(error)
        if self._turn is not None:
            self._fail(self._turn, error)
        self._disarm()

    def adopt(self, token: str, raw_id: bytes, client: Prompter) -> bool:
        """A client has come back: the answer to this prompt of its old connection is for the new one.

        `raw_id`: in its canonical form.
        """
        for turn in [*([self._turn] if self._turn else []), *self._queue]:
            old, its_id = turn.prompt.client, envelope.canonical(turn.prompt.raw_id)
            if (old.token, old.uid, its_id) == (token, client.uid, raw_id):
                turn.prompt = turn.prompt._replace(client=client)
                return True
        return False

    def _cancel_queued(self, client: Prompter | None) -> None:
        mine = [turn for turn in self._queue if client in (None, turn.prompt.client)]
        self._queue = deque(turn for turn in self._queue if turn not in mine)
        for turn in mine:
            self._answer_queued(turn, cancelled_turn(turn.prompt.raw_id), "cancelled")

    def _answer_queued(self, turn: Turn, answer: bytes, outcome: str) -> None:
        self._house.budget.dropped(self._owner.key)
        self._put(turn, Progress.ENDED, outcome=outcome, answer=answer)
        turn.prompt.client.reply(answer)
        self._house.changed()

    def _cancel_ignored(self) -> None:
        waited, name = f"{self._house.limits.cancel_sec:g} s", self._owner.facts.agent
        text = f"{name} did not end its turn within {waited} of a cancel"
        self._owner.cut_off(AgentTimeout(text, agent=name))

    def _disarm(self) -> None:
        if self._backstop is not None:
            self._backstop.cancel()
            self._backstop = None

    # The record of it

    def _put(
        self,
        turn: Turn,
        progress: Progress,
        *,
        said: bytes = b"",
        outcome: str = "",
        answer: bytes = b"",
    ) -> None:
        client = turn.prompt.client
        self._store.put_turn(
            records.Turn(
                number=turn.number,
                session=self._owner.key,
                client=client.token,
                owner=client.uid,
                raw_id=envelope.canonical(turn.prompt.raw_id),
                progress=progress,
                at=turn.at,
                begun=turn.begun,
                said=said,
                outcome=outcome,
                answer=answer,
                ended=self._house.now() if answer else 0.0,
            )
        )


def cancelled_turn(raw_id: bytes) -> bytes:
    """The answer to a prompt that was cancelled."""
    return envelope.result(raw_id, {"stopReason": "cancelled"})


def _not_kept(raw_id: bytes, outcome: str, error: AgentdError) -> bytes:
    """The answer in place of one that must not be given away before it is on disk."""
    text = f"the turn has ended ({outcome}), but its result could not be kept: {error.message}"
    return envelope.failure(raw_id, type(error)(text, outcome=outcome))
