# SPDX-License-Identifier: Apache-2.0

import logging
import math
from pathlib import Path
from random import Random

import pytest

from agentd import config
from agentd.errors import BudgetExhausted, StoreFailed
from agentd.link import BudgetInfo
from agentd.log import Context
from agentd.store.keeper import Nothing
from agentd.store.records import Begun
from agentd.worker import budget as module
from agentd.worker.budget import DAY_SEC, MINUTE_SEC, PARTS, Budget, Window, spelled
from support.stored import opened, session, synced, turn
from unit.loop import run

START = 1_700_000_000.0
LOG = Context(logging.getLogger("test"), {})
HOUR = 3600.0


class Case:
    """A budget beside a clock that a test sets."""

    def __init__(self, **limits: int) -> None:
        self.now = START
        self.budget = Budget(config.Budget(**limits), "box", lambda: self.now)

    def turns(self, *sessions: int, apart: float = 0.0) -> "Case":
        """A turn begins in each of these sessions, one after the other."""
        for key in sessions:
            self.budget.admit(key)
            self.budget.begun(key)
            self.now += apart
        return self

    def wait(self, *sessions: int) -> "Case":
        """A prompt waits in each."""
        for key in sessions:
            self.budget.admit(key)
        return self

    def refusal(self, key: int = 1) -> BudgetExhausted:
        with pytest.raises(BudgetExhausted) as caught:
            self.budget.admit(key)
        return caught.value

    def retry_after(self, key: int = 1) -> object:
        return self.refusal(key).data["retry_after_sec"]

    def info(self) -> BudgetInfo:
        info = self.budget.info()
        assert info is not None
        return info

    def counts(self) -> tuple[int, int]:
        info = self.info()
        return info.last_minute, info.last_day


# What may begin


def test_without_limits_everything_may_begin() -> None:
    case = Case().turns(*[1] * 500)
    assert case.budget.info() is None


def test_as_many_as_may_begin_in_a_minute_and_then_one_more_when_the_first_is_a_minute_old() -> None:
    case = Case(turns_per_minute=3).turns(1, 2, 1, apart=10)
    assert case.retry_after(3) == 30
    case.now += 28.5
    assert case.retry_after(3) == 2
    case.now += 1.5
    assert case.turns(3).retry_after(3) == 10


def test_as_many_as_may_begin_in_a_day_whatever_the_date() -> None:
    case = Case(turns_per_day=2)
    case.now = START - START % DAY_SEC - 60  # a minute to midnight
    case.turns(1, 1)
    case.now += 120
    assert case.retry_after() == DAY_SEC - 120
    case.now += DAY_SEC - 120
    case.turns(1)


def test_a_session_has_a_budget_of_its_own() -> None:
    case = Case(session_turns_per_minute=1).turns(1, 2, 3)
    assert [case.retry_after(key) for key in (1, 2, 3)] == [60, 60, 60]
    case.turns(4)
    assert case.budget.info() is None


def test_a_session_has_a_day_of_its_own() -> None:
    case = Case(session_turns_per_day=2).turns(1, 1, 2, apart=HOUR)
    assert case.retry_after(1) == DAY_SEC - 3 * HOUR
    case.turns(2)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (
            {"turns_per_minute": 2},
            "container box has used up its 2 turns a minute (turns_per_minute in [budget]): again in 60 s",
        ),
        (
            {"turns_per_day": 2},
            "container box has used up its 2 turns a day (turns_per_day in [budget]): again in 24 h 0 min",
        ),
        (
            {"session_turns_per_minute": 1},
            "this session has used up its 1 turn a minute (session_turns_per_minute in [budget]): "
            "again in 60 s",
        ),
        (
            {"session_turns_per_day": 2},
            "this session has used up its 2 turns a day (session_turns_per_day in [budget]): "
            "again in 24 h 0 min",
        ),
    ],
)
def test_a_refusal_says_which_limit_and_when_it_goes_on(limits: dict[str, int], text: str) -> None:
    case = Case(**limits).turns(*[1] * next(iter(limits.values())))
    assert case.refusal().message == text


def test_of_several_limits_the_one_is_told_that_holds_for_longest() -> None:
    case = Case(turns_per_minute=1, session_turns_per_day=1).turns(1)
    assert "session_turns_per_day" in case.refusal(1).message
    assert "(turns_per_minute" in case.refusal(2).message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 s"), (120, "120 s"), (121, "3 min"), (3541, "1 h 0 min"), (7261, "2 h 2 min")],
)
def test_times_to_wait_are_never_too_short(seconds: int, text: str) -> None:
    assert spelled(seconds) == text


