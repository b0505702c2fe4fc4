# SPDX-License-Identifier: Apache-2.0
"""What the hub answers itself, through a whole hub."""

from pathlib import Path
from typing import Any

import pytest

from unit.test_opening import Loading, turn, until_asked
from unit.world import HERE, FakeAgent, FakeClient, World, in_world, prompt

KEY = {"id": "key", "name": "Key"}
MODES = {"currentModeId": "ask", "availableModes": []}
OWN = {"id": "effort", "type": "select", "currentValue": "low", "options": []}


class Talented(FakeAgent):
    """Has modes, options, a way to log in and a list of sessions."""

    def __init__(self, world: World, name: str, mark: str) -> None:
        super().__init__(world, name, mark)
        self.capabilities = {
            "promptCapabilities": {"image": name == "one"},
            "sessionCapabilities": {"list": {}},
        }
        greeting = {"protocolVersion": 1, "agentInfo": {"name": name, "version": "1"}, "authMethods": [KEY]}
        new = self.answers["session/new"]
        self.answers |= {
            "initialize": lambda params: {**greeting, "agentCapabilities": self.capabilities},
            "session/new": lambda params: {**new(params), "modes": MODES, "configOptions": [OWN]},
            "session/set_mode": lambda params: {},
            "session/set_config_option": lambda params: {"configOptions": [{**OWN, "currentValue": "high"}]},
            "session/list": lambda params: {"sessions": [{"sessionId": "0"}, {"sessionId": "old"}]},
            "authenticate": lambda params: {},
        }


def updates(client: FakeClient, kind: str) -> list[Any]:
    told = [each["params"]["update"] for each in client.inbox if each.get("method") == "session/update"]
    return [each for each in told if each["sessionUpdate"] == kind]


async def two_in_a_session(world: World, agent: str = "one") -> tuple[FakeClient, FakeClient, str]:
    client, other = await world.client(agent), await world.client(agent)
    session = await client.new()
    await other.call("session/load", {**HERE, "sessionId": session})
    return client, other, session


# initialize


async def greeted(world: World, agent: str = "") -> Any:
    client = await world.stranger(agent)
    return await client.call("initialize", {"protocolVersion": 9, "clientCapabilities": {}})


