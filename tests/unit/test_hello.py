# SPDX-License-Identifier: Apache-2.0

from typing import Any

import pytest

from agentd.worker.hello import NOBODY, PROBE, Hello

ABLE = {
    "fs": {"readTextFile": True, "writeTextFile": False},
    "terminal": True,
    "elicitation": {},
    "_meta": {"x": 1},
}


def hello(**capabilities: Any) -> Hello:
    return Hello({"protocolVersion": 7, "clientInfo": {"name": "zed"}, "clientCapabilities": capabilities})


@pytest.mark.parametrize(
    ("method", "can"),
    [
        ("fs/read_text_file", True),
        ("fs/write_text_file", False),
        ("terminal/create", True),
        ("terminal/output", True),
        ("elicitation/create", True),
        ("_anything/else", True),
        ("session/request_permission", True),
    ],
)
def test_a_client_serves_what_it_has_declared(method: str, can: bool) -> None:
    assert hello(**ABLE).can(method) == can


@pytest.mark.parametrize(
    "method", ["fs/read_text_file", "fs/write_text_file", "terminal/create", "elicitation/x"]
)
@pytest.mark.parametrize("broken", [{}, {"fs": None, "terminal": "yes", "elicitation": 1}, {"fs": [True]}])
def test_what_is_not_declared_is_not_served(method: str, broken: dict[str, Any]) -> None:
    assert not hello(**broken).can(method)


@pytest.mark.parametrize("params", [{}, {"clientCapabilities": None}, {"clientCapabilities": [1]}])
def test_capabilities_of_another_shape_are_none(params: dict[str, Any]) -> None:
    assert Hello(params).capabilities == {}
    assert not Hello(params).logs_in_by_terminal


def test_the_agent_is_told_everything_but_another_version() -> None:
    told = hello(**ABLE).params
    assert told == {"protocolVersion": 1, "clientInfo": {"name": "zed"}, "clientCapabilities": ABLE}


def test_away_from_its_files_a_client_offers_neither_them_nor_terminals() -> None:
    whole = hello(**ABLE)
    apart = whole.without_host()
    assert apart.capabilities == {"elicitation": {}, "_meta": {"x": 1}}
    assert apart.params["clientInfo"] == {"name": "zed"}
    assert whole.capabilities == ABLE


def test_an_agent_is_shared_by_clients_with_the_same_capabilities_in_any_order() -> None:
    assert hello(a=1, b={"c": 1, "d": 2}).fingerprint == hello(b={"d": 2, "c": 1}, a=1).fingerprint
    assert hello(a=1).fingerprint != hello(a=2).fingerprint
    assert hello(**ABLE).fingerprint != hello(**ABLE).without_host().fingerprint


def test_only_the_probe_says_that_it_has_a_terminal_to_log_in_by() -> None:
    assert (PROBE.logs_in_by_terminal, NOBODY.logs_in_by_terminal) == (True, False)


@pytest.mark.parametrize(
    "no", [{}, {"fs": {"readTextFile": False}}, {"terminal": False, "fs": {}}, {"fs": None}]
)
def test_who_says_no_is_as_one_who_says_nothing(no: dict[str, Any]) -> None:
    assert hello(**no).fingerprint == hello().fingerprint
    assert hello(**no, elicitation={}).fingerprint != hello().fingerprint


@pytest.mark.parametrize(
    "yes", [{"fs": {"readTextFile": True}}, {"terminal": True}, {"auth": {"terminal": False}}]
)
def test_who_can_do_something_else_is_another(yes: dict[str, Any]) -> None:
    assert hello(**yes).fingerprint != hello().fingerprint
