# SPDX-License-Identifier: Apache-2.0

from typing import Any

import pytest

from agentd.worker import aggregate
from agentd.worker.catalog import Card, State
from agentd.worker.hello import NOBODY, PROBE

MODELS = {
    "id": "m",
    "category": "model",
    "type": "select",
    "currentValue": "opus",
    "options": [{"value": "opus", "name": "Opus"}, {"value": "a:b", "name": "A"}],
}
EFFORT = {"id": "effort", "type": "select", "options": []}


def card(name: str, state: State = State.READY, title: str = "", **greeting: Any) -> Card:
    info = {"agentInfo": {"title": title}} if title else {}
    return Card(name, state, greeting={**info, **greeting})


def able(**prompts: Any) -> dict[str, Any]:
    return {"agentCapabilities": {"promptCapabilities": prompts, "loadSession": False}}


# initialize


def test_it_promises_what_all_agents_can_do() -> None:
    cards = [card("one", **able(image=True, audio=True, x=1)), card("two", **able(image=True, audio=False))]
    capabilities = aggregate.greeting(cards, NOBODY)["agentCapabilities"]
    assert capabilities["promptCapabilities"] == {"image": True}


def test_agents_that_are_missing_or_unknown_do_not_count() -> None:
    cards = [
        card("one", **able(image=True)),
        card("two", State.MISSING, **able(image=False)),
        Card("three"),
    ]
    capabilities = aggregate.greeting(cards, NOBODY)["agentCapabilities"]
    assert capabilities["promptCapabilities"] == {"image": True}


@pytest.mark.parametrize(
    "broken", [{}, {"agentCapabilities": None}, {"agentCapabilities": {"promptCapabilities": 1}}]
)
def test_whatever_they_answer_the_hub_can_do_its_own(broken: dict[str, Any]) -> None:
    for cards in ([], [card("one", **broken)], [card("one", **able(image=True)), card("two", **broken)]):
        told = aggregate.greeting(cards, NOBODY)
        assert told["agentCapabilities"]["loadSession"] is True
        assert told["agentCapabilities"]["sessionCapabilities"].keys() == set(aggregate.HUBS_OWN)
        assert "image" not in told["agentCapabilities"].get("promptCapabilities", {})
        assert (told["protocolVersion"], told["agentInfo"]["name"]) == (1, "agentd")


def test_an_agents_own_capabilities_stay_with_ours_added() -> None:
    own = {
        "loadSession": False,
        "_x": 1,
        "sessionCapabilities": {"fork": {}, "list": {"y": 1}, "close": None},
    }
    assert aggregate.with_hubs_own(own) == {
        "loadSession": True,
        "_x": 1,
        "sessionCapabilities": {"list": {"y": 1}, "resume": {}, "close": {}, "delete": {}, "fork": {}},
    }


# Logging in

KEY = {"id": "key", "name": "Key"}
TERMINAL = {"id": "cli", "type": "terminal", "env": {"A": "b"}, "args": ["--setup"], "_meta": {"x": 1}}


def test_methods_name_their_agent() -> None:
    cards = [card("one", authMethods=[KEY]), card("two", authMethods=[KEY, 5])]
    methods = aggregate.greeting(cards, NOBODY)["authMethods"]
    assert methods == [{"id": "one/key", "name": "Key"}, {"id": "two/key", "name": "Key"}]


@pytest.mark.parametrize("prefix", [True, False])
def test_a_login_in_a_terminal_is_ours_and_for_those_who_have_one(prefix: bool) -> None:
    one = card("one", authMethods=[KEY, TERMINAL])
    shown = aggregate.auth_methods(one, PROBE, prefix=prefix)[1]
    assert shown["id"] == ("one/cli" if prefix else "cli")
    assert shown["args"] == ["--login", "one/cli"]
    assert (shown["_meta"], "env" in shown) == ({"x": 1}, False)
    assert len(aggregate.auth_methods(one, NOBODY, prefix=prefix)) == 1
    assert TERMINAL["args"] == ["--setup"]


@pytest.mark.parametrize("broken", [None, {}, {"authMethods": None}, {"authMethods": {"id": 1}}])
def test_without_methods_there_are_none(broken: Any) -> None:
    assert aggregate.declared_methods(broken) == []


# Picking an agent


def test_the_option_lists_agents_that_can_be_had_and_the_current_one() -> None:
    cards = [
        card("one", State.FAILING),
        card("two", title="Two"),
        card("three", State.NEEDS_LOGIN),
        card("four", State.UNKNOWN),
    ]
    option = aggregate.agent_option(cards, "one")
    assert (option["id"], option["category"], option["currentValue"]) == (
        "agentd.agent",
        "_agentd_agent",
        "one",
    )
    assert option["options"] == [
        {"value": "one", "name": "one"},
        {"value": "two", "name": "Two"},
        {"value": "three", "name": "three"},
    ]


def test_models_of_all_agents_can_be_one_option() -> None:
    other = card("two", title="Two")
    other.options = [EFFORT]
    option = aggregate.model_option([card("one"), other], "one", [EFFORT, MODELS])
    assert (option["category"], option["currentValue"]) == ("model", "one:opus")
    assert option["options"] == [
        {"value": "one:opus", "name": "one: Opus"},
        {"value": "one:a:b", "name": "one: A"},
        {"value": "two", "name": "Two"},
    ]


def test_models_in_groups_are_one_list() -> None:
    group = {"group": "g", "options": [{"value": "x", "name": "X"}]}
    grouped = {**MODELS, "options": [group, {"value": "y", "name": "Y"}, 5]}
    option = aggregate.model_option([card("one")], "one", [grouped])
    assert [each["value"] for each in option["options"]] == ["one:x", "one:y"]


@pytest.mark.parametrize("options", [[], [5, EFFORT], [{"category": "model", "type": "toggle"}]])
def test_an_agent_may_have_no_models(options: list[Any]) -> None:
    assert aggregate.find_model(options) is None
    option = aggregate.model_option([card("one")], "one", options)
    assert (option["currentValue"], option["options"]) == ("one", [{"value": "one", "name": "one"}])


@pytest.mark.parametrize(
    ("value", "parts"), [("one:opus", ("one", "opus")), ("one:a:b", ("one", "a:b")), ("one", ("one", ""))]
)
def test_a_value_is_split_at_its_first_colon(value: str, parts: tuple[str, str]) -> None:
    assert aggregate.split(value) == parts
    assert aggregate.joined(*parts) == value


def test_joining_twice_is_joining_once() -> None:
    assert aggregate.joined("one", aggregate.joined("one", "opus")) == "one:opus"
