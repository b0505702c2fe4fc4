# SPDX-License-Identifier: Apache-2.0
"""What the manager is told of a worker's inside, through a whole hub."""

from pathlib import Path

import pytest

from agentd import link
from agentd.errors import AgentExited
from agentd.worker.drain import Scope
from agentd.worker.facts import Facts
from agentd.worker.hello import NOBODY
from agentd.worker.hub import SETTLE_SEC
from agentd.worker.sessions import Place
from unit.loop import settle, skip
from unit.test_opening import ENDED, Loading, turn, until_asked
from unit.world import HERE, FakeClient, World, in_world, prompt


def seen(world: World) -> link.SessionInfo:
    (session,) = world.hub.snapshot().sessions
    return session


async def told(world: World) -> link.Snapshot:
    """The next one that the manager gets; hangs where nothing is told."""
    while world.hub._pending is None:
        await settle()
    await skip(SETTLE_SEC)
    return world.hub.snapshot()


async def quiet(world: World) -> None:
    """Until what has changed so far was told."""
    while world.hub._pending is not None:
        await skip(SETTLE_SEC)


def admit(world: World, count: int, length: int) -> None:
    """Sessions with long names, each used a second later than the one before."""
    for number in range(count):
        facts = Facts("one", NOBODY, {}, now=float(number))
        facts.title = "ä" * 200
        session = world.hub.sessions.admit(Place(1000), f"{number:0{length}}", facts)
        session.last_used = float(number)


def test_a_session_is_described(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, other = await world.client("one", uid=7), await world.client("one", uid=7)
        session = await client.new()
        await other.call("session/load", {**HERE, "sessionId": session})
        await turn(client, session, "Mend the tests " * 10)
        assert seen(world) == link.SessionInfo(
            id=session,
            agent="one",
            state="idle",
            key=world.hub.sessions.alive[session].key,
            title=("Mend the tests " * 10)[:80],
            owner=7,
            clients=2,
            created_usec=5_000_000,
            updated_usec=5_000_000,
        )
        assert world.hub.snapshot().started_usec == 5_000_000

    in_world(tmp_path, test, clock=lambda: 5.0)


@pytest.mark.parametrize("length", [36, 400])
def test_of_very_many_sessions_those_used_last_are_told_and_it_fits(tmp_path: Path, length: int) -> None:
    async def test(world: World) -> None:
        admit(world, 2_000, length)
        snapshot = world.hub.snapshot()
        names = [int(each.id) for each in snapshot.sessions]
        assert (names[0], snapshot.sessions_open, len(snapshot.sessions[0].title)) == (1999, 2_000, 80)
        assert names == list(range(1999, 1999 - len(names), -1))
        assert len(names) > 150
        hello = link.Hello(version=2, pid=1, code="1", container="box", snapshot=snapshot)
        assert link.fits(hello)
        assert len(link._encode(hello)) <= link.MESSAGE_BYTES - 31 * 1024

    in_world(tmp_path, test)


def test_it_fits_however_much_is_drained(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        admit(world, 600, 200)
        names = list(world.hub.sessions.alive)
        for scope in (Scope(), *(Scope(session=name) for name in names[:20])):
            world.hub.drains.order(scope, 1, 60.0)
            world.hub.drains._begun[scope].drain.drained += names
        snapshot = world.hub.snapshot()
        assert link.fits(link.State(snapshot=snapshot))
        assert snapshot.drain is not None
        assert min(len(snapshot.drain.drained), len(snapshot.drains), len(snapshot.sessions)) > 0
        await settle()

    in_world(tmp_path, test)


def test_one_name_that_is_too_long_hides_no_others(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        admit(world, 3, 5)
        admit(world, 1, link.MESSAGE_BYTES)
        assert len(world.hub.snapshot().sessions) == 3

    in_world(tmp_path, test)


def test_frames_are_counted_in_both_directions_and_over_the_life_of_agents(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        before = world.hub.snapshot().frames
        assert before == 4  # initialize and session/new, with their answers
        await turn(client, session, "hello", "a", "b", "c")
        assert world.hub.snapshot().frames == before + 1 + 3 + 1
        await world.lose(world.agent)
        while world.hub.agents:
            await settle()
        assert world.hub.snapshot().frames == before + 5

    in_world(tmp_path, test)


# Each change is told


async def in_a_session(world: World) -> tuple[FakeClient, str]:
    client = await world.client("one")
    session = await client.new()
    await quiet(world)
    return client, session


def test_a_client_that_comes_or_goes_is_told(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, session = await in_a_session(world)
        other = await world.client("one")
        await quiet(world)
        other.request("session/load", {**HERE, "sessionId": session})
        while (await told(world)).sessions[0].clients != 2:
            pass
        other.leave()
        while (await told(world)).sessions[0].clients != 1:
            pass
        assert client.here

    in_world(tmp_path, test)


def test_a_title_that_the_agent_gives_is_told(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        _, session = await in_a_session(world)
        titled = {"sessionUpdate": "session_info_update", "title": "Mending"}
        world.agent.say({"method": "session/update", "params": {"sessionId": session, "update": titled}})
        assert (await told(world)).sessions[0].title == "Mending"

    in_world(tmp_path, test)


def test_a_permission_that_is_asked_for_or_decided_is_told(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, session = await in_a_session(world)
        options = [{"optionId": "yes", "kind": "allow_once"}]
        world.agent.ask("session/request_permission", {"sessionId": session, "options": options})
        assert (await told(world)).sessions[0].permissions == 1
        await world.until(lambda: client.asked)
        client.choose(client.asked[0], "yes")
        assert (await told(world)).sessions[0].permissions == 0

    in_world(tmp_path, test)


def test_states_of_a_turn_are_told(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, session = await in_a_session(world)
        client.request("session/prompt", prompt(session, "hello"))
        assert (await told(world)).sessions[0].state == "prompting"
        await quiet(world)
        second = client.request("session/prompt", prompt(session, "more"))
        assert (await told(world)).sessions[0].queued == 1
        await quiet(world)
        client.notify("$/cancel_request", {"requestId": second})
        assert (await told(world)).sessions[0].queued == 0
        await quiet(world)
        client.notify("session/cancel", {"sessionId": session})
        assert (await told(world)).sessions[0].state == "cancelling"
        await quiet(world)
        world.agent.answer(ENDED)
        assert (await told(world)).sessions[0].state == "idle"

    in_world(tmp_path, test)


def test_a_session_that_was_loaded_is_told_to_be_there(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        client.request("session/load", {**HERE, "sessionId": "old"})
        agent = await until_asked(world, "session/load")
        await quiet(world)
        assert seen(world).state == "resuming"
        agent.answer({}, "session/load")
        assert (await told(world)).sessions[0].state == "idle"

    in_world(tmp_path, test, agent_class=Loading)


def test_states_of_an_agent_are_told(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.client("one")
        world.agent.may_die.clear()
        assert [each.state for each in (await told(world)).agents] == ["ready"]
        await quiet(world)
        world.hub.agents.dismiss(AgentExited("nobody needs it"))
        assert [each.state for each in (await told(world)).agents] == ["stopping"]
        await quiet(world)
        world.agent.may_die.set()
        assert (await told(world)).agents == []

    in_world(tmp_path, test)
