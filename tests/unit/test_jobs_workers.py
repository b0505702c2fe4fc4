# SPDX-License-Identifier: Apache-2.0
"""Workers that come and go while something is being drained."""

import pytest

from agentd import link
from agentd.manager.jobs import ALL
from unit.house import MINUTE, House, Wire
from unit.loop import run


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
        assert house.paper.last.orders == {"b": other.id}
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
