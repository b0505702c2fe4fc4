# SPDX-License-Identifier: Apache-2.0
"""How sessions begin and begin again, through a whole hub."""

from pathlib import Path
from typing import Any

import pytest

from agentd.config import Container, Limits
from agentd.errors import TooManySessions
from agentd.worker import agents
from agentd.worker.facts import Facts
from agentd.worker.hello import NOBODY
from unit.loop import settle
from unit.world import HERE, FakeAgent, FakeClient, World, in_world, prompt, said, update

LOADS = {"loadSession": True, "sessionCapabilities": {"close": {}}}
ENDED = {"stopReason": "end_turn"}


class Loading(FakeAgent):
    """Can load sessions, and does when a test says so."""

    def __init__(self, world: World, name: str, mark: str) -> None:
        super().__init__(world, name, mark)
        self.capabilities = LOADS


class Resuming(FakeAgent):
    def __init__(self, world: World, name: str, mark: str) -> None:
        super().__init__(world, name, mark)
        self.capabilities = {"sessionCapabilities": {"resume": {}}}


async def turn(client: FakeClient, session: str, text: str, *words: str) -> Any:
    """A turn in which the agent says something."""
    world = client.world
    asked = client.request("session/prompt", prompt(session, text))
    await world.until(lambda: any("prompt" in each["params"] for each in world.agent.open))
    native = world.agent.open[-1]["params"]["sessionId"]
    world.agent.say(*[update(native, word) for word in words])
    world.agent.answer(ENDED)
    return await client.answer_to(asked)


async def until_asked(world: World, method: str, agent: int | None = None) -> FakeAgent:
    """The agent that has this request open (the last one, or the one of this number)."""
    if agent is not None:
        await world.until_agents(agent)
    chosen = world.agents[agent - 1] if agent is not None else world.agent
    await world.until(lambda: any(each["method"] == method for each in chosen.open))
    return chosen


def contents(client: FakeClient) -> list[str]:
    """The inbox: a "+" for each answer, what was said, and the methods of the rest."""
    return [said(each) or str(each.get("method", "+")) for each in client.inbox]


# New


def test_a_session_is_answered_before_anything_is_said_in_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        agent = world.agent
        del agent.answers["session/new"]
        asked = client.request("session/new", HERE)
        await until_asked(world, "session/new")
        agent.say(update("7", "early"))
        agent.answer({"sessionId": "7", "_x": 1}, "session/new")
        agent.say(update("7", "late"))
        assert (await client.answer_to(asked))["result"] == {"sessionId": "7", "_x": 1}
        await client.sync()
        assert contents(client) == ["+", "+", "early", "late", "+"]

    in_world(tmp_path, test)


