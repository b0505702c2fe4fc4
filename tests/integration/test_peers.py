# SPDX-License-Identifier: Apache-2.0
"""Agents and clients that others wrote and use, alone and with agentd between them."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import peers
from support.acp_client import Client, Frame, reason, texts
from support.editor import Editor
from support.embedded import Embedded, Start, eventually

EVERY_AGENT = pytest.mark.parametrize("name", peers.AGENTS)
ALLOWED = " Perfect! I've successfully updated the configuration. The changes have been applied."
REJECTED = " I understand you prefer not to make that change. I'll skip the configuration update."
PATIENCE = 60.0
"""Seconds a client that is a command may take."""

Serve = Callable[..., Embedded]


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    """What takes long takes it here, and not out of the first test's time. fast-agent: where it is used."""
    peers.examples(), peers.modules()


@pytest.fixture
def serve(start: Start, tmp_path: Path) -> Serve:
    """Starts an agentd that has these agents, beside the scripted one; `more` is for each of them."""

    def serve(*names: str, more: str = "") -> Embedded:
        return start(limits="".join(entry(name, tmp_path, more) for name in names))

    return serve


def entry(name: str, folder: Path, more: str) -> str:
    return f"[agents.{name}]\ncommand = {json.dumps(peers.AGENTS[name](folder))}\n{more}\n"


# What a client does


def answer_permission(client: Client, option: str) -> None:
    asked = client.until("session/request_permission")
    client.send({"id": asked["id"], "result": {"outcome": {"outcome": "selected", "optionId": option}}})


def turn(client: Client, text: str, session: str = "") -> list[str]:
    """A whole turn in which everything is allowed: what the agent has said."""
    number, before = client.prompt(text, session=session), []
    while (frame := client.read()).get("id") != number or "method" in frame:
        before.append(frame)
        if frame.get("method") == "session/request_permission":
            outcome = {"outcome": "selected", "optionId": "allow"}
            client.send({"id": frame["id"], "result": {"outcome": outcome}})
    assert frame.get("result", {}).get("stopReason") == "end_turn", frame
    assert {each["params"]["sessionId"] for each in before} == {session or client.session}
    return texts(before)


def last_words(name: str, text: str) -> str:
    """How an agent ends a turn with that prompt in which everything was allowed."""
    return ALLOWED if name == "typescript" else text


def user_texts(frames: list[Frame]) -> list[str]:
    updates = [frame["params"]["update"] for frame in frames if frame.get("method") == "session/update"]
    return [each["content"]["text"] for each in updates if each["sessionUpdate"] == "user_message_chunk"]


@contextmanager
def greeted(agentd: Embedded, agent: str = "") -> Iterator[Client]:
    """A client that has no session yet."""
    with agentd.client() as client:
        assert "result" in client.attach("here", agent)
        client.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        yield client


def come_back(client: Client, method: str, session: str) -> list[Frame]:
    """Load or resume a session: what came before the answer."""
    known = {"sessionId": session, "cwd": "/", "mcpServers": []}
    answer, before = client.answer_to(client.request(method, known))
    assert "result" in answer, answer
    client.session = session
    return before


def listed(client: Client) -> set[str]:
    return {each["sessionId"] for each in client.call("session/list")["result"]["sessions"]}


def pick(client: Client, session: str, agent: str) -> Frame:
    wanted = {"sessionId": session, "configId": "agentd.agent", "value": agent}
    return client.call("session/set_config_option", wanted)


# Agents


@EVERY_AGENT
def test_agent_alone_has_a_turn(name: str, tmp_path: Path) -> None:
    """The measure of all that follows: what fails here is no fault of agentd's."""
    with Editor(peers.AGENTS[name](tmp_path), dict(os.environ)) as editor:
        editor.initialize()
        assert turn(editor, "hello")[-1] == last_words(name, "hello")


@EVERY_AGENT
def test_session_is_listed_loaded_resumed_and_closed_by_others(name: str, serve: Serve) -> None:
    agentd = serve(name)
    with agentd.client() as first:
        session = first.open("here", name).session
        assert turn(first, "hello")[-1] == last_words(name, "hello")
    with greeted(agentd, name) as second, greeted(agentd, name) as third:
        assert session in listed(second)
        replayed = come_back(second, "session/load", session)
        assert (user_texts(replayed), texts(replayed)[-1]) == (["hello"], last_words(name, "hello"))
        assert texts(come_back(third, "session/resume", session)) == []
        assert is_live(third)
        assert "result" in third.call("session/close", {"sessionId": session})
        assert third.answer_to(third.prompt("late"))[0]["error"]["code"] == -32002


