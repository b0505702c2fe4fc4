# SPDX-License-Identifier: Apache-2.0
"""Drains over a restart of the manager."""

import time

import pytest

from agentd import link
from agentd.errors import AlreadyDraining
from agentd.manager.drains import Drains, JobRecord, PartRecord
from agentd.manager.jobs import ALL, GRACE_SEC, LINGER_SEC, LONGEST_SEC
from unit.house import MINUTE, House, after, drain
from unit.loop import run, settle, skip


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


def test_an_order_takes_the_place_of_another_jobs_that_has_ended() -> None:
    async def test() -> None:
        house = House(box=1)
        house.jobs.drain(ALL, 10 * MINUTE)
        house.jobs.drain("box", MINUTE)
        await skip(MINUTE + GRACE_SEC)
        house = after(house)
        every = house.jobs.get(1)
        [order] = house.link("box", turns=1, state="draining", drain=drain(2, 1)).sent
        assert isinstance(order, link.Drain)
        assert (order.job, house.jobs.get(2).state) == (1, "timeout")
        house.ended(every, "box")
        assert every.state == "done"

    run(test())


def test_who_joins_a_job_has_to_want_its_deadline_after_a_restart_too() -> None:
    async def test() -> None:
        house = House(box=1)
        house.jobs.drain("box", MINUTE)
        house = after(house)
        assert house.jobs.drain("box", MINUTE).id == house.jobs.drain("box").id == 1
        with pytest.raises(AlreadyDraining):
            house.jobs.drain("box", 5.0)

    run(test())


def test_a_job_whose_timeout_an_older_manager_has_not_written_down_is_for_everybody_to_join() -> None:
    async def test() -> None:
        later = int((time.time() + MINUTE) * 1e6)
        old = JobRecord(
            id=1,
            target="box",
            state="running",
            deadline_usec=later,
            parts={"box": PartRecord(remaining=1, pid=5)},
        )
        house = House(Drains(next_job=2, drained=["box"], orders={"box": 1}, jobs=[old]), box=-1)
        assert house.jobs.drain("box", 5.0).deadline_usec == later

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
