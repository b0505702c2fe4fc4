# SPDX-License-Identifier: Apache-2.0
"""Reloading: changes apply to what begins then, what runs is left alone, a broken file does nothing."""

import json
import signal
from pathlib import Path

import pytest

from support.acp_client import Client, reason
from support.embedded import Embedded, Start, eventually, scripted

NEW = {"cwd": "/", "mcpServers": []}


def reload(agentd: Embedded, text: str) -> None:
    """Write the file, send SIGHUP, and return when it was read."""
    before = reloads(agentd)
    agentd.config.write_text(text)
    assert agentd.process is not None
    agentd.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(agentd) > before, "it was read")


def reloads(agentd: Embedded) -> int:
    log = agentd.log()
    return log.count("configuration: ") + log.count("kept the old configuration")


def add(agentd: Embedded, text: str) -> None:
    """Reload with a table more."""
    reload(agentd, agentd.config.read_text() + text)


def limit(agentd: Embedded, text: str) -> None:
    """Reload with other limits."""
    reload(agentd, agentd.config.read_text().replace("[limits]", f"[limits]\n{text}"))


def container(name: str, folder: Path) -> str:
    return f'\n[containers.{name}]\nruntime = "host"\ndirectory = "{folder}"\n'


def attached(agentd: Embedded, name: str, agent: str = "") -> str:
    """What a new connection to a container comes to: "" for a result, else the reason."""
    with agentd.client() as client:
        answer = client.attach(name, agent)
        return "" if "result" in answer else reason(answer)


# Limits


def test_limit_of_sessions_applies_to_the_next_one(agentd: Embedded, client: Client) -> None:
    limit(agentd, "sessions = 1")
    refused = lambda: reason_of(client.call("session/new", NEW)) == "too_many_sessions"  # noqa: E731
    eventually(refused, "the worker has heard of it")
    assert client.turn("say fine")[1] == ["fine"]


def reason_of(answer: dict[str, object]) -> str:
    return reason(answer) if "error" in answer else ""


def test_limit_of_the_front_door_applies_at_once(agentd: Embedded) -> None:
    limit(agentd, "front_door_sec = 0.2")
    with agentd.client() as client:
        assert reason(client.read()) == "handshake_timeout"


def test_limit_of_clients_applies_to_the_next_one(agentd: Embedded, client: Client) -> None:
    limit(agentd, "clients = 1")
    eventually(lambda: attached(agentd, "here") == "too_many_clients", "the worker has heard of it")
    assert client.turn("say fine")[1] == ["fine"]


def test_limit_that_is_lifted_is_gone(start: Start) -> None:
    agentd = start(limits="clients = 1")
    with agentd.client() as client:
        client.open()
        assert attached(agentd, "here") == "too_many_clients"
        reload(agentd, agentd.config.read_text().replace("clients = 1", ""))
        eventually(lambda: attached(agentd, "here") == "", "the worker has heard of it")


# Agents


def test_new_agent_can_be_used(agentd: Embedded, client: Client) -> None:
    assert attached(agentd, "here", "parrot") == "no_such_agent"
    add(agentd, f"\n[agents.parrot]\ncommand = {json.dumps(scripted())}\n")
    eventually(lambda: attached(agentd, "here", "parrot") == "", "the worker has heard of it")
    assert client.turn("say fine")[1] == ["fine"]


def test_environment_that_changed_reaches_the_next_agent_and_not_the_running_one(
    agentd: Embedded, client: Client
) -> None:
    add(agentd, "\n[agents.scripted.env]\nCOLOUR = 'green'\n")
    eventually(lambda: said(agentd, "env COLOUR") == ["COLOUR=green"], "the worker has heard of it")
    assert client.turn("env COLOUR")[1] == ["COLOUR=(unset)"]


def said(agentd: Embedded, *script: str) -> list[str]:
    """What a new agent says."""
    with agentd.client() as client:
        return client.open().turn(*script)[1]


def test_secret_that_came_with_a_reload_is_redacted(start: Start) -> None:
    agentd = start(AGENTD_LOG="debug")
    with agentd.client() as client:
        client.open()
        add(agentd, "\n[agents.scripted.env]\nTOKEN = 'a-new-secret'\n")
        eventually(lambda: said(agentd, "env TOKEN") == ["TOKEN=a-new-secret"], "the worker has heard of it")
    assert "a-new-secret" not in agentd.log()


def test_secret_that_left_with_a_reload_stays_redacted_for_those_who_have_it(start: Start) -> None:
    agentd = start(AGENTD_LOG="debug", limits="[agents.scripted.env]\nTOKEN = 'an-old-secret'")
    with agentd.client() as client:
        client.open()
        reload(agentd, agentd.config.read_text().replace("an-old-secret", "a-new-secret"))
        eventually(lambda: said(agentd, "env TOKEN") == ["TOKEN=a-new-secret"], "the worker has heard of it")
        assert client.turn("env TOKEN")[1] == ["TOKEN=an-old-secret"]
    assert "an-old-secret" not in agentd.log() and "a-new-secret" not in agentd.log()