# Prompts that wait


def test_what_waits_counts_for_what_comes() -> None:
    case = Case(turns_per_minute=3).turns(1).wait(1, 1)
    assert case.counts() == (1, 1)
    case.refusal()


def test_a_queue_does_not_overrun_the_budget_however_long_it_has_waited() -> None:
    case = Case(turns_per_minute=3).turns(1).wait(1, 1)
    case.now += 2 * MINUTE_SEC  # the first turn is out of it
    case.wait(1)
    assert case.retry_after() == MINUTE_SEC
    for _ in range(3):
        case.budget.begun(1)
    assert (case.counts(), case.retry_after()) == ((3, 4), MINUTE_SEC)


def test_a_turn_counts_from_when_it_begins() -> None:
    case = Case(turns_per_minute=1).wait(1)
    case.now += 50
    case.budget.begun(1)
    case.now += 50
    assert case.retry_after() == 10


def test_what_has_waited_in_vain_costs_nothing() -> None:
    case = Case(turns_per_minute=2, session_turns_per_minute=2).wait(1, 1)
    case.refusal(2)
    case.budget.dropped(1)
    case.turns(1)
    case.budget.dropped(1)
    case.turns(1).refusal()


def test_what_is_refused_is_not_counted() -> None:
    case = Case(turns_per_minute=1).turns(1)
    for _ in range(10):
        case.refusal()
    case.now += MINUTE_SEC
    assert case.counts() == (0, 1)
    case.turns(1)


def test_in_no_minute_more_begin_than_may_and_nothing_is_refused_without_need() -> None:
    random, case, limit = Random(5), Case(turns_per_minute=20), 20
    begun: list[float] = []
    waiting = 0
    for _ in range(5000):
        case.now += random.expovariate(1)
        recent = sum(at > case.now - MINUTE_SEC for at in begun)
        if random.random() < 0.6:
            if recent + waiting >= limit:
                case.refusal()
            elif recent + waiting < limit - 2:  # turns that are a group may count for longer
                case.wait(1)
                waiting += 1
        elif waiting:
            waiting -= 1
            if random.random() < 0.8:
                case.budget.begun(1)
                begun.append(case.now)
            else:
                case.budget.dropped(1)
        assert recent <= limit
    assert len(begun) > 1000


# The clock


def test_a_clock_that_is_put_back_neither_frees_nor_blocks() -> None:
    case = Case(turns_per_minute=2).turns(1, 1)
    case.now += 20 - 10 * DAY_SEC
    assert case.retry_after() == 60  # what has passed in between nobody knows
    case.now += 59
    assert case.retry_after() == 1
    case.now += 1
    case.turns(1, 1).refusal()


def test_a_clock_that_goes_to_and_fro_does_not_block_for_longer() -> None:
    case = Case(turns_per_minute=1).turns(1)
    for left in range(60, 0, -1):
        case.now -= HOUR
        assert case.retry_after() == left
        case.now += 1
        case.counts()  # so that it has seen that second pass
    case.turns(1)


def test_a_machine_that_has_slept_begins_anew() -> None:
    case = Case(turns_per_minute=1, turns_per_day=1).turns(1)
    case.now += DAY_SEC
    assert case.counts() == (0, 0)
    case.turns(1)


# Reload


def test_a_limit_that_is_raised_or_lifted_lets_it_go_on() -> None:
    case = Case(turns_per_day=1).turns(1)
    case.refusal()
    case.budget.reconfigure(config.Budget(turns_per_day=2))
    case.turns(1).refusal()
    case.budget.reconfigure(config.Budget())
    case.turns(1, 1)


def test_a_new_limit_applies_to_what_was_before() -> None:
    case = Case().turns(1, 1, 2, apart=1)
    case.budget.reconfigure(config.Budget(turns_per_minute=2, session_turns_per_minute=2))
    assert case.info() == BudgetInfo(last_minute=3, last_day=3, per_minute=2, per_day=0)
    assert case.retry_after(2) == 58  # two of the three have to be too old
    case.now += 58
    case.turns(2).refusal(2)


# How much is remembered


def test_a_window_has_few_groups_and_counts_every_turn() -> None:
    window = Window("minute", MINUTE_SEC)
    for number in range(30_000):
        window.add(START + number / 1000)
        assert window.count(START + number / 1000) == number + 1
    assert len(window._groups) <= PARTS / 2 + 1
    assert window.count(START + 60) > 29_900
    assert window.wait(1, START + 30) == pytest.approx(30.06, abs=0.002)
    assert window.count(START + 75) == pytest.approx(15_000, abs=61)
    assert window.count(START + 90) == 0


