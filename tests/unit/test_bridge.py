# SPDX-License-Identifier: Apache-2.0
"""`agentctl attach` between an editor and workers that come and go; the test plays all but agentctl."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentd.ctl.attach import door as doors
from agentd.errors import FrameTooLarge
from support.acp_client import DEADLINE, Client, Frame, reason, texts
from support.editor import Editor

HELLO = {"protocolVersion": 1, "clientCapabilities": {"fs": {"readTextFile": True}}}
PLACE = {"cwd": "/src", "mcpServers": [{"name": "m", "command": "m", "args": [], "env": []}]}
LOST = {"code": -32603, "message": "lost", "data": {"reason": "interrupted"}}


class Worker(Client):
    """One connection of agentctl's, from the worker's side."""

    def takes(self, method: str) -> Frame:
        """The next frame, which must be that request or notification."""
        frame = self.read()
        assert frame.get("method") == method, frame
        return frame

    def answers(self, method: str, result: object = None) -> Frame:
        """Take that request and answer it; returns its params."""
        frame = self.takes(method)
        self.send({"id": frame["id"], "result": {} if result is None else result})
        params = frame["params"]
        assert isinstance(params, dict)
        return params

    def refuses(self, method: str, reason: str, message: str = "for a test") -> None:
        error = {"code": -32603, "message": message, "data": {"reason": reason}}
        self.send({"id": self.takes(method)["id"], "error": error})

    def recovers(self, *sessions: str) -> Frame:
        """Go through a whole recovery; what was pending is lost. Returns the params of recover."""
        asked = self.takes("_agentd/recover")
        for number in asked["params"]["pending"]:
            self.send({"id": number, "error": LOST})
        self.send({"id": asked["id"], "result": {}})
        assert self.answers("initialize") == HELLO
        for session in sessions:
            assert self.answers("session/resume") == {"sessionId": session, **PLACE}
        params = asked["params"]
        assert isinstance(params, dict)
        return params

    def says(self, text: str) -> None:
        update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
        self.notify("session/update", {"sessionId": "s", "update": update})

    def leaves(self, reason: str, message: str = "good bye") -> None:
        self.notify("_agentd/leaving", {"reason": reason, "message": message})
        self.close()


class Door:
    """A front door; whoever comes in is a worker's at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "agentd.sock"
        self.open()

    def open(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(DEADLINE)
        self._sock.bind(str(self.path))
        self._sock.listen()

    def close(self) -> None:
        """Connections are refused from now on."""
        self._sock.close()

    def vanish(self) -> None:
        self.close()
        self.path.unlink()

    def knock(self) -> Worker:
        """The next connection, with nothing read from it."""
        return Worker(self._sock.accept()[0])

    def attached(self, client: str = "one", **expected: Any) -> Worker:
        """The next connection, once it is a worker's."""
        worker = self.knock()
        result = {"container": "box", "agent": "a"} | ({"client": client} if client else {})
        assert worker.answers("_agentd/attach", result) == {"container": "box", **expected}
        return worker


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.close()


@pytest.fixture
def start(door: Door) -> Iterator[Callable[..., Editor]]:
    """Starts an editor with `agentctl attach box` and these arguments, and with other numbers."""
    started = []

    def start(*arguments: str, **numbers: float) -> Editor:
        changed = f"from agentd.ctl.attach import bridge; vars(bridge).update({numbers}); "
        changed += "from agentd.ctl import main; exit(main())"
        how = ["-c", changed] if numbers else ["-m", "agentd.ctl"]
        command = [sys.executable, *how, "--runtime-dir", str(door.folder), "attach", "box", *arguments]
        started.append(Editor(command, dict(os.environ)))
        return started[-1]

    yield start
    for editor in started:
        editor.close()


@pytest.fixture
def editor(start: Callable[..., Editor]) -> Editor:
    return start()


@pytest.fixture
def worker(door: Door, editor: Editor) -> Iterator[Worker]:
    """The worker of an editor that has session "s" open."""
    with door.attached() as worker:
        opened(editor, worker)
        yield worker


def opened(editor: Editor, worker: Worker, session: str = "s") -> None:
    relayed(editor, worker, "initialize", HELLO)
    relayed(editor, worker, "session/new", PLACE, {"sessionId": session})
    editor.session = session


def relayed(editor: Editor, worker: Worker, method: str, params: Frame, result: object = None) -> None:
    """The editor asks, and is answered."""
    number = editor.request(method, params)
    assert worker.answers(method, result) == params
    assert "result" in editor.answer_to(number)[0]


def works(editor: Editor, worker: Worker) -> bool:
    """Whether a prompt gets there and its answer back, and nothing else."""
    number = editor.prompt("on")
    worker.answers("session/prompt", {"stopReason": "end_turn"})
    answer, before = editor.answer_to(number)
    return (answer["result"], before) == ({"stopReason": "end_turn"}, [])


# Attaching


def test_attach_names_agent_and_session(door: Door, start: Callable[..., Editor]) -> None:
    start("--agent", "codex", "--session", 'a "b\\c/d')
    door.attached(agent="codex", session='a "b\\c/d').close()
    door.attached(agent="codex").close()  # only the first one takes the session


@pytest.mark.parametrize("session", ["é", "a\nb", "\x7f"])
def test_session_that_cannot_be_is_refused(start: Callable[..., Editor], session: str) -> None:
    status, said = start("--session", session).end()
    assert (status, said.count("\n")) == (64, 1)


def test_bridge_starts_without_what_is_slow_to_import() -> None:
    slow = "{'asyncio', 'msgspec', 'typing', 'dataclasses', 'pathlib', 'logging'}"
    script = f"import sys, agentd.ctl.attach.bridge; print({slow} & set(sys.modules) or 'none')"
    source = {"PYTHONPATH": str(Path(doors.__file__).parents[3])}
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, env=source, check=False)
    assert (done.stdout, done.stderr) == (b"none\n", b"")


