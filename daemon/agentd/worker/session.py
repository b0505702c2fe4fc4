# SPDX-License-Identifier: Apache-2.0
"""A session: its state, and the prompts that wait for their turn in it."""

import asyncio
import enum
from collections import deque
from typing import NamedTuple, Protocol

from agentd.acp import envelope, methods
from agentd.errors import AgentdError, AgentTimeout, NoSuchSession, QueueFull
from agentd.link import SessionInfo
from agentd.log import Context
from agentd.systemd.events import Event
from agentd.worker.agent import Agent
from agentd.worker.calls import Asker, Call


class State(enum.StrEnum):
    IDLE = "idle"
    PROMPTING = "prompting"
    CANCELLING = "cancelling"
    CLOSED = "closed"


class Prompter(Asker, Protocol):
    """Whoever has sent a prompt."""

    def send(self, frame: bytes) -> None: ...


class Prompt(NamedTuple):
    """A session/prompt request as it came, and who wants its answer."""

    client: Prompter
    raw_id: bytes
    frame: bytes


class Session:
    """Prompts go to the agent one at a time, in order. Every way out of a turn ends in idle or closed."""

    def __init__(
        self, session_id: str, agent: Agent, log: Context, *, queue: int, cancel_sec: float
    ) -> None:
        self.id = session_id
        self._log = log.about(session=session_id)
        self.agent = agent
        self.state = State.IDLE
        self._queue: deque[Prompt] = deque()
        self._most = queue
        self._cancel_sec = cancel_sec
        self._backstop: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        return self.state in (State.PROMPTING, State.CANCELLING)

    def info(self) -> SessionInfo:
        return SessionInfo(id=self.id, agent=self.agent.name, state=self.state, queued=len(self._queue))

    # Turns

    def prompt(self, prompt: Prompt) -> None:
        """Run the prompt now, or after those before it. Raises QueueFull, NoSuchSession for a closed one."""
        if self.state is State.CLOSED:
            raise NoSuchSession(f"session {self.id} has ended", sessionId=self.id)
        if not self.busy:
            self._begin(prompt)
        elif len(self._queue) < self._most:
            self._queue.append(prompt)
        else:
            raise QueueFull(f"{self._most} prompts wait in this session already; let one end first")

    def turn_ended(self) -> None:
        """The agent answered the prompt, one way or the other: on to the next."""
        self._disarm()
        if self.state is State.CLOSED:
            return
        self._log.info("a turn has ended", extra={"event": Event.TURN_ENDED})
        self.state = State.IDLE
        if self._queue:
            self._begin(self._queue.popleft())

    def _begin(self, prompt: Prompt) -> None:
        self.state = State.PROMPTING
        self._log.debug("a turn begins", extra={"event": Event.TURN_STARTED})
        self.agent.request(prompt.frame, Call(prompt.client, prompt.raw_id, methods.SESSION_PROMPT, self.id))

    # Ending turns early

    def cancel(self, client: Prompter | None, frame: bytes) -> None:
        """Pass session/cancel on; what this client has waiting here will not run either."""
        self.agent.notify(frame)
        self._cancel_queued(client)
        if self.state is State.PROMPTING:
            self.state = State.CANCELLING
            loop = asyncio.get_running_loop()
            self._backstop = loop.call_later(self._cancel_sec, self._cancel_ignored)

    def refuse_queued(self, error: AgentdError) -> None:
        """Answer all prompts that wait with an error."""
        while self._queue:
            prompt = self._queue.popleft()
            prompt.client.send(envelope.failure(prompt.raw_id, error))

    def forget(self, client: Prompter) -> None:
        """A client has gone: the prompts it has waiting are not started any more."""
        self._queue = deque(prompt for prompt in self._queue if prompt.client is not client)

    def close(self, error: AgentdError) -> None:
        """The session's agent is no more."""
        self._disarm()
        self.state = State.CLOSED
        self.refuse_queued(error)

    def _cancel_queued(self, client: Prompter | None) -> None:
        mine = [prompt for prompt in self._queue if client in (None, prompt.client)]
        self._queue = deque(prompt for prompt in self._queue if prompt not in mine)
        for prompt in mine:
            prompt.client.send(cancelled_turn(prompt.raw_id))

    def _cancel_ignored(self) -> None:
        waited = f"{self._cancel_sec:g} s"
        self.agent.give_up(
            AgentTimeout(f"{self.agent.name} did not end its turn within {waited} of a cancel")
        )

    def _disarm(self) -> None:
        if self._backstop is not None:
            self._backstop.cancel()
            self._backstop = None


def cancelled_turn(raw_id: bytes) -> bytes:
    """The answer to a prompt that was cancelled."""
    return envelope.result(raw_id, {"stopReason": "cancelled"})


def cancel_notification(session_id: str) -> bytes:
    return envelope.notification(methods.SESSION_CANCEL, {"sessionId": session_id})
