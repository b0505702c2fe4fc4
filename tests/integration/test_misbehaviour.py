# SPDX-License-Identifier: Apache-2.0
"""Agents that do what agents should not: every turn ends, with a reason, and nothing is left behind."""

import json
import os
import select
import socket
import time
from collections.abc import Iterator

import pytest

from support.acp_client import Client, Frame, reason, texts
from support.embedded import Embedded, Start, eventually

SECRET = "a-secret-nobody-may-see"
NEW = {"cwd": "/", "mcpServers": []}


def starting(client: Client) -> Frame:
    """Attach and initialize; the answer, whatever it is."""
    assert "result" in client.attach("here", "scripted")
    return client.call("initialize", {"protocolVersion": 1})


def details(answer: Frame) -> tuple[str, str, object]:
    """What the error of an agent's end carries."""
    data = answer["error"]["data"]
    return reason(answer), data["agent"], data["exit_status"]


def quiet(client: Client, seconds: float) -> bool:
    """Whether nothing comes for that long."""
    return not select.select([client.sock], [], [], seconds)[0]


def environment(secret: str) -> str:
    return f"[agents.scripted.env]\nTOKEN = {json.dumps(secret)}\nGREETING = 'hi'"


# Before the first frame


def test_noise_on_stdout_is_logged_and_skipped(start: Start) -> None:
    agentd = start("--noise")
    with agentd.client() as client:
        assert client.open().turn("raw more noise", "raw", "raw [1,2]", "say fine")[1] == ["fine"]
    for noise in ("Welcome to the scripted agent!", "more noise", "[1,2]"):
        eventually(lambda noise=noise: noise in agentd.log(), noise)


def test_flood_on_stderr_before_the_first_frame_is_drained(start: Start) -> None:
    with start("--stderr-first", "300000").client() as client:
        assert client.open().turn("say fine")[1] == ["fine"]


@pytest.mark.parametrize("method", ["initialize", "session/new"])
def test_agent_that_hangs_in_its_handshake_is_given_up(start: Start, method: str) -> None:
    agentd = start("--hang", method, "--ignore-sigterm", limits="agent_handshake_sec = 2.0")
    with agentd.client() as client:
        answer = starting(client)
        if method == "session/new":
            answer = client.call("session/new", NEW)
        assert reason(answer) == "agent_timeout"
        assert method in answer["error"]["message"]
        eventually(lambda: not agentd.agents(), "it was ended")


def test_agent_that_shows_life_is_waited_for(start: Start) -> None:
    """The deadline is one of silence: a slow start that goes on is none."""
    with start("--hang", "session/new", limits="agent_handshake_sec = 2.0").client() as client:
        starting(client)
        began = time.monotonic()
        asked = client.request("session/new", NEW)
        for _ in range(3):
            assert client.call("_echo", {"n": 1})["result"] == {"n": 1}
        assert reason(client.answer_to(asked)[0]) == "agent_timeout"
        assert time.monotonic() - began >= 2.0


def test_prompt_is_no_handshake_and_may_take_longer(start: Start) -> None:
    with start(limits="agent_handshake_sec = 2.0").client() as client:
        client.open().prompt("say one", "hold")
        client.until_text("one")
        assert quiet(client, 2.5)
        client.notify("_release")


def test_agent_that_ends_in_initialize_has_failed(start: Start) -> None:
    agentd = start("--exit-at", "initialize", "--exit-status", "5", "--stderr-first", "20")
    with agentd.client() as client:
        answer = starting(client)
        assert details(answer) == ("agent_failed", "scripted", 5)
        assert answer["error"]["data"]["stderr_tail"] == "e" * 20


def test_agent_that_ends_at_session_new_is_started_again(start: Start) -> None:
    agentd = start("--exit-at", "session/new", "--exit-status", "3")
    with agentd.client() as client:
        starting(client)
        assert details(client.call("session/new", NEW)) == ("agent_exited", "scripted", 3)
        # the next one may end before it has answered even initialize
        assert reason(client.call("session/new", NEW)) in ("agent_exited", "agent_failed")
        assert client.call("_echo", {"n": 1})["result"] == {"n": 1}


# In a turn


@pytest.mark.parametrize("status", [0, 7])
def test_agent_that_exits_in_a_turn_ends_it_with_its_last_words(client: Client, status: int) -> None:
    answer, said = client.turn("say one", "stderr it broke", f"exit {status}")
    assert said == ["one"]
    assert details(answer) == ("agent_exited", "scripted", status)
    assert answer["error"]["data"]["stderr_tail"] == "it broke"


def test_agent_that_is_killed_in_a_turn_ends_it(client: Client) -> None:
    answer, said = client.turn("updates 1000 100", "die")
    assert len(said) == 1000
    assert details(answer) == ("agent_exited", "scripted", -9)


