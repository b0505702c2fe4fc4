# SPDX-License-Identifier: Apache-2.0
"""What the fault harness has found, each made to happen every time."""

import asyncio
from pathlib import Path

from agentd.config import Limits
from agentd.errors import AgentTimeout
from agentd.worker.idleness import LOOK_SEC
from agentd.worker.turns import State
from unit.loop import run, skip
from unit.test_idleness import IDLE_SEC, Agent, watched
from unit.test_recovery import kept
from unit.test_session import Client, Room, prompt
from unit.test_turns import Disk, beside_a_disk
from unit.world import HERE, World, in_world, outcome, update


def test_prompt_behind_one_cancelled_during_a_resumption_is_run_though_the_disk_is_slower() -> None:
    def test(room: Room, disk: Disk) -> None:
        room.agent.alive = False  # type: ignore[misc]
        room.session.agent_left()
        room.prompt(1).cancel()
        room.prompt(2)
        room.revive()  # and the end of the first turn is still on its way to the disk
        disk.write()
        disk.write()
        assert (room.client.outcomes(), room.agent.frames) == ([(1, "cancelled")], [prompt(2)])
        assert room.session.state is State.PROMPTING

    beside_a_disk(test)


def test_agent_that_is_asked_something_while_its_work_is_measured_is_not_ended_as_idle() -> None:
    async def test(agent: Agent, ended: "asyncio.Task[None]") -> None:
        async def slowly() -> float:
            await asyncio.sleep(0.05)
            return 0.0

        agent.processor_sec = slowly  # type: ignore[method-assign]
        await skip(IDLE_SEC)
        await skip(0.05)
        await skip(LOOK_SEC)
        agent.touch()
        await skip(0.05)
        assert not ended.done()

    watched(test)


def test_turn_that_never_began_leaves_nothing_for_others_to_see() -> None:
    def test(room: Room, disk: Disk) -> None:
        other = room.enter(Client(2))
        room.agent.alive = False  # type: ignore[misc]
        room.session.agent_left()
        room.prompt(1).cancel()
        disk.write()
        assert (room.client.outcomes(), other.heard, room.session.transcript.end) == (
            [(1, "cancelled")],
            [],
            0,
        )

    beside_a_disk(test)


def test_what_an_agent_says_after_it_was_given_up_is_not_shown_behind_its_turns_end(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, other = await world.client("one"), await world.client("one")
        session = await client.new()
        asked = client.request("session/prompt", {"sessionId": session, "prompt": []})
        await world.until(lambda: world.agent.open)
        await other.call("session/load", {"sessionId": session, "cwd": "/", "mcpServers": []})
        world.agent.may_die.clear()
        (router,) = world.hub.agents._routers
        router.agent.give_up(AgentTimeout("it has hung"))
        assert outcome(await client.answer_to(asked)) == "agent_timeout"
        world.agent.say(update(session, "late"))
        world.agent.may_die.set()
        await world.until(lambda: not world.agent.alive)
        await other.sync()
        assert other.heard(session) == ["<agent_timeout>"]

    in_world(tmp_path, test)


def test_a_session_on_its_way_to_the_disk_does_not_have_to_make_room(tmp_path: Path) -> None:
    """Five are asked for at once where two may be: those that come first stay."""

    async def test(world: World) -> None:
        client = await world.client("one")
        asked = [client.request("session/new", HERE) for _ in range(5)]
        made = [outcome(await client.answer_to(each)) for each in asked]
        assert [each for each in made if each == "too_many_sessions"] == ["too_many_sessions"] * 3
        assert len(world.hub.sessions.alive) == 2

    async def whole() -> None:
        store = await kept(tmp_path)
        world = World(tmp_path, limits=Limits(sessions=2), store=store)
        try:
            await test(world)
        finally:
            await world.close()
            await store.close()

    run(whole())