def test_a_client_with_an_agent_sees_that_and_what_the_hub_adds(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        greeting = await greeted(world, "one")
        assert greeting["agentInfo"] == {"name": "one", "version": "1"}
        assert greeting["authMethods"] == [KEY]
        assert greeting["agentCapabilities"]["promptCapabilities"] == {"image": True}
        assert greeting["agentCapabilities"]["loadSession"] is True
        (asked,) = world.agent.asked
        assert asked["params"]["protocolVersion"] == 1

    in_world(tmp_path, test, agent_class=Talented)


def test_one_without_sees_agentd_and_what_all_agents_can_do(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        greeting = await greeted(world)
        assert greeting["agentInfo"]["name"] == "agentd"
        assert [each["id"] for each in greeting["authMethods"]] == ["one/key", "two/key"]
        assert "promptCapabilities" not in greeting["agentCapabilities"]
        assert sorted(agent.name for agent in world.agents) == ["one", "two"]

    in_world(tmp_path, test, "one", "two", agent_class=Talented)


def test_an_agent_that_is_not_there_does_not_spoil_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.missing = {"two"}
        greeting = await greeted(world)
        assert [each["id"] for each in greeting["authMethods"]] == ["one/key"]

    in_world(tmp_path, test, "one", "two", agent_class=Talented)


# The list


def test_the_list_has_what_is_alive_and_then_what_agents_have_kept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        await turn(client, session, "Fix it\nplease")
        listed = (await client.call("session/list", {}))["sessions"]
        assert [each["sessionId"] for each in listed] == ["0", "old"]
        assert (listed[0]["title"], listed[0]["cwd"]) == ("Fix it", "/work")
        others = (await client.call("session/list", {"cwd": "/other"}))["sessions"]
        assert [each["sessionId"] for each in others] == ["old"]
        stranger = await world.client("one", uid=2000)
        seen = (await stranger.call("session/list", {}))["sessions"]
        assert [each["sessionId"] for each in seen if each["sessionId"] in ("0", "old")] == ["old"]

    in_world(tmp_path, test, agent_class=Talented)


# Close and delete


@pytest.mark.parametrize("method", ["session/close", "session/delete"])
def test_a_session_is_closed_for_everybody_in_it(tmp_path: Path, method: str) -> None:
    async def test(world: World) -> None:
        client, other, session = await two_in_a_session(world)
        assert await client.call(method, {"sessionId": session}) == {}
        await other.sync()
        assert updates(other, "session_info_update")[-1]["_meta"] == {"agentd.session": {"state": "closed"}}
        assert await other.call("session/prompt", prompt(session, "hello")) == "no_such_session"
        asked = "session/close" in world.agent.methods()
        assert asked == (method == "session/close")  # this agent cannot delete

    in_world(tmp_path, test, agent_class=Loading)


def test_what_nobody_knows_cannot_be_closed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        assert await client.call("session/close", {"sessionId": "none"}) == "no_such_session"
        assert await client.call("session/close", {}) == "invalid_args"

    in_world(tmp_path, test)


# Modes and options


def test_a_mode_is_entered_and_the_others_hear_of_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, other, session = await two_in_a_session(world)
        assert await client.call("session/set_mode", {"sessionId": session, "modeId": "code"}) == {}
        await other.sync()
        assert [each["currentModeId"] for each in updates(other, "current_mode_update")] == ["code"]
        assert updates(client, "current_mode_update") == []
        third = await world.client("one")
        loaded = await third.call("session/load", {**HERE, "sessionId": session})
        assert loaded["modes"]["currentModeId"] == "code"

    in_world(tmp_path, test, agent_class=Talented)


@pytest.mark.parametrize("agent", ["", "one"])
def test_an_option_of_the_agents_is_its_own(tmp_path: Path, agent: str) -> None:
    async def test(world: World) -> None:
        client, other, session = await two_in_a_session(world, agent)
        option = {"sessionId": session, "configId": "effort", "value": "high"}
        answer = await client.call("session/set_config_option", option)
        await other.sync()
        (heard,) = updates(other, "config_option_update")
        assert heard["configOptions"] == answer["configOptions"]
        ids = [each["id"] for each in answer["configOptions"]]
        assert ids == (["effort"] if agent else ["agentd.agent", "effort"])
        assert answer["configOptions"][-1]["currentValue"] == "high"

    in_world(tmp_path, test, agent_class=Talented)


def test_a_session_has_to_be_open_for_that(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        session = await (await world.client("one")).new()
        other = await world.client("one")
        for method in ("session/set_mode", "session/set_config_option", "session/prompt"):
            assert await other.call(method, {"sessionId": session}) == "no_such_session"

    in_world(tmp_path, test)


def test_what_comes_before_a_session_is_loaded_waits_for_the_same_agent(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        loaded = client.request("session/load", {**HERE, "sessionId": "old"})
        agent = await until_asked(world, "session/load")
        mode = client.request("session/set_mode", {"sessionId": "old", "modeId": "code"})
        await until_asked(world, "session/set_mode")
        agent.answer({}, "session/load")
        agent.answer({}, "session/set_mode")
        for number in (loaded, mode):
            assert (await client.answer_to(number))["result"] == {}
        assert agent.methods() == ["initialize", "session/load", "session/set_mode"]

    in_world(tmp_path, test, agent_class=Loading)


# Models and agents in one


def test_a_value_of_the_combined_option_picks_both(tmp_path: Path) -> None:
    class Modelled(Talented):
        def __init__(self, world: World, name: str, mark: str) -> None:
            super().__init__(world, name, mark)
            self.chosen = "small"
            new = self.answers["session/new"]
            self.answers["session/new"] = lambda params: {**new(params), "configOptions": [self.model()]}
            self.answers["session/set_config_option"] = self.choose

        def model(self) -> Any:
            values = [{"value": each, "name": each} for each in ("small", "big")]
            kind = {"category": "model", "type": "select"}
            return {"id": "m", **kind, "currentValue": self.chosen, "options": values}

        def choose(self, params: Any) -> Any:
            self.chosen = params["value"]
            return {"configOptions": [self.model()]}

    async def test(world: World) -> None:
        client = await world.client()
        session = await client.new()
        option = {"sessionId": session, "configId": "model", "value": "two:big"}
        for _ in range(2):  # said twice, it is the same
            answer = await client.call("session/set_config_option", option)
            (model,) = answer["configOptions"]
            assert model["currentValue"] == "two:big"
            values = [each["value"] for each in model["options"]]
            assert values == ["one:small", "one:big", "two:small", "two:big"]

    in_world(tmp_path, test, "one", "two", agent_class=Modelled, selector="agent:model")


# Logging in


@pytest.mark.parametrize(("agent", "method"), [("", "two/key"), ("two", "key")])
def test_a_login_goes_to_its_agent_under_its_own_name(tmp_path: Path, agent: str, method: str) -> None:
    async def test(world: World) -> None:
        client = await world.client(agent)
        assert await client.call("authenticate", {"methodId": method}) == {}
        (asked,) = [
            (one.name, m["params"]) for one in world.agents for m in one.asked if "methodId" in m["params"]
        ]
        assert asked == ("two", {"methodId": "key"})
        if not agent:  # else it is for the agent to say
            assert await client.call("authenticate", {}) == "invalid_args"

    in_world(tmp_path, test, "one", "two", agent_class=Talented)


# What there is


def test_the_agents_are_reported_with_what_is_wrong_with_them(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.missing = {"two"}
        client = await world.stranger("one")
        (one, two) = (await client.call("_agentd/agents", {}))["agents"]
        assert (one["name"], one["state"], one["version"], one["default"]) == ("one", "ready", "1", True)
        assert one["login"] == [{"id": "key", "name": "Key", "terminal": False}]
        assert (two["state"], two["reason"]) == ("missing", "box has no program two")

    in_world(tmp_path, test, "one", "two", agent_class=Talented)