def test_everything_else_asked_of_a_crashed_agent_is_answered_too(client: Client) -> None:
    waiting = [client.request("_wait"), client.request("_wait"), client.prompt("exit 1")]
    answers = [client.read() for _ in waiting]
    assert sorted(answer["id"] for answer in answers) == waiting
    assert {reason(answer) for answer in answers} == {"agent_exited"}


def test_session_outlives_its_agent(client: Client) -> None:
    assert reason(client.turn("exit 1")[0]) == "agent_exited"
    assert client.turn("say fine")[1] == ["fine"]


def test_prompt_right_behind_a_crash_runs_in_the_next_agent(client: Client) -> None:
    first, second = client.prompt("exit 1"), client.prompt("say fine")
    assert reason(client.answer_to(first)[0]) == "agent_exited"
    answer, before = client.answer_to(second)
    assert answer["result"]["stopReason"] == "end_turn"
    assert texts(frame for frame in before) == ["fine"]


def test_agent_started_anew_is_told_what_the_client_said_at_first(client: Client) -> None:
    client.turn("exit 1")
    assert client.call("_greeted")["result"]["protocolVersion"] == 1


def test_permission_the_agent_died_over_is_forgotten(client: Client) -> None:
    turn = client.prompt("ask May I?")
    asked = client.until("session/request_permission")
    os.kill(int(client.session.split("-")[1]), 9)
    assert reason(client.answer_to(turn)[0]) == "agent_exited"
    client.send({"id": asked["id"], "result": {"outcome": {"outcome": "cancelled"}}})
    client.session = client.new_session()
    assert client.turn("say fine")[1] == ["fine"]


# Cancelling


def test_cancel_that_is_ignored_still_ends_the_turn_as_cancelled(start: Start) -> None:
    agentd = start("--ignore-cancel", "--ignore-sigterm", "--ignore-eof", limits="cancel_sec = 0.4")
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        client.cancel()
        assert client.answer_to(turn)[0]["result"] == {"stopReason": "cancelled"}
        eventually(lambda: not agentd.agents(), "the agent was ended")
        client.session = client.new_session()
        assert client.turn("say fine")[1] == ["fine"]


def test_cancel_twice_counts_once(start: Start) -> None:
    with start("--ignore-cancel", limits="cancel_sec = 0.4").client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        client.cancel()
        client.cancel()
        assert client.answer_to(turn)[0]["result"] == {"stopReason": "cancelled"}


def test_cancel_that_is_heeded_in_time_leaves_the_agent_alone(start: Start) -> None:
    agentd = start(limits="cancel_sec = 1.0")
    with agentd.client() as client:
        turn = client.open().prompt("say one", "cancelled")
        client.until_text("one")
        client.cancel()
        client.answer_to(turn)
        assert quiet(client, 1.5)
        assert len(agentd.agents()) == 1


def test_cancel_between_turns_means_nothing(start: Start) -> None:
    with start(limits="cancel_sec = 0.2").client() as client:
        client.open().cancel()
        client.prompt("say one", "hold")
        client.until_text("one")
        assert quiet(client, 0.5)
        client.notify("_release")


def test_agent_that_crashes_while_being_cancelled_ends_the_turn_as_cancelled(client: Client) -> None:
    turn = client.prompt("say one", "cancelled", "exit 4")
    client.until_text("one")
    client.cancel()
    assert client.answer_to(turn)[0]["result"] == {"stopReason": "cancelled"}


# Ending


def test_agent_that_ignores_everything_is_killed_in_time(start: Start) -> None:
    agentd = start("--ignore-sigterm", "--ignore-eof", limits="agent_kill_sec = 2.0\nagent_idle_sec = 0.1")
    with agentd.client() as client:
        client.open()
        assert len(agentd.agents()) == 1
    began = time.monotonic()
    eventually(lambda: not agentd.agents(), "it was killed")
    assert time.monotonic() - began < 6  # 1 s of SIGTERM, then SIGKILL


def test_agent_that_ignores_the_end_of_its_input_is_ended(start: Start) -> None:
    agentd = start("--ignore-eof")
    with agentd.client() as client:
        client.open()
    eventually(lambda: not agentd.agents(), "it was ended")


def test_children_that_left_the_session_go_with_the_client(start: Start) -> None:
    agentd = start("--child-at-start", limits="agent_idle_sec = 0.1")
    with agentd.client() as client:
        assert client.open().turn("child", "child")[1]
        assert len(agentd.agents()) == 4
    eventually(lambda: not agentd.agents(), "all are gone")


def test_children_that_left_the_session_go_when_the_agent_crashes(agentd: Embedded) -> None:
    with agentd.client() as client:
        assert reason(client.open().turn("child", "child", "die")[0]) == "agent_exited"
        eventually(lambda: not agentd.agents(), "all are gone")