# Relaying


def test_lines_pass_as_they_are(editor: Editor, worker: Worker) -> None:
    lines = [b'{"id" : "x",\t"result":{}}\r', b"", b"noise", b'{"n":1e2,"id":[]}', b"x" * (1 << 20), b'"id"']
    worker.raw(b"\n".join(lines) + b"\n")
    assert [editor.line() for _ in lines] == [line + b"\n" for line in lines]
    editor.raw(b"\n".join(lines) + b"\n")
    assert [worker.line() for _ in lines] == [line + b"\n" for line in lines]


def test_what_is_told_of_a_goodbye_is_shown(editor: Editor, worker: Worker) -> None:
    worker.says('_agentd/leaving "id"')
    assert texts([editor.read()]) == ['_agentd/leaving "id"']


def test_line_beyond_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "LINE_BYTES", 10)
    chunks = [b"12345\n1234", b"5678", b"9012"]
    lines = doors.Lines(lambda size: chunks.pop(0))
    assert lines.block() == b"12345\n"
    with pytest.raises(FrameTooLarge):
        lines.block()


def test_half_a_line_is_kept_for_its_other_half() -> None:
    chunks = [b"1\n2\n3", b"4", b"5\n6", b""]
    lines = doors.Lines(lambda size: chunks.pop(0))
    assert [lines.line(), lines.block(), lines.block(), lines.block()] == [b"1", b"2\n", b"345\n", b""]


# A worker crashes


def test_turn_of_a_crashed_worker_is_interrupted_and_the_session_goes_on(
    door: Door, editor: Editor, worker: Worker
) -> None:
    turn = editor.prompt("hold")
    worker.takes("session/prompt")
    worker.close()
    with door.attached("two") as other:
        assert other.recovers("s") == {"client": "one", "pending": [turn], "asked": 0}
        assert reason(editor.read()) == "interrupted"
        assert works(editor, other)


def test_crash_between_turns_shows_nothing(door: Door, editor: Editor, worker: Worker) -> None:
    worker.close()
    with door.attached("two") as other:
        assert other.recovers("s")["pending"] == []
        assert works(editor, other)


