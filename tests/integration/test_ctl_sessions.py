# SPDX-License-Identifier: Apache-2.0
"""agentctl sessions and agentctl history: what is still known of sessions, and how it is told."""

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.acp_client import Client
from support.embedded import Embedded, Start, eventually
from support.screen import Screen

THERE = """
[containers.there]
runtime = "host"
directory = "{}"
"""
KEYS = {
    "container", "id", "agent", "state", "title", "cwd", "owner",
    "created", "updated", "clients", "queued", "prompted",
}  # fmt: skip


@pytest.fixture
def agentd(start: Start) -> Embedded:
    """An agentd on a bus of its own, with the container `here`."""
    return start(bus="private")


@pytest.fixture
def client(agentd: Embedded) -> Iterator[Client]:
    """A client with an open session in `here`."""
    with agentd.client() as client:
        yield client.open()


@pytest.fixture
def both(tmp_path: Path, start: Start) -> Embedded:
    """An agentd with the containers `here` and `there`, whose first sessions have the same id."""
    return start("--count-sessions", bus="private", agent=THERE.format(tmp_path))


def shown(agentd: Embedded, *arguments: str) -> list[str]:
    """The lines that agentctl prints, which has no complaint."""
    done = agentd.agentctl(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def failed(agentd: Embedded, *arguments: str) -> tuple[int, str]:
    """Exit status and message of an agentctl that fails with one line on stderr."""
    done = agentd.agentctl(*arguments)
    assert done.stdout == "" and done.stderr.startswith("agentctl: ") and done.stderr.count("\n") == 1
    return done.returncode, done.stderr.removeprefix("agentctl: ").strip()


def listed(agentd: Embedded, *arguments: str) -> list[dict[str, Any]]:
    [text] = shown(agentd, "sessions", *arguments, "--json")
    found = json.loads(text)["sessions"]
    assert isinstance(found, list)
    return found


def untimed(lines: list[str]) -> list[str]:
    """Headings without their times."""
    return [re.sub(r"  [A-Z][a-z]{2} \d\d \d\d:\d\d$", "", line) for line in lines]


def kill_worker(agentd: Embedded) -> None:
    [worker] = agentd.workers()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: worker not in agentd.workers(), "the worker has ended")


# What outlives a worker


def test_sessions_and_what_was_said_outlive_a_killed_worker(agentd: Embedded) -> None:
    spoken = {}
    for word in ("one", "two"):
        with agentd.client() as client:
            client.open().turn(f"say {word}")
            spoken[client.session] = word
    kill_worker(agentd)
    found = listed(agentd, "here")
    assert {each["id"]: each["title"] for each in found} == {key: f"say {spoken[key]}" for key in spoken}
    assert {each["state"] for each in found} == {"kept"}
    for session, word in spoken.items():
        lines = untimed(shown(agentd, "history", session))
        assert lines == ["You", f"say {word}", "", "scripted", word]
    assert not agentd.agents()


