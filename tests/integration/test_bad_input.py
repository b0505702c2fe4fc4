# SPDX-License-Identifier: Apache-2.0
"""What strangers, broken clients and wrong files bring: a clear error each, and the daemon unharmed."""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.acp_client import Client, Frame, reason, texts
from support.embedded import Embedded, Start, eventually, memory

ATTACH = b'{"jsonrpc":"2.0","id":5,"method":"_agentd/attach","params":{"container":"here"}}'


@pytest.fixture
def agentd(start: Start) -> Iterator[Embedded]:
    """An agentd that must still serve when the test is over."""
    agentd = start()
    yield agentd
    assert serves(agentd)


@pytest.fixture
def small(start: Start) -> Iterator[Client]:
    """A client of a worker that takes frames of 2,000 bytes; it must still be served at the end."""
    with start(limits="frame_bytes = 2000").client() as client:
        yield client.open()
        assert client.call("_echo", {"still": "here"})["result"] == {"still": "here"}


def serves(agentd: Embedded) -> bool:
    with agentd.client() as client:
        return client.open().turn("say fine")[1] == ["fine"]


def admitted(agentd: Embedded) -> bool:
    """Whether a connection is taken now; one over a limit may be refused before it has asked."""
    with agentd.client() as client, contextlib.suppress(BrokenPipeError):
        client.request("_agentd/attach", {"container": "here"})
        return "result" in client.read()
    return False


def refusal(agentd: Embedded, first: bytes) -> Frame:
    """What a connection that begins so is told, before it is closed."""
    with agentd.client() as client:
        with contextlib.suppress(BrokenPipeError):
            client.raw(first)
        answer = client.read()
        assert client.at_end()
        return answer


def kind(answer: Frame) -> tuple[object, int, str]:
    """An error's id, code and reason."""
    return answer["id"], answer["error"]["code"], reason(answer)


# The first line


def test_first_line_that_is_not_json_is_refused(agentd: Embedded) -> None:
    assert kind(refusal(agentd, b'{"jsonrpc": oops\n')) == (None, -32700, "parse_error")


def test_empty_first_line_is_refused(agentd: Embedded) -> None:
    assert kind(refusal(agentd, b"\n")) == (None, -32700, "parse_error")


def test_first_line_that_is_not_utf8_is_refused(agentd: Embedded) -> None:
    bad = ATTACH.replace(b'"here"', b'"h\xffre"')
    assert kind(refusal(agentd, bad + b"\n"))[1:] == (-32700, "parse_error")


@pytest.mark.parametrize("size", [65_537, 1 << 20])
def test_first_line_without_an_end_is_refused_at_64_kib(agentd: Embedded, size: int) -> None:
    assert kind(refusal(agentd, b'"' + b"x" * size)) == (None, -32600, "frame_too_large")