def test_end_of_the_turn_that_was_kept_is_delivered(door: Door, editor: Editor, worker: Worker) -> None:
    turn = editor.prompt("on")
    worker.takes("session/prompt")
    worker.close()
    with door.attached("two") as other:
        asked = other.takes("_agentd/recover")
        other.send({"id": turn, "result": {"stopReason": "end_turn"}})
        other.send({"id": asked["id"], "result": {}})
        assert editor.read()["result"] == {"stopReason": "end_turn"}


def test_turn_that_goes_on_is_answered_later(door: Door, editor: Editor, worker: Worker) -> None:
    turn = editor.prompt("on")
    worker.takes("session/prompt")
    worker.close()
    with door.attached("two") as other:
        other.answers("_agentd/recover")
        other.answers("initialize")
        other.answers("session/resume")
        other.send({"id": turn, "result": {"stopReason": "end_turn"}})
        assert editor.read()["id"] == turn
        assert works(editor, other)


def test_session_new_that_was_kept_is_resumed(door: Door, editor: Editor, worker: Worker) -> None:
    number = editor.request("session/new", PLACE)
    worker.takes("session/new")
    worker.close()
    with door.attached("two") as other:
        asked = other.takes("_agentd/recover")
        other.send({"id": number, "result": {"sessionId": "t"}})
        other.send({"id": asked["id"], "result": {}})
        other.answers("initialize")
        assert [other.answers("session/resume")["sessionId"] for _ in "st"] == ["s", "t"]


@pytest.mark.parametrize("number", ["two", "2", None, 0, -3, 2.5])
def test_ids_of_every_kind_are_recovered(door: Door, editor: Editor, worker: Worker, number: object) -> None:
    editor.send({"method": "session/prompt", "params": {"id": 7}, "id": number})
    worker.takes("session/prompt")
    worker.close()
    with door.attached("two") as other:
        assert other.recovers("s")["pending"] == [number]
        assert editor.read() == {"jsonrpc": "2.0", "id": number, "error": LOST}


def test_half_a_line_at_the_break_is_not_shown(door: Door, editor: Editor, worker: Worker) -> None:
    worker.raw(b'{"jsonrpc":"2.0","method":"whole"}\n{"jsonrpc":"2.0","method":"ha')
    worker.close()
    assert editor.read()["method"] == "whole"
    with door.attached("two") as other:
        other.recovers("s")
        other.says("after")
        assert texts([editor.read()]) == ["after"]


def test_half_a_line_of_the_editor_is_sent_once_it_is_whole(
    door: Door, editor: Editor, worker: Worker
) -> None:
    editor.raw(b'{"jsonrpc":"2.0",')
    worker.close()
    with door.attached("two") as other:
        other.recovers("s")
        editor.raw(b'"method":"whole"}\n')
        assert other.line() == b'{"jsonrpc":"2.0","method":"whole"}\n'


def test_prompt_of_the_outage_is_sent_once_when_all_is_well(
    door: Door, editor: Editor, worker: Worker
) -> None:
    worker.close()
    other = door.attached("two")
    turn = editor.prompt("on")
    with other:
        assert other.recovers("s")["pending"] == []
        assert other.takes("session/prompt")["id"] == turn
        assert works(editor, other)  # and not that prompt once more


def test_request_that_got_stuck_is_not_sent_again(door: Door, editor: Editor, worker: Worker) -> None:
    """It fills the socket of a worker that reads nothing, and is registered."""
    number = editor.request("_big", {"text": "x" * (4 << 20)})
    assert worker.sock.recv(1)
    worker.close()
    with door.attached("two") as other:
        assert other.recovers("s")["pending"] == [number]
        assert reason(editor.read()) == "interrupted"
        assert works(editor, other)


def test_news_of_a_recovery_is_shown_and_its_answers_are_not(
    door: Door, editor: Editor, worker: Worker
) -> None:
    worker.close()
    with door.attached("two") as other:
        other.says("early")
        other.recovers("s")
        assert texts([editor.read()]) == ["early"]
        assert works(editor, other)


# Questions of the worker


