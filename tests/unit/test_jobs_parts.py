# SPDX-License-Identifier: Apache-2.0
"""Drains of less than a container: of one agent, or of one session."""

import pytest

from agentd import errors, link
from agentd.manager.jobs import ALL, GRACE_SEC, LONGEST_SEC, Job
from unit.house import MINUTE, House, Wire, after, drain, session
from unit.loop import run, skip

PARTS = ["box/claude", "box#s1"]
OPEN = [session("s1", state="prompting"), session("s2", "codex", "resuming"), session("s3", state="closed")]


def order(target: str, job: int, timeout: float) -> link.Drain:
    _, _, agent = target.partition("/")
    _, _, name = target.partition("#")
    return link.Drain(job=job, timeout=timeout, agent=agent, session=name)


def undo(target: str) -> link.Undrain:
    made = order(target, 0, 0.0)
    return link.Undrain(agent=made.agent, session=made.session)


def info(target: str, job: int, remaining: int = 0, *drained: str, result: str = "") -> link.DrainInfo:
    made = order(target, 0, 0.0)
    return drain(job, remaining, *drained, result=result, agent=made.agent, session=made.session)


def lived_in(version: int = link.VERSION) -> tuple[House, Wire]:
    """A container whose worker has sessions."""
    house = House(box=-1)
    return house, house.link("box", turns=2, sessions=OPEN, version=version)


def drained(house: House) -> list[str]:
    return house.jobs.drained_of("box")


def facts(job: Job) -> tuple[str, int, list[str]]:
    return job.state, job.remaining, job.drained


# Draining


@pytest.mark.parametrize("target", PARTS)
def test_a_part_drains_alone(target: str) -> None:
    async def test() -> None:
        house, wire = lived_in()
        job = house.jobs.drain(target, MINUTE)
        assert wire.sent == [order(target, job.id, MINUTE)]
        assert (facts(job), drained(house), house.drained()) == (("running", 1, []), [target], [])
        house.ended(job, "box", "done", "s1")
        assert facts(job) == ("done", 0, ["s1"])
        assert house.told == ["1: new", "1: 0 left", "1: ended"]

    run(test())


def test_the_turns_of_an_agent_are_those_of_its_sessions() -> None:
    async def test() -> None:
        house, _ = lived_in()
        there = ["box/claude", "box/codex", "box#s1", "box#s2", "box#s3", "box"]
        assert [house.jobs.drain(each).remaining for each in there] == [1, 1, 1, 1, 0, 2]

    run(test())


def test_reports_are_told_apart_by_their_number() -> None:
    async def test() -> None:
        house, _ = lived_in()
        every, box, agent, one = (house.jobs.drain(each, MINUTE) for each in (ALL, "box", *PARTS))
        house.progress(agent, "box", 7, "x")
        assert [each.remaining for each in (every, box, agent, one)] == [2, 2, 7, 1]
        house.ended(one, "box", "timeout", "s1")
        assert [each.state for each in (every, box, agent, one)] == ["running"] * 3 + ["timeout"]
        house.ended(box, "box")
        house.ended(agent, "box")
        assert [each.state for each in (every, box, agent)] == ["done"] * 3

    run(test())


def test_an_agents_drain_is_remembered_where_no_worker_runs() -> None:
    async def test() -> None:
        house = House(box=-1)
        assert house.jobs.drain("box/claude").state == "done"
        assert (drained(house), house.registry.get("box").state) == (["box/claude"], "idle")
        assert house.link("box").sent == [order("box/claude", 0, 0.0)]
        assert house.link("box", turns=3).sent == [order("box/claude", 0, LONGEST_SEC)]  # cuts off none

    run(test())


def test_a_sessions_drain_outlives_the_worker() -> None:
    async def test() -> None:
        house, _ = lived_in()
        job = house.jobs.drain("box#s1")
        house.lose("box")
        assert (job.state, drained(house)) == ("failed", ["box#s1"])
        assert house.link("box").sent == [order("box#s1", 0, 0.0)]
        assert house.jobs.drain("box#s1").id == 2  # though it is not open now

    run(test())


def test_a_sessions_drain_is_forgotten_with_the_container_and_an_agents_is_not() -> None:
    async def test() -> None:
        house, seen = House(), list[list[str]]()
        there = link.ContainerInfo(name="box", runtime="podman", running=True)
        house.registry.seen(there)
        house.link("box", sessions=OPEN)
        house.jobs.drain("box#s1")
        house.jobs.drain("box/claude")
        house.lose("box")
        house.jobs.on_drained.append(lambda: seen.append(drained(house)))
        house.registry.gone("box", "podman")
        house.registry.seen(there)
        assert (seen, drained(house)) == ([["box/claude"]], ["box/claude"])
        assert house.paper.last.drained == ["box/claude"]

    run(test())


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("box/", errors.NoSuchTarget),
        ("/claude", errors.NoSuchTarget),
        ("bxo/claude", errors.NoSuchContainer),
        ("bxo#s1", errors.NoSuchContainer),
        ("box/cluade", errors.NoSuchAgent),
        ("box#s4", errors.NoSuchSession),
    ],
)
def test_what_is_not_there_is_not_drained(target: str, error: type[errors.AgentdError]) -> None:
    async def test() -> None:
        house, wire = lived_in()
        with pytest.raises(error):
            house.jobs.drain(target)
        assert (list(house.jobs), drained(house), wire.sent) == ([], [], [])

    run(test())


