# SPDX-License-Identifier: Apache-2.0

import asyncio
import math
import time

import pytest

from agentd import errors, link
from agentd.manager import jobs
from agentd.manager.jobs import ALL, GRACE_SEC, LINGER_SEC
from unit.house import DEFAULT, MINUTE, House
from unit.loop import run, settle, skip

# Draining


def test_a_drain_is_passed_on_and_ends_with_the_worker() -> None:
    async def test() -> None:
        house = House(box=2, other=1)
        job = house.jobs.drain("box", MINUTE)
        assert house.workers["box"].sent == [link.Drain(job=job.id, timeout=MINUTE)]
        assert house.workers["other"].sent == []
        assert (job.state, job.remaining, job.drained, house.drained()) == ("running", 2, [], ["box"])
        house.progress(job, "box", 1, "a")
        assert (job.remaining, job.drained) == (1, ["a"])
        house.ended(job, "box", "done", "a", "b")
        assert (job.state, job.remaining, job.drained) == ("done", 0, ["a", "b"])
        assert house.told == ["1: new", "1: 1 left", "1: 0 left", "1: ended"]

    run(test())


def test_draining_everything_ends_with_the_last_worker() -> None:
    async def test() -> None:
        house = House(a=1, b=2, idle=-1)
        job = house.jobs.drain(ALL, MINUTE)
        assert (house.drained(), house.jobs.all_drained, job.remaining) == (["a", "b", "idle"], True, 3)
        house.ended(job, "a", "done", "s1")
        assert (job.state, job.remaining) == ("running", 2)
        house.ended(job, "b", "done", "s2")
        assert (job.state, job.drained) == ("done", ["s1", "s2"])

    run(test())


@pytest.mark.parametrize(
    ("results", "state"),
    [
        (["done", "done"], "done"),
        (["done", "timeout"], "timeout"),
        (["timeout", "done"], "timeout"),
        (["timeout", "gone"], "failed"),
        (["gone", "done"], "failed"),
        (["done", "a word of another version"], "failed"),
    ],
)
def test_the_worst_result_is_the_jobs(results: list[str], state: str) -> None:
    async def test() -> None:
        house = House(a=1, b=1)
        job = house.jobs.drain(ALL, MINUTE)
        for name, result in zip("ab", results, strict=True):
            house.lose(name) if result == "gone" else house.ended(job, name, result)
        assert (job.state, job.remaining) == (state, 0)

    run(test())


@pytest.mark.parametrize("target", ["box", ALL])
def test_where_no_worker_runs_a_drain_is_done_at_once(target: str) -> None:
    async def test() -> None:
        house, seen = House(box=-1), list[str]()
        house.registry.on_change.append(lambda container: seen.append(container.state))
        job = house.jobs.drain(target, MINUTE)
        assert seen == ["drained"]
        assert (job.state, house.registry.get("box").state) == ("done", "drained")
        assert house.told == ["1: new", "1: 0 left", "1: ended"]

    run(test())


@pytest.mark.parametrize("target", ["box", ALL])
def test_the_same_drain_again_joins_the_first(target: str) -> None:
    async def test() -> None:
        house = House(box=1)
        job = house.jobs.drain(target, MINUTE)
        assert house.jobs.drain(target) is house.jobs.drain(target, MINUTE) is job
        assert len(house.workers["box"].sent) == 1
        house.ended(job, "box")
        assert house.jobs.drain(target, MINUTE) is not job

    run(test())


@pytest.mark.parametrize("first", [MINUTE, None])
def test_nobody_joins_a_drain_who_wants_another_deadline(first: float | None) -> None:
    async def test() -> None:
        house = House(box=1)
        job = house.jobs.drain("box", first)
        year = time.strftime("%Y-", time.localtime(job.deadline_usec / 1e6))
        with pytest.raises(errors.AlreadyDraining, match=rf"box is .* by job 1, .* at {year}") as caught:
            house.jobs.drain("box", 5.0)
        assert caught.value.data == {"job": 1, "deadline_usec": job.deadline_usec}
        house.ended(job, "box")
        assert house.jobs.drain("box", 5.0).id == 2

    run(test())