def test_open_question_is_taken_back_and_a_late_answer_dropped(
    door: Door, editor: Editor, worker: Worker
) -> None:
    for number in (4, 5):
        worker.send({"method": "session/request_permission", "params": {}, "id": number})
        editor.until("session/request_permission")
    editor.send({"id": 4, "result": {}})
    assert worker.read()["id"] == 4
    worker.close()
    with door.attached("two") as other:
        assert other.recovers("s")["asked"] == 5
        assert editor.until("$/cancel_request")["params"] == {"requestId": 5}
        editor.send({"id": 5, "result": {"late": True}})
        assert works(editor, other)


def test_answer_of_the_outage_is_dropped(door: Door, editor: Editor, worker: Worker) -> None:
    worker.send({"id": 1, "method": "fs/read_text_file", "params": {}})
    editor.until("fs/read_text_file")
    worker.close()
    other = door.attached("two")
    editor.send({"id": 1, "result": {"late": True}})
    with other:
        other.recovers("s")
        assert editor.read()["method"] == "$/cancel_request"
        assert works(editor, other)


def test_question_of_the_next_worker_is_its_own(door: Door, editor: Editor, worker: Worker) -> None:
    worker.send({"id": 1, "method": "fs/read_text_file", "params": {}})
    worker.close()
    with door.attached("two") as other:
        other.send({"id": 2, "method": "fs/read_text_file", "params": {}})
        other.recovers("s")
        got = [editor.read() for _ in range(3)]
        assert [frame.get("id", frame["params"].get("requestId")) for frame in got] == [1, 2, 1]
        editor.send({"id": 2, "result": {"in": "time"}})
        assert other.read()["result"] == {"in": "time"}


# Sessions


def test_every_open_session_is_resumed_and_no_other(door: Door, editor: Editor, worker: Worker) -> None:
    relayed(editor, worker, "session/load", {"sessionId": "loaded", **PLACE})
    relayed(editor, worker, "session/resume", {"sessionId": "gone", **PLACE})
    relayed(editor, worker, "session/fork", {"sessionId": "s", **PLACE}, {"sessionId": "fork"})
    relayed(editor, worker, "session/close", {"sessionId": "s"})
    relayed(editor, worker, "session/delete", {"sessionId": "gone"})
    worker.close()
    with door.attached("two") as other:
        other.recovers("loaded", "fork")
        assert works(editor, other)


def test_session_that_cannot_go_on_is_told_and_forgotten(door: Door, editor: Editor, worker: Worker) -> None:
    worker.close()
    with door.attached("two") as other:
        other.answers("_agentd/recover")
        other.answers("initialize")
        other.refuses("session/resume", "no_such_session", "no \x1b[31msuch session")
        assert works(editor, other)
    with door.attached("three") as last:
        last.recovers()
        editor.hang_up()
        assert last.at_end()
    said = "agentctl: session s cannot go on: no \\x1b[31msuch session\n"
    assert editor.end() == (0, said)


def test_refusal_of_an_agent_without_a_reason_is_told_too(
    door: Door, editor: Editor, worker: Worker
) -> None:
    worker.close()
    with door.attached("two") as other:
        other.answers("_agentd/recover")
        other.answers("initialize")
        other.send({"id": other.takes("session/resume")["id"], "error": {"code": -1, "message": "not me"}})
        editor.hang_up()
        assert other.at_end()
    assert editor.end() == (0, "agentctl: session s cannot go on: not me\n")


def test_connection_with_nothing_said_has_nothing_to_replay(door: Door, editor: Editor) -> None:
    door.attached().close()
    with door.attached("two") as other:
        assert other.answers("_agentd/recover") == {"client": "one", "pending": [], "asked": 0}
        opened(editor, other)


def test_greeting_that_is_refused_now_is_final(door: Door, editor: Editor, worker: Worker) -> None:
    worker.close()
    with door.attached("two") as other:
        other.answers("_agentd/recover")
        other.refuses("initialize", "agent_failed")
        assert editor.end() == (69, "agentctl: for a test\n")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_worker_that_is_silent_over_a_step_has_failed(
    door: Door, start: Callable[..., Editor], steps: int
) -> None:
    editor = start(STEP_SEC=0.3)
    with door.attached() as worker:
        opened(editor, worker)
    with door.attached("two") as other:
        for method in ("_agentd/recover", "initialize")[:steps]:
            other.answers(method)
        status, said = editor.end()
        assert status == 69 and "did not answer" in said and said.count("\n") == 1


