# SPDX-License-Identifier: Apache-2.0
"""The agent called agentd, which stands for all of a container's, and connections that named their own."""

import json
from typing import Any

import pytest

from agentd import __version__
from support.acp_client import Client, Frame, process, reason, result, texts, told, updates
from support.embedded import Embedded, Start, eventually

NEW = {"cwd": "/", "mcpServers": []}
THREE = {"alpha": "--models a1,a2 --modes plan,code", "beta": "--models b1,b:2", "gamma": ""}
"""The first has models and modes, the second models, one with a colon, the third nothing."""


@pytest.fixture
def three(several: Start) -> Embedded:
    return several(THREE)


def made(client: Client) -> Frame:
    """The answer to session/new."""
    answer = result(client.call("session/new", NEW))
    client.session = str(answer["sessionId"])
    return answer


def put(client: Client, option: str, value: str) -> Frame:
    params = {"sessionId": client.session, "configId": option, "value": value}
    return client.call("session/set_config_option", params)


def chosen(answer: Frame) -> dict[str, Any]:
    """The values of all options in an answer or update."""
    return {each["id"]: each["currentValue"] for each in answer["configOptions"]}


def choices(answer: Frame, option: str) -> list[str]:
    [found] = [each for each in answer["configOptions"] if each["id"] == option]
    return [each["value"] for each in found["options"]]


def agents(client: Client) -> dict[str, Frame]:
    """What _agentd/agents reports, by name."""
    return {each["name"]: each for each in result(client.call("_agentd/agents"))["agents"]}


# initialize


def test_it_is_agentd_that_answers(three: Embedded) -> None:
    with three.client() as client:
        greeting = client.greet()
        assert (greeting["agentInfo"]["name"], greeting["agentInfo"]["version"]) == ("agentd", __version__)
        assert greeting["protocolVersion"] == 1


def test_a_client_of_a_later_protocol_is_answered_in_this_one(three: Embedded) -> None:
    for agent in ("", "alpha"):
        with three.client() as client:
            client.attach("here", agent)
            greeting = result(client.call("initialize", {"protocolVersion": 7, "clientCapabilities": {}}))
            assert greeting["protocolVersion"] == 1
            assert told(client, "initialize")["protocolVersion"] == 1


def test_what_the_hub_can_do_is_always_promised(three: Embedded) -> None:
    with three.client() as client:
        capabilities = client.greet()["agentCapabilities"]
        assert capabilities["loadSession"] is True
        assert capabilities["sessionCapabilities"].keys() == {"list", "resume", "close", "delete"}


def test_prompts_may_have_what_all_agents_take(several: Start) -> None:
    agentd = several({"alpha": "--takes image --takes audio", "beta": "--takes audio --takes image"})
    with agentd.client() as client:
        capabilities = client.greet()["agentCapabilities"]["promptCapabilities"]
        assert capabilities == {"image": True, "audio": True}


def test_prompts_may_not_have_what_one_agent_does_not_take(several: Start) -> None:
    agentd = several(
        {"alpha": "--takes image --takes audio", "beta": "--takes image", "gamma": "--takes image"}
    )
    with agentd.client() as client:
        assert client.greet()["agentCapabilities"]["promptCapabilities"] == {"image": True}


def test_an_agent_that_is_not_there_takes_nothing_away(several: Start) -> None:
    agentd = several({"alpha": "--takes image", "beta": "/no/such/agent"})
    with agentd.client() as client:
        assert client.greet()["agentCapabilities"]["promptCapabilities"] == {"image": True}


def test_ways_to_log_in_are_those_of_all_agents(several: Start) -> None:
    agentd = several({"alpha": "--needs-login", "beta": "--needs-login --auth-terminal", "gamma": ""})
    with agentd.client() as client:
        offered = {each["id"]: each for each in client.greet()["authMethods"]}
        assert offered.keys() == {"alpha/key", "beta/key"}
        assert (offered["beta/key"]["name"], offered["beta/key"]["_meta"]) == ("A key", {"kept": 1})


