# SPDX-License-Identifier: Apache-2.0
"""Who shares an agent process with whom, and that nobody in it suffers from anybody else."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.acp_client import Client, process, reason, result, texts, told
from support.embedded import Embedded, Start, eventually

FS = {"fs": {"readTextFile": True, "writeTextFile": True}}
HANG = {"cwd": "/", "mcpServers": [], "_meta": {"hang": True}}


def opened(client: Client, agent: str = "scripted", **capabilities: object) -> Client:
    client.greet(agent=agent, capabilities=capabilities)
    client.session = client.new_session()
    return client


# Who shares


def test_clients_of_the_same_capabilities_share_a_process(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        assert process(opened(one, **FS)) == process(opened(two, **FS))


def test_a_client_that_named_no_agent_shares_with_one_that_did(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        assert process(opened(one)) == process(opened(two, agent=""))


def test_clients_of_other_capabilities_have_a_process_each(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        assert process(opened(one, **FS)) != process(opened(two))
        assert told(one, "initialize")["clientCapabilities"] == FS
        assert told(two, "initialize")["clientCapabilities"] == {}


def test_all_sessions_of_a_client_share_a_process(client: Client) -> None:
    sessions = [client.session, client.new_session(), client.new_session()]
    assert len({process(client, sessionId=each) for each in sessions}) == 1


def test_isolated_sessions_have_a_process_each(start: Start) -> None:
    agentd = start(agent='isolation = "session"')
    with agentd.client() as one, agentd.client() as two:
        opened(one), opened(two)
        sessions = [(one, one.session), (one, one.new_session()), (two, two.session)]
        assert len({process(client, sessionId=each) for client, each in sessions}) == 3


def test_servers_of_one_isolated_session_are_not_told_to_another(start: Start) -> None:
    agentd = start(agent='isolation = "session"')
    servers = [{"name": "mine", "command": "/bin/true", "args": [], "env": []}]
    with agentd.client() as client:
        client.greet(agent="scripted")
        first = str(result(client.call("session/new", {"cwd": "/", "mcpServers": servers}))["sessionId"])
        second = client.new_session()
        assert told(client, "session/new", sessionId=first)["mcpServers"] == servers
        assert told(client, "session/new", sessionId=second)["mcpServers"] == []


def test_agents_of_other_names_have_a_process_each(several: Start) -> None:
    agentd = several({"alpha": "", "beta": ""})
    with agentd.client() as one, agentd.client() as two:
        assert process(opened(one, "alpha")) != process(opened(two, "beta"))


def test_an_agent_no_longer_used_by_one_still_serves_the_other(agentd: Embedded) -> None:
    with agentd.client() as two:
        with agentd.client() as one:
            assert process(opened(one)) == process(opened(two))
        assert two.turn("say fine")[1] == ["fine"]


def test_an_agent_that_has_ended_is_shared_with_nobody(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        opened(one)
        old = process(one)
        os.kill(old, 9)
        eventually(lambda: "scripted ended" in agentd.log(), "its end is noticed")
        opened(two)
        assert two.turn("say fine")[1] == ["fine"]
        assert one.turn("say fine too")[1] == ["fine too"]
        assert process(two) != old


def test_an_agent_that_has_ended_is_shared_with_nobody_while_its_child_holds_the_pipes(
    agentd: Embedded,
) -> None:
    with agentd.client() as one, agentd.client() as two:
        opened(one).turn("child heir")
        old = process(one)
        os.kill(old, 9)
        eventually(lambda: has_ended(old), "the worker has been told of its death")
        opened(two)
        assert process(two) != old


def has_ended(pid: int) -> bool:
    """Whether a process has gone and its parent has taken note."""
    return not Path(f"/proc/{pid}").exists()


# What others do in the same process


@pytest.fixture
def shared(start: Start) -> Iterator[tuple[Client, Client, Embedded]]:
    """Two clients with a session each in one process, which may not take long over anything."""
    agentd = start("--can", "load", limits="agent_handshake_sec = 2.0\ncancel_sec = 1.0")
    with agentd.client() as one, agentd.client() as two:
        assert process(opened(one)) == process(opened(two))
        yield one, two, agentd


def release(client: Client, session: str) -> None:
    """Let a turn go on that holds, in whichever process its session is."""
    client.notify("_release", {"sessionId": session})


def test_a_hang_in_session_new_does_not_end_a_turn(shared: tuple[Client, Client, Embedded]) -> None:
    one, two, _ = shared
    turn = one.prompt("say one", "hold", "say two")
    one.until_text("one")
    assert reason(two.call("session/new", HANG)) == "agent_timeout"
    release(one, one.session)
    answer, before = one.answer_to(turn)
    assert (answer["result"]["stopReason"], texts(before)) == ("end_turn", ["two"])


def test_a_hang_in_session_new_does_not_end_sessions(shared: tuple[Client, Client, Embedded]) -> None:
    one, two, _ = shared
    one.turn("say one")
    assert reason(two.call("session/new", HANG)) == "agent_timeout"
    for client in (one, two):
        assert client.turn("say fine")[1] == ["fine"]


def test_a_cancel_that_is_ignored_does_not_end_anothers_turn(
    shared: tuple[Client, Client, Embedded],
) -> None:
    one, two, _ = shared
    turn, cancelled = one.prompt("say one", "hold", "say two"), two.prompt("say deaf", "hold")
    one.until_text("one"), two.until_text("deaf")
    two.cancel()
    assert two.answer_to(cancelled)[0]["result"] == {"stopReason": "cancelled"}
    release(one, one.session)
    answer, before = one.answer_to(turn)
    assert (answer["result"]["stopReason"], texts(before)) == ("end_turn", ["two"])


def test_who_was_cut_off_goes_on_in_another_process(shared: tuple[Client, Client, Embedded]) -> None:
    one, two, agentd = shared
    old = process(two)
    turn, cancelled = one.prompt("say one", "hold"), two.prompt("say deaf", "hold")
    one.until_text("one"), two.until_text("deaf")
    two.cancel()
    two.answer_to(cancelled)
    assert two.turn("say fine")[1] == ["fine"]
    assert process(two, sessionId=two.session) != old
    release(one, one.session)
    assert "result" in one.answer_to(turn)[0]
    eventually(lambda: old not in agentd.agents(), "the old one ends with its last turn")
    assert one.turn("say fine")[1] == ["fine"]


def after_being_cut_off(shared: tuple[Client, Client, Embedded], late: str) -> tuple[list[str], list[str]]:
    """What both clients hear, and are asked, when a turn that was cut off goes on after all."""
    one, two, _ = shared
    turn, cancelled = one.prompt("say one", "hold"), two.prompt("say deaf", "hold", late)
    one.until_text("one"), two.until_text("deaf")
    two.cancel()
    two.answer_to(cancelled)
    release(one, one.session)  # wakes both, and their process ends with the turn of the first
    heard = one.answer_to(turn)[1]
    said = two.turn("say fine")[1]
    heard += one.answer_to(one.prompt("say end"))[1]
    requests = [str(frame["method"]) for frame in heard if "id" in frame]
    return texts(heard) + requests, said


def test_what_is_said_after_being_cut_off_reaches_nobody(shared: tuple[Client, Client, Embedded]) -> None:
    assert after_being_cut_off(shared, "say late") == (["end"], ["fine"])


def test_permission_wanted_after_being_cut_off_is_asked_of_nobody(
    shared: tuple[Client, Client, Embedded],
) -> None:
    assert after_being_cut_off(shared, "ask May I?") == (["end"], ["fine"])


def test_what_is_said_in_a_closed_session_reaches_nobody(shared: tuple[Client, Client, Embedded]) -> None:
    one, two, _ = shared
    two.prompt("say on", "hold", "say late", "tell _late {}")
    two.until_text("on")
    assert "result" in two.call("session/close", {"sessionId": two.session})
    one.notify("_release")
    assert one.read()["method"] == "_late"


def test_a_process_that_dies_ends_the_turns_in_it_and_no_others(several: Start) -> None:
    agentd = several({"alpha": "", "beta": ""})
    with agentd.client() as one, agentd.client() as two, agentd.client() as other:
        opened(one, "alpha"), opened(two, "alpha"), opened(other, "beta")
        turns = [(each, each.prompt("say on", "hold")) for each in (one, two, other)]
        for each, _ in turns:
            each.until_text("on")
        os.kill(process(one), 9)
        assert [reason(each.answer_to(turn)[0]) for each, turn in turns[:2]] == ["agent_exited"] * 2
        release(other, other.session)
        assert "result" in other.answer_to(turns[2][1])[0]
        assert one.turn("say fine")[1] == ["fine"]


def test_an_agent_that_floods_does_not_keep_another_from_answering(several: Start) -> None:
    agentd = several({"alpha": "", "beta": ""})
    with agentd.client() as one, agentd.client() as other:
        opened(one, "alpha"), opened(other, "beta")
        turn = one.prompt("updates 3000 10000")  # 30 MB that nobody reads yet
        for number in range(20):
            assert other.turn(f"say {number}")[1] == [str(number)]
        answer, before = one.answer_to(turn)
        assert "result" in answer and len(texts(before)) == 3000


def test_a_session_gets_nothing_of_another_in_the_same_process(client: Client) -> None:
    sessions = [client.session, client.new_session(), client.new_session()]
    turns = {client.prompt(f"say {each}", session=each): each for each in sessions}
    said, ended = {}, set()
    while len(ended) < 3:
        frame = client.read()
        if "id" in frame:
            ended.add(turns[frame["id"]])
        else:
            said[frame["params"]["sessionId"]] = texts([frame])
    assert said == {each: [each] for each in sessions}


# The messages an agent takes


def test_an_agent_is_sent_nothing_longer_than_it_takes(start: Start) -> None:
    with start(agent="frame_bytes = 5000").client() as client:
        client.open(agent="scripted")
        answer = client.call("_echo", {"x": "x" * 6000})
        assert reason(answer) == "frame_too_large" and "5000" in answer["error"]["message"]
        answer = client.turn("say " + "x" * 6000)[0]
        assert reason(answer) == "frame_too_large"
        assert client.turn("say fine")[1] == ["fine"]


def test_a_batch_reaches_no_agent(client: Client) -> None:
    client.raw(json.dumps([{"jsonrpc": "2.0", "id": 1, "method": "_echo", "params": {}}]).encode() + b"\n")
    answer = client.read()
    assert (answer["id"], answer["error"]["code"]) == (None, -32600)
    assert told(client, "_echo") is None
    assert client.turn("say fine")[1] == ["fine"]