def is_live(client: Client) -> bool:
    """Whether a turn begins, and ends when it is cancelled, if it has not ended already."""
    number = client.prompt("more")
    client.until("session/update")
    client.cancel()
    return client.answer_to(number)[0]["result"]["stopReason"] in ("end_turn", "cancelled")


def test_deleted_session_is_listed_no_more_and_may_be_deleted_again(serve: Serve) -> None:
    """The protocol wants no error for a session that is gone already, or never was."""
    with serve("echo").client() as client:
        session = client.open("here", "echo").session
        assert "result" in client.call("session/delete", {"sessionId": session})
        assert session not in listed(client)
        assert "result" in client.call("session/delete", {"sessionId": session})


def test_permissions_of_two_sessions_are_answered_each_for_itself(serve: Serve) -> None:
    agentd = serve("typescript")
    with agentd.client() as one, agentd.client() as two:
        turns = [client.open("here", "typescript").prompt("change it") for client in (one, two)]
        answer_permission(two, "reject")
        answer_permission(one, "allow")
        for client, number, words in ((one, turns[0], ALLOWED), (two, turns[1], REJECTED)):
            answer, before = client.answer_to(number)
            assert (answer["result"]["stopReason"], texts(before)) == ("end_turn", [words])


def test_cancel_ends_a_turn_that_waits(serve: Serve) -> None:
    with serve("typescript").client() as client:
        number = client.open("here", "typescript").prompt("change it")
        client.until("session/update")
        client.cancel()
        assert client.answer_to(number)[0]["result"]["stopReason"] == "cancelled"


def test_cancel_ends_a_turn_whose_tool_runs(serve: Serve, tmp_path: Path) -> None:
    started = tmp_path / "started"
    with serve("fast-agent").client() as client:
        command = json.dumps({"command": f"touch {started}; exec sleep 600"})
        number = client.open("here", "fast-agent").prompt(f"***CALL_TOOL bash {command}")
        eventually(started.exists, "the tool runs")
        client.cancel()
        assert client.answer_to(number)[0]["result"]["stopReason"] == "cancelled"


def test_two_agents_on_a_connection_each_work_at_once(serve: Serve) -> None:
    agentd = serve("typescript", "echo")
    with agentd.client() as slow, agentd.client() as quick:
        number = slow.open("here", "typescript").prompt("change it")
        slow.until("session/update")
        assert turn(quick.open("here", "echo"), "hello") == ["hello"]
        slow.cancel()
        assert slow.answer_to(number)[0]["result"]["stopReason"] == "cancelled"


def test_two_agents_on_one_connection_work_at_once(serve: Serve) -> None:
    with greeted(serve("typescript", "echo")) as client:
        slow, quick = client.new_session(), client.new_session()
        for session, agent in ((slow, "typescript"), (quick, "echo")):
            options = pick(client, session, agent)["result"]["configOptions"]
            assert (options[0]["id"], options[0]["currentValue"]) == ("agentd.agent", agent)
        number = client.prompt("change it", session=slow)
        client.until("session/update")
        other = client.prompt("hello", session=quick)
        answer, before = client.answer_to(other)
        assert answer["result"]["stopReason"] == "end_turn"
        assert "hello" in texts(only(quick, before))
        client.cancel(slow)
        assert client.answer_to(number)[0]["result"]["stopReason"] == "cancelled"


def only(session: str, frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame["params"]["sessionId"] == session]


def test_session_that_was_prompted_stays_with_its_agent(serve: Serve) -> None:
    with greeted(serve("counting", "echo")) as client:
        client.session = client.new_session()
        assert "result" in pick(client, client.session, "counting")
        assert "result" in pick(client, client.session, "echo")
        assert turn(client, "hello") == ["hello"]
        assert reason(pick(client, client.session, "counting")) == "agent_fixed"
        assert turn(client, "still here") == ["still here"]