def test_children_of_one_agent_only_go_with_it(start: Start) -> None:
    agentd = start(limits="agent_idle_sec = 0.1", agent='isolation = "session"')
    with agentd.client() as one, agentd.client() as two:
        one.open().turn("child")
        two.open().turn("child")
        one.close()
        eventually(lambda: len(agentd.agents()) == 2, "the first one's are gone")
        assert two.turn("say fine")[1] == ["fine"]


def test_turn_goes_on_when_the_client_leaves_and_then_the_agent_ends(start: Start) -> None:
    agentd = start(limits="agent_idle_sec = 0.1")
    with agentd.client() as client:
        client.open().prompt("say one", "updates 2000 1000", "stderr the turn has ended")
        client.until_text("one")
    eventually(lambda: "the turn has ended" in agentd.log(), "the turn ran to its end")
    eventually(lambda: not agentd.agents(), "the agent has ended")


def test_permission_is_cancelled_when_the_client_left_with_updates_unread(start: Start) -> None:
    """To leave with something unread resets the connection; that is an end like any other."""
    agentd = start(limits="agent_idle_sec = 0.1\npermission_wait_sec = 0.3")
    with agentd.client() as client:
        client.open().prompt(
            "say one", "say two", "stderr about to ask", "ask May I?", "stderr was answered"
        )
        eventually(lambda: "about to ask" in agentd.log())
    eventually(lambda: "was answered" in agentd.log(), "the agent got its answer")
    eventually(lambda: not agentd.agents(), "the agent has ended")