def test_first_line_of_just_64_kib_is_taken(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.raw(ATTACH[:-1] + b" " * (65_536 - len(ATTACH)) + b"}\n")
        assert client.read()["result"]["container"] == "here"


def test_batch_as_first_line_is_refused(agentd: Embedded) -> None:
    assert kind(refusal(agentd, b"[" + ATTACH + b"]\n")) == (None, -32600, "batch_refused")


@pytest.mark.parametrize("first", [b"3\n", b'"text"\n', b"null\n", b'{"jsonrpc":"2.0"}\n'])
def test_first_line_that_is_no_message_is_refused(agentd: Embedded, first: bytes) -> None:
    assert kind(refusal(agentd, first)) == (None, -32600, "invalid_request")


def test_notification_as_first_line_is_refused(agentd: Embedded) -> None:
    first = b'{"jsonrpc":"2.0","method":"initialize","params":{}}\n'
    assert kind(refusal(agentd, first)) == (None, -32600, "invalid_request")


def test_first_line_that_breaks_off_is_refused(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.raw(ATTACH[:20])
        client.sock.shutdown(socket.SHUT_WR)
        assert reason(client.read()) == "parse_error"
        assert client.at_end()


def test_connection_that_says_nothing_is_just_closed(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.sock.shutdown(socket.SHUT_WR)
        assert client.at_end()


def test_first_line_that_does_not_end_in_time_is_refused(start: Start) -> None:
    agentd = start(limits="front_door_sec = 1.0")
    assert kind(refusal(agentd, ATTACH)) == (None, -32603, "handshake_timeout")
    assert serves(agentd)


def test_first_line_with_another_method_is_refused_under_its_id(agentd: Embedded) -> None:
    first = b'{"jsonrpc":"2.0","id":"seven","method":"session/new","params":{}}\n'
    assert kind(refusal(agentd, first)) == ("seven", -32600, "invalid_request")


@pytest.mark.parametrize("params", [b'{"container":7}', b'{"contaner":"here"}', b'["here"]', b"null"])
def test_attach_with_wrong_params_is_refused(agentd: Embedded, params: bytes) -> None:
    first = ATTACH.replace(b'{"container":"here"}', params)
    assert kind(refusal(agentd, first + b"\n")) == (5, -32602, "invalid_args")


def test_closed_connections_leave_nothing_in_the_manager(agentd: Embedded) -> None:
    assert agentd.process is not None and serves(agentd)
    descriptors = Path(f"/proc/{agentd.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(50):
        refusal(agentd, b"nonsense\n")
        agentd.client().close()
    assert eventually(lambda: len(list(descriptors.iterdir())) <= before, "descriptors closed")


# What it asks for


def test_unknown_container_is_refused_with_those_there_are(agentd: Embedded) -> None:
    answer = refusal(agentd, ATTACH.replace(b'"here"', b'"there"') + b"\n")
    assert kind(answer) == (5, -32002, "no_such_container")
    assert answer["error"]["data"]["containers"] == ["here"]


@pytest.mark.parametrize("name", ["../here", "here\n", "h\u0000", "é", "x" * 5000, "%s", "-x", "."])
def test_name_that_no_container_can_have_is_unknown(agentd: Embedded, name: str) -> None:
    with agentd.client() as client:
        assert reason(client.attach(name)) == "no_such_container"


def test_only_container_is_meant_where_none_is_named(agentd: Embedded) -> None:
    with agentd.client() as client:
        assert client.call("initialize", {"protocolVersion": 1})["result"]["agentInfo"]["name"] == "agentd"


def test_container_has_to_be_named_where_there_are_several(start: Start, tmp_path: Path) -> None:
    agentd = start(limits=f'[containers.other]\nruntime = "host"\ndirectory = "{tmp_path}"')
    for method in ("initialize", "_agentd/attach"):
        first = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}).encode()
        answer = refusal(agentd, first + b"\n")
        assert kind(answer) == (1, -32602, "ambiguous_container")
        assert answer["error"]["data"]["containers"] == ["here", "other"]
    assert serves(agentd)


def test_initialize_may_name_container_and_agent(start: Start, tmp_path: Path) -> None:
    agentd = start(limits=f'[containers.other]\nruntime = "host"\ndirectory = "{tmp_path}"')
    meta = {"agentd.container": "other", "agentd.agent": "scripted"}
    with agentd.client() as client:
        started = client.call("initialize", {"protocolVersion": 1, "_meta": meta})
        assert started["result"]["agentInfo"]["name"] == "scripted"
    eventually(lambda: "other" in agentd.log(), "it is logged")


def test_unknown_agent_is_refused_with_those_there_are(agentd: Embedded) -> None:
    with agentd.client() as client:
        answer = client.attach("here", "nobody")
        assert (answer["error"]["code"], reason(answer)) == (-32002, "no_such_agent")
        assert "scripted" in answer["error"]["data"]["agents"]
        assert client.at_end()


def test_agent_that_the_container_does_not_offer_is_refused(start: Start, tmp_path: Path) -> None:
    offers = f'[containers.other]\nruntime = "host"\ndirectory = "{tmp_path}"\nagents = ["scripted"]'
    with start(limits=offers).client() as client:
        answer = client.attach("other", "claude")
        assert reason(answer) == "no_such_agent"
        assert answer["error"]["data"]["agents"] == ["scripted"]


def test_program_that_does_not_exist_is_named_each_time(start: Start, tmp_path: Path) -> None:
    agentd = start(limits='[agents.gone]\ncommand = ["/nowhere/agent"]')
    with agentd.client() as client:
        client.attach("here", "gone")
        for _ in range(2):
            answer = client.call("initialize", {"protocolVersion": 1})
            assert reason(answer) == "agent_missing"
            assert "/nowhere/agent" in answer["error"]["message"]
    assert serves(agentd)


def test_program_that_was_missing_is_used_once_it_is_there(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "agent"
    agentd = start(limits=f'[agents.late]\ncommand = ["{program}"]')
    with agentd.client() as client:
        client.attach("here", "late")
        assert reason(client.call("initialize", {"protocolVersion": 1})) == "agent_missing"
        program.write_text(
            f"#!/bin/sh\nexec {sys.executable} {Path(__file__).parents[1]}/agents/scripted.py\n"
        )
        program.chmod(0o755)
        assert "result" in client.call("initialize", {"protocolVersion": 1})


def test_program_that_cannot_be_executed_is_missing(start: Start, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    agentd = start(limits=f'[agents.plain]\ncommand = ["{tmp_path}/plain"]')
    with agentd.client() as client:
        client.attach("here", "plain")
        assert reason(client.call("initialize", {"protocolVersion": 1})) == "agent_missing"
    assert serves(agentd)


def missing(tmp_path: Path) -> str:
    return f'[containers.lost]\nruntime = "host"\ndirectory = "{tmp_path}/lost"'


def test_container_whose_directory_is_missing_does_not_run(start: Start, tmp_path: Path) -> None:
    agentd = start(limits=missing(tmp_path))
    for _ in range(3):  # with and without the watcher's word
        with agentd.client() as client:
            answer = client.attach("lost")
            assert (answer["error"]["code"], reason(answer)) == (-32603, "not_running")
    assert serves(agentd)


def test_missing_directory_is_reported_by_the_worker_where_the_watcher_is_wrong(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "lost").mkdir()
    agentd = start(limits=missing(tmp_path))
    eventually(lambda: "the watcher is here" in agentd.log())
    (tmp_path / "lost").rmdir()
    for _ in range(3):
        with agentd.client() as client:
            assert reason(client.attach("lost")) == "not_running"


def test_container_whose_directory_appears_later_serves(start: Start, tmp_path: Path) -> None:
    agentd = start(limits=missing(tmp_path))
    eventually(lambda: "the watcher is here" in agentd.log())
    with agentd.client() as client:
        assert reason(client.attach("lost")) == "not_running"
    (tmp_path / "lost").mkdir()
    with agentd.client() as client:
        client.open("lost")


def test_another_account_is_denied(agentd: Embedded) -> None:
    code = (
        "import os, socket; os.chdir('/proc/self/fd/%s')\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sock = socket.socket(socket.AF_UNIX); sock.settimeout(20); sock.connect('agentd.sock')\n"
        "sock.sendall(%r); print(sock.makefile('r').readline())"
    )
    folder = os.open(agentd.runtime_dir, os.O_PATH)
    command = [sys.executable, "-c", code % (folder, ATTACH + b"\n")]
    done = subprocess.run(command, pass_fds=[folder], capture_output=True, text=True, timeout=30, check=True)
    os.close(folder)
    assert kind(json.loads(done.stdout)) == (5, -32603, "access_denied")


# After the first line


@pytest.mark.parametrize("line", [b"{oops", b'{"a":1}{"b":2}', b"", b'{"id": NaN}', b"\x00"])
def test_line_that_is_not_json_is_answered_and_skipped(small: Client, line: bytes) -> None:
    small.raw((line or b"nonsense") + b"\n")
    assert kind(small.read()) == (None, -32700, "parse_error")


def test_line_that_is_not_utf8_is_answered_and_never_forwarded(small: Client) -> None:
    small.raw(b'{"jsonrpc":"2.0","id":9,"method":"_echo","params":{"x":"\xc3\x28"}}\n')
    answer = small.read()
    assert (answer["error"]["code"], reason(answer)) == (-32700, "parse_error")


def test_batch_is_refused_and_the_agent_unharmed(small: Client) -> None:
    request = b'{"jsonrpc":"2.0","id":9,"method":"_echo","params":{}}'
    for batch in (b"[" + request + b"," + request + b"]", b"[]", b"  [1]"):
        small.raw(batch + b"\n")
        assert kind(small.read()) == (None, -32600, "batch_refused")


def test_message_of_no_kind_is_refused_under_its_id(small: Client) -> None:
    small.raw(b'{"jsonrpc":"2.0","id":9}\n')
    assert kind(small.read()) == (9, -32600, "invalid_request")


def test_blank_lines_mean_nothing(small: Client) -> None:
    small.raw(b"\n \n\r\n\n")
    assert small.call("_echo", {"n": 1})["result"] == {"n": 1}


BIG = b'"' + b"x" * 3000 + b'"'
BIG_REQUESTS = {
    "id first": b'{"jsonrpc":"2.0","id":"me","method":"_echo","params":{"x":%s}}' % BIG,
    "id last": b'{"jsonrpc":"2.0","method":"_echo","params":{"x":%s},"id":"me"}' % BIG,
    "id before params, method last": b'{"id":"me","jsonrpc":"2.0","params":{"x":%s},"method":"_echo"}' % BIG,
    "id after params, method last": b'{"jsonrpc":"2.0","params":{"x":%s},"id":"me","method":"_echo"}' % BIG,
    "spaces everywhere": b'{ "jsonrpc" : "2.0" , "id" : "me" , "method" : "_echo" , "params" : {"x":%s} } '
    % BIG,
    "far over": b'{"jsonrpc":"2.0","id":"me","method":"_echo","params":{"x":%s}}'
    % (b'"' + b"x" * (1 << 20) + b'"'),
}


@pytest.mark.parametrize("request_line", BIG_REQUESTS.values(), ids=BIG_REQUESTS)
def test_request_over_the_limit_gets_an_error_for_its_id(small: Client, request_line: bytes) -> None:
    small.raw(request_line + b"\n")
    assert kind(small.read()) == ("me", -32600, "frame_too_large")


def test_frame_over_the_limit_does_not_take_its_neighbours_along(small: Client) -> None:
    one, two = (b'{"jsonrpc":"2.0","id":%d,"method":"_echo","params":{"n":%d}}\n' % (n, n) for n in (81, 82))
    small.raw(one + BIG_REQUESTS["id first"] + b"\n" + two)
    answers = {answer["id"]: "result" in answer for answer in (small.read(), small.read(), small.read())}
    assert answers == {81: True, "me": False, 82: True}


def test_frame_of_just_the_limit_passes(small: Client) -> None:
    frame = b'{"jsonrpc":"2.0","id":4,"method":"_echo","params":{"x":"%s"}}'
    small.raw(frame % (b"x" * (2000 - len(frame) + 2)) + b"\n")
    assert small.read()["id"] == 4
    small.raw(frame % (b"x" * (2001 - len(frame) + 2)) + b"\n")
    assert reason(small.read()) == "frame_too_large"


def test_answer_over_the_limit_ends_the_agents_wait(small: Client) -> None:
    turn = small.prompt("call _question {}")
    asked = small.until("_question")
    small.send({"id": asked["id"], "result": {"x": "x" * 3000}})
    assert "frame_too_large" in texts(small.answer_to(turn)[1])[0]


def test_deeply_nested_frame_does_no_harm(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().raw(b'{"jsonrpc":"2.0","id":1,"method":"x","params":' + b"[" * 100_000 + b"\n")
        assert reason(client.read()) == "parse_error"
        assert client.turn("say fine")[1] == ["fine"]


def test_prompt_without_a_session_is_refused(small: Client) -> None:
    for params in ({}, {"sessionId": "nobody"}, {"sessionId": None}, {"sessionId": 7}):
        answer = small.call("session/prompt", {"prompt": [], **params})
        assert (answer["error"]["code"], reason(answer)) == (-32002, "no_such_session")


@pytest.mark.parametrize("params", [[1, 2], "text", None, 3])
def test_params_of_any_shape_reach_the_agent(client: Client, params: Any) -> None:
    client.send({"id": 1000, "method": "_nobody", "params": params})
    assert client.read()["error"]["data"] == {"method": "_nobody"}


# How many of a thing


def test_clients_over_the_limit_are_refused_until_one_leaves(start: Start) -> None:
    agentd = start(limits="clients = 1")
    with agentd.client() as first:
        first.open()
        assert reason(refusal(agentd, ATTACH + b"\n")) == "too_many_clients"
        assert first.turn("say fine")[1] == ["fine"]
    assert eventually(lambda: admitted(agentd), "the place was free again")


def test_clients_of_one_account_are_limited(start: Start) -> None:
    agentd = start(limits="clients_per_uid = 2")
    with agentd.client() as one, agentd.client() as two:
        assert "result" in one.attach("here") and "result" in two.attach("here")
        assert kind(refusal(agentd, ATTACH + b"\n")) == (5, -32603, "too_many_clients")


def test_sessions_over_the_limit_are_refused(start: Start) -> None:
    agentd = start(limits="sessions = 2")
    with agentd.client() as one, agentd.client() as two:
        one.open(), two.open()
        assert reason(one.call("session/new", {"cwd": "/", "mcpServers": []})) == "too_many_sessions"
        assert one.turn("say fine")[1] == ["fine"]


def test_sessions_asked_for_at_once_are_limited_too(start: Start) -> None:
    with start(limits="sessions = 1").client() as client:
        client.attach("here")
        client.call("initialize", {"protocolVersion": 1})
        asked = [client.request("session/new", {"cwd": "/", "mcpServers": []}) for _ in range(3)]
        answers = [client.read() for _ in asked]
        assert sum("result" in answer for answer in answers) == 1


def test_connections_that_say_nothing_are_limited(start: Start) -> None:
    agentd = start(limits="pending_per_uid = 2")
    silent = [agentd.client() for _ in range(2)]
    with agentd.client() as third:
        assert kind(third.read()) == (None, -32603, "too_many_connections")
    for client in silent:
        client.close()
    assert eventually(lambda: admitted(agentd), "their places were free again")


def tried(agentd: Embedded) -> Client:
    """A connection that has asked for the container, if it was given the time to."""
    client = agentd.client()
    with contextlib.suppress(BrokenPipeError):
        client.request("_agentd/attach", {"container": "here"})
    return client


def test_a_thousand_connections_at_once_each_get_an_answer(agentd: Embedded) -> None:
    clients = [tried(agentd) for _ in range(1000)]
    answers = [client.read() for client in clients]
    served = [answer for answer in answers if "result" in answer]
    assert len(served) == 32  # clients_per_uid
    refusals = {reason(answer) for answer in answers if "error" in answer}
    assert refusals <= {"too_many_clients", "too_many_connections"}
    for client in clients:
        client.close()
    assert eventually(lambda: admitted(agentd), "served again")


def test_a_thousand_connections_at_once_are_served_where_the_limits_allow_it(start: Start) -> None:
    agentd = start(limits="clients = 2000\nclients_per_uid = 2000\npending_per_uid = 2000")
    clients = [tried(agentd) for _ in range(1000)]
    assert all("result" in client.read() for client in clients)
    for client in clients:
        client.close()
    assert serves(agentd)


def test_running_out_of_descriptors_passes(start: Start) -> None:
    """New connections wait, and the log is not flooded meanwhile."""
    agentd = start(limits="pending_per_uid = 500\nfront_door_sec = 0.3")
    assert agentd.process is not None and serves(agentd)
    resource.prlimit(agentd.process.pid, resource.RLIMIT_NOFILE, (40, 40))
    silent = [agentd.client() for _ in range(60)]
    assert [reason(client.read()) for client in silent] == ["handshake_timeout"] * 60
    for client in silent:
        client.close()
    assert serves(agentd)
    assert len(agentd.log()) < 100_000


# Slow and half-closed clients


def stalled(pid: int, least: int) -> Callable[[], bool]:
    """A look at a process: has it written that much, and nothing more since ten looks ago?"""
    seen: deque[int] = deque(maxlen=10)

    def look() -> bool:
        seen.append(int(Path(f"/proc/{pid}/io").read_text().split("wchar: ")[1].split()[0]))
        return seen[-1] > least and seen.count(seen[-1]) == 10

    return look


def test_client_that_never_reads_costs_its_own_buffer_only(start: Start) -> None:
    agentd = start(agent='isolation = "session"')
    with agentd.client() as slow, agentd.client() as other:
        slow.open(), other.open()
        [worker], before = agentd.workers(), memory(agentd.workers()[0], "VmHWM")
        turn = slow.prompt("updates 25600 4096")
        agent = int(slow.session.split("-")[1])
        eventually(stalled(agent, 1 << 20), "the agent was slowed down")
        assert other.turn("updates 1000 100", "say served")[1][-1] == "served"
        answer, updates = slow.answer_to(turn)
        assert answer["result"]["stopReason"] == "end_turn"
        assert len(updates) == 25_600
        assert memory(worker, "VmHWM") - before < 40 << 20


def test_client_that_never_reads_and_leaves_holds_nothing_up(start: Start) -> None:
    agentd = start(limits="agent_idle_sec = 0.1\npermission_wait_sec = 0.1")
    with agentd.client() as slow:
        slow.open().prompt("updates 25600 4096", "ask May I?")
        agent = int(slow.session.split("-")[1])
        eventually(stalled(agent, 1 << 20), "the agent was slowed down")
    eventually(lambda: agent not in agentd.agents(), "the agent has ended")


def test_client_that_sends_and_never_reads_is_not_read_without_bound(agentd: Embedded) -> None:
    [worker] = eventually(lambda: serves(agentd) and agentd.workers())
    before = memory(worker, "VmHWM")
    with agentd.client() as flood:
        flood.open().sock.settimeout(2)
        frame = json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": "_echo", "params": {"x": "x" * 100_000}}
        ).encode()
        with contextlib.suppress(TimeoutError):
            for _ in range(2000):
                flood.raw(frame + b"\n")
            raise AssertionError("200 MB were taken from a client that reads nothing")
        assert serves(agentd)
        assert memory(worker, "VmHWM") - before < 80 << 20


def test_half_closed_connection_gets_its_answers_and_ends(client: Client) -> None:
    asked = [client.request("_echo", {"n": number}) for number in range(100)]
    client.sock.shutdown(socket.SHUT_WR)
    assert [client.read()["id"] for _ in asked] == asked
    assert client.at_end()


def test_half_closed_client_that_goes_in_a_silent_turn_has_gone(start: Start) -> None:
    agentd = start(limits="clients = 1")
    with agentd.client() as client:
        client.open().prompt("say one", "hold")
        client.until_text("one")
        client.sock.shutdown(socket.SHUT_WR)
        assert reason(refusal(agentd, ATTACH + b"\n")) == "too_many_clients"
    assert eventually(lambda: admitted(agentd), "its place is free again")


def test_half_closed_connection_that_waits_for_nothing_ends(client: Client) -> None:
    client.sock.shutdown(socket.SHUT_WR)
    assert client.at_end()


def test_half_closed_before_the_agent_is_up_gets_its_answer(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.raw(
            ATTACH + b'\n{"jsonrpc":"2.0","id":6,"method":"initialize","params":{"protocolVersion":1}}\n'
        )
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.read()["id"], client.read()["id"]] == [5, 6]
        assert client.at_end()


def test_half_closed_right_behind_the_attach_is_answered_and_ends(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.raw(ATTACH + b"\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read()["id"] == 5
        assert client.at_end()


def test_frame_that_is_half_sent_when_the_client_leaves_is_dropped(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().raw(b'{"jsonrpc":"2.0","id":6,"method":"_ec')
    eventually(lambda: not agentd.agents(), "the agent has ended")