@pytest.mark.parametrize("isolation", ["shared", "session"])
def test_agents_that_count_their_sessions_never_mix(isolation: str, serve: Serve) -> None:
    """With a process for each session, both are called 0 by their agents."""
    agentd = serve("counting", more=f'isolation = "{isolation}"')
    with agentd.client() as one, agentd.client() as two:
        one.open("here", "counting"), two.open("here", "counting")
        assert one.session != two.session
        numbers = [client.prompt(text) for client, text in ((one, "mine"), (two, "yours"))]
        for client, number, text in ((two, numbers[1], "yours"), (one, numbers[0], "mine")):
            answer, before = client.answer_to(number)
            assert answer["result"]["stopReason"] == "end_turn"
            assert texts(only(client.session, before)) == texts(before) == ["Client sent:", text]
        assert listed(one) == listed(two) == {one.session, two.session}
        assert texts(come_back(one, "session/load", two.session)) == ["Client sent:", "yours"]


# Clients


def finish(command: list[str], said: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a client to its end, with this on its stdin."""
    return subprocess.run(
        command,
        input=said,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=PATIENCE,
        check=False,
    )


def test_client_of_the_python_sdk_has_turns(serve: Serve) -> None:
    agentd = serve("counting")
    attach = agentd.agentctl_command("attach", "here", "--agent", "counting")
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(finish, [*peers.sdk_client(), *attach], f"{who}\n") for who in ("one", "two")]
        for who, done in zip(("one", "two"), (run.result() for run in runs), strict=True):
            assert done.returncode == 0, done.stderr
            assert [word for word in ("one", "two") if word in done.stdout] == [who]


def test_client_of_the_typescript_sdk_has_a_turn_with_permission(serve: Serve, tmp_path: Path) -> None:
    agentd = serve("typescript")
    instead_of_npx(tmp_path / "bin", agentd.agentctl_command("attach", "here", "--agent", "typescript"))
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = finish(peers.typescript_client(), "1\n", PATH=path)
    assert ALLOWED in done.stdout, done.stderr
    assert "completed with: end_turn" in done.stdout


def instead_of_npx(folder: Path, command: list[str]) -> None:
    """Make the client, whose agent is a fixed one of npm's, start ours."""
    folder.mkdir()
    npx = folder / "npx"
    npx.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
    npx.chmod(0o755)


class Acpx:
    """acpx with agentd as its agent, and a home of its own."""

    def __init__(self, agentd: Embedded, *arguments: str) -> None:
        self._agent = shlex.join(agentd.agentctl_command("attach", "here", *arguments))
        self._home = agentd.folder / "acpx"
        self._home.mkdir()

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        places = ("--agent", self._agent, "--cwd", str(self._home))
        return finish([*peers.acpx(), *places, "--ttl", "0.1", *arguments], HOME=str(self._home))

    def says(self, *arguments: str) -> str:
        done = self.run("--format", "quiet", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def listed(self) -> list[str]:
        """The sessions that the agent has."""
        told = json.loads(self.run("--format", "json", "sessions", "list").stdout)
        assert "sessions" in told, f"the agent lists none, only acpx itself: {told}"
        return [each["sessionId"] for each in told["sessions"]]

    def has_let_go(self) -> bool:
        """Whether the process is gone that keeps the connection for prompts to come."""
        return not list(self._home.glob(".acpx/queues/*.lock"))


def test_acpx_prompts_once(serve: Serve) -> None:
    assert Acpx(serve("echo"), "--agent", "echo").says("exec", "hello") == "hello"


def test_acpx_picks_the_agent_by_its_config_option(serve: Serve) -> None:
    words = ("exec", "--config-option", "agentd.agent=echo", "hello")
    assert Acpx(serve("echo")).says(*words) == "hello"


def test_acpx_allows_and_denies(serve: Serve) -> None:
    acpx = Acpx(serve("typescript"), "--agent", "typescript")
    with ThreadPoolExecutor() as pool:
        allowing = pool.submit(acpx.run, "--approve-all", "exec", "change it")
        denying = pool.submit(acpx.run, "--deny-all", "exec", "change it")
    assert (allowing.result().returncode, ALLOWED in allowing.result().stdout) == (0, True)
    assert (denying.result().returncode, REJECTED in denying.result().stdout) == (5, True)


def test_acpx_comes_back_to_its_session(serve: Serve) -> None:
    acpx = Acpx(serve("counting"), "--agent", "counting")
    session = acpx.says("sessions", "new")
    assert acpx.says("prompt", "one") == "Client sent:one"
    eventually(acpx.has_let_go, "the next prompt has to come back to the session")
    assert acpx.says("prompt", "two") == "Client sent:two"
    assert acpx.listed() == [session]
