# SPDX-License-Identifier: Apache-2.0
"""Sessions that outlive their worker: what was promised is there, and nothing is done twice."""

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.acp_client import Client, Frame, process, reason, result, texts, told, updates
from support.embedded import Embedded, Start, eventually


def kill_worker(agentd: Embedded) -> None:
    (worker,) = agentd.workers()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: worker not in agentd.workers(), "the worker is gone")


def database(agentd: Embedded) -> Path:
    return agentd.runtime_dir / "state" / "containers" / "here" / "sessions.db"


def rows(agentd: Embedded, question: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(f"file:{database(agentd)}?mode=ro", uri=True) as connection:
        found = connection.execute(question).fetchall()
    connection.close()
    return found


def spoken(agentd: Embedded) -> bytes:
    """All frames that are on disk."""
    return b"".join(
        bytes(str(row[0]), "utf-8") if isinstance(row[0], str) else row[0]
        for row in rows(agentd, "SELECT data FROM run")
    )  # type: ignore[misc]


def again(agentd: Embedded, session: str) -> tuple[Client, list[Frame]]:
    """A new client in a session, and what it was shown."""
    client = agentd.client()
    client.greet()
    answer, shown = client.load(session)
    assert "result" in answer, answer
    return client, shown


def prompts(frames: list[Frame]) -> list[str]:
    return [each["content"]["text"] for each in updates(frames, "user_message_chunk")]


def notices(frames: list[Frame]) -> list[str]:
    found = [each.get("_meta", {}).get("agentd.notice") for each in updates(frames, "agent_message_chunk")]
    return [each for each in found if each]


def outcomes(frames: list[Frame]) -> list[str]:
    told = [each["_meta"] for each in updates(frames, "session_info_update") if "_meta" in each]
    return [each["agentd.turn"]["outcome"] for each in told if "agentd.turn" in each]


def test_what_was_said_is_there_after_the_worker_was_killed(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().turn("say one", "say two")
        kill_worker(agentd)
    back, shown = again(agentd, client.session)
    with back:
        assert (prompts(shown), texts(shown)) == (["say one\nsay two"], ["one", "two"])
        assert outcomes(shown) == ["end_turn"]
        assert back.turn("say three")[1][-1] == "three"


def test_a_turn_that_was_running_is_shown_as_interrupted_and_not_run_again(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().prompt("say before", "hold", "say after")
        client.until_text("before")
        client.prompt("say waiting")
        eventually(lambda: rows(agentd, "SELECT 1 FROM turn WHERE progress = 'queued'"), "both are on disk")
        eventually(lambda: b'"text": "before"' in spoken(agentd), "the update too")
        kill_worker(agentd)
    back, shown = again(agentd, client.session)
    with back:
        assert prompts(shown) == ["say before\nhold\nsay after", "say waiting"]
        assert texts(shown) == ["before"]
        assert outcomes(shown) == ["interrupted", "interrupted"]
        assert len(notices(shown)) == 2
        assert back.turn("say next")[1][-1] == "next"
        assert told(back, "session/prompt")["prompt"][-1]["text"] == "say next"
    assert [row[0] for row in rows(agentd, "SELECT progress FROM turn ORDER BY number")] == [
        "interrupted",
        "interrupted",
        "ended",
    ]


def test_the_agents_of_a_killed_worker_are_ended(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open()
        before = set(agentd.agents())
        kill_worker(agentd)
    back, _ = again(agentd, result_session(agentd))
    with back:
        eventually(lambda: not before & set(agentd.agents()), "the old ones are gone")


def result_session(agentd: Embedded) -> str:
    (row,) = rows(agentd, "SELECT id FROM session")
    return str(row[0])


def test_an_agent_that_remembers_nothing_is_told_what_was_texts(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().turn("say first words")
        kill_worker(agentd)
    back, _ = again(agentd, client.session)
    with back:
        _, before = back.answer_to(back.prompt("say more"))
        assert len(notices(before)) == 1
        primer, asked = told(back, "session/prompt")["prompt"]
        assert asked["text"] == "say more"
        assert "User: say first words" in primer["text"]
        assert "You: first words" in primer["text"]
        back.turn("say again")
        assert len(told(back, "session/prompt")["prompt"]) == 1


def test_an_agent_that_loads_is_asked_to_and_its_replay_is_not_shown(start: Start, tmp_path: Path) -> None:
    agentd = start("--can", "load", "--memory", str(tmp_path))
    with agentd.client() as client:
        client.open().turn("say first words")
        kill_worker(agentd)
    back, shown = again(agentd, client.session)
    with back:
        assert texts(shown) == ["first words"]
        _, before = back.answer_to(back.prompt("say more"))
        assert (texts(before), notices(before)) == (["more"], [])
        assert len(told(back, "session/prompt")["prompt"]) == 1


def test_sessions_are_listed_closed_loaded_and_deleted_for_any_agent(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().turn("say hello")
        assert result(client.call("session/close", {"sessionId": client.session})) == {}
        listed = result(client.call("session/list"))["sessions"]
        assert [(each["sessionId"], each["title"]) for each in listed] == [(client.session, "say hello")]
        assert texts(client.load(client.session)[1]) == ["hello"]
        assert "result" in client.call("session/delete", {"sessionId": client.session})
        assert result(client.call("session/list"))["sessions"] == []
        assert reason(client.load(client.session)[0]) == "no_such_session"
    assert rows(agentd, "SELECT count(*) FROM run") == [(0,)]


def test_a_resumed_session_goes_on_without_a_replay(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().turn("say one")
        kill_worker(agentd)
    with agentd.client() as back:
        back.greet()
        answer, shown = back.load(client.session, "session/resume")
        assert ("result" in answer, shown) == (True, [])
        assert back.turn("say two")[1][-1] == "two"


def test_mcp_servers_are_not_kept_and_the_new_ones_reach_the_agent(agentd: Embedded) -> None:
    secret = {"name": "S", "command": "/bin/s", "args": [], "env": [{"name": "K", "value": "hunter2secret"}]}
    with agentd.client() as client:
        client.greet()
        client.session = client.new_session(mcpServers=[secret])
        client.turn("say one")
        kill_worker(agentd)
    with agentd.client() as back:
        back.greet()
        params = {"sessionId": client.session, "cwd": "/", "mcpServers": [{**secret, "name": "T"}]}
        assert "result" in back.call("session/load", params)
        back.session = client.session
        back.turn("say two")
        assert told(back, "session/new")["mcpServers"][0]["name"] == "T"
    for file in database(agentd).parent.glob("sessions.db*"):
        assert b"hunter2secret" not in file.read_bytes()


def test_the_database_is_the_workers_alone(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().turn("say one")
        modes = {
            file.name: file.stat().st_mode & 0o777 for file in database(agentd).parent.glob("sessions.db*")
        }
    assert set(modes.values()) == {0o600}
    assert database(agentd).parent.stat().st_mode & 0o777 == 0o700


def test_a_session_nobody_has_used_is_found_again_by_its_client(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open()
        kill_worker(agentd)
    back, shown = again(agentd, client.session)
    with back:
        assert shown == []
        assert back.turn("say one")[1][-1] == "one"


# What is kept


def with_store(text: str, start: Start, **more: str) -> Embedded:
    return start(agent=f"[store]\n{text}", **more)


def test_with_metadata_only_nothing_that_was_said_is_on_disk(start: Start) -> None:
    agentd = with_store('transcripts = "metadata"', start)
    with agentd.client() as client:
        client.open().turn("say unspeakable")
        kill_worker(agentd)
    with agentd.client() as back:
        back.greet()
        assert [each["sessionId"] for each in result(back.call("session/list"))["sessions"]] == [
            client.session
        ]
        assert updates(back.load(client.session)[1], "agent_message_chunk") == []
    for file in database(agentd).parent.glob("sessions.db*"):
        assert b"unspeakable" not in file.read_bytes()


def test_with_the_store_off_there_is_none(start: Start) -> None:
    agentd = with_store('transcripts = "off"', start)
    with agentd.client() as client:
        client.open().turn("say one")
        assert not database(agentd).exists()
        kill_worker(agentd)
    with agentd.client() as back:
        back.greet()
        assert reason(back.load(client.session)[0]) == "no_such_session"


def test_a_damaged_store_is_a_loud_error_that_says_what_to_do(start: Start) -> None:
    agentd = start(bus="private")
    database(agentd).parent.mkdir(parents=True, mode=0o700)
    database(agentd).write_bytes(b"this is no database, however you look at it " * 200)
    with agentd.client() as client:
        refused = client.attach("here")
        assert reason(refused) == "store_corrupt"
        assert "required = false" in refused["error"]["message"]
    assert agentd.container()["state"] == "failed"
    assert "sessions.db" in agentd.container()["last_error"]


def test_or_is_done_without_where_it_is_not_required(start: Start) -> None:
    agentd = with_store("required = false", start)
    database(agentd).parent.mkdir(parents=True, mode=0o700)
    database(agentd).write_bytes(b"this is no database, however you look at it " * 200)
    with agentd.client() as client:
        assert client.open().turn("say one")[1] == ["one"]
    eventually(lambda: "nothing will be kept" in agentd.log(), "it is logged")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB, where the state is."""
    import subprocess

    (disk := tmp_path / "run" / "state").mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_refuses_new_work_and_loses_nothing(small_disk: Path, start: Start) -> None:
    agentd = start(bus="private")
    with agentd.client() as client:
        client.open().turn("say one")
        (ballast := small_disk / "ballast").write_bytes(b"")
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while file.write(b"x" * 4096):
                pass
        refused = client.turn("updates 100 4096")[0]
        assert reason(refused) == "store_full"
        assert "space" in refused["error"]["message"]
        assert reason(client.turn("say no")[0]) == "store_full"
        assert "space" in agentd.container()["last_error"]
        ballast.unlink()
        assert eventually(lambda: "result" in client.turn("say two")[0], "it goes on by itself")
        eventually(lambda: agentd.container()["last_error"] == "", "and says so")
        kill_worker(agentd)
    back, shown = again(agentd, client.session)
    with back:
        assert texts(shown)[0] == "one"
        assert texts(shown)[-1] == "two"
    assert rows(agentd, "PRAGMA integrity_check") == [("ok",)]


# Comings and goings


def test_a_worker_with_nothing_to_do_leaves_and_comes_back(start: Start) -> None:
    agentd = start(limits="worker_idle_sec = 0.3\nagent_idle_sec = 0.3")
    with agentd.client() as client:
        client.open().turn("say one")
        first = agentd.workers()
    eventually(lambda: agentd.workers() == [], "it has left")
    back, shown = again(agentd, client.session)
    with back:
        assert texts(shown) == ["one"]
        assert agentd.workers() != first
        assert back.turn("say two")[1][-1] == "two"


def test_it_stays_while_somebody_is_there_or_a_turn_runs(start: Start) -> None:
    agentd = start(limits="worker_idle_sec = 0.2\nagent_idle_sec = 0.2")
    with agentd.client() as client:
        client.open().prompt("hold")
        (worker,) = agentd.workers()
    with agentd.client() as other:
        other.greet()
        other.load(client.session)
        eventually(lambda: agentd.agents(), "the turn goes on")
        other.notify("_release")
        eventually(lambda: outcomes([other.read()]), "it has ended")
        assert agentd.workers() == [worker]


def test_an_agent_at_rest_is_ended_under_its_client_where_it_can_load(start: Start, tmp_path: Path) -> None:
    agentd = start("--can", "load", "--memory", str(tmp_path), limits="agent_idle_sec = 0.3")
    with agentd.client() as client:
        client.open().turn("say one")
        before = process(client)
        eventually(lambda: agentd.agents() == [], "it has been ended")
        assert client.turn("say two")[1] == ["two"]
        assert process(client) != before


def test_a_connection_may_ask_for_a_session(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().turn("say one")
    with agentd.client() as back:
        assert "result" in back.call("_agentd/attach", {"container": "here", "session": client.session})
        back.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        asked = back.request("session/new", {"cwd": "/", "mcpServers": []})
        assert result(back.answer_to(asked)[0])["sessionId"] == client.session
        back.until_text("one")
        back.session = client.session
        assert back.turn("say two")[1] == ["two"]
        assert back.new_session() != client.session


def test_answers_of_a_broken_connection_can_be_asked_for(agentd: Embedded) -> None:
    with agentd.client() as client:
        token = result(client.attach("here"))["client"]
        client.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        client.session = client.new_session()
        done, _ = client.answer_to(client.prompt("say one"))
        held = client.prompt("hold")
        eventually(lambda: rows(agentd, "SELECT 1 FROM turn WHERE progress = 'running'"), "it is on disk")
        kill_worker(agentd)
    with agentd.client() as back:
        back.greet()
        asked = back.request("_agentd/recover", {"client": token, "pending": [done["id"] + 100, held]})
        answers = [json.loads(back.line()) for _ in range(3)]
        assert [each["id"] for each in answers] == [done["id"] + 100, held, asked]
        assert [reason(each) for each in answers[:2]] == ["interrupted"] * 2


def test_what_is_too_much_is_forgotten_when_a_worker_starts(start: Start) -> None:
    agentd = with_store("keep_bytes = 2000000", start)
    with agentd.client() as client:
        client.open().turn("updates 300 10000")
        old = client.session
        client.session = client.new_session()
        client.turn("say kept")
        kill_worker(agentd)
    with agentd.client() as back:
        back.greet()
        eventually(
            lambda: (
                [each["sessionId"] for each in result(back.call("session/list"))["sessions"]]
                == [client.session]
            ),
            "the older one, which is the larger one, is gone",
        )
        assert reason(back.load(old)[0]) == "no_such_session"
        assert texts(back.load(client.session)[1]) == ["kept"]
