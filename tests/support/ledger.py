# SPDX-License-Identifier: Apache-2.0
"""What every end of many conversations has seen of them, and whether all of that can be true at once."""

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from support.acp_client import Frame

SLACK_SEC = 5.0
"""How long before a prompt a fault may have been of which it fails: not everybody has noticed at once."""
OUTAGE_SEC = 30.0
"""How long after a fault a new connection may still be refused, or begin in the middle of a turn."""
NOTICE_SEC = 1.0
"""How long what a killed worker has said may still be under way."""
BLAMED = {
    "interrupted": {"worker"},
    "agent_exited": {"agent", "worker"},
    "agent_failed": {"agent", "worker"},
}
"""The errors that a prompt may end with, and the faults one of which must have been."""


class Fault(NamedTuple):
    """Something that was killed. `container`: "" for what concerns all."""

    at: float
    kind: str
    container: str


@dataclass
class Prompt:
    """A prompt as its client knows it. `outcome`: its stop reason, or its error's reason; "" for none yet.

    `orphaned`: its client was killed and will not hear the answer. `count`: chunks it asks for.
    """

    token: str
    container: str
    session: str
    count: int
    sent: float
    answered: float = 0.0
    outcome: str = ""
    orphaned: bool = False


class Shown(NamedTuple):
    """A turn as it was shown. `outcome`: "" where its end was not."""

    chunks: int
    outcome: str
    notice: str


class Ledger:
    """All prompts, faults and cancels, by `time.monotonic()`, and all that was found to be wrong."""

    def __init__(self) -> None:
        self.prompts: dict[str, Prompt] = {}
        self.faults: list[Fault] = []
        self.refused: Counter[str] = Counter()
        """Connections that had to be tried again, by exit status or reason."""
        self.problems: list[str] = []
        self._cancels: list[tuple[float, str]] = []
        self._lock = threading.Lock()

    # Noting

    def sent(self, prompt: Prompt) -> None:
        with self._lock:
            self.prompts[prompt.token] = prompt

    def cancelled(self, session: str) -> None:
        with self._lock:
            self._cancels.append((time.monotonic(), session))

    def fault(self, kind: str, container: str = "") -> None:
        with self._lock:
            self.faults.append(Fault(time.monotonic(), kind, container))

    def refusal(self, what: str) -> None:
        with self._lock:
            self.refused[what] += 1

    def problem(self, text: str) -> None:
        with self._lock:
            self.problems.append(text)

    # Asking

    def struck(self, kinds: set[str], container: str, since: float, until: float) -> bool:
        """Whether a fault of one of these kinds has hit the container in that time."""
        return any(
            each.kind in kinds and each.container in ("", container) and since <= each.at <= until
            for each in list(self.faults)
        )

    def struck_lately(self, kinds: set[str], container: str) -> bool:
        now = time.monotonic()
        return self.struck(kinds, container, now - OUTAGE_SEC, now)

    def of(self, session: str) -> list[Prompt]:
        return [each for each in list(self.prompts.values()) if each.session == session]

    def used(self, sessions: Iterable[str], ran: Collection[str]) -> list[str]:
        """Those in which something was run. One that never was is forgotten when its client is killed."""
        return [session for session in sessions if any(each.token in ran for each in self.of(session))]

    @property
    def slowest(self) -> float:
        """Seconds that the slowest answer took."""
        return max(
            (each.answered - each.sent for each in self.prompts.values() if each.answered), default=0.0
        )

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(
            each.outcome or ("orphaned" if each.orphaned else "none") for each in self.prompts.values()
        )

    # Judging

    def judge_answers(self) -> None:
        """Every prompt has one answer, and an error only where there is a fault to blame."""
        for prompt in self.prompts.values():
            if not (prompt.outcome or prompt.orphaned):
                self.problem(f"{prompt.token}: never answered")
            elif prompt.outcome and not self._is_excused(prompt):
                self.problem(f"{prompt.token} in {prompt.session}: {prompt.outcome}, and nothing to blame")

    def _is_excused(self, prompt: Prompt) -> bool:
        if prompt.outcome == "end_turn":
            return True
        since, until = prompt.sent - SLACK_SEC, prompt.answered
        if prompt.outcome == "cancelled":
            return any(since <= at <= until and each == prompt.session for at, each in self._cancels)
        return self.struck(BLAMED.get(prompt.outcome, set()), prompt.container, since, until)

    def judge_runs(self, runs: list[str]) -> None:
        """No agent ran a prompt twice, one did run each that has a result, and a client's in order."""
        last: dict[tuple[str, str], int] = {}
        for token, count in Counter(runs).items():
            if count > 1:
                self.problem(f"{token}: run {count} times")
            client, _, number = token.partition("-")
            line = client, self.prompts[token].session
            if int(number) < last.get(line, 0):
                self.problem(f"{token}: run after {client}-{last[line]}")
            last[line] = int(number)
        ran = set(runs)
        for prompt in self.prompts.values():
            if prompt.outcome == "end_turn" and prompt.token not in ran:
                self.problem(f"{prompt.token}: has a result, but was never run")

    def judge_replay(self, session: str, shown: dict[str, Shown], runs: Collection[str]) -> None:
        """What is kept of a session is what its clients were told."""
        for prompt in self.of(session):
            turn = shown.get(prompt.token)
            if prompt.outcome == "end_turn" and turn != Shown(prompt.count, "end_turn", ""):
                self.problem(f"{prompt.token}: a result over {prompt.count} chunks, but kept is {turn}")
            elif turn is not None and prompt.outcome and turn.outcome != prompt.outcome:
                self.problem(f"{prompt.token}: was answered {prompt.outcome}, but kept is {turn}")
            elif turn is not None and not turn.outcome:
                self.problem(f"{prompt.token}: its end is not kept")
            elif turn is not None and "was not run" in turn.notice and prompt.token in runs:
                self.problem(f"{prompt.token}: {turn.notice}, but it was")


