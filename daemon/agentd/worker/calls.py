# SPDX-License-Identifier: Apache-2.0
"""Requests under way: every peer counts its ids from 0, so each hop issues its own."""

from typing import NamedTuple, Protocol

from agentd.acp import envelope
from agentd.errors import AgentdError, TooManyRequests

MOST = 1024
"""Requests one connection may have unanswered."""


class Asker(Protocol):
    """Whoever sent a request and is owed the answer."""

    def answer(self, call: "Call", frame: bytes) -> None:
        """Deliver the answer, which already has the asker's own id."""

    def fail(self, call: "Call", error: AgentdError) -> None:
        """Nobody will answer, and this is why."""


class Call(NamedTuple):
    """A request we passed on. `raw_id` is the id by which `owner`, who wanted it, knows it."""

    asker: Asker
    raw_id: bytes
    method: str
    session: str | None = None
    owner: object = None


class Calls:
    """The requests that one peer has been sent and has not answered yet, by the id we gave them."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._next = 0
        self._open: dict[int, Call] = {}

    def __len__(self) -> int:
        return len(self._open)

    def count_from(self, number: int) -> None:
        """Ids up to this one mean something else to the peer."""
        self._next = max(self._next, number)

    def issue(self, call: Call) -> bytes:
        """An id for a request that is about to be sent. Raises TooManyRequests."""
        if len(self._open) >= self._most:
            raise TooManyRequests(f"{self._most} requests are waiting for an answer already")
        self._next += 1
        self._open[self._next] = call
        return b"%d" % self._next

    def settle(self, raw_id: bytes) -> Call | None:
        """The call an answer is for, now answered; None for an answer nobody waits for."""
        number = envelope.integer(raw_id)
        return None if number is None else self._open.pop(number, None)

    def id_of(self, owner: object, raw_id: bytes) -> bytes | None:
        """The id a peer knows an owner's request by."""
        for number, call in self._open.items():
            if call.owner is owner and call.raw_id == raw_id:
                return b"%d" % number
        return None

    def get(self, raw_id: bytes) -> Call | None:
        """The call that was sent under this id, still open."""
        number = envelope.integer(raw_id)
        return None if number is None else self._open.get(number)

    def settle_all(self, asker: object | None = None) -> list[Call]:
        """Take out every call (of one asker), because nobody will answer or wants to know."""
        taken = [n for n, call in self._open.items() if asker is None or call.asker is asker]
        return [self._open.pop(n) for n in taken]
