# SPDX-License-Identifier: Apache-2.0

import json
from datetime import datetime
from typing import Any

import pytest

from agentd.worker.facts import TITLE, Facts
from agentd.worker.hello import NOBODY

OWN = {"id": "model", "type": "select"}
OURS = {"id": "agentd.agent"}


def picker(agent: str, own: list[Any]) -> list[Any]:
    return [OURS, *own]


def facts(*, picks: bool = False, **params: Any) -> Facts:
    return Facts("claude", NOBODY, params, picker if picks else None, now=1e9)


def prompt(*blocks: Any) -> bytes:
    return json.dumps({"id": 1, "method": "session/prompt", "params": {"prompt": blocks}}).encode()


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


# Options and modes


def test_a_new_sessions_answer_is_learned_and_gets_our_option() -> None:
    known, result = (
        facts(picks=True),
        {"sessionId": "1", "modes": {"currentModeId": "a"}, "configOptions": [OWN]},
    )
    known.learn(result)
    assert result["configOptions"] == [OURS, OWN]
    assert known.options == [OWN]
    assert known.loaded() == {"modes": {"currentModeId": "a"}, "configOptions": [OURS, OWN]}


def test_a_client_with_an_agent_of_its_own_sees_what_that_has_said() -> None:
    known = facts()
    result: dict[str, Any] = {"sessionId": "1"}
    known.learn(result)
    assert result == {"sessionId": "1"}
    assert known.loaded() == {}
    known.learn({"configOptions": [OWN]})
    assert known.loaded() == {"configOptions": [OWN]}


def test_an_update_of_options_is_learned_too() -> None:
    known = facts(picks=True)
    told = {"sessionUpdate": "config_option_update", "configOptions": [OWN]}
    assert known.notice(told)
    assert (told["configOptions"], known.options) == ([OURS, OWN], [OWN])
    assert not facts().notice({"sessionUpdate": "config_option_update", "configOptions": [OWN]})


def test_a_mode_is_the_one_entered_last() -> None:
    known = facts()
    known.learn({"modes": {"currentModeId": "a", "availableModes": []}})
    assert not known.notice({"sessionUpdate": "current_mode_update", "currentModeId": "b"})
    assert known.loaded()["modes"] == {"currentModeId": "b", "availableModes": []}
    known.learn({})
    assert known.loaded()["modes"]["currentModeId"] == "b"


@pytest.mark.parametrize(
    "told",
    [
        None,
        5,
        [],
        {},
        {"sessionUpdate": "current_mode_update", "currentModeId": 5},
        {"sessionUpdate": "other"},
    ],
)
def test_other_updates_change_nothing(told: Any) -> None:
    known = facts()
    assert not known.notice(told)
    assert known.loaded() == {}


# Titles


@pytest.mark.parametrize(
    ("blocks", "title"),
    [
        ([text("Fix the test")], "Fix the test"),
        ([text("  \n"), {"type": "image"}, text("\n one\ntwo")], "one"),
        ([text("x" * 1000)], "x" * TITLE),
        ([5, {"text": 5}], None),
        ([], None),
    ],
)
def test_the_first_words_are_the_title(blocks: list[Any], title: str | None) -> None:
    known = facts()
    known.entitle(prompt(*blocks), 2e9)
    assert known.title == title


def test_a_title_stays_but_for_one_of_the_agents() -> None:
    known = facts()
    known.entitle(prompt(text("one")), 2e9)
    known.entitle(prompt(text("two")), 2e9)
    assert known.title == "one"
    known.notice({"sessionUpdate": "session_info_update", "title": "better"})
    assert known.title == "better"


@pytest.mark.parametrize("broken", [b"{}", b"[]", b'{"params":5}', b'{"params":{"prompt":{}}}'])
def test_a_prompt_of_another_shape_gives_no_title(broken: bytes) -> None:
    known = facts()
    known.entitle(broken, 2e9)
    assert known.title is None


# In the list


def test_a_session_is_listed_with_what_is_known() -> None:
    known = facts(cwd="/work", additionalDirectories=["/more"], mcpServers=[{"secret": 1}])
    known.entitle(prompt(text("one")), 2e9)
    entry = known.listed("1")
    assert datetime.fromisoformat(entry.pop("updatedAt")).tzinfo is not None
    assert entry == {
        "sessionId": "1",
        "cwd": "/work",
        "additionalDirectories": ["/more"],
        "title": "one",
        "_meta": {"agentd.agent": "claude"},
    }


def test_and_without_what_is_not() -> None:
    assert facts(cwd="/work").listed("1").keys() == {"sessionId", "cwd", "updatedAt", "_meta"}
