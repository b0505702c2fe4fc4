# SPDX-License-Identifier: Apache-2.0
"""How many turns may begin: in a container and in each of its sessions, in any minute and any day.

A prompt is refused when it comes, where turns that have begun and prompts that wait are as many already. It
counts as a turn once it is its turn. So never more turns begin than may, however many prompts wait, and one
that has waited in vain costs nothing.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from agentd.config import Budget as Settings
from agentd.errors import BudgetExhausted, StoreFailed
from agentd.link import BudgetInfo
from agentd.log import Context
from agentd.store.keeper import Keeper

MINUTE_SEC = 60.0
DAY_SEC = 86_400.0

PARTS = 1000
"""Turns that begin within such a part of a window are a group, and count until the last of them is too old.
So there are about as many groups at most, however high a limit is, and a turn counts for a part longer at
most."""

MOST_SESSIONS = 4096
"""Are remembered; of more, the one that was prompted longest ago is forgotten."""
MOST_RESTORED = 100_000
"""Turns of earlier workers that are counted."""


class Group:
    """Turns that have begun close together."""

    __slots__ = ("count", "first", "last")

    def __init__(self, at: float) -> None:
        self.first = self.last = at
        self.count = 1


class Window:
    """The turns of the last `span` seconds, a `period`. The times it is given never go back."""

    def __init__(self, period: str, span: float) -> None:
        self.period = period
        self._span = span
        self._groups: deque[Group] = deque()
        self._count = 0

    def add(self, at: float) -> None:
        if self._groups and at - self._groups[-1].first < self._span / PARTS:
            self._groups[-1].last = at
            self._groups[-1].count += 1
        else:
            self.count(at)  # where nobody else asks, what is too old goes now
            self._groups.append(Group(at))
        self._count += 1

    def count(self, now: float) -> int:
        while self._groups and self._groups[0].last + self._span <= now:
            self._count -= self._groups.popleft().count
        return self._count

    def wait(self, many: int, now: float) -> float:
        """Seconds until that many turns are too old, and a whole period where there are not so many."""
        for group in self._groups:
            many -= group.count
            if many <= 0:
                return group.last + self._span - now
        return self._span


class Account:
    """What a container or session has used. `waiting`: prompts that were admitted and still wait."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.minute, self.day = Window("minute", MINUTE_SEC), Window("day", DAY_SEC)
        self.waiting = 0

    def begun(self, at: float) -> None:
        self.minute.add(at)
        self.day.add(at)


class Limit(NamedTuple):
    """One that is set. `key`: what it is called in the configuration."""

    key: str
    most: int
    account: Account
    window: Window

    def wait(self, now: float) -> float:
        """Seconds until there is room for one more, 0 for now."""
        excess = self.window.count(now) + self.account.waiting + 1 - self.most
        return self.window.wait(excess, now) if excess > 0 else 0.0

    def exhausted(self, wait: float) -> BudgetExhausted:
        seconds, turns = max(math.ceil(wait), 1), "turn" if self.most == 1 else "turns"
        return BudgetExhausted(
            f"{self.account.name} has used up its {self.most} {turns} a {self.window.period} "
            f"({self.key} in [budget]): again in {spelled(seconds)}",
            retry_after_sec=seconds,
        )


class Budget:
    """Of one container. A prompt is admitted first, and then has either begun or was dropped.

    What there is no limit for is counted too, so that a new limit applies to what was before. What earlier
    workers have begun, the store tells. Where nothing is kept (`transcripts = "off"`) each worker begins at
    zero; and what was deleted with its session does not count for the next one.
    """

    def __init__(self, settings: Settings, container: str, clock: Callable[[], float]) -> None:
        """`clock`: Unix time."""
        self._settings = settings
        self._clock = clock
        self._ahead = 0.0
        """By how much the clock was put back, in all."""
        self._latest = -math.inf
        self._whole = Account(f"container {container}")
        self._sessions: dict[int, Account] = {}
        """By key. The one that was prompted last comes last."""

    async def restore(self, store: Keeper, log: Context) -> None:
        """Count what earlier workers have begun; before anything begins here.

        What is up to a day ahead has begun before the clock was put back, and counts as if it began now.
        """
        now = self._now()
        try:
            begun = await store.begun(now - DAY_SEC, now + DAY_SEC, MOST_RESTORED)
        except StoreFailed as exc:  # no reason not to serve: whoever cannot do without the disk will say so
            log.warning("turns of earlier workers are not counted: %s", exc.message)
            return
        for each in reversed(begun):
            self._count(each.session, min(each.at, now))

    def reconfigure(self, settings: Settings) -> None:
        """These hold from the next prompt on."""
        self._settings = settings

    def info(self) -> BudgetInfo | None:
        """What the container has used, None where it may use as much as it likes."""
        per_minute, per_day = self._settings.turns_per_minute, self._settings.turns_per_day
        if per_minute is None and per_day is None:
            return None
        now = self._now()
        return BudgetInfo(
            last_minute=self._whole.minute.count(now),
            last_day=self._whole.day.count(now),
            per_minute=per_minute or 0,
            per_day=per_day or 0,
        )

    # A prompt on its way. Sessions go by their keys.

    def admit(self, session: int) -> None:
        """A prompt has come; `begun` or `dropped` has to follow. Raises BudgetExhausted."""
        now = self._now()
        account = self._account(session, now)
        waits = [(limit.wait(now), limit) for limit in self._limits(account)]
        if waits:
            wait, limit = max(waits, key=lambda each: each[0])
            if wait > 0:
                raise limit.exhausted(wait)
        account.waiting += 1
        self._whole.waiting += 1

    def begun(self, session: int) -> None:
        """It is its turn."""
        self.dropped(session)
        self._count(session, self._now())

    def dropped(self, session: int) -> None:
        """It has waited in vain."""
        self._sessions[session].waiting -= 1
        self._whole.waiting -= 1

    def _limits(self, session: Account) -> list[Limit]:
        """Those that are set, for a session."""
        limits, whole = self._settings, self._whole
        every = (
            ("turns_per_minute", limits.turns_per_minute, whole, whole.minute),
            ("turns_per_day", limits.turns_per_day, whole, whole.day),
            ("session_turns_per_minute", limits.session_turns_per_minute, session, session.minute),
            ("session_turns_per_day", limits.session_turns_per_day, session, session.day),
        )
        return [
            Limit(key, most, account, window) for key, most, account, window in every if most is not None
        ]

    # Counting

    def _count(self, session: int, at: float) -> None:
        self._whole.begun(at)
        self._account(session, at).begun(at)

    def _account(self, session: int, now: float) -> Account:
        """A session's, which is the last one from now on."""
        account = self._sessions.pop(session, None)
        if account is None:
            while (key := self._dispensable(now)) is not None:
                del self._sessions[key]
            account = Account("this session")
        self._sessions[session] = account
        return account

    def _dispensable(self, now: float) -> int | None:
        """The first session without a prompt that waits, where it is empty or there are too many."""
        for key, account in self._sessions.items():
            if not account.waiting:
                is_full = len(self._sessions) >= MOST_SESSIONS
                return key if is_full or not account.day.count(now) else None
        return None

    def _now(self) -> float:
        """Unix time, but that it goes on from where it was when the clock is put back.

        Forward, the clock is believed: a machine that has slept looks the same.
        """
        now = self._clock() + self._ahead
        if now < self._latest:
            self._ahead += self._latest - now
            now = self._latest
        self._latest = now
        return now


def spelled(seconds: int) -> str:
    """A time to wait, in words, and never too short."""
    if seconds <= 120:
        return f"{seconds} s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
