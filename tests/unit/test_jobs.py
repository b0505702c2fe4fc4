# SPDX-License-Identifier: Apache-2.0

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable

import pytest

from agentd import errors, link
from agentd.config import Configuration
from agentd.config import Container as Entry
from agentd.log import Context
from agentd.manager.container import WorkerEnd
from agentd.manager.drains import Drains
from agentd.manager.jobs import ALL, GRACE_SEC, LINGER_SEC, LONGEST_SEC, Job, Jobs
from agentd.manager.registry import Registry
from agentd.tasks import Tasks
from unit.loop import run, settle, skip

MINUTE = 60.0


class Wire:
    """A worker's link: notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[link.AnyMessage] = []

    def send(self, message: link.AnyMessage, descriptor: int | None = None) -> None:
        self.sent.append(message)

    def close(self) -> None:
        """Nobody is there."""


class Spawner:
    """Starts nothing."""

    def unit(self, name: str) -> str:
        return ""

    async def start(self, name: str, ready: asyncio.Event) -> None:
        raise AssertionError

    async def stop(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        raise AssertionError

    async def close(self) -> None:
        raise AssertionError

    async def gave_up(self, name: str) -> bool:
        raise AssertionError

    def forgive(self, name: str) -> None:
        raise AssertionError

    def remedy(self, name: str) -> str:
        raise AssertionError


class Paper:
    """A ledger that no disk is needed for."""

    def __init__(self, drains: Drains) -> None:
        self.last = drains

    def load(self) -> Drains:
        return self.last

    def put(self, drains: Drains) -> None:
        self.last = drains


class House:
    """Containers, the workers of some of them, and the jobs."""

    def __init__(self, drains: Drains | None = None, **turns: int) -> None:
        """For each container the turns that run there; -1 for no worker. `drains`: what is on disk."""
        self.registry = Registry(Spawner(), Tasks())
        self.registry.configure(Configuration(containers={name: Entry() for name in turns}))
        self.paper = Paper(drains or Drains())
        self.jobs = Jobs(self.registry, Context(logging.getLogger("test")), self.paper)  # type: ignore[arg-type]
        self.jobs.restore()
        self.workers = {name: self.link(name, turns=count) for name, count in turns.items() if count >= 0}
        self.told: list[str] = []
        self.jobs.on_new.append(lambda job: self._note("new", job))
        self.jobs.on_progress.append(lambda job: self._note(f"{job.remaining} left", job))
        self.jobs.on_ended.append(lambda job: self._note("ended", job))
        self.jobs.on_removed.append(lambda job: self._note("removed", job))

    def _note(self, what: str, job: Job) -> None:
        self.told.append(f"{job.id}: {what}")

    def link(
        self,
        name: str,
        *,
        pid: int = 5,
        turns: int = 0,
        state: str = "serving",
        drain: link.DrainInfo | None = None,
        leaving: bool = False,
    ) -> Wire:
        wire = Wire()
        snapshot = link.Snapshot(state=state, turns=turns, drain=drain, leaving=leaving)
        hello = link.Hello(version=1, pid=pid, code="0", container=name, snapshot=snapshot)
        self.jobs.worker_linked(self.registry.attach(name, WorkerEnd(wire, hello)))  # type: ignore[arg-type]
        return wire

    def drained(self) -> list[str]:
        return [each.name for each in self.registry if each.drained]

    def progress(self, job: Job, name: str, remaining: int, *drained: str) -> None:
        message = link.Progress(job=job.id, remaining=remaining, drained=list(drained))
        self.jobs.progress(self.registry.get(name), message)

    def ended(self, job: Job, name: str, result: str = "done", *drained: str) -> None:
        message = link.Ended(job=job.id, result=result, drained=list(drained))
        self.jobs.ended(self.registry.get(name), message)

    def lose(self, name: str) -> None:
        container = self.registry.get(name)
        assert container.worker is not None
        self.registry.detach(container, container.worker)
        self.jobs.worker_gone(container)


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
        assert house.jobs.drain(target, 5.0) is job
        assert len(house.workers["box"].sent) == 1
        house.ended(job, "box")
        assert house.jobs.drain(target, MINUTE) is not job

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


# Workers that come and go


def test_a_worker_that_comes_later_learns_that_everything_is_drained() -> None:
    async def test() -> None:
        house = House(box=0)
        house.ended(house.jobs.drain(ALL, MINUTE), "box")
        late = house.link("late")
        assert late.sent == [link.Drain(job=0, timeout=0.0)]
        assert house.drained() == ["box", "late"]

    run(test())


@pytest.mark.parametrize("state", ["draining", "drained"])
def test_one_that_drains_already_is_not_told_again(state: str) -> None:
    async def test() -> None:
        house = House(box=-1)
        house.jobs.drain(ALL, MINUTE)
        assert house.link("box", state=state).sent == []

    run(test())


def test_a_worker_nobody_drains_is_told_nothing() -> None:
    async def test() -> None:
        assert House().link("box").sent == []

    run(test())


def test_a_worker_that_is_lost_fails_its_part_once() -> None:
    async def test() -> None:
        house = House(a=3, b=1)
        job, other = house.jobs.drain("a", MINUTE), house.jobs.drain("b", MINUTE)
        house.lose("a")
        house.jobs.worker_gone(house.registry.get("a"))
        assert (job.state, job.remaining, other.state) == ("failed", 0, "running")
        assert house.told.count("1: ended") == 1

    run(test())


def test_a_worker_that_leaves_after_its_end_fails_nothing() -> None:
    async def test() -> None:
        house = House(a=1, b=1)
        job = house.jobs.drain(ALL, MINUTE)
        house.ended(job, "a")
        house.lose("a")
        house.ended(job, "b")
        assert job.state == "done"

    run(test())


def test_reports_on_jobs_or_from_workers_that_have_no_part_change_nothing() -> None:
    async def test() -> None:
        house = House(box=1, other=1)
        job = house.jobs.drain("box", MINUTE)
        house.progress(job, "other", 7, "x")
        house.ended(job, "other", "timeout")
        house.jobs.ended(house.registry.get("box"), link.Ended(job=99, result="done", drained=[]))
        assert (job.state, job.remaining, job.drained) == ("running", 1, [])

    run(test())


def test_a_worker_of_a_container_that_was_drained_alone_learns_of_it_too() -> None:
    async def test() -> None:
        house = House(box=-1, other=-1)
        house.jobs.drain("box", MINUTE)
        assert house.link("box", state="starting").sent == [link.Drain(job=0, timeout=0.0)]
        assert house.link("other").sent == []
        assert house.drained() == ["box"]

    run(test())


def test_what_a_worker_reports_counts_for_every_job_its_container_is_part_of() -> None:
    async def test() -> None:
        house = House(box=2, other=1)
        every, one = house.jobs.drain(ALL, MINUTE), house.jobs.drain("box", MINUTE)
        house.progress(one, "box", 1, "a")
        assert (every.remaining, every.drained, one.remaining, one.drained) == (2, ["a"], 1, ["a"])
        house.ended(one, "box", "done", "a", "b")
        assert (every.state, every.remaining, one.state) == ("running", 1, "done")
        house.ended(every, "other")
        assert (every.state, every.drained) == ("done", ["a", "b"])

    run(test())


def test_reports_on_an_order_that_a_newer_one_has_replaced_do_not_count() -> None:
    async def test() -> None:
        house = House(box=2)
        every, one = house.jobs.drain(ALL, MINUTE), house.jobs.drain("box", MINUTE)
        house.progress(every, "box", 0, "a")
        house.ended(every, "box", "timeout", "a")  # both were under way
        assert (every.state, every.remaining, one.state, one.remaining) == ("running", 2, "running", 2)
        house.ended(one, "box")
        assert (every.state, one.state) == ("done", "done")

    run(test())


def test_a_worker_that_is_lost_fails_its_part_of_every_job() -> None:
    async def test() -> None:
        house = House(box=2, other=1)
        every, one = house.jobs.drain(ALL, MINUTE), house.jobs.drain("box", MINUTE)
        house.lose("box")
        assert (every.state, every.remaining, one.state) == ("running", 1, "failed")
        house.ended(every, "other")
        assert every.state == "failed"

    run(test())


def test_a_link_that_breaks_over_its_order_ends_its_part_and_no_other() -> None:
    async def test() -> None:
        house = House(a=1, b=1)

        class Broken(Wire):
            def send(self, message: link.AnyMessage, descriptor: int | None = None) -> None:
                house.lose("a")

        worker = house.registry.get("a").worker
        assert worker is not None
        worker.link = Broken()  # type: ignore[assignment]
        job = house.jobs.drain(ALL, MINUTE)
        assert (job.state, job.remaining) == ("running", 1)
        house.ended(job, "b")
        assert job.state == "failed"

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


@pytest.mark.parametrize("turns", [-1, 1])
def test_a_job_that_ended_leaves_no_timer_for_its_deadline(turns: int) -> None:
    async def test() -> None:
        house = House(box=turns)
        job = house.jobs.drain("box", 600_000.0)
        if turns > 0:
            house.ended(job, "box")
        assert (job.state, job.overdue is None or job.overdue.cancelled()) == ("done", True)

    run(test())


# A restart of the manager


def after(house: House, **turns: int) -> House:
    """The next manager, before any worker has linked to it."""
    return House(house.paper.last, **dict.fromkeys(turns or ["box"], -1))


def drain(job: int, remaining: int, *drained: str, result: str = "") -> link.DrainInfo:
    return link.DrainInfo(job=job, remaining=remaining, drained=list(drained), result=result)


def test_a_job_goes_on_after_a_restart_as_it_was() -> None:
    async def test() -> None:
        house = House(box=2)
        old = house.jobs.drain("box", MINUTE)
        house.progress(old, "box", 1, "a")
        house = after(house)
        [job] = house.jobs
        assert (job.id, job.target, job.state, job.remaining) == (old.id, "box", "running", 1)
        assert (job.deadline_usec, job.drained, house.drained()) == (old.deadline_usec, ["a"], ["box"])
        assert house.link("box", turns=1, state="draining", drain=drain(1, 1, "a")).sent == []
        house.ended(job, "box", "done", "a", "b")
        assert (job.state, job.drained) == ("done", ["a", "b"])

    run(test())


def test_an_end_that_no_manager_heard_counts_when_the_worker_links() -> None:
    async def test() -> None:
        house = House(box=2)
        house.jobs.drain("box", MINUTE)
        house = after(house)
        [job] = house.jobs
        house.link("box", state="drained", drain=drain(1, 0, "a", "b", result="timeout"))
        assert (job.state, job.drained, house.told.count("1: ended")) == ("timeout", ["a", "b"], 1)

    run(test())


def test_progress_that_no_manager_heard_counts_too() -> None:
    async def test() -> None:
        house = House(box=2)
        house.jobs.drain("box", MINUTE)
        house = after(house)
        house.link("box", turns=1, state="draining", drain=drain(1, 1, "a"))
        [job] = house.jobs
        assert (job.state, job.remaining, job.drained) == ("running", 1, ["a"])

    run(test())


def test_a_part_whose_worker_never_comes_back_fails_by_the_deadline() -> None:
    async def test() -> None:
        house = House(a=1, b=1)
        house.jobs.drain(ALL, MINUTE)
        house = after(house, a=1, b=1)
        [job] = house.jobs
        house.link("a", state="drained", drain=drain(1, 0, "s", result="done"))
        await skip(MINUTE + GRACE_SEC)
        assert (job.state, job.drained) == ("failed", ["s"])

    run(test())


def test_another_worker_in_its_place_is_the_end_of_a_part() -> None:
    async def test() -> None:
        house = House(box=1)
        house.jobs.drain("box", MINUTE)
        house = after(house)
        wire = house.link("box", pid=6, state="starting")
        [job] = house.jobs
        assert (job.state, wire.sent) == ("failed", [link.Drain(job=0, timeout=0.0)])

    run(test())


def test_an_order_that_was_lost_with_the_manager_is_given_again() -> None:
    async def test() -> None:
        house = House(box=1)
        house.jobs.drain("box", MINUTE)
        house = after(house)
        [order] = house.link("box", turns=1, state="serving").sent
        assert isinstance(order, link.Drain)
        assert (order.job, MINUTE - 5 < order.timeout <= MINUTE) == (1, True)
        [job] = house.jobs
        house.ended(job, "box", "done", "a")
        assert job.state == "done"

    run(test())


def test_numbers_go_on_counting() -> None:
    async def test() -> None:
        house = House(box=-1)
        house.jobs.drain("box", MINUTE)
        house = after(house)
        house.jobs.undrain("box")
        assert house.jobs.drain("box", MINUTE).id == 2
        house.link("box", state="drained", drain=drain(9, 0, result="done"))  # of a ledger that was lost
        house.jobs.undrain(ALL)
        assert house.jobs.drain("box", MINUTE).id == 10

    run(test())


def test_what_was_drained_is_drained_also_where_nobody_has_told_of_it_yet() -> None:
    async def test() -> None:
        house = House(box=-1, other=-1)
        house.jobs.drain("box", MINUTE)
        house = House(house.paper.last)
        house.registry.seen(link.ContainerInfo(name="box", runtime="podman", running=True))
        house.registry.seen(link.ContainerInfo(name="other", runtime="podman", running=True))
        assert house.drained() == ["box"]

    run(test())


def test_what_is_drained_and_not_there_can_be_undrained() -> None:
    async def test() -> None:
        house = House(box=-1)
        house.jobs.drain("box", MINUTE)
        house = House(house.paper.last)
        house.jobs.undrain("box")
        house.registry.seen(link.ContainerInfo(name="box", runtime="podman", running=True))
        assert house.drained() == []

    run(test())


def test_a_container_that_is_made_anew_is_still_drained() -> None:
    async def test() -> None:
        house = House()
        info = link.ContainerInfo(name="box", runtime="podman", running=True)
        house.registry.seen(info)
        house.jobs.drain("box", MINUTE)
        house.registry.gone("box", "podman")
        house.registry.seen(info)
        assert house.drained() == ["box"]

    run(test())


def test_everything_drained_is_everything_drained_after_a_restart() -> None:
    async def test() -> None:
        house = House()
        house.jobs.drain(ALL, MINUTE)
        house = after(house, late=-1)
        assert (house.jobs.all_drained, house.drained()) == (True, ["late"])
        house.jobs.undrain(ALL)
        assert not after(house, late=-1).drained()

    run(test())


def test_a_result_can_be_read_after_a_restart_for_the_rest_of_its_time() -> None:
    async def test() -> None:
        house = House(box=-1)
        house.jobs.drain("box", MINUTE)
        house = after(house)
        assert [job.state for job in house.jobs] == ["done"]
        await skip(LINGER_SEC)
        assert list(house.jobs) == []

    run(test())


def test_a_result_that_is_old_by_now_is_not_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        house = House(box=-1)
        house.jobs.drain("box", MINUTE)
        later = time.time() + LINGER_SEC + 1
        monkeypatch.setattr(time, "time", lambda: later)
        assert list(after(house).jobs) == []

    run(test())


def test_a_job_whose_deadline_has_passed_meanwhile_waits_for_its_workers_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        house = House(box=1)
        house.jobs.drain("box", MINUTE)
        later = time.time() + 2 * MINUTE
        monkeypatch.setattr(time, "time", lambda: later)
        house = after(house)
        await settle()
        house.link("box", state="drained", drain=drain(1, 0, result="timeout"))
        assert [job.state for job in house.jobs] == ["timeout"]

    run(test())


def test_an_undrain_is_not_undone_by_a_worker_that_was_not_there_to_hear_it() -> None:
    async def test() -> None:
        house = House(box=1)
        house.jobs.drain("box", MINUTE)
        house = after(house)
        house.jobs.undrain("box")
        wire = house.link("box", state="drained", drain=drain(1, 0, result="done"))
        assert (wire.sent, house.drained()) == ([link.Undrain()], [])
        assert house.link("box").sent == []

    run(test())


def test_what_was_undrained_and_went_is_drained_again_with_everything() -> None:
    async def test() -> None:
        house, info = House(), link.ContainerInfo(name="box", runtime="podman", running=True)
        house.registry.seen(info)
        house.jobs.drain(ALL, MINUTE)
        house.jobs.undrain(ALL)
        house.registry.gone("box", "podman")
        house.jobs.drain(ALL, MINUTE)
        house.registry.seen(info)
        assert house.link("box").sent == [link.Drain(job=0, timeout=0.0)]

    run(test())


def test_a_worker_that_drains_only_because_it_leaves_makes_nobody_drained() -> None:
    async def test() -> None:
        house = House(box=-1)
        house.link("box", state="draining", leaving=True)
        assert (house.drained(), house.paper.last.drained) == ([], [])

    run(test())


def test_running_turns_are_not_cut_off_because_a_ledger_was_damaged() -> None:
    async def test() -> None:
        house = House(Drains(all_drained=True), box=1)
        assert house.workers["box"].sent == [link.Drain(job=0, timeout=LONGEST_SEC)]

    run(test())
