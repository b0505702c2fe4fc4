# SPDX-License-Identifier: Apache-2.0
"""`agentctl attach` over real workers that are killed, stopped and started: what the editor sees of it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.acp_client import Frame, reason, texts
from support.editor import Editor
from support.embedded import Embedded, Start, eventually

YES = {"outcome": {"outcome": "selected", "optionId": "yes"}}


@pytest.fixture
def agentd(start: Start, tmp_path: Path) -> Embedded:
    """An agentd whose agent knows its sessions again after it was started anew."""
    memory = tmp_path / "memory"
    memory.mkdir()
    return start("--can", "load", "--can", "resume", "--memory", str(memory))


@pytest.fixture
def editor(agentd: Embedded) -> Iterator[Editor]:
    """An editor that has a session in `here`, of which the agent remembers something."""
    with agentd.attach("here") as editor:
        begin(editor)
        yield editor


def begin(editor: Editor) -> None:
    editor.initialize()
    assert editor.turn("say hello")[1] == ["hello"]


def kill_worker(agentd: Embedded) -> None:
    [worker] = agentd.workers()
    os.kill(worker, signal.SIGKILL)


def outage(agentd: Embedded) -> None:
    """Kill the worker and return when the bridge has noticed, and is with the next one."""
    before = attached(agentd)
    kill_worker(agentd)
    eventually(lambda: attached(agentd) > before, "it is with another worker")


def attached(agentd: Embedded) -> int:
    """How often a client came to a worker."""
    return agentd.log().count("client attached")


def holding(editor: Editor) -> int:
    """A turn that is in its middle."""
    turn = editor.prompt("say one", "hold")
    editor.until_text("one")
    return turn


def interrupted(editor: Editor, turn: int) -> list[Frame]:
    """Whether this turn ends as what a worker lost; what came before that."""
    answer, before = editor.answer_to(turn)
    assert reason(answer) == "interrupted"
    return before


def quiet_end(editor: Editor) -> bool:
    """Whether the bridge ends well, having complained of nothing."""
    editor.hang_up()
    return editor.at_end() and editor.end() == (0, "")


# The worker is killed


def test_turn_of_a_killed_worker_is_interrupted_and_the_session_goes_on(
    agentd: Embedded, editor: Editor
) -> None:
    turn = holding(editor)
    kill_worker(agentd)
    interrupted(editor, turn)
    assert editor.turn("say fine")[1] == ["fine"]
    assert quiet_end(editor)


def test_worker_that_is_killed_between_turns_is_not_missed(agentd: Embedded, editor: Editor) -> None:
    outage(agentd)
    assert editor.turn("say after")[1] == ["after"]
    assert quiet_end(editor)


def test_every_session_of_the_editor_goes_on(agentd: Embedded, editor: Editor) -> None:
    one, two = editor.session, editor.new_session()
    turns = [editor.prompt("say one", "hold", session=each) for each in (one, two)]
    for _ in turns:
        editor.until_text("one")
    kill_worker(agentd)
    assert {reason(editor.answer_to(turn)[0]) for turn in turns} == {"interrupted"}
    for each in (two, one):
        editor.session = each
        assert editor.turn("say fine")[1] == ["fine"]


def test_closed_session_stays_closed(agentd: Embedded, editor: Editor) -> None:
    other = editor.new_session()
    assert "result" in editor.call("session/close", {"sessionId": other})
    outage(agentd)
    assert editor.turn("say fine")[1] == ["fine"]
    assert reason(editor.answer_to(editor.prompt("say none", session=other))[0]) == "no_such_session"


def test_question_of_a_killed_worker_is_taken_back(agentd: Embedded, editor: Editor) -> None:
    turn = editor.prompt("ask May I?")
    asked = editor.until("session/request_permission")
    kill_worker(agentd)
    before = interrupted(editor, turn)
    cancels = [frame for frame in before if frame.get("method") == "$/cancel_request"]
    taken_back = cancels[0] if cancels else editor.until("$/cancel_request")
    assert taken_back["params"] == {"requestId": asked["id"]}
    editor.send({"id": asked["id"], "result": YES})  # too late
    turn = editor.prompt("ask May I now?")
    again = editor.until("session/request_permission")
    assert again["id"] > asked["id"]
    editor.send({"id": again["id"], "result": YES})
    assert texts(editor.answer_to(turn)[1]) == ["permission: yes"]


def test_prompts_written_in_the_outage_are_done_once(agentd: Embedded, editor: Editor) -> None:
    outage(agentd)
    turns = [editor.prompt(f"say {number}") for number in range(3)]
    assert [texts(editor.answer_to(turn)[1]) for turn in turns] == [["0"], ["1"], ["2"]]


def test_editors_of_a_killed_worker_share_the_next_one(agentd: Embedded, editor: Editor) -> None:
    with agentd.attach("here") as other:
        begin(other)
        turns = [(each, holding(each)) for each in (editor, other)]
        kill_worker(agentd)
        for each, turn in turns:
            interrupted(each, turn)
            assert each.turn("say fine")[1] == ["fine"]
        assert len(agentd.workers()) == 1


def test_worker_that_is_killed_over_a_flood_loses_no_half_line(agentd: Embedded, editor: Editor) -> None:
    turn = editor.prompt("say one", "updates 20000 1000", "hold")
    editor.until_text("x" * 1000)
    kill_worker(agentd)
    interrupted(editor, turn)  # every line was whole, or it could not have been read
    assert editor.turn("say fine")[1][-1:] == ["fine"]


def test_worker_that_is_killed_again_and_again_is_given_up(agentd: Embedded, editor: Editor) -> None:
    outage(agentd)
    outage(agentd)
    kill_worker(agentd)
    status, said = editor.end()
    assert status == 69 and said.count("\n") == 1


# The manager too


def test_everything_is_killed_and_started_again(agentd: Embedded, editor: Editor) -> None:
    turn = holding(editor)
    agentd.kill()
    kill_worker(agentd)
    agentd.start()
    interrupted(editor, turn)
    assert editor.turn("say fine")[1] == ["fine"]


def test_agentd_that_is_stopped_ends_the_bridge_at_once(agentd: Embedded, editor: Editor) -> None:
    assert editor.turn("say fine")[1] == ["fine"]
    assert agentd.stop() == 0
    assert editor.at_end()
    status, said = editor.end()
    assert status == 75 and said.startswith("agentctl: ") and said.count("\n") == 1


# Going on with a session from elsewhere


def test_attach_goes_on_with_a_session(agentd: Embedded, editor: Editor) -> None:
    assert quiet_end(editor)
    with agentd.attach("here", "--session", editor.session) as later:
        later.initialize()
        assert later.session == editor.session
        answer, said = later.turn("say after")
        assert (said[-1:], answer["result"]["stopReason"]) == (["after"], "end_turn")