def test_a_turn_that_a_killed_worker_has_left_is_told_as_interrupted(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().prompt("say one", "hold")
        client.until_text("one")
        assert shown(agentd, "history", client.session)[-1] == "one"  # and so it is on disk
        kill_worker(agentd)
        lines = untimed(shown(agentd, "history", client.session))
    assert lines[:5] == ["You", "say one", "hold", "", "scripted"]
    assert any(line.startswith("[agentd] interrupted: ") for line in lines)
    assert lines[-1] == "— interrupted"


# sessions


def test_sessions_are_a_table_newest_first(agentd: Embedded, client: Client) -> None:
    client.turn("say one")
    with agentd.client() as other:
        other.open().turn("say two")
        header, first, second = shown(agentd, "sessions", "here")
    assert header.split() == ["SESSION", "AGENT", "STATE", "LAST", "USED", "TITLE"]
    assert first.split()[:3] == [other.session, "scripted", "idle"] and re.search(" ago +say two$", first)
    assert second.split()[0] == client.session


def test_sessions_as_json_have_stable_keys(agentd: Embedded, client: Client) -> None:
    client.turn("say one")
    [alive] = listed(agentd, "here")
    assert alive.keys() == KEYS
    assert (alive["container"], alive["id"], alive["clients"]) == ("here", client.session, 1)
    assert (alive["owner"], alive["cwd"], alive["title"]) == (os.getuid(), "/", "say one")
    kill_worker(agentd)
    [kept] = listed(agentd, "here")
    assert kept == {**alive, "state": "kept", "clients": 0}


def test_a_container_without_sessions_says_so(agentd: Embedded) -> None:
    assert shown(agentd, "sessions", "here") == ["here has no sessions"]


def test_sessions_of_all_containers_are_those_of_the_workers_that_run(both: Embedded) -> None:
    assert shown(both, "sessions") == ["no container whose worker runs has any sessions"]
    with both.client() as client, both.client() as other:
        client.open("here").turn("say one")
        other.open("there").turn("say two")
        header, *rows = shown(both, "sessions")
        assert header.startswith("CONTAINER  SESSION  ")
        assert [row.split()[0] for row in rows] == ["there", "here"]
        assert {each["container"] for each in listed(both)} == {"here", "there"}


def test_a_container_that_cannot_be_asked_does_not_hide_the_others(both: Embedded) -> None:
    with both.client() as client, both.client() as other:
        client.open("here").turn("say one")
        other.open("there").turn("say two")
        both.agentctl("drain", "there", "--wait")
        done = both.agentctl("sessions")
    assert done.returncode == 1 and done.stderr.startswith("agentctl: there: ")
    assert [row.split()[0] for row in done.stdout.splitlines()] == ["CONTAINER", "here"]


def test_a_title_is_cut_to_the_terminal_and_only_there(agentd: Embedded, client: Client) -> None:
    client.turn("say " + "long " * 15)
    assert shown(agentd, "sessions", "here")[1].endswith("long")
    with Screen(agentd.agentctl_command("sessions", "here"), agentd.environment) as screen:
        screen.until("…\r\n".encode())
        assert screen.end() == 0
    row = screen.shown.decode().splitlines()[1]
    assert len(row) == 90 and row.endswith("…")


# cancel


def test_cancel_ends_a_turn_and_what_waits(agentd: Embedded, client: Client) -> None:
    turn = client.prompt("say one", "cancelled")
    client.until_text("one")
    waiting = client.prompt("say two")
    eventually(lambda: agentd.container()["sessions"][0]["queued"] == 1, "the manager has been told")
    assert shown(agentd, "cancel", client.session) == []
    answers: dict[int, str] = {}
    while answers.keys() != {turn, waiting}:
        frame = client.read()
        answers |= {frame["id"]: frame["result"]["stopReason"]} if "result" in frame else {}
    assert set(answers.values()) == {"cancelled"}
    [text] = shown(agentd, "cancel", f"here#{client.session}", "--json")
    assert json.loads(text) == {"container": "here", "session": client.session, "state": "idle"}


def test_what_is_not_open_cannot_be_cancelled(agentd: Embedded, client: Client) -> None:
    said = "no session nowhere is open in any container; see: agentctl sessions"
    assert failed(agentd, "cancel", "nowhere") == (66, said)
    assert failed(agentd, "cancel", "here#nowhere")[0] == 66
    assert failed(agentd, "cancel", client.session, "--container", "nowhere")[0] == 66


def test_a_session_of_which_there_are_two_is_cancelled_in_neither(both: Embedded) -> None:
    with both.client() as client, both.client() as other:
        client.open("here").prompt("say one", "cancelled")
        turn = other.open("there").prompt("say two", "cancelled")
        client.until_text("one")
        other.until_text("two")
        eventually(lambda: {each["turns"] for each in both.status()["containers"]} == {1}, "all are there")
        sentence = "here and there have a session 0 each: name one as NAME#0"
        assert failed(both, "cancel", "0") == (64, sentence)
        assert shown(both, "cancel", "0", "--container", "there") == []
        assert other.answer_to(turn)[0]["result"]["stopReason"] == "cancelled"
        assert both.container("here")["turns"] == 1
        client.cancel()


# history


def test_history_of_a_conversation(agentd: Embedded, client: Client) -> None:
    turn = client.prompt("say one", "ask Edit x", "say two")
    asked = client.until("session/request_permission")
    client.send({"id": asked["id"], "result": {"outcome": {"outcome": "selected", "optionId": "yes"}}})
    client.answer_to(turn)
    turn = client.prompt("say three", "cancelled")
    client.until_text("three")
    client.cancel()
    client.answer_to(turn)
    lines = untimed(shown(agentd, "history", client.session, "--container", "here"))
    assert "? Edit x → Allow" in lines
    lines.remove("? Edit x → Allow")
    assert [line for line in lines if not line.startswith("one")] == [
        "You", "say one", "ask Edit x", "say two", "", "scripted", "",
        "You", "say three", "cancelled", "", "scripted", "three", "— cancelled",
    ]  # fmt: skip


def test_a_session_with_nothing_in_it_says_so(agentd: Embedded, client: Client) -> None:
    assert shown(agentd, "history", client.session) == [f"nothing was said in {client.session}"]
    assert shown(agentd, "history", client.session, "--json") == []


def test_history_as_json_is_every_update_in_order(agentd: Embedded, client: Client) -> None:
    client.turn("count 2500")
    entries = [json.loads(line) for line in shown(agentd, "history", client.session, "--json")]
    assert all(each.keys() == {"seq", "at", "update"} for each in entries)
    assert [each["seq"] for each in entries] == list(range(2502))
    said = [each["update"]["content"]["text"] for each in entries[:-1]]
    assert said == ["count 2500", *map(str, range(2500))]
    assert entries == sorted(entries, key=lambda each: each["at"])


def test_much_is_told_whole(agentd: Embedded, client: Client) -> None:
    client.turn("updates 3000 2000")
    assert shown(agentd, "history", client.session)[-1] == "x" * 6_000_000


def test_nobody_can_write_to_the_terminal(agentd: Embedded, client: Client) -> None:
    call = {"sessionUpdate": "tool_call", "toolCallId": "1", "title": "\x1b[2Jx", "status": "completed"}
    client.turn("say \x1b]0;owned\x07", f"update {json.dumps(call)}")
    for arguments in (["sessions", "here"], ["history", client.session]):
        for json_too in ([], ["--json"]):
            assert all(line.isprintable() for line in shown(agentd, *arguments, *json_too))


@pytest.mark.parametrize("name", ["nowhere", "here#nowhere"])
def test_a_session_that_is_not_there(agentd: Embedded, name: str) -> None:
    assert failed(agentd, "history", name) == (66, "no session nowhere is known here")


def test_a_session_of_which_there_are_two_must_be_named_with_its_container(both: Embedded) -> None:
    with both.client() as client, both.client() as other:
        client.open("here").turn("say one")
        other.open("there").turn("say two")
        assert client.session == other.session == "0"
        sentence = "here and there have a session 0 each: name one with --container"
        assert failed(both, "history", "0") == (64, sentence)
        assert shown(both, "history", "there#0")[-1] == "two"
        status, said = failed(both, "history", "1")
        assert status == 66 and "no container whose worker runs has a session 1" in said


def test_a_session_is_found_in_the_container_that_has_it(both: Embedded) -> None:
    with both.client() as client, both.client() as other:
        client.open("here").turn("say one")
        other.open("there").turn("say two")
        other.session = other.new_session()
        other.turn("say three")
        assert shown(both, "history", "1")[-1] == "three"


def test_a_terminal_gets_a_pager(agentd: Embedded, client: Client, tmp_path: Path) -> None:
    client.turn("count 300")
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho paged by $1\nexec cat\n")
    pager.chmod(0o755)
    environment = {**agentd.environment, "PAGER": f"{pager} me", "TERM": "xterm"}
    environment.pop("SYSTEMD_PAGER", None)
    with Screen(agentd.agentctl_command("history", client.session), environment) as screen:
        screen.until(b"paged by me\r\n")
        screen.until(b"298299")
        assert screen.end() == 0
    with Screen(agentd.agentctl_command("history", client.session, "--no-pager"), environment) as screen:
        screen.until(b"298299")
        assert screen.end() == 0 and b"paged" not in screen.shown


def test_what_fits_on_the_terminal_is_just_printed(agentd: Embedded, client: Client) -> None:
    thought = {"sessionUpdate": "agent_thought_chunk", "content": {"type": "text", "text": "hm"}}
    client.turn(f"update {json.dumps(thought)}", "say one")
    environment = {**agentd.environment, "TERM": "xterm"}
    for name in ("PAGER", "SYSTEMD_PAGER", "NO_COLOR"):
        environment.pop(name, None)
    with Screen(agentd.agentctl_command("history", client.session), environment) as screen:
        screen.until(b"\none\x1b[m\r\n")  # less ends lines so
        assert screen.end() == 0 and b"\x1b[2m~ hm\x1b[0m" in screen.shown


def test_who_quits_less_before_the_end_has_seen_enough(agentd: Embedded, client: Client) -> None:
    client.turn("updates 3000 2000")
    environment = {**agentd.environment, "PAGER": "less -R", "TERM": "xterm"}
    with Screen(agentd.agentctl_command("history", client.session), environment) as screen:
        screen.until(b"xxxx")
        screen.type(b"q")
        assert (screen.end(), screen.is_as_it_was) == (0, True)


def test_a_reader_that_leaves_ends_it(agentd: Embedded, client: Client) -> None:
    client.turn("updates 3000 2000")
    command = shlex.join(agentd.agentctl_command("history", client.session))
    piped = f"{command} | head -c 3; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, timeout=30, env=agentd.environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"You", b"")


def test_without_a_bus_the_container_must_be_named(start: Start) -> None:
    agentd = start()
    with agentd.client() as client:
        client.open().turn("say one")
        assert shown(agentd, "history", f"here#{client.session}")[-1] == "one"
        assert failed(agentd, "history", client.session)[0] == 69
        assert failed(agentd, "sessions")[0] == 69


@pytest.mark.parametrize("kept", ["metadata", "off"])
def test_without_a_store_there_is_what_the_worker_remembers(start: Start, kept: str) -> None:
    agentd = start(agent=f"[store]\ntranscripts = '{kept}'")
    with agentd.client() as client:
        client.open().turn("say one")
        first, *_, last = shown(agentd, "history", f"here#{client.session}")
        assert first.startswith(f"nothing of {client.session} is kept on disk") and last == "one"
    kill_worker(agentd)
    if kept == "metadata":
        lines = shown(agentd, "history", f"here#{client.session}")
        assert lines[0].endswith("is not kept, only when") and lines[2].endswith("end_turn")