def test_a_session_has_to_be_loaded_before_it_is_drained() -> None:
    async def test() -> None:
        house = House(box=-1)
        with pytest.raises(errors.NoSuchSession, match=r"box has no worker now.* load s1 first"):
            house.jobs.drain("box#s1")

    run(test())


@pytest.mark.parametrize("target", PARTS)
def test_a_worker_that_would_drain_all_it_has_is_not_told(target: str) -> None:
    async def test() -> None:
        house, wire = lived_in(version=1)
        with pytest.raises(errors.WorkerOutdated, match=r"box runs agentd 0, .*agentctl stop box"):
            house.jobs.drain(target)
        assert (list(house.jobs), drained(house), wire.sent) == ([], [], [])
        assert house.jobs.drain("box").state == "running"

    run(test())


def test_an_older_worker_that_comes_later_is_not_told_either(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        house = House(box=-1)
        house.jobs.drain("box/claude")
        wire = house.link("box", version=1)
        assert (wire.sent, "cannot drain a part" in caplog.text) == ([], True)
        house.jobs.undrain("box/claude")
        assert (wire.sent, drained(house)) == ([], [])

    run(test())


def test_an_agents_drain_that_nobody_answers_ends_all_the_same() -> None:
    async def test() -> None:
        house, _ = lived_in()
        job = house.jobs.drain("box/claude", MINUTE)
        await skip(MINUTE + GRACE_SEC)
        assert (job.state, drained(house)) == ("timeout", ["box/claude"])

    run(test())


def test_what_is_drained_is_known_of_a_session() -> None:
    async def test() -> None:
        house, _ = lived_in()
        for target in ("box/claude", "box#s2"):
            house.jobs.drain(target)
        there = [("claude", "s1"), ("codex", "s2"), ("codex", "s3")]
        assert [house.jobs.is_drained("box", *each) for each in there] == [True, True, False]
        assert not house.jobs.is_drained("cat", "claude", "s1")
        house.jobs.drain("box")
        assert house.jobs.is_drained("box", "codex", "s3")
        assert drained(house) == ["box", "box#s2", "box/claude"]

    run(test())


def test_when_everything_is_drained_every_session_is() -> None:
    async def test() -> None:
        house = House()
        house.jobs.drain(ALL)
        assert house.jobs.is_drained("box", "claude", "s1")

    run(test())


# Undoing


@pytest.mark.parametrize("target", PARTS)
def test_a_part_serves_again_alone(target: str) -> None:
    async def test() -> None:
        house, wire = lived_in()
        job, other = house.jobs.drain(target), house.jobs.drain("box/codex")
        house.jobs.undrain(target)
        assert (job.state, other.state, drained(house)) == ("canceled", "running", ["box/codex"])
        assert wire.sent[2:] == [undo(target)]
        house.ended(job, "box")  # it was under way
        assert job.state == "canceled"

    run(test())


@pytest.mark.parametrize("target", ["box", ALL])
def test_a_container_that_serves_again_does_so_with_all_its_parts(target: str) -> None:
    async def test() -> None:
        house, wire = lived_in()
        jobs = [house.jobs.drain(each) for each in PARTS]
        house.jobs.undrain(target)
        assert ([job.state for job in jobs], drained(house)) == (["canceled", "canceled"], [])
        assert wire.sent[2:] == [link.Undrain()]

    run(test())


@pytest.mark.parametrize("target", PARTS)
@pytest.mark.parametrize("whole", ["box", ALL])
def test_a_part_of_what_is_drained_as_a_whole_cannot_be_undrained(target: str, whole: str) -> None:
    async def test() -> None:
        house, wire = lived_in()
        house.jobs.drain(whole)
        with pytest.raises(errors.NotDraining, match=r"box is drained as a whole.* agentctl undrain box"):
            house.jobs.undrain(target)
        assert (drained(house), len(wire.sent)) == (["box"], 1)

    run(test())


def test_undoing_a_parts_own_drain_leaves_the_whole_drained() -> None:
    async def test() -> None:
        house, _ = lived_in()
        every, job = house.jobs.drain(ALL), house.jobs.drain("box/claude")
        house.jobs.undrain("box/claude")
        assert (every.state, job.state, drained(house)) == ("running", "canceled", ["box"])
        assert house.jobs.all_drained

    run(test())


@pytest.mark.parametrize("target", PARTS)
def test_a_part_that_is_not_drained_cannot_be_undrained(target: str) -> None:
    async def test() -> None:
        house, wire = lived_in()
        house.jobs.drain("box/codex")
        with pytest.raises(errors.NotDraining, match="nothing to undo"):
            house.jobs.undrain(target)
        assert len(wire.sent) == 1

    run(test())


@pytest.mark.parametrize("target", PARTS)
def test_a_parts_job_can_be_cancelled(target: str) -> None:
    async def test() -> None:
        house, wire = lived_in()
        job = house.jobs.drain(target)
        house.jobs.cancel(job)
        assert (job.state, drained(house), wire.sent[1:]) == ("canceled", [], [undo(target)])

    run(test())


def test_a_sessions_job_ends_when_the_container_goes() -> None:
    async def test() -> None:
        house = House()
        house.link("box", sessions=OPEN)
        job = house.jobs.drain("box#s1")
        house.lose("box")
        assert (job.state, drained(house), list(house.registry)) == ("failed", [], [])
        house.jobs.cancel(job)
        assert job.state == "failed"

    run(test())


# A restart of the manager


@pytest.mark.parametrize("target", PARTS)
def test_a_parts_job_goes_on_after_a_restart(target: str) -> None:
    async def test() -> None:
        house, _ = lived_in()
        house.jobs.drain(target, MINUTE)
        house = after(house)
        [job] = house.jobs
        assert (job.target, drained(house)) == (target, [target])
        assert house.link("box", turns=1, sessions=OPEN, drains=[info(target, 1, 1)]).sent == []
        house.ended(job, "box", "done", "s1")
        assert facts(job) == ("done", 0, ["s1"])

    run(test())


@pytest.mark.parametrize("target", PARTS)
def test_a_parts_end_that_no_manager_heard_counts(target: str) -> None:
    async def test() -> None:
        house, _ = lived_in()
        house.jobs.drain(target, MINUTE)
        house = after(house)
        [job] = house.jobs
        house.link("box", drains=[info(target, 1, 0, "s1", result="timeout")])
        assert facts(job) == ("timeout", 0, ["s1"])

    run(test())


@pytest.mark.parametrize("target", PARTS)
def test_a_parts_order_that_was_lost_is_given_again(target: str) -> None:
    async def test() -> None:
        house, _ = lived_in()
        house.jobs.drain(target, MINUTE)
        house = after(house)
        [given] = house.link("box", turns=1, sessions=OPEN).sent
        assert isinstance(given, link.Drain)
        assert (given.job, MINUTE - 5 < given.timeout <= MINUTE) == (1, True)

    run(test())


@pytest.mark.parametrize("target", PARTS)
def test_what_a_worker_drains_is_drained_though_nothing_is_written_of_it(target: str) -> None:
    async def test() -> None:
        house, seen = House(box=-1), list[list[str]]()
        house.jobs.on_drained.append(lambda: seen.append(drained(house)))
        house.registry.on_change.append(lambda _: seen.append(drained(house)))
        wire = house.link("box", drains=[info(target, 8, result="done")])
        assert (wire.sent, house.drained()) == ([], [])
        assert seen == [[], [target], [target]]
        assert house.paper.last.drained == [target]
        assert house.jobs.drain("box").id == 9

    run(test())


def test_what_a_worker_has_heard_it_is_not_told_again() -> None:
    async def test() -> None:
        house, _ = lived_in()
        house.jobs.drain("box/claude")
        house.jobs.undrain("box/claude")
        assert (house.link("box").sent, house.paper.last.orders) == ([], {})

    run(test())


def test_a_container_that_has_gone_has_no_worker_that_has_to_hear_anything() -> None:
    async def test() -> None:
        house, there = House(), link.ContainerInfo(name="box", runtime="podman", running=True)
        house.registry.seen(there)
        house.jobs.drain("box/claude")
        house.jobs.undrain("box/claude")
        house.registry.gone("box", "podman")
        house.registry.seen(there)
        assert house.link("box").sent == []

    run(test())


@pytest.mark.parametrize(
    ("orders", "told"),
    [
        (["-box/claude"], [undo("box/claude")]),
        (["-box"], [link.Undrain()]),
        (["-box", "+box/claude"], [link.Undrain(), order("box/claude", 0, 0.0)]),
        (["-box", "+box"], [undo("box#s1"), undo("box/claude")]),
        (["-box/claude", "+box/claude"], []),
        (["-"], [link.Undrain()]),
        (["-", "+"], [undo("box#s1"), undo("box/claude")]),
    ],
)
def test_a_worker_hears_what_was_undone_while_it_was_away(
    orders: list[str], told: list[link.AnyMessage]
) -> None:
    async def test() -> None:
        house, _ = lived_in()
        for target in ("box", *PARTS):
            house.jobs.drain(target)
        house = after(house)
        for each in orders:
            (house.jobs.undrain if each[0] == "-" else house.jobs.drain)(each[1:])
        house = after(house)  # and once more
        held = [info(each, number, result="done") for number, each in enumerate(PARTS, 2)]
        wire = house.link("box", state="drained", drain=drain(1, 0, result="done"), drains=held)
        assert wire.sent == told

    run(test())