def test_a_drain_takes_what_the_configuration_says_where_nobody_does() -> None:
    async def test() -> None:
        house = House(box=1)
        job = house.jobs.drain("box")
        assert house.workers["box"].sent == [link.Drain(job=job.id, timeout=DEFAULT)]
        assert house.jobs.drain("box", DEFAULT) is job

    run(test())


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.nan, math.inf, 7 * 86400 + 1.0])
def test_a_timeout_that_makes_no_sense_is_refused_and_nothing_happens(timeout: float) -> None:
    async def test() -> None:
        house = House(box=1)
        with pytest.raises(errors.InvalidArgs):
            house.jobs.drain("box", timeout)
        assert (list(house.jobs), house.drained(), house.workers["box"].sent) == ([], [], [])

    run(test())


def test_what_does_not_exist_cannot_be_drained_or_undrained() -> None:
    async def test() -> None:
        house = House(box=1)
        for order in (lambda: house.jobs.drain("bxo", MINUTE), lambda: house.jobs.undrain("bxo")):
            with pytest.raises(errors.NoSuchContainer, match="bxo"):
                order()
        assert list(house.jobs) == []

    run(test())


def test_the_deadline_is_told_in_the_time_of_the_calendar() -> None:
    async def test() -> None:
        before = time.time()
        job = House(box=1).jobs.drain("box", MINUTE)
        assert before + MINUTE <= job.deadline_usec / 1e6 + 1e-5 <= time.time() + MINUTE + 1e-5

    run(test())


# Undoing


@pytest.mark.parametrize("target", ["box", ALL])
def test_undraining_lets_work_begin_again_and_cancels_the_job(target: str) -> None:
    async def test() -> None:
        house = House(box=1)
        job = house.jobs.drain(target, MINUTE)
        house.jobs.undrain(target)
        assert (job.state, house.drained(), house.jobs.all_drained) == ("canceled", [], False)
        assert house.workers["box"].sent[1:] == [link.Undrain()]
        house.ended(job, "box")  # it was under way
        assert job.state == "canceled"

    run(test())


def test_undraining_everything_undrains_also_what_was_drained_alone() -> None:
    async def test() -> None:
        house = House(a=1, b=1)
        job = house.jobs.drain("a", MINUTE)
        house.jobs.undrain(ALL)
        assert (job.state, house.drained()) == ("canceled", [])

    run(test())


def test_undraining_one_leaves_another_as_it_is() -> None:
    async def test() -> None:
        house = House(a=1, b=1)
        mine, other = house.jobs.drain("a", MINUTE), house.jobs.drain("b", MINUTE)
        house.jobs.undrain("a")
        assert (mine.state, other.state, house.drained()) == ("canceled", "running", ["b"])
        assert house.workers["b"].sent == [link.Drain(job=other.id, timeout=MINUTE)]

    run(test())


def test_one_that_serves_again_is_no_longer_part_of_the_drain_of_all() -> None:
    async def test() -> None:
        house = House(a=1, b=1)
        job = house.jobs.drain(ALL, MINUTE)
        house.jobs.undrain("a")
        house.ended(job, "a", "timeout", "late")  # it was under way
        assert (job.state, job.remaining, job.drained, house.drained()) == ("running", 1, [], ["b"])
        house.ended(job, "b")
        assert job.state == "done"

    run(test())


def test_the_drain_of_all_ends_when_the_last_it_waits_for_serves_again() -> None:
    async def test() -> None:
        house = House(a=1, b=1)
        job = house.jobs.drain(ALL, MINUTE)
        house.ended(job, "b")
        house.jobs.undrain("a")
        assert (job.state, house.drained()) == ("done", ["b"])
        house.jobs.undrain("b")
        assert job.state == "done"

    run(test())


def test_what_serves_again_is_drained_with_the_rest_when_everything_is_once_more() -> None:
    async def test() -> None:
        house = House(a=1, b=1, idle=-1)
        job = house.jobs.drain(ALL, MINUTE)
        for name in ("a", "idle"):
            house.jobs.undrain(name)
        assert house.jobs.drain(ALL) is job
        assert (house.drained(), house.jobs.all_drained, job.remaining) == (["a", "b", "idle"], True, 2)
        again = house.workers["a"].sent[-1]
        assert isinstance(again, link.Drain) and (again.job, len(house.workers["b"].sent)) == (job.id, 1)
        assert MINUTE - 5 < again.timeout <= MINUTE
        house.ended(job, "b")
        assert job.state == "running"
        house.ended(job, "a")
        assert (job.state, house.told.count("1: 2 left")) == ("done", 1)

    run(test())