def test_no_turn_counts_for_less_than_its_time() -> None:
    case = Case(turns_per_day=2).turns(1, 1, apart=DAY_SEC / PARTS - 1)
    case.now = START + DAY_SEC
    assert case.retry_after() == math.ceil(DAY_SEC / PARTS - 1)


def test_a_window_that_nobody_asks_does_not_grow() -> None:
    window = Window("minute", MINUTE_SEC)
    for number in range(5 * PARTS):
        window.add(START + number * MINUTE_SEC / PARTS)
    assert len(window._groups) <= PARTS + 2


def test_turns_that_are_a_part_apart_count_for_exactly_their_time() -> None:
    case = Case(turns_per_day=3).turns(1, 1, 1, apart=DAY_SEC / PARTS + 1)
    case.now = START + DAY_SEC - 1
    assert case.retry_after() == 1
    case.now += 1
    assert case.counts()[1] == 2


def test_sessions_that_are_idle_for_a_day_are_dropped() -> None:
    case = Case().turns(*range(50))
    assert len(case.budget._sessions) == 50
    case.wait(0)
    case.now += DAY_SEC
    case.turns(100)
    assert list(case.budget._sessions) == [0, 100]


def test_of_too_many_sessions_the_one_prompted_longest_ago_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_SESSIONS", 3)
    case = Case(session_turns_per_day=2, turns_per_day=9).turns(1).wait(2).turns(3, 4, 3, 5)
    assert list(case.budget._sessions) == [2, 3, 5]
    case.refusal(3)
    case.turns(1)  # as if it were new, but the container's budget holds
    case.budget.begun(2)
    assert case.info().last_day == 7


def test_a_session_that_is_refused_is_not_remembered_for_that() -> None:
    case = Case(turns_per_minute=1).turns(1)
    for key in range(2, 50):
        case.refusal(key)
    case.now += DAY_SEC
    case.turns(100)
    assert list(case.budget._sessions) == [100]


# After a restart


def restored(path: Path, case: Case, *begun: tuple[str, float], later: float = 0.0) -> Case:
    """The budget of a worker that finds turns of these sessions, and when they began."""

    async def test() -> None:
        async with opened(str(path / "db")) as store:
            keys = {name: session(store, name).key for name in ("one", "two")}
            for name, at in begun:
                turn(store, keys[name], begun=at)
            await synced(store)
            await case.budget.restore(store, LOG)

    run(test())
    return case


def test_what_earlier_workers_have_begun_counts(tmp_path: Path) -> None:
    case = Case(turns_per_minute=3, turns_per_day=9, session_turns_per_day=3)
    day = [("one", START - DAY_SEC + 10), ("one", START - DAY_SEC), ("two", START - HOUR)]
    restored(tmp_path, case, *day, ("one", START - 5), ("one", START - 15))
    assert case.info() == BudgetInfo(last_minute=2, last_day=4, per_minute=3, per_day=9)
    assert case.retry_after(1) == 10
    assert case.turns(2).retry_after(3) == 45


def test_what_was_queued_and_never_begun_does_not_count(tmp_path: Path) -> None:
    assert restored(tmp_path, Case(turns_per_day=1), ("one", 0.0)).counts() == (0, 0)


def test_a_clock_that_was_put_back_before_the_restart_neither_frees_nor_blocks(tmp_path: Path) -> None:
    ahead = [("one", START + HOUR), ("one", START + 2 * HOUR), ("one", START + DAY_SEC)]
    case = restored(tmp_path, Case(turns_per_minute=9, turns_per_day=2), *ahead)
    assert (case.counts(), case.retry_after()) == ((2, 2), DAY_SEC)


def test_where_nothing_is_kept_it_begins_at_zero() -> None:
    case = Case(turns_per_day=1)
    run(case.budget.restore(Nothing(), LOG))
    assert case.counts() == (0, 0)


def test_a_store_that_cannot_be_read_is_said_and_no_reason_not_to_serve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Nothing):
        async def begun(self, since: float, until: float, most: int) -> list[Begun]:
            raise StoreFailed("the disk is gone")

    case = Case(turns_per_day=1)
    run(case.budget.restore(Broken(), LOG))
    case.turns(1)
    assert "are not counted: the disk is gone" in caplog.text