# Containers


def test_new_container_can_be_used_and_has_its_socket(
    agentd: Embedded, client: Client, tmp_path: Path
) -> None:
    assert attached(agentd, "other") == "no_such_container"
    add(agentd, container("other", tmp_path))
    with Client(agentd.runtime_dir / "containers" / "other.sock") as other:
        assert "result" in other.call("initialize", {"protocolVersion": 1})
    assert attached(agentd, "other") == ""
    assert client.turn("say fine")[1] == ["fine"]


def test_container_that_was_taken_out_is_no_longer_served(start: Start, tmp_path: Path) -> None:
    agentd = start(limits=container("other", tmp_path), bus="private")
    eventually(lambda: agentd.container("other")["runtime"], "the watcher has told of it")
    reload(agentd, agentd.config.read_text().replace(container("other", tmp_path), ""))
    eventually(lambda: attached(agentd, "other") == "no_such_container", "it is gone")
    eventually(
        lambda: [each["name"] for each in agentd.status()["containers"]] == ["here"], "from the list too"
    )
    assert not (agentd.runtime_dir / "containers" / "other.sock").exists()


def test_container_that_was_taken_out_keeps_its_sessions_and_takes_no_new_ones(
    start: Start, tmp_path: Path
) -> None:
    agentd = start(limits=container("other", tmp_path))
    with agentd.client() as client:
        client.open("other")
        reload(agentd, agentd.config.read_text().replace(container("other", tmp_path), ""))
        assert client.turn("say fine")[1] == ["fine"]
        eventually(lambda: attached(agentd, "other") == "no_such_container", "nobody else gets in")
        assert client.turn("say fine")[1] == ["fine"]


def test_directory_that_changed_is_where_the_next_agent_runs(
    agentd: Embedded, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    text = agentd.config.read_text()
    reload(agentd, text.replace(f'directory = "{tmp_path}"', f'directory = "{tmp_path}/elsewhere"'))
    eventually(lambda: said(agentd, "cwd") == [f"{tmp_path}/elsewhere"], "the worker has heard of it")
    assert client.turn("cwd")[1] == [str(tmp_path)]


def test_agents_a_container_no_longer_offers_are_refused(
    agentd: Embedded, client: Client, tmp_path: Path
) -> None:
    add(agentd, f"agents = ['scripted']\n[agents.parrot]\ncommand = {json.dumps(scripted())}\n")
    eventually(lambda: attached(agentd, "here", "parrot") == "no_such_agent")
    assert attached(agentd, "here") == ""
    assert client.turn("say fine")[1] == ["fine"]


# What runs


def test_reload_does_not_disturb_a_turn(agentd: Embedded, client: Client) -> None:
    [worker], agents = agentd.workers(), agentd.agents()
    turn = client.prompt("say one", "hold")
    client.until_text("one")
    limit(agentd, "prompt_queue = 3")
    client.notify("_release")
    assert client.answer_to(turn)[0]["result"]["stopReason"] == "end_turn"
    assert (agentd.workers(), agentd.agents()) == ([worker], agents)


@pytest.mark.parametrize("broken", ["nonsense", "[limits]\nclients = 0", "colour = 1", "\xff"])
def test_broken_file_keeps_what_was(agentd: Embedded, client: Client, broken: str) -> None:
    limit(agentd, "clients = 2")
    agentd.config.write_bytes(b"")
    reload(agentd, broken)
    eventually(lambda: "kept the old configuration" in agentd.log(), "it is logged")
    assert client.turn("say fine")[1] == ["fine"]
    with agentd.client() as second:
        second.open()
        assert attached(agentd, "here") == "too_many_clients"


def test_file_that_is_gone_keeps_what_was(agentd: Embedded, client: Client) -> None:
    before = reloads(agentd)
    agentd.config.unlink()
    assert agentd.process is not None
    agentd.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(agentd) > before, "it was looked for")
    assert client.turn("say fine")[1] == ["fine"]
    assert attached(agentd, "here") == ""


def test_file_that_is_mended_is_taken(agentd: Embedded) -> None:
    good = agentd.config.read_text()
    reload(agentd, "nonsense")
    reload(agentd, good.replace("[limits]", "[limits]\nfront_door_sec = 0.2"))
    with agentd.client() as client:
        assert reason(client.read()) == "handshake_timeout"


def test_worker_started_after_a_broken_file_goes_by_the_old_one(agentd: Embedded) -> None:
    """What the manager refused, no worker reads."""
    reload(agentd, "nonsense")
    with agentd.client() as client:
        assert client.open().turn("say fine")[1] == ["fine"]


def test_reload_over_and_over_leaves_nothing_behind(agentd: Embedded, client: Client) -> None:
    assert agentd.process is not None
    eventually(lambda: "the watcher is here" in agentd.log())
    descriptors = Path(f"/proc/{agentd.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for number in range(20):
        limit(agentd, "") if number else reload(agentd, agentd.config.read_text())
    assert len(list(descriptors.iterdir())) <= before
    assert client.turn("say fine")[1] == ["fine"]
