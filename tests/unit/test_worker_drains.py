# SPDX-License-Identifier: Apache-2.0
"""What is refused while a container, an agent or a session is drained, through a whole hub."""

from pathlib import Path
from typing import Any

import pytest

from agentd import link
from agentd.worker.drain import CUT_OFF_SEC, WHOLE, Scope
from unit.loop import settle, skip
from unit.test_opening import ENDED, Loading, turn, until_asked
from unit.world import HERE, FakeClient, World, in_world, prompt

MINUTE = 60.0
ONE = Scope("one")


def drain(world: World, scope: Scope = WHOLE, job: int = 7, timeout: float = MINUTE) -> None:
    world.hub.drains.order(scope, job, timeout)


async def ended(world: World, count: int = 1) -> list[link.Ended]:
    def reported() -> list[link.Ended]:
        return [each for each in world.reports if isinstance(each, link.Ended)]

    while len(reported()) < count:  # nobody waits for timers here
        await settle()
    return reported()


async def prompted(client: FakeClient, session: str) -> int:
    """A turn that has begun, and the id of its request."""
    number = client.request("session/prompt", prompt(session, "hello"))
    world = client.world
    native = world.hub.sessions.alive[session].native
    await world.until(
        lambda: any(each["params"].get("sessionId") == native for a in world.agents for each in a.open)
    )
    return number


async def refusal(client: FakeClient, session: str) -> Any:
    answer = await client.answer_to(client.request("session/prompt", prompt(session, "hello")))
    return answer["error"]["message"] if "error" in answer else answer["result"]


async def pick(client: FakeClient, session: str, agent: str) -> Any:
    option = {"sessionId": session, "configId": "agentd.agent", "value": agent}
    return await client.call("session/set_config_option", option)


# Turns