def test_a_terminal_is_offered_to_who_has_one(several: Start) -> None:
    agentd = several({"alpha": "--auth-terminal", "beta": ""})
    with agentd.client() as client:
        [method] = client.greet(capabilities={"auth": {"terminal": True}})["authMethods"]
        assert (method["id"], method["type"], method["name"]) == ("alpha/tty", "terminal", "By hand")
        assert method["args"] == ["--login", "alpha/tty"]
        assert "env" not in method


def test_agents_that_hang_do_not_keep_a_client_waiting(several: Start) -> None:
    agentd = several({"alpha": "", "beta": "--hang initialize"}, limits="probe_sec = 1.0")
    with agentd.client() as client:
        client.greet()
        assert "beta" not in choices(made(client), "agentd.agent")
        assert client.turn("say fine")[1] == ["fine"]


def test_a_default_that_fails_leaves_the_others_to_choose_from(several: Start) -> None:
    agentd = several({"alpha": "--exit-at initialize", "beta": ""})
    with agentd.client() as client:
        client.greet()
        assert agents(client)["alpha"]["state"] == "failing"
        assert agents(client)["beta"]["state"] == "ready"


# A session


def test_the_choice_of_agents_comes_before_the_agents_own_options(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        answer = made(client)
        ours, model = answer["configOptions"]
        assert (ours["id"], ours["name"], ours["category"]) == ("agentd.agent", "Agent", "_agentd_agent")
        assert (ours["type"], ours["currentValue"]) == ("select", "alpha")
        assert choices(answer, "agentd.agent") == ["alpha", "beta", "gamma"]
        assert (model["id"], model["currentValue"], model["_kept"]) == ("model", "a1", 1)
        assert answer["modes"]["currentModeId"] == "plan"
        assert answer["_cwd"] == "/"


def test_an_agents_own_option_is_the_agents(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        made(client)
        answer = put(client, "model", "a2")
        assert chosen(answer["result"]) == {"agentd.agent": "alpha", "model": "a2"}
        assert told(client, "session/set_config_option", sessionId=client.session) == {
            "sessionId": client.session, "configId": "model", "value": "a2"
        }  # fmt: skip


def test_what_an_agent_refuses_is_refused_in_its_words(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        made(client)
        for option, value in (("model", "nonsense"), ("nonsense", "a1")):
            error = put(client, option, value)["error"]
            assert error == {"code": -32602, "message": f"no {option} {value}"}


def test_options_an_agent_tells_of_later_have_the_choice_too(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        made(client)
        update = {"sessionUpdate": "config_option_update", "configOptions": [], "_kept": 1}
        _, before = client.answer_to(client.prompt(f"update {json.dumps(update)}"))
        [seen] = updates(before, "config_option_update")
        assert chosen(seen) == {"agentd.agent": "alpha"} and seen["_kept"] == 1


def test_a_session_moves_to_another_agent_under_its_name(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        answer = made(client)
        moved = result(put(client, "agentd.agent", "beta"))
        assert chosen(moved) == {"agentd.agent": "beta", "model": "b1"}
        assert choices(moved, "agentd.agent") == choices(answer, "agentd.agent")
        prompted, before = client.answer_to(client.prompt("say fine"))
        assert "result" in prompted and texts(before) == ["fine"]
        assert {each["params"]["sessionId"] for each in before} == {answer["sessionId"]}
        listed = result(client.call("session/list"))["sessions"]
        assert [(each["sessionId"], each["_meta"]["agentd.agent"]) for each in listed] == [
            (client.session, "beta")
        ]


def test_it_may_move_more_than_once_and_back(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        made(client)
        for name in ("beta", "gamma", "gamma", "alpha", "beta"):
            assert chosen(result(put(client, "agentd.agent", name)))["agentd.agent"] == name
        assert client.turn("say fine")[1] == ["fine"]
        assert chosen(result(put(client, "model", "b:2"))) == {"agentd.agent": "beta", "model": "b:2"}


def test_the_new_agent_is_told_what_the_session_was_made_with(three: Embedded) -> None:
    servers = [{"name": "x", "command": "/bin/true", "args": [], "env": []}]
    with three.client() as client:
        client.greet()
        asked = {"cwd": "/tmp", "mcpServers": servers, "_meta": {"mine": 1}}
        client.session = str(result(client.call("session/new", asked))["sessionId"])
        put(client, "agentd.agent", "beta")
        assert told(client, "session/new", sessionId=client.session) == asked


def test_modes_of_the_agent_before_are_not_its(three: Embedded) -> None:
    with three.client() as client, three.client() as other:
        client.greet(), other.greet()
        assert "modes" in made(client)
        put(client, "agentd.agent", "gamma")
        answer = result(other.load(client.session)[0])
        assert "modes" not in answer and chosen(answer) == {"agentd.agent": "gamma"}


def test_the_agent_before_is_told_that_the_session_is_over(several: Start) -> None:
    agentd = several({"alpha": "--can close", "beta": ""})
    with agentd.client() as client, agentd.client() as other:
        other.open(agent="alpha")
        client.greet()
        native = made(client)["sessionId"]
        put(client, "agentd.agent", "beta")
        assert told(other, "session/close") == {"sessionId": native}


def test_after_the_first_prompt_it_stays(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        made(client)
        client.turn("say one")
        error = put(client, "agentd.agent", "beta")
        assert reason(error) == "agent_fixed"
        assert "alpha" in error["error"]["message"] and "beta" in error["error"]["message"]
        assert client.turn("say two")[1] == ["two"]
        assert chosen(result(put(client, "agentd.agent", "alpha")))["agentd.agent"] == "alpha"


def test_an_agent_that_is_not_there_cannot_be_chosen(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        made(client)
        error = put(client, "agentd.agent", "delta")
        assert (reason(error), error["error"]["data"]["agents"]) == (
            "no_such_agent", ["alpha", "beta", "gamma"]
        )  # fmt: skip
        assert client.turn("say fine")[1] == ["fine"]


def test_a_move_that_fails_leaves_the_session_where_it_was(several: Start) -> None:
    agentd = several({"alpha": "", "beta": "--exit-at session/new", "gamma": "--needs-login"})
    with agentd.client() as client:
        client.greet()
        made(client)
        assert reason(put(client, "agentd.agent", "beta")) in ("agent_exited", "agent_failed")
        assert put(client, "agentd.agent", "gamma")["error"]["code"] == -32000
        answer = result(client.load(client.session)[0])
        assert chosen(answer) == {"agentd.agent": "alpha"}
        assert client.turn("say fine")[1] == ["fine"]


def test_a_prompt_right_behind_a_move_goes_to_the_new_agent(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        made(client)
        params = {"sessionId": client.session, "configId": "agentd.agent", "value": "beta"}
        moved = client.request("session/set_config_option", params)
        turn = client.prompt("say fine")
        assert "result" in client.answer_to(moved)[0]
        assert texts(client.answer_to(turn)[1]) == ["fine"]
        answer = result(client.load(client.session)[0])
        assert chosen(answer)["agentd.agent"] == "beta"


def test_who_watches_sees_the_move(three: Embedded) -> None:
    with three.client() as one, three.client() as two:
        one.greet(), two.greet()
        made(one)
        two.load(one.session)
        put(one, "agentd.agent", "beta")
        update = two.until("session/update")["params"]["update"]
        assert chosen(update) == {"agentd.agent": "beta", "model": "b1"}


def test_sessions_of_several_agents_on_one_connection(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        sessions = []
        for name in ("alpha", "beta", "gamma"):
            sessions.append(str(made(client)["sessionId"]))
            put(client, "agentd.agent", name)
        turns = {each: client.prompt("say on", "hold", "say off", session=each) for each in sessions}
        seen: set[str] = set()
        while len(seen) < 3:
            seen |= {frame["params"]["sessionId"] for frame in [client.read()] if texts([frame]) == ["on"]}
        assert len({process(client, sessionId=each) for each in sessions}) == 3
        for each, turn in turns.items():
            client.notify("_release", {"sessionId": each})
            _, before = client.answer_to(turn)
            assert [(frame["params"]["sessionId"], *texts([frame])) for frame in before] == [(each, "off")]


# Picking a model picks the agent


@pytest.fixture
def by_model(several: Start) -> Embedded:
    return several(THREE, top='selector = "agent:model"')


ALL = ["alpha:a1", "alpha:a2", "beta:b1", "beta:b:2", "gamma"]


def test_agents_and_models_are_one_list(by_model: Embedded) -> None:
    with by_model.client() as client:
        client.greet()
        answer = made(client)
        assert chosen(answer) == {"model": "alpha:a1"}
        assert choices(answer, "model") == ALL
        [option] = answer["configOptions"]
        assert (option["category"], option["type"]) == ("model", "select")


@pytest.mark.parametrize("value", ["alpha:a2", "beta:b1", "beta:b:2", "gamma"])
def test_a_model_brings_its_agent(by_model: Embedded, value: str) -> None:
    with by_model.client() as client:
        client.greet()
        made(client)
        for _ in range(2):  # said twice, it is still the same
            answer = result(put(client, "model", value))
            assert chosen(answer) == {"model": value}
            assert choices(answer, "model") == ALL
        assert client.turn("say fine")[1] == ["fine"]


def test_the_model_can_be_changed_after_the_first_prompt_and_the_agent_cannot(by_model: Embedded) -> None:
    with by_model.client() as client:
        client.greet()
        made(client)
        client.turn("say one")
        assert chosen(result(put(client, "model", "alpha:a2"))) == {"model": "alpha:a2"}
        assert told(client, "session/set_config_option", sessionId=client.session)["value"] == "a2"
        assert reason(put(client, "model", "beta:b1")) == "agent_fixed"


@pytest.mark.parametrize("value", ["delta:x", "", ":", "a1"])
def test_an_agent_that_there_is_not_is_refused(by_model: Embedded, value: str) -> None:
    with by_model.client() as client:
        client.greet()
        made(client)
        assert reason(put(client, "model", value)) == "no_such_agent"
        assert client.turn("say fine")[1] == ["fine"]


def test_a_model_that_the_agent_has_not_is_refused_in_its_words(by_model: Embedded) -> None:
    with by_model.client() as client:
        client.greet()
        made(client)
        assert put(client, "model", "alpha:nonsense")["error"]["message"] == "no model nonsense"


# Logging in


def test_the_right_agent_is_logged_in_to(several: Start) -> None:
    agentd = several({"alpha": "--needs-login", "beta": "--needs-login"})
    with agentd.client() as client, agentd.client() as other:
        client.greet()
        other.greet(agent="beta")
        answer = client.call("session/new", NEW)
        assert answer["error"] == {"code": -32000, "message": "log in first", "data": {}}
        assert "result" in client.call("authenticate", {"methodId": "alpha/key", "_meta": {"x": 1}})
        assert told(client, "authenticate") == {"methodId": "key", "_meta": {"x": 1}}
        made(client)
        assert client.turn("say fine")[1] == ["fine"]
        assert told(other, "authenticate") is None


def test_a_second_agent_is_logged_in_to_as_well(several: Start) -> None:
    agentd = several({"alpha": "", "beta": "--needs-login"})
    with agentd.client() as client:
        client.greet()
        made(client)
        assert "result" in client.call("authenticate", {"methodId": "beta/key"})
        assert chosen(result(put(client, "agentd.agent", "beta"))) == {"agentd.agent": "beta"}
        assert client.turn("say fine")[1] == ["fine"]


def test_logging_in_to_a_second_agent_leaves_the_first_one_logged_in(several: Start) -> None:
    agentd = several({"alpha": "--needs-login", "beta": "--needs-login"})
    with agentd.client() as client:
        client.greet()
        for name in ("alpha", "beta"):
            assert "result" in client.call("authenticate", {"methodId": f"{name}/key"})
        made(client)
        assert chosen(result(put(client, "agentd.agent", "beta"))) == {"agentd.agent": "beta"}


def test_an_unknown_way_to_log_in_is_refused(several: Start) -> None:
    with several({"alpha": "--needs-login", "beta": ""}).client() as client:
        client.greet()
        assert client.call("authenticate", {"methodId": "alpha/nonsense"})["error"]["code"] == -32602
        assert reason(client.call("authenticate", {"methodId": "delta/key"})) == "no_such_agent"
        assert reason(client.call("authenticate", {"methodId": 7})) == "invalid_args"


def test_an_agent_that_wants_a_login_is_listed_as_such(several: Start) -> None:
    agentd = several({"alpha": "", "beta": "--needs-login --auth-terminal", "gamma": "/no/such/agent"})
    with agentd.client() as client:
        client.greet()
        found = agents(client)
        assert [(each["name"], each["state"]) for each in found.values()] == [
            ("alpha", "ready"), ("beta", "needs-login"), ("gamma", "missing")
        ]  # fmt: skip
        assert found["beta"]["reason"] == "log in first"
        assert [each["id"] for each in found["beta"]["login"]] == ["key", "tty"]
        assert (found["alpha"]["version"], found["alpha"]["default"]) == ("1", True)
        assert choices(made(client), "agentd.agent") == ["alpha", "beta"]


def test_logging_out_is_the_agents(several: Start) -> None:
    with several({"alpha": "--needs-login --can logout"}).client() as client:
        client.greet(agent="alpha")
        assert result(client.call("authenticate", {"methodId": "key"})) == {}
        made(client)
        assert result(client.call("logout", {"_meta": {"x": 1}})) == {}
        assert told(client, "logout") == {"_meta": {"x": 1}}
        assert client.call("session/new", NEW)["error"]["code"] == -32000


# A connection that named its agent


def test_it_is_the_agent_that_answers(three: Embedded) -> None:
    with three.client() as client:
        greeting = client.greet(agent="beta")
        assert greeting["agentInfo"] == {"name": "scripted", "version": "1"}
        assert greeting["unknownMember"] == {"kept": True}
        assert greeting["agentCapabilities"] == {
            "loadSession": True,
            "sessionCapabilities": {name: {} for name in ("list", "resume", "close", "delete")},
            "_meta": {"scripted": {"deep": [1, None, "ü"]}},
        }


def test_it_gets_the_agents_own_options_and_nothing_else(three: Embedded) -> None:
    with three.client() as client:
        client.greet(agent="beta")
        assert chosen(made(client)) == {"model": "b1"}
        assert put(client, "agentd.agent", "alpha")["error"]["message"] == "no agentd.agent alpha"
        assert chosen(result(put(client, "model", "b:2"))) == {"model": "b:2"}


def test_one_without_options_gets_none(three: Embedded) -> None:
    with three.client() as client:
        client.greet(agent="gamma")
        assert made(client).keys() == {"sessionId", "_cwd"}


def test_its_logins_are_called_as_the_agent_calls_them(several: Start) -> None:
    with several({"alpha": "--needs-login", "beta": ""}).client() as client:
        assert [each["id"] for each in client.greet(agent="alpha")["authMethods"]] == ["key"]


def test_what_is_not_the_protocols_goes_to_the_default_agent(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        made(client)
        put(client, "agentd.agent", "gamma")
        client.notify("_echo", {"n": 1})
        assert client.until("_echo")["params"] == {"n": 1}


def test_a_default_of_the_configuration_is_taken(several: Start) -> None:
    text = {"alpha": "--models a1", "beta": "--models b1"}
    agentd = several(text, top='default_agent = "beta"')
    agentd.config.write_text(agentd.config.read_text().replace('agents = ["alpha", "beta"]', ""))
    agentd.stop()
    agentd.start()
    with agentd.client() as client:
        client.greet()
        answer = made(client)
        assert chosen(answer) == {"agentd.agent": "beta", "model": "b1"}
        assert choices(answer, "agentd.agent") == ["beta", "alpha"]


def test_agents_that_are_only_looked_at_do_not_stay(three: Embedded) -> None:
    with three.client() as client:
        client.greet()
        eventually(lambda: len(three.agents()) == 1, "only the default one is kept")