def test_a_job_that_was_undone_bit_by_bit_can_be_cancelled() -> None:
    async def test() -> None:
        house = House(a=1, b=1)
        job = house.jobs.drain(ALL, MINUTE)
        for name in "ab":
            house.jobs.undrain(name)
        house.jobs.cancel(job)
        assert (job.state, house.drained(), house.told.count("1: ended")) == ("done", [], 1)

    run(test())


@pytest.mark.parametrize("target", ["box", ALL])
def test_what_is_not_drained_cannot_be_undrained(target: str) -> None:
    async def test() -> None:
        house = House(box=1, idle=-1)
        with pytest.raises(errors.NotDraining):
            house.jobs.undrain(target)
        assert house.workers["box"].sent == []

    run(test())


def test_everything_can_be_undrained_where_there_is_nothing() -> None:
    async def test() -> None:
        house = House()
        house.jobs.drain(ALL, MINUTE)
        house.jobs.undrain(ALL)
        assert not house.jobs.all_drained

    run(test())


def test_a_job_can_be_cancelled_and_then_no_more() -> None:
    async def test() -> None:
        house = House(box=1)
        job = house.jobs.drain("box", MINUTE)
        house.jobs.cancel(job)
        house.jobs.cancel(job)
        assert (job.state, house.drained(), house.told.count("1: ended")) == ("canceled", [], 1)

    run(test())


def test_cancelling_what_is_done_undoes_nothing() -> None:
    async def test() -> None:
        house = House(box=1)
        job = house.jobs.drain("box", MINUTE)
        house.ended(job, "box")
        house.jobs.cancel(job)
        assert (job.state, house.drained()) == ("done", ["box"])

    run(test())


def test_every_order_tells_that_what_is_drained_has_changed() -> None:
    async def test() -> None:
        house, seen = House(box=1), list[bool]()
        house.jobs.on_drained.append(lambda: seen.append(house.jobs.all_drained))
        house.jobs.drain("box", MINUTE)
        house.jobs.drain(ALL, MINUTE)
        house.jobs.undrain(ALL)
        assert seen == [False, True, False]

    run(test())


# Time


def test_a_worker_that_never_answers_does_not_keep_a_job_for_ever() -> None:
    async def test() -> None:
        house = House(box=1)
        job = house.jobs.drain("box", MINUTE)
        await skip(MINUTE + GRACE_SEC - 1)
        assert job.state == "running"
        await skip(1)
        assert (job.state, house.drained()) == ("timeout", ["box"])
        house.ended(job, "box")
        assert job.state == "timeout"

    run(test())


def test_a_job_that_ended_is_not_overdue() -> None:
    async def test() -> None:
        house = House(box=1)
        job = house.jobs.drain("box", 1.0)
        house.ended(job, "box")
        await skip(1 + GRACE_SEC)
        assert (job.state, house.told.count("1: ended")) == ("done", 1)

    run(test())


def test_a_result_can_be_read_for_a_while() -> None:
    async def test() -> None:
        house = House(box=-1)
        job = house.jobs.drain("box", MINUTE)
        await skip(LINGER_SEC - 1)
        assert house.jobs.get(job.id) is job
        assert list(house.jobs) == [job]
        await skip(1)
        assert house.told[-1] == "1: removed"
        with pytest.raises(errors.NoSuchJob, match=f"no job {job.id}"):
            house.jobs.get(job.id)
        await settle()
        assert list(house.jobs) == []

    run(test())


def test_of_very_many_results_the_oldest_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "KEPT", 2)

    async def test() -> None:
        house = House(box=1, idle=-1)
        last = house.jobs.drain("box")
        for _ in range(3):
            house.jobs.drain("idle")
        house.ended(last, "box")
        assert [job.id for job in house.jobs] == [1, 4]
        assert house.told[-2:] == ["1: ended", "3: removed"]
        await skip(LINGER_SEC)
        assert (list(house.jobs), house.told.count("3: removed")) == ([], 1)

    run(test())


@pytest.mark.parametrize("turns", [-1, 1])
def test_a_job_that_ended_leaves_no_timer_for_its_deadline(turns: int) -> None:
    async def test() -> None:
        house = House(box=turns)
        job = house.jobs.drain("box", 600_000.0)
        if turns > 0:
            house.ended(job, "box")
        assert job.timer is not None
        assert job.timer.when() <= asyncio.get_running_loop().time() + LINGER_SEC

    run(test())