def test_no_turn_begins_with_a_drained_agent_and_others_go_on(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        one, two = await world.client("one"), await world.client("two")
        mine, other = await one.new(), await two.new()
        drain(world, ONE)
        why = "agent one of box is being drained: running turns may end, none may begin"
        assert await refusal(one, mine) == why
        assert (await turn(two, other, "hello"))["result"] == ENDED
        world.hub.drains.undo(ONE)
        number = await prompted(one, mine)
        world.agents[0].answer(ENDED)
        assert (await one.answer_to(number))["result"] == ENDED

    in_world(tmp_path, test, "one", "two")


def test_no_turn_begins_in_a_drained_session_and_others_go_on(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session, other = await client.new(), await client.new()
        drain(world, Scope(session=session))
        assert (await refusal(client, session)).startswith(f"session {session} of box is being drained")
        assert (await turn(client, other, "hello"))["result"] == ENDED
        assert await client.new()

    in_world(tmp_path, test)


def test_a_turn_may_end_what_waits_does_not_begin_and_the_job_hears_of_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        running = await prompted(client, session)
        waiting = client.request("session/prompt", prompt(session, "then"))
        await client.sync()
        drain(world, ONE)
        error = (await client.answer_to(waiting))["error"]
        assert error["message"] == "agent one of box is being drained: this prompt was not started"
        world.agent.answer(ENDED)
        assert (await client.answer_to(running))["result"] == ENDED
        assert await ended(world) == [link.Ended(job=7, result="done", drained=[session])]

    in_world(tmp_path, test)


def test_past_the_deadline_turns_of_the_scope_are_cancelled_and_cut_off(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session, other = await client.new(), await client.new()
        number, goes_on = await prompted(client, session), await prompted(client, other)
        drain(world, Scope(session=session), timeout=1.0)
        await settle()
        await skip(1.0)
        await world.until(lambda: [each["method"] for each in world.agent.told] == ["session/cancel"])
        await skip(CUT_OFF_SEC)
        assert (await client.answer_to(number))["result"] == {"stopReason": "cancelled"}
        assert await ended(world) == [link.Ended(job=7, result="timeout", drained=[session])]
        assert goes_on not in client.answers

    in_world(tmp_path, test)


# Sessions


def test_a_drained_agent_gets_no_new_sessions(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        one, two = await world.client("one"), await world.client()
        session = await one.new()
        moving = await two.new()
        await pick(two, moving, "two")
        drain(world, ONE)
        await settle()
        assert await one.call("session/new", HERE) == "draining"
        assert await one.call("session/fork", {**HERE, "sessionId": session}) == "draining"
        assert await pick(two, moving, "one") == "draining"
        assert world.hub.sessions.alive[moving].facts.agent == "two"

    in_world(tmp_path, test, "one", "two")


def test_a_session_of_a_drained_agent_can_be_loaded_and_left_for_another(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        first, second = await world.client(), await world.client()
        session = await first.new()
        drain(world, ONE)
        assert isinstance(await second.call("session/load", {**HERE, "sessionId": session}), dict)
        assert isinstance(await pick(first, session, "two"), dict)
        assert (await turn(first, session, "hello"))["result"] == ENDED

    in_world(tmp_path, test, "one", "two")


def test_a_drained_session_can_be_loaded_and_forked(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        first, second = await world.client("one"), await world.client("one")
        session = await first.new()
        drain(world, Scope(session=session))
        assert isinstance(await second.call("session/load", {**HERE, "sessionId": session}), dict)
        asked = first.request("session/fork", {**HERE, "sessionId": session})
        (await until_asked(world, "session/fork")).answer({"sessionId": "f"}, "session/fork")
        assert (await first.answer_to(asked))["result"]["sessionId"] == "f"

    in_world(tmp_path, test)


# Agents


def test_a_drained_agent_is_neither_warmed_up_nor_probed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        drain(world, ONE)
        client = await world.client()
        assert [agent.name for agent in world.agents] == ["two"]
        await client.call("_agentd/agents", {})
        assert {agent.name for agent in world.agents} == {"two"}

    in_world(tmp_path, test, "one", "two")


def test_a_drained_agent_that_runs_is_not_stopped(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        await client.new()
        drain(world, ONE)
        await ended(world)
        assert [agent.alive for agent in world.agents] == [True]

    in_world(tmp_path, test)


def test_who_names_a_drained_agent_is_greeted_without_one_being_started(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.until_gone(await world.client("one"))
        await world.until(lambda: not world.agent.alive)
        drain(world, ONE)
        client = await world.stranger("one")
        greeting = await client.call("initialize", {"protocolVersion": 1})
        assert greeting["agentCapabilities"]["loadSession"] is True
        assert len(world.agents) == 1

    in_world(tmp_path, test, agent_class=Loading)


# Several


def test_each_scope_is_drained_for_itself_and_all_are_undone_with_the_container(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        for job, scope in enumerate((Scope(session=session), ONE, WHOLE), 1):
            drain(world, scope, job)
        assert [each.job for each in await ended(world, 3)] == [1, 2, 3]
        seen = world.hub.snapshot()
        assert (seen.state, seen.drain and seen.drain.job) == ("drained", 3)
        assert [(each.job, each.agent, each.session) for each in seen.drains] == [
            (1, "", session),
            (2, "one", ""),
        ]
        world.hub.drains.undo(ONE)
        assert [each.job for each in world.hub.snapshot().drains] == [1]
        assert (
            await refusal(client, session) == "box is being drained: running turns may end, none may begin"
        )
        world.hub.drains.undo(WHOLE)
        seen = world.hub.snapshot()
        assert (seen.state, seen.drain, seen.drains) == ("serving", None, [])
        assert (await turn(client, session, "hello"))["result"] == ENDED

    in_world(tmp_path, test)


def test_to_undo_the_container_is_nothing_to_those_that_are_drained_later(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        drain(world)
        world.hub.drains.undo(WHOLE)
        drain(world, Scope(session=session))
        assert (await refusal(client, session)).startswith("session")

    in_world(tmp_path, test)


@pytest.mark.parametrize(("job", "drained"), [(7, ["0", "1"]), (8, ["1"])])
def test_a_drain_that_is_ordered_again_goes_on_and_another_takes_its_place(
    tmp_path: Path, job: int, drained: list[str]
) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        assert [await client.new(), await client.new()] == ["0", "1"]
        for session in ("0", "1"):
            await prompted(client, session)
        drain(world, ONE)
        await settle()
        world.agent.answer(ENDED)
        while world.reports[-1].drained != ["0"]:
            await settle()
        drain(world, ONE, job)
        await settle()
        world.agent.answer(ENDED)
        assert await ended(world) == [link.Ended(job=job, result="done", drained=drained)]

    in_world(tmp_path, test)


# Before the end


def test_a_worker_that_ends_drains_for_nobody_and_cannot_be_undone(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        await prompted(client, session)
        world.hub.drains.leave(MINUTE)
        world.hub.drains.undo(WHOLE)
        await settle()
        seen = world.hub.snapshot()
        assert (seen.state, seen.drain, world.hub.drains.running is None) == ("draining", None, False)
        world.agent.answer(ENDED)
        assert await ended(world) == [link.Ended(job=0, result="done", drained=[session])]
        await settle()
        assert world.hub.drains.running is None

    in_world(tmp_path, test)


def test_a_worker_that_ends_goes_on_with_the_job_of_its_container(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        await prompted(client, session)
        drain(world)
        await settle()
        world.hub.drains.leave(MINUTE)
        assert world.hub.snapshot().drain == link.DrainInfo(job=7, remaining=1)
        world.hub.drains.undo(WHOLE)
        assert (world.hub.snapshot().drain, world.hub.snapshot().state) == (None, "draining")
        await settle()

    in_world(tmp_path, test)
