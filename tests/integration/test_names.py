# SPDX-License-Identifier: Apache-2.0
"""Ids of requests and of sessions: each side counts for itself, and nobody is taken for somebody else."""

import json
from collections.abc import Iterator

import pytest

from support.acp_client import Client, process, result, texts, told, updates
from support.embedded import Embedded, Start

FS = {"fs": {"readTextFile": True, "writeTextFile": True}}


@pytest.fixture
def counting(start: Start) -> Embedded:
    """Every process of this agent calls its sessions "0", "1", …"""
    return start("--count-sessions", "--can", "fork", "--can", "list", "--can", "close")


@pytest.fixture
def pair(counting: Embedded) -> Iterator[tuple[Client, Client]]:
    """Two clients that cannot share a process, each with the session that its own agent calls "0"."""
    with counting.client() as one, counting.client() as two:
        one.open(agent="scripted")
        two.greet(agent="scripted", capabilities=FS)
        two.session = two.new_session()
        assert process(one) != process(two)
        yield one, two


# Requests


def test_two_clients_may_use_the_same_ids(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        one.greet(agent="scripted"), two.greet(agent="scripted")
        assert process(one) == process(two)
        for client, name in ((one, "one"), (two, "two")):
            client.send({"id": 77, "method": "_wait", "params": {"mine": name}})
            process(client)  # it has come there
        one.notify("_release")
        assert one.answer_to(77)[0]["result"] == {"mine": "one"}
        assert two.answer_to(77)[0]["result"] == {"mine": "two"}


def test_a_cancelled_request_is_the_right_one(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        one.greet(agent="scripted"), two.greet(agent="scripted")
        for client in (one, two):
            client.send({"id": 77, "method": "_patient", "params": {}})
            process(client)  # it has come there
        two.notify("$/cancel_request", {"requestId": 77})
        assert two.answer_to(77)[0]["error"]["code"] == -32800
        assert one.call("_echo", {"n": 1})["result"] == {"n": 1}
        one.notify("$/cancel_request", {"requestId": 77})
        assert one.answer_to(77)[0]["error"]["code"] == -32800


def test_a_request_with_a_string_for_an_id_can_be_cancelled(client: Client) -> None:
    client.send({"id": "77", "method": "_patient", "params": {}})
    process(client)
    client.notify("$/cancel_request", {"requestId": 77})  # somebody else's, or nobody's
    client.notify("$/cancel_request", {"requestId": "77"})
    answer, before = client.answer_to("77")
    assert (answer["error"]["code"], before) == (-32800, [])


def test_a_question_about_a_request_names_it_as_its_client_does(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        one.greet(agent="scripted", capabilities={"elicitation": {}})
        two.greet(agent="scripted", capabilities={"elicitation": {}})
        two.send({"id": "mine", "method": "_elicit", "params": {"message": "which?"}})
        asked = two.until("elicitation/create")
        assert asked["params"] == {"message": "which?", "requestId": "mine"}
        two.send({"id": asked["id"], "result": {"action": "accept"}})
        assert two.answer_to("mine")[0]["result"]["result"] == {"action": "accept"}
        assert one.call("_echo", {"n": 1})["result"] == {"n": 1}


# Sessions


def test_an_id_that_is_unique_is_kept(client: Client) -> None:
    assert client.session.startswith(f"sess-{process(client)}-")


def test_the_same_name_of_two_processes_becomes_two(pair: tuple[Client, Client]) -> None:
    one, two = pair
    assert one.session != two.session
    assert one.turn("say mine")[1] == ["mine"]
    answer, before = two.answer_to(two.prompt("say yours"))
    assert {frame["params"]["sessionId"] for frame in before} == {two.session}
    assert "result" in answer


def test_the_agent_hears_its_own_name(pair: tuple[Client, Client]) -> None:
    for client in pair:
        client.turn("say fine")
        assert told(client, "session/prompt")["sessionId"] == "0"
        client.call("_echo", {"sessionId": client.session})
        assert told(client, "_echo")["sessionId"] == "0"
        client.cancel()
        assert told(client, "session/cancel") == {"sessionId": "0"}


@pytest.mark.parametrize("key", ["sessionId", "senderSessionId", "recipientSessionId"])
def test_sessions_that_an_update_is_about_are_named_as_outside(
    pair: tuple[Client, Client], key: str
) -> None:
    for client in pair:
        about = json.dumps({"sessionUpdate": "subagent_update", key: "0", "text": "session 0", "kept": "0"})
        _, before = client.answer_to(client.prompt(f"update {about}"))
        [update] = updates(before, "subagent_update")
        assert update == {**json.loads(about), key: client.session}


def test_an_error_names_the_session_as_outside(pair: tuple[Client, Client]) -> None:
    error = json.dumps({"code": -32002, "data": {"sessionId": "0", "kept": "0"}})
    for client in pair:
        assert client.turn(f"fail {error}")[0]["error"] == {
            "code": -32002, "message": "failed", "data": {"sessionId": client.session, "kept": "0"}
        }  # fmt: skip


def test_a_request_of_the_agents_names_the_session_as_outside(pair: tuple[Client, Client]) -> None:
    for client in pair:
        turn = client.prompt('call _question {"sessionId": "0"}')
        asked = client.until("_question")
        assert asked["params"] == {"sessionId": client.session}
        client.send({"id": asked["id"], "result": {}})
        client.answer_to(turn)


def test_a_fork_has_a_name_of_its_own(pair: tuple[Client, Client]) -> None:
    one, two = pair
    forks = [
        str(result(client.call("session/fork", {"sessionId": client.session, "cwd": "/"}))["sessionId"])
        for client in pair
    ]
    assert len({one.session, two.session, *forks}) == 4
    assert texts(two.answer_to(two.prompt("say forked", session=forks[1]))[1]) == ["forked"]
    assert told(two, "session/prompt")["sessionId"] == "1"


def test_each_session_is_listed_once_and_can_be_loaded_by_that_name(pair: tuple[Client, Client]) -> None:
    one, two = pair
    two.turn("say yours")
    listed = [each["sessionId"] for each in result(one.call("session/list"))["sessions"]]
    assert sorted(listed) == sorted([one.session, two.session])
    assert texts(one.load(two.session)[1]) == ["yours"]


def test_a_session_that_an_agent_kept_is_not_taken_for_one_that_lives(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two processes with the same name for sessions: what the other lists under it is another one."""
    memory = tmp_path_factory.mktemp("memory")
    (memory / "0").write_text("")
    agentd = start(
        "--count-sessions", "--can", "list", "--memory", str(memory), agent='isolation = "session"'
    )
    with agentd.client() as one:
        one.open(agent="scripted")
        listed = result(one.call("session/list"))["sessions"]
        assert [each["sessionId"] for each in listed] == [one.session]


def test_closing_one_does_not_close_the_other(pair: tuple[Client, Client]) -> None:
    one, two = pair
    assert result(two.call("session/close", {"sessionId": two.session})) == {"_closed": True}
    assert told(two, "session/close") == {"sessionId": "0"}
    assert one.turn("say fine")[1] == ["fine"]


# What comes too early


def test_what_is_said_before_a_session_is_known_comes_after_its_answer(client: Client) -> None:
    answer = client.call("session/new", {"cwd": "/", "mcpServers": [], "_meta": {"text": "early"}})
    update = client.until("session/update")
    assert update["params"]["sessionId"] == answer["result"]["sessionId"] != client.session
    assert texts([update]) == ["early"]


def test_what_comes_early_is_named_as_outside_too(pair: tuple[Client, Client]) -> None:
    for client in pair:
        made = client.new_session(_meta={"text": "early"})
        assert client.until("session/update")["params"]["sessionId"] == made


def test_what_comes_early_is_there_for_who_loads_the_session(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        one.greet()
        session = one.new_session(_meta={"text": "early"})
        one.until_text("early")
        two.greet()
        assert texts(two.load(session)[1]) == ["early"]


def test_a_fork_that_is_replayed_before_it_is_known(pair: tuple[Client, Client]) -> None:
    for client in pair:
        client.turn("say once", "say twice")
        asked = client.request("session/fork", {"sessionId": client.session, "cwd": "/"})
        answer, before = client.answer_to(asked)
        shown = [client.until("session/update") for _ in range(2)]
        assert (texts(before), texts(shown)) == ([], ["once", "twice"])
        assert {each["params"]["sessionId"] for each in shown} == {result(answer)["sessionId"]}


def test_sessions_made_at_once_get_what_is_their_own(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.greet(agent="scripted")
        asked = {
            client.request("session/new", {"cwd": "/", "_meta": {"text": f"for {n}"}}): f"for {n}"
            for n in range(5)
        }
        frames = [client.read() for _ in range(10)]
        wanted = {frame["result"]["sessionId"]: asked[frame["id"]] for frame in frames if "id" in frame}
        got = {frame["params"]["sessionId"]: texts([frame])[0] for frame in frames if "method" in frame}
        assert got == wanted and len(got) == 5


# What is about no session


def test_what_names_no_session_is_for_everybody_of_that_agent(several: Start) -> None:
    agentd = several({"alpha": "", "beta": ""})
    with agentd.client() as one, agentd.client() as two, agentd.client() as other:
        one.open(agent="alpha")
        two.greet(agent="alpha")
        other.greet(agent="beta")
        turn = one.prompt('tell _auth/status_update {"logged": ["in"]}')
        wanted = {"jsonrpc": "2.0", "method": "_auth/status_update", "params": {"logged": ["in"]}}
        assert one.answer_to(turn)[1] == [wanted]
        assert two.read() == wanted
        assert other.call("_echo", {})["result"] == {}
        assert other.answer_to(other.request("_echo"))[1] == []


def test_an_update_of_a_session_nobody_knows_is_passed_on_untouched(client: Client) -> None:
    """Subagents have sessions of their own."""
    update = {"sessionId": "sub-1", "update": {"sessionUpdate": "agent_message_chunk", "x": 1}}
    _, before = client.answer_to(client.prompt(f"tell session/update {json.dumps(update)}"))
    assert [frame["params"] for frame in before] == [update]


def test_another_agents_session_cannot_be_written_to(several: Start) -> None:
    """An agent that names a session of somebody else's does not get through to it."""
    agentd = several({"alpha": "", "beta": ""})
    with agentd.client() as mine, agentd.client() as other:
        mine.open(agent="alpha")
        other.open(agent="beta")
        update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "forged"}}
        forged = json.dumps({"sessionId": mine.session, "update": update})
        _, before = other.answer_to(other.prompt(f"tell session/update {forged}", "say done"))
        assert before[0]["params"]["sessionId"] != mine.session
        assert mine.turn("say fine")[1] == ["fine"]