def test_names_that_two_agents_use_are_told_apart(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        one, two = await world.client("one"), await world.client("two")
        sessions = [await one.new(), await two.new(), await two.new()]
        assert sessions == ["0", "0~1", "1"]
        await turn(two, "0~1", "hello", "well")
        assert (two.heard("0~1"), one.heard("0")) == (["well"], [])
        assert world.agent.asked[-1]["params"]["sessionId"] == "0"

    in_world(tmp_path, test, "one", "two")


def test_what_an_agent_refuses_is_passed_on(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        del world.agent.answers["session/new"]
        asked = client.request("session/new", HERE)
        (await until_asked(world, "session/new")).refuse("session/new", -32000)
        assert (await client.answer_to(asked))["error"] == {"code": -32000, "message": "no"}
        assert world.hub.catalog.card("one").state == "needs-login"

    in_world(tmp_path, test)


@pytest.mark.parametrize("answer", [{}, {"sessionId": 5}, [], None])
def test_an_answer_without_a_session_is_an_error(tmp_path: Path, answer: Any) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        del world.agent.answers["session/new"]
        asked = client.request("session/new", HERE)
        (await until_asked(world, "session/new")).answer(answer, "session/new")
        assert (await client.answer_to(asked))["error"]["data"]["reason"] == "agent_failed"

    in_world(tmp_path, test)


def test_a_session_whose_client_has_left_meanwhile_is_dropped(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.client("one")  # keeps the agent
        client = await world.client("one")
        del world.agent.answers["session/new"]
        client.request("session/new", HERE)
        agent = await until_asked(world, "session/new")
        await world.until_gone(client)
        agent.answer({"sessionId": "7"}, "session/new")
        await world.until(lambda: "session/close" in agent.methods())
        assert world.hub.sessions.alive == {}

    in_world(tmp_path, test, agent_class=Loading)


def test_an_unmapped_directory_is_refused(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        assert await client.call("session/new", HERE) == "unmapped_path"
        assert await client.call("session/new", {**HERE, "cwd": "/mine/x"}) == {"sessionId": "0"}
        assert world.agent.asked[-1]["params"]["cwd"] == "/work/x"

    in_world(tmp_path, test, runtime="podman", container=Container(paths={"/mine": "/work"}))


def test_at_the_limit_the_oldest_that_nobody_uses_has_to_go(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, guest = await world.client("one"), await world.client("one")
        kept = await client.new()
        left = await guest.new()
        await turn(guest, left, "hello")
        assert await client.call("session/new", HERE) == "too_many_sessions"
        await world.until_gone(guest)
        new = await client.new()
        assert sorted(world.hub.sessions.alive) == sorted([kept, new])

    in_world(tmp_path, test, limits=Limits(sessions=2))


@pytest.mark.parametrize("limits", [Limits(sessions=2), Limits(sessions_per_uid=2)])
def test_a_session_that_is_being_written_counts_once(tmp_path: Path, limits: Limits) -> None:
    async def test(world: World) -> None:
        sessions = world.hub.sessions
        with sessions.place(7) as place:
            sessions.admit(place, "first", Facts("one", NOBODY, {}, now=0.0)).turns.set_out()
            with sessions.place(7), pytest.raises(TooManySessions), sessions.place(7):
                pass

    in_world(tmp_path, test, limits=limits)


# Load and resume


def test_whoever_loads_a_session_is_shown_what_was_said_and_then_answered(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        await turn(client, session, "hello", "well", "then")
        other = await world.client("one")
        other.inbox.clear()
        assert await other.call("session/load", {**HERE, "sessionId": session}) == {}
        assert contents(other) == ["hello", "well", "then", "<end_turn>", "+"]
        third = await world.client("one")
        assert await third.call("session/resume", {**HERE, "sessionId": session}) == {}
        world.agent.say(update(session, "more"))
        await third.sync()
        assert third.heard(session) == ["more"]

    in_world(tmp_path, test)


@pytest.mark.parametrize("share", [False, True])
def test_somebody_elses_session_is_there_only_where_sessions_are_shared(tmp_path: Path, share: bool) -> None:
    async def test(world: World) -> None:
        session = await (await world.client("one")).new()
        stranger = await world.client("one", uid=2000)
        result = await stranger.call("session/load", {**HERE, "sessionId": session})
        assert result == ({} if share else "no_such_session")

    in_world(tmp_path, test, container=Container(share_sessions=share))


def test_an_old_session_is_the_agents_to_load(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        asked = client.request("session/load", {**HERE, "sessionId": "old"})
        agent = await until_asked(world, "session/load")
        agent.say(update("old", "before"))
        agent.answer({"_x": 1}, "session/load")
        assert (await client.answer_to(asked))["result"] == {"_x": 1}
        assert client.heard("old") == ["before"]
        await turn(client, "old", "hello")

    in_world(tmp_path, test, agent_class=Loading)


def test_one_that_it_does_not_know_is_not_there_afterwards(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        asked = client.request("session/load", {**HERE, "sessionId": "old"})
        (await until_asked(world, "session/load")).refuse("session/load", -32002)
        assert (await client.answer_to(asked))["error"]["code"] == -32002
        assert world.hub.sessions.alive == {}

    in_world(tmp_path, test, agent_class=Loading)


def test_two_who_load_an_old_session_at_once_are_in_the_same_one(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        clients = [await world.stranger("one"), await world.stranger("one")]
        asked = [each.request("session/load", {**HERE, "sessionId": "old"}) for each in clients]
        agent = await world.until_agents(1)
        await until_asked(world, "session/load")
        agent.answer({}, "session/load")
        for client, number in zip(clients, asked, strict=True):
            assert (await client.answer_to(number))["result"] == {}
        assert agent.methods().count("session/load") == 1
        agent.say(update("old", "hello"))
        for client in clients:
            await client.sync()
            assert client.heard("old") == ["hello"]

    in_world(tmp_path, test, agent_class=Loading)


def test_an_old_name_is_not_loaded_over_a_session_that_is_alive_under_another(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        one, two = await world.client("one"), await world.client("two")
        first = await one.new()
        second = await two.new()
        assert (first, second) == ("0", "0~1")
        assert await one.call("session/close", {"sessionId": first}) == {}
        assert await two.call("session/load", {**HERE, "sessionId": "0"}) == "no_such_session"
        world.agent.say(update("0", "hello"))
        await two.sync()
        assert two.heard("0~1") == ["hello"]

    in_world(tmp_path, test, "one", "two", agent_class=Loading)


# Fork


def test_a_fork_is_a_session_of_its_own(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        asked = client.request("session/fork", {**HERE, "sessionId": session})
        agent = await until_asked(world, "session/fork")
        agent.say(update("f", "before"))
        agent.answer({"sessionId": "f"}, "session/fork")
        assert (await client.answer_to(asked))["result"] == {"sessionId": "f"}
        await client.sync()
        assert (client.heard("f"), client.heard(session)) == (["before"], [])
        assert await client.call("session/fork", {**HERE, "sessionId": "none"}) == "no_such_session"

    in_world(tmp_path, test)


# Another agent


async def pick(client: FakeClient, session: str, agent: str) -> Any:
    option = {"configId": "agentd.agent", "value": agent}
    return await client.call("session/set_config_option", {"sessionId": session, **option})


def test_a_new_session_can_be_moved_to_another_agent(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client()
        session = await client.new()
        result = await pick(client, session, "two")
        assert [each["currentValue"] for each in result["configOptions"]] == ["two"]
        await world.until(lambda: client.inbox)
        asked = client.request("session/prompt", prompt(session, "hello"))
        await world.until(lambda: any(each.open for each in world.agents))
        (agent,) = [each for each in world.agents if each.open]
        assert agent.name == "two"
        agent.answer(ENDED)
        await client.answer_to(asked)
        assert await pick(client, session, "one") == "agent_fixed"
        assert await pick(client, session, "three") == "no_such_agent"

    in_world(tmp_path, test, "one", "two")


def test_where_the_other_agent_fails_the_session_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "START_PAUSES", ())

    async def test(world: World) -> None:
        client = await world.client()
        session = await client.new()
        before = len(world.agents)
        (two,) = [each for each in world.agents if each.name == "two" and each.alive] or [None]
        moved = client.request(
            "session/set_config_option", {"sessionId": session, "configId": "agentd.agent", "value": "two"}
        )
        if two is None:
            two = await world.until_agents(before + 1)
        two.crash()
        assert "error" in await client.answer_to(moved)
        assert world.hub.sessions.alive[session].facts.agent == "one"
        assert world.hub.sessions.alive[session].is_idle

    in_world(tmp_path, test, "one", "two")


# Beginning again


async def begun(world: World, *words: str) -> tuple[FakeClient, str]:
    client = await world.client("one")
    session = await client.new()
    await turn(client, session, "hello", *words)
    return client, session


def test_an_agent_that_can_loads_the_session_and_nothing_is_said_twice(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, session = await begun(world, "well")
        await world.lose(world.agent)
        asked = client.request("session/prompt", prompt(session, "again"))
        agent = await until_asked(world, "session/load", 2)
        agent.say(update(session, "well"))
        number = agent.open.pop()["id"]
        agent.say({"id": number, "result": {}}, update(session, "news"))
        await until_asked(world, "session/prompt")
        agent.answer(ENDED)
        await client.answer_to(asked)
        assert client.heard(session) == ["well", "news"]

    in_world(tmp_path, test, agent_class=Loading)


def test_one_that_resumes_says_only_what_is_new(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, session = await begun(world, "well")
        await world.lose(world.agent)
        asked = client.request("session/prompt", prompt(session, "again"))
        agent = await until_asked(world, "session/resume", 2)
        agent.say(update(session, "early"))
        agent.answer({}, "session/resume")
        await until_asked(world, "session/prompt")
        agent.answer(ENDED)
        await client.answer_to(asked)
        assert client.heard(session) == ["well", "early"]

    in_world(tmp_path, test, agent_class=Resuming)


def test_one_that_cannot_begins_a_new_session_under_the_old_name(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, session = await begun(world)
        await world.lose(world.agent)
        asked = client.request("session/prompt", prompt(session, "again"))
        agent = await until_asked(world, "session/prompt", 2)
        agent.answer(ENDED)
        assert "result" in await client.answer_to(asked)
        assert [each for each in client.inbox if "agentd.notice" in str(each)]

    in_world(tmp_path, test)


def test_the_old_agent_has_ended_before_the_new_one_begins(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, session = await begun(world)
        old = world.agent
        old.may_die.clear()
        await world.lose(old)
        asked = client.request("session/prompt", prompt(session, "again"))
        await client.sync()
        await settle()
        assert len(world.hub.snapshot().agents) == 1
        old.may_die.set()
        agent = await until_asked(world, "session/prompt", 2)
        client.notify("session/cancel", {"sessionId": session})
        await world.until(lambda: agent.told)
        agent.answer({"stopReason": "cancelled"})
        assert (await client.answer_to(asked))["result"] == {"stopReason": "cancelled"}

    in_world(tmp_path, test)


def test_a_turn_is_not_begun_twice_when_something_else_wants_its_dying_agent(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        asked = client.request("session/prompt", prompt(session, "hello"))
        await until_asked(world, "session/prompt")
        world.agent.may_die.clear()
        await world.lose(world.agent)
        other = client.request("_other", {"sessionId": session})
        await client.sync()
        world.agent.may_die.set()
        assert (await client.answer_to(asked))["error"]["data"]["reason"] == "agent_exited"
        agent = await until_asked(world, "_other", 2)
        agent.answer({}, "_other")
        await client.answer_to(other)
        assert "session/prompt" not in agent.methods()

    in_world(tmp_path, test)


def test_one_agent_is_started_for_all_that_wait_after_a_failed_start(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, session = await begun(world)
        await world.lose(world.agent)
        prompts = [client.request("session/prompt", prompt(session, text)) for text in ("one", "two")]
        (
            await until_asked(world, "session/load", 2)
        ).crash()  # the first prompt fails, the second tries again
        assert "error" in await client.answer_to(prompts[0])
        agent = await until_asked(world, "session/load", 3)
        other = client.request("_other", {"sessionId": session})
        await client.sync()
        agent.answer({}, "session/load")
        await until_asked(world, "_other")
        await until_asked(world, "session/prompt")
        agent.answer({}, "_other")
        agent.answer(ENDED)
        assert "result" in await client.answer_to(prompts[1])
        await client.answer_to(other)
        assert agent.methods() == ["initialize", "session/load", "session/prompt", "_other"]

    in_world(tmp_path, test, agent_class=Loading)


def test_a_session_that_is_closed_while_its_agent_comes_stays_closed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, session = await begun(world)
        await world.lose(world.agent)
        asked = client.request("session/prompt", prompt(session, "again"))
        agent = await until_asked(world, "session/load", 2)
        assert await client.call("session/close", {"sessionId": session}) == {}
        assert (await client.answer_to(asked))["error"]["data"]["reason"] == "no_such_session"
        agent.answer({}, "session/load")
        await client.sync()
        assert await client.call("session/prompt", prompt(session, "more")) == "no_such_session"
        assert "session/prompt" not in agent.methods()

    in_world(tmp_path, test, agent_class=Loading)


def test_a_new_process_that_uses_an_old_name_again_keeps_its_sessions_apart(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, old = await begun(world)
        await world.lose(world.agent)
        new = await client.new()
        assert (old, new) == ("0", "0~1")
        asked = client.request("session/prompt", prompt(old, "again"))
        agent = await until_asked(world, "session/prompt", 2)
        assert agent.open[0]["params"]["sessionId"] == "1"
        agent.say(update("0", "new"), update("1", "old"))
        agent.answer(ENDED)
        await client.answer_to(asked)
        assert (client.heard(new), client.heard(old)) == (["new"], ["old"])

    in_world(tmp_path, test, agent_class=Loading)