# Goodbye


def test_worker_that_is_restarted_is_waited_for_and_not_started(
    door: Door, editor: Editor, worker: Worker
) -> None:
    worker.leaves("shutting_down")
    with door.attached("two", start=False) as other:
        other.recovers("s")
        assert works(editor, other)


def test_editor_that_leaves_while_a_worker_is_waited_for_keeps_nobody_waiting(
    door: Door, editor: Editor, worker: Worker
) -> None:
    worker.leaves("shutting_down")
    with door.knock() as other:
        assert other.takes("_agentd/attach")["params"]["start"] is False
        began = time.monotonic()
        editor.hang_up()
        assert editor.end() == (0, "")
        assert time.monotonic() - began < 5


def test_crash_after_a_restart_starts_the_worker(door: Door, editor: Editor, worker: Worker) -> None:
    worker.leaves("shutting_down")
    door.attached("two", start=False).close()
    with door.attached("three") as other:
        assert other.recovers("s")["client"] == "one"  # since nothing was recovered in between


def test_goodbye_for_good_is_final(editor: Editor, worker: Worker) -> None:
    worker.leaves("not_running", "box has ended")
    assert editor.at_end()
    assert editor.end() == (69, "agentctl: box has ended\n")


@pytest.mark.parametrize("params", [{}, None, [], {"reason": []}])
def test_goodbye_without_a_reason_is_final_too(editor: Editor, worker: Worker, params: object) -> None:
    worker.send({"method": "_agentd/leaving", "params": params})
    worker.close()
    assert editor.end() == (70, "agentctl: agentd has closed the connection\n")


def test_goodbye_of_an_agentd_that_goes_with_its_socket_is_final_at_once(
    door: Door, editor: Editor, worker: Worker
) -> None:
    door.vanish()
    began = time.monotonic()
    worker.leaves("shutting_down", "agentd has been stopped")
    assert editor.end() == (75, "agentctl: agentd has been stopped\n")
    assert time.monotonic() - began < 5


# The manager


def test_manager_that_is_gone_is_waited_for(door: Door, editor: Editor, worker: Worker) -> None:
    door.close()
    worker.close()
    time.sleep(0.2)  # several attempts are refused
    door.path.unlink()
    door.open()
    with door.attached("two") as other:
        other.recovers("s")
        assert works(editor, other)


def test_manager_that_never_comes_back_is_given_up(door: Door, start: Callable[..., Editor]) -> None:
    editor = start(PATIENCE_SEC=0.6)
    worker = door.attached()
    time.sleep(0.7)  # which takes nothing from the patience with an outage
    worker.close()
    worker = door.attached("two")
    worker.answers("_agentd/recover")
    opened(editor, worker)
    door.close()
    worker.close()
    status, said = editor.end()
    assert status == 69 and said.startswith("agentctl: agentd is gone") and said.count("\n") == 1


def test_manager_that_breaks_off_is_asked_again(door: Door, editor: Editor, worker: Worker) -> None:
    worker.close()
    for _ in range(4):  # which is no worker's end
        door.knock().close()
    with door.attached("two") as other:
        other.recovers("s")
        assert works(editor, other)


def test_manager_that_shuts_down_is_asked_again(door: Door, editor: Editor, worker: Worker) -> None:
    worker.close()
    with door.knock() as refusing:
        refusing.refuses("_agentd/attach", "shutting_down")
    with door.attached("two") as other:
        other.recovers("s")
        assert works(editor, other)


def test_manager_that_is_restarted_as_an_editor_comes_is_asked_again(
    door: Door, start: Callable[..., Editor]
) -> None:
    editor = start()
    with door.knock() as refusing:
        refusing.refuses("_agentd/attach", "shutting_down")
    with door.attached() as worker:
        assert works(editor, worker)


def test_manager_that_shut_down_with_its_socket_is_gone(door: Door, editor: Editor, worker: Worker) -> None:
    worker.close()
    with door.knock() as refusing:
        door.vanish()
        refusing.refuses("_agentd/attach", "shutting_down", "agentd is being stopped")
    assert editor.end() == (75, "agentctl: agentd is being stopped\n")