def runs_in(file: Path) -> list[str]:
    """The tokens of the prompts that agents have run, as they have noted them, in that order."""
    return [line.split()[3] for line in file.read_text().splitlines()]


def token_of(script: str) -> str:
    """The token of a prompt's script."""
    return script.split()[1]


@dataclass
class Turn:
    """A turn in a view. `next`: the number of the chunk that has to come."""

    next: int = 0
    outcome: str = ""
    notice: str = ""


@dataclass
class View:
    """One client in one session, from when it came until its connection has ended.

    It was shown everything from the beginning. `own`: the tokens of its own prompts.
    """

    ledger: Ledger
    who: str
    container: str
    own: set[str] = field(default_factory=set)
    turns: dict[str, Turn] = field(default_factory=dict)
    current: str = ""
    _sound_at: float = 0.0
    """When it was last known what runs."""

    def shown(self) -> dict[str, Shown]:
        return {token: Shown(turn.next, turn.outcome, turn.notice) for token, turn in self.turns.items()}

    @property
    def is_finishing(self) -> bool:
        """Whether of the turn that runs only the end is still to come."""
        return (
            bool(self.current) and self.turns[self.current].next == self.ledger.prompts[self.current].count
        )

    def check_all_of(self, prompts: Iterable[Prompt]) -> None:
        """All of these turns, which are over, have been shown."""
        for each in prompts:
            if self.turns.get(each.token, Turn()).next != each.count:
                self._complain(
                    each.token, f"had a result, and is not shown whole: {self.turns.get(each.token)}"
                )

    def take(self, update: Frame) -> None:
        """An update of the session."""
        match update:
            case {"sessionUpdate": "user_message_chunk", "content": {"text": str(script)}}:
                self._said(token_of(script))
            case {"_meta": {"agentd.notice": str(text)}}:
                self._noticed(text)
            case {"sessionUpdate": "agent_message_chunk", "content": {"text": str(text)}}:
                token, is_chunk, number = text.rpartition(":")
                if is_chunk and token in self.ledger.prompts:
                    self._chunk(token, int(number))
            case {"_meta": {"agentd.turn": {"outcome": str(outcome)}}}:
                self._ended(outcome)

    def answered(self, token: str, outcome: str) -> None:
        """The answer to a prompt of its own has come."""
        turn = self.turns.setdefault(token, Turn())
        count = self.ledger.prompts[token].count
        if outcome == "end_turn" and turn.next != count and not self._is_patchy:
            self._complain(token, f"answered after {turn.next} of {count} chunks")
        self._end(token, outcome)

    def _said(self, token: str) -> None:
        if token in self.turns:
            self._complain(token, "shown twice")
        self._begin(token)
        self._sound_at = time.monotonic()

    @property
    def _is_patchy(self) -> bool:
        """Whether something may be missing: what was said while it was on its way to the next worker."""
        now = time.monotonic()
        since = max(now - OUTAGE_SEC, self._sound_at - NOTICE_SEC)
        return self.ledger.struck({"worker"}, self.container, since, now)

    def _begin(self, token: str) -> None:
        if self.current and not self.turns[self.current].outcome and not self._is_patchy:
            self._complain(token, f"began before the end of {self.current}")
        self.turns[token] = Turn()
        self.current = token

    def _chunk(self, token: str, number: int) -> None:
        if token not in self.turns:
            self._begin(token)
            if token not in self.own:
                self._join(token, number)
        turn = self.turns[token]
        if turn.next != number:
            self._complain(token, f"chunk {number} came where {turn.next} was next")
        if token != self.current or turn.outcome:
            self._complain(token, f"chunk {number} came after its end ({turn.outcome or self.current})")
        turn.next = number + 1

    def _join(self, token: str, number: int) -> None:
        """Somebody else's turn that nobody has announced: it came in the middle of that."""
        if self._is_patchy:
            self.turns[token].next = number
        else:
            self._complain(token, "was not announced")

    def _noticed(self, text: str) -> None:
        if text.startswith("interrupted") and self.current:
            self.turns[self.current].notice = text

    def _ended(self, outcome: str) -> None:
        if self.current and not self.turns[self.current].outcome:
            self._end(self.current, outcome)
        elif outcome == "end_turn" and not self._is_patchy:
            self.ledger.problem(f"{self.who}: a turn has ended that had not begun")

    def _end(self, token: str, outcome: str) -> None:
        self.turns[token].outcome = outcome
        if self.current == token:
            self.current = ""

    def _complain(self, token: str, what: str) -> None:
        self.ledger.problem(f"{self.who}: {token}: {what}")
