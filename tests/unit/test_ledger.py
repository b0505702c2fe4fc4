# SPDX-License-Identifier: Apache-2.0

import json
from typing import Any

import pytest

from agentd.ctl.attach.ledger import Ledger, message_of

PLACE = {"cwd": "/src", "mcpServers": [{"name": "m", "command": "m", "args": [], "env": []}]}


def ask(ledger: Ledger, number: object, method: str, **params: object) -> None:
    """The editor asks something."""
    assert ledger.sent({"id": number, "method": method, "params": params})


def done(ledger: Ledger, number: object, method: str, result: object = None, **params: object) -> None:
    """The editor asks something, and gets that result."""
    ask(ledger, number, method, **params)
    assert ledger.received({"id": number, "result": result})


def withdrawn(ledger: Ledger) -> list[Any]:
    lines = [json.loads(line) for line in ledger.take_back().splitlines()]
    assert {line["method"] for line in lines} <= {"$/cancel_request"}
    return [line["params"]["requestId"] for line in lines]


# Requests


@pytest.mark.parametrize("number", [0, 7, "7", "", "ü\n\"'", None, -1, 1.5, 2**60])
def test_request_is_pending_until_it_is_answered(number: object) -> None:
    ledger = Ledger()
    ask(ledger, number, "session/prompt")
    assert ledger.pending == [number]
    assert ledger.received({"id": number, "result": {}})
    assert ledger.pending == []


def test_number_and_string_are_two_ids() -> None:
    ledger = Ledger()
    ask(ledger, 1, "session/prompt")
    ask(ledger, "1", "session/prompt")
    assert ledger.received({"id": "1", "error": {"code": 1, "message": "no"}})
    assert ledger.pending == [1]


@pytest.mark.parametrize("number", [True, [], {}, [1]])
def test_what_cannot_be_an_id_is_sent_and_not_kept(number: object) -> None:
    ledger = Ledger()
    ask(ledger, number, "session/prompt")
    assert ledger.pending == []


def test_notifications_are_not_requests() -> None:
    ledger = Ledger()
    assert ledger.sent({"method": "session/cancel", "params": {"id": 3}})
    assert not ledger.received({"method": "session/update", "params": {"id": 3}})
    assert (ledger.pending, ledger.asked) == ([], 0)


def test_answer_to_nothing_is_no_progress() -> None:
    assert not Ledger().received({"id": 4, "result": {}})


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"3", b"{", b'{"id":"\xff"}', b"[" * 100_000, b'{"id":' + b"9" * 5000 + b"}"]
)
def test_what_is_no_message_is_none(line: bytes) -> None:
    assert message_of(line) == {}


# Sessions


def test_new_session_is_resumed_where_it_was_made() -> None:
    ledger = Ledger()
    done(
        ledger,
        1,
        "session/new",
        {"sessionId": "a", "modes": {}},
        **PLACE,
        additionalDirectories=["/x"],
        _meta=1,
    )
    assert ledger.sessions == {"a": {"sessionId": "a", **PLACE, "additionalDirectories": ["/x"]}}


@pytest.mark.parametrize("method", ["session/load", "session/resume"])
@pytest.mark.parametrize("result", [{}, None, {"sessionId": "other"}])
def test_loaded_session_is_open(method: str, result: object) -> None:
    ledger = Ledger()
    done(ledger, 1, method, result, sessionId="a", **PLACE)
    assert ledger.sessions == {"a": {"sessionId": "a", **PLACE}}


def test_forked_session_is_open_beside_its_origin() -> None:
    ledger = Ledger()
    done(ledger, 1, "session/new", {"sessionId": "a"}, **PLACE)
    done(ledger, 2, "session/fork", {"sessionId": "b"}, sessionId="a", cwd="/b", mcpServers=[])
    assert ledger.sessions["b"] == {"sessionId": "b", "cwd": "/b", "mcpServers": []}
    assert ledger.sessions["a"]["cwd"] == "/src"


@pytest.mark.parametrize("method", ["session/close", "session/delete"])
def test_session_that_was_closed_or_deleted_is_not_open(method: str) -> None:
    ledger = Ledger()
    done(ledger, 1, "session/new", {"sessionId": "a"}, **PLACE)
    done(ledger, 2, method, None, sessionId="a")
    assert ledger.sessions == {}


@pytest.mark.parametrize("method", ["session/new", "session/load", "session/close", "initialize"])
def test_refused_request_changes_nothing(method: str) -> None:
    ledger = Ledger()
    done(ledger, 1, "session/new", {"sessionId": "a"}, **PLACE)
    ask(ledger, 2, method, sessionId="a", cwd="/other")
    assert ledger.received({"id": 2, "error": {"code": -1, "message": "no"}})
    assert (ledger.sessions, ledger.greeting) == ({"a": {"sessionId": "a", **PLACE}}, None)


@pytest.mark.parametrize("result", [None, [], {}, {"sessionId": 3}])
def test_new_session_without_an_id_is_none(result: object) -> None:
    ledger = Ledger()
    done(ledger, 1, "session/new", result, **PLACE)
    assert ledger.sessions == {}


def test_greeting_is_kept_once_it_is_answered() -> None:
    ledger = Ledger()
    done(ledger, 1, "initialize", {"protocolVersion": 1}, protocolVersion=1, _meta={"x": "\ud800"})
    assert ledger.greeting == {"protocolVersion": 1, "_meta": {"x": "\ud800"}}


def test_params_that_are_none_do_no_harm() -> None:
    ledger = Ledger()
    assert ledger.sent({"id": 1, "method": "session/load", "params": [1]})
    assert ledger.received({"id": 1, "result": {}})
    assert ledger.sessions == {}


# Questions


def test_highest_question_counts() -> None:
    ledger = Ledger()
    for number in (2, 9, 3, "12"):
        ledger.received({"id": number, "method": "session/request_permission"})
    assert ledger.asked == 9


def test_open_questions_are_taken_back_once() -> None:
    ledger = Ledger()
    for number in (1, 2, 3):
        ledger.received({"id": number, "method": "fs/read_text_file"})
    assert ledger.sent({"id": 2, "result": {}})
    ledger.broke()
    assert withdrawn(ledger) == [1, 3]
    ledger.broke()
    assert withdrawn(ledger) == []


def test_late_answer_to_a_question_is_dropped_once() -> None:
    ledger = Ledger()
    ledger.received({"id": 1, "method": "fs/read_text_file"})
    ledger.broke()
    assert not ledger.sent({"id": 1, "result": {}})
    assert ledger.sent({"id": 1, "result": {}})


def test_request_with_the_id_of_a_question_is_not_an_answer() -> None:
    ledger = Ledger()
    ledger.received({"id": 1, "method": "fs/read_text_file"})
    ledger.broke()
    ask(ledger, 1, "session/prompt")
    assert (ledger.pending, withdrawn(ledger)) == ([1], [1])