def test_agent_that_closes_its_output_has_ended(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open()
        turn = client.prompt("close", "hold")
        assert reason(client.answer_to(turn)[0]) == "agent_exited"
        eventually(lambda: not agentd.agents(), "it was ended")


def test_worker_survives_agents_that_die_while_being_written_to(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().prompt("die")
        for number in range(200):
            client.request("_echo", {"x": "x" * 10_000, "n": number})
        client.session = client.new_session()
        assert client.turn("say fine")[1] == ["fine"]


# What reaches the agent's environment and the log


def test_nothing_of_the_daemons_own_reaches_the_agent(start: Start) -> None:
    ours = {
        "SSH_AUTH_SOCK": "/x",
        "DBUS_SESSION_BUS_ADDRESS": "unix:path=/x",
        "LISTEN_FDS": "0",
        "AGENTD_X": "1",
    }
    ours |= {
        "LISTEN_FDNAMES": "a",
        "WATCHDOG_USEC": "99000000",
        "CREDENTIALS_DIRECTORY": "/x",
        "MY_API_KEY": "x",
    }
    agentd = start(AGENTD_LOG="debug", **ours)
    names = [*ours, "NOTIFY_SOCKET", "LISTEN_PID", "WATCHDOG_PID", "AGENTD_LOG", "XDG_RUNTIME_DIR"]
    with agentd.client() as client:
        said = client.open().turn(*(f"env {name}" for name in names))[1]
    assert said == [f"{name}=(unset)" for name in names]


def test_configured_environment_and_the_usual_reach_the_agent(start: Start) -> None:
    with start(limits=environment(SECRET)).client() as client:
        said = client.open().turn("env TOKEN", "env GREETING", "env PATH")[1]
    assert said == [f"TOKEN={SECRET}", "GREETING=hi", f"PATH={os.environ['PATH']}"]


@pytest.mark.parametrize("secret", [SECRET, 'quote"and\\backslash-never', "ünïcödé-never"])
def test_secrets_do_not_reach_the_log_even_in_traces(start: Start, secret: str) -> None:
    agentd = start(limits=environment(secret), AGENTD_LOG="debug")
    with agentd.client() as client:
        said = client.open().turn("env TOKEN", f"stderr {secret}", f"raw {secret}")[1]
        assert said == [f"TOKEN={secret}"]
        client.turn("exit 1")
    eventually(lambda: "[redacted]" in agentd.log(), "the trace is written")
    assert secret not in agentd.log() and json.dumps(secret)[1:-1] not in agentd.log()
    assert json.dumps(secret, ensure_ascii=False)[1:-1] not in agentd.log()


def test_secret_on_stderr_does_not_come_back_in_an_error(start: Start) -> None:
    with start(limits=environment(SECRET)).client() as client:
        answer, _ = client.open().turn(f"stderr the token is {SECRET}", "exit 1")
    assert answer["error"]["data"]["stderr_tail"] == "the token is [redacted]"


def test_secret_that_is_cut_in_two_does_not_reach_the_log(start: Start) -> None:
    agentd = start(limits=environment(SECRET))
    script = [f"raw {'x' * 190}{SECRET}", f"stderr {'x' * 4090}{SECRET}", f"stderr {'y' * 4080}{SECRET}"]
    with agentd.client() as client:
        client.open().turn(*script, "stderr that was all")
    eventually(lambda: "that was all" in agentd.log(), "stderr was read")
    for length in range(5, len(SECRET)):
        assert SECRET[:length] not in agentd.log() and SECRET[-length:] not in agentd.log()


# Frames that should not be


@pytest.fixture
def small(start: Start) -> Iterator[Client]:
    """A client of a worker that takes frames of 2,000 bytes."""
    with start(limits="frame_bytes = 2000").client() as client:
        yield client.open()


def test_huge_update_is_dropped_and_the_turn_goes_on(small: Client) -> None:
    answer, said = small.turn("say before", "updates 1 100000", "say after")
    assert (said, answer["result"]["stopReason"]) == (["before", "after"], "end_turn")


def test_huge_answer_is_an_error_for_its_request(small: Client) -> None:
    assert reason(small.call("_big", {"size": 100_000})) == "frame_too_large"
    assert small.turn("say fine")[1] == ["fine"]


def test_huge_question_is_an_error_for_the_agent(small: Client) -> None:
    assert "frame_too_large" in small.turn("big 100000")[1][0]


def test_two_messages_on_one_line_are_not_passed_on(client: Client) -> None:
    two = '{"jsonrpc":"2.0","method":"_a","params":{}}{"jsonrpc":"2.0","method":"_b","params":{}}'
    answer, before = client.answer_to(client.prompt("say one", f"raw {two}", "say two"))
    assert [frame["method"] for frame in before] == ["session/update"] * 2
    assert answer["result"]["stopReason"] == "end_turn"


def test_message_over_two_lines_is_not_passed_on(client: Client) -> None:
    lines = ['{"jsonrpc":"2.0","method":"_a"}{"jsonrpc":"2.0","method":"_b","params":', "{}}"]
    _, before = client.answer_to(client.prompt(f"bytes {(chr(10).join(lines) + chr(10)).encode().hex()}"))
    assert before == []


def test_what_is_not_utf8_is_not_passed_on(client: Client) -> None:
    bad = b'{"jsonrpc":"2.0","method":"_a","params":{"x":"\xc3\x28"}}\n'
    client.prompt(f"bytes {bad.hex()}", "say fine")
    lines = [client.line(), client.line()]
    assert all(line.decode() for line in lines) and b"fine" in lines[0]


def test_deeply_nested_message_is_skipped_and_the_turn_goes_on(client: Client) -> None:
    assert client.turn(f"raw {'[' * 50_000}", 'raw {"method":"x","params":' + "[" * 50_000, "say fine")[
        1
    ] == ["fine"]


def test_answer_nobody_waits_for_is_dropped(client: Client) -> None:
    answers = [
        '{"jsonrpc":"2.0","id":999,"result":{}}',
        '{"jsonrpc":"2.0","id":"x","error":{}}',
        '{"id":null}',
    ]
    _, before = client.answer_to(client.prompt(*(f"raw {each}" for each in answers), "say fine"))
    assert texts(before) == ["fine"] and len(before) == 1


def test_batch_from_the_agent_is_not_passed_on(client: Client) -> None:
    _, before = client.answer_to(client.prompt('raw [{"jsonrpc":"2.0","method":"_a"}]', "say fine"))
    assert len(before) == 1


# Order


def test_updates_before_session_new_is_answered_arrive(start: Start) -> None:
    with start("--early-updates").client() as client:
        starting(client)
        made = client.call("session/new", NEW)
        assert client.until("session/update")["params"]["sessionId"] == made["result"]["sessionId"]


def test_order_of_updates_and_questions_is_kept(client: Client) -> None:
    turn, seen = client.prompt("mixed 50000 100"), []
    while (frame := client.read()).get("id") != turn or "method" in frame:
        if frame["method"] == "_tick":
            client.send({"id": frame["id"], "result": {}})
            seen.append(("asked", frame["params"]["n"]))
        else:
            seen.append(("said", int(frame["params"]["update"]["content"]["text"])))
    assert [number for what, number in seen if what == "said"] == list(range(50_000))
    assert all(seen[at - 1] == ("said", number) for at, (what, number) in enumerate(seen) if what == "asked")
    assert sum(what == "asked" for what, _ in seen) == 500


def test_a_client_that_reads_slowly_is_heard(client: Client) -> None:
    """It writes only between reading, and its socket has room for few answers."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    turn, asked = client.prompt("mixed 50000 100"), 0
    time.sleep(1)  # most of it waits by now
    while (frame := client.read()).get("id") != turn or "method" in frame:
        if frame["method"] == "_tick":
            client.send({"id": frame["id"], "result": {}})
            asked += 1
    assert asked == 500


def test_what_an_agent_says_last_arrives_before_its_end(client: Client) -> None:
    answer, said = client.turn("updates 5000 200", "exit 0")
    assert (len(said), reason(answer)) == (5000, "agent_exited")