@pytest.mark.parametrize(
    ("why", "status"), [("draining", 75), ("access_denied", 77), ("no_such_container", 66)]
)
def test_refusal_is_final(door: Door, editor: Editor, worker: Worker, why: str, status: int) -> None:
    worker.close()
    with door.knock() as refusing:
        refusing.refuses("_agentd/attach", why)
    assert editor.at_end()
    assert editor.end() == (status, "agentctl: for a test\n")


@pytest.mark.parametrize("why", ["worker_failed", "too_many_connections"])
def test_a_refusal_that_may_pass_is_waited_out(door: Door, editor: Editor, worker: Worker, why: str) -> None:
    worker.close()
    with door.knock() as refusing:
        refusing.refuses("_agentd/attach", why)
    with door.attached("two") as other:
        other.recovers("s")
        assert works(editor, other)


def test_who_was_cut_off_ends(door: Door, editor: Editor, worker: Worker) -> None:
    worker.close()
    with door.attached("two") as other:
        other.refuses("_agentd/recover", "cut_off", "it did not read")
        assert editor.end() == (69, "agentctl: it did not read\n")


def test_worker_of_older_days_cannot_be_recovered(door: Door, editor: Editor) -> None:
    with door.attached(client="") as worker:
        opened(editor, worker)
    assert editor.at_end()
    assert editor.end() == (69, "agentctl: agentd has closed the connection\n")


# Again and again


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_break_in_the_middle_of_a_recovery_begins_it_again(
    door: Door, editor: Editor, worker: Worker, steps: int
) -> None:
    turn = editor.prompt("on")
    worker.takes("session/prompt")
    worker.close()
    with door.attached("two") as other:
        for method in ("_agentd/recover", "initialize", "session/resume")[:steps]:
            other.answers(method)
    with door.attached("three") as last:
        asked = last.recovers("s")
        assert (asked["client"], asked["pending"]) == ("two" if steps else "one", [turn])
        assert reason(editor.read()) == "interrupted"
        assert works(editor, last)


def test_worker_that_only_ever_ends_is_given_up(door: Door, editor: Editor, worker: Worker) -> None:
    worker.close()
    with door.attached("two") as other:
        other.recovers("s")
    with door.attached("three") as last:
        last.recovers("s")
    status, said = editor.end()
    assert status == 69 and "3 times" in said and said.count("\n") == 1


def test_worker_that_gets_something_done_is_not_given_up(door: Door, editor: Editor, worker: Worker) -> None:
    worker.close()
    for name in ("two", "three", "four"):
        with door.attached(name) as other:
            other.recovers("s")
            assert works(editor, other)


# The editor leaves


def test_input_that_ends_is_the_end_where_nothing_is_unanswered(editor: Editor, worker: Worker) -> None:
    editor.hang_up()
    assert worker.at_end()
    worker.close()
    assert editor.end() == (0, "")


def test_editor_that_wrote_its_last_is_still_answered(door: Door, editor: Editor, worker: Worker) -> None:
    editor.prompt("on")
    worker.takes("session/prompt")
    editor.hang_up()
    assert worker.at_end()
    worker.close()
    with door.attached("two") as other:
        asked = other.takes("_agentd/recover")
        other.send({"id": asked["params"]["pending"][0], "error": LOST})
        other.send({"id": asked["id"], "result": {}})
        assert other.at_end()
    assert reason(editor.read()) == "interrupted"
    assert editor.end() == (0, "")


def test_input_that_ends_in_the_outage_ends_the_next_connection(
    door: Door, editor: Editor, worker: Worker
) -> None:
    worker.close()
    other = door.attached("two")
    editor.hang_up()
    with other, suppress(BrokenPipeError):
        while line := other.line():  # how far it gets is a matter of chance
            other.send({"id": json.loads(line)["id"], "result": {}})
    assert editor.end() == (0, "")


def test_editor_that_has_gone_in_the_outage_is_no_trouble(
    door: Door, editor: Editor, worker: Worker
) -> None:
    worker.close()
    with door.attached("two") as other:
        editor.stop_reading()
        other.says("to nobody")
        assert editor.end() == (0, "")
