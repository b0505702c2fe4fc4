# SPDX-License-Identifier: Apache-2.0
"""Workers that fail again and again, and starts and stops that come at the same time; without systemd."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from support.acp_client import Client, Frame, reason
from support.embedded import Embedded, Start, eventually


def order(agentd: Embedded, member: str, name: str = "here") -> "subprocess.CompletedProcess[str]":
    """Start or Stop of a container, over D-Bus."""
    path = f"/org/agentd1/container/{name}"
    address = f"--bus=unix:path={agentd.runtime_dir}/bus"
    command = [
        "dbus-send",
        address,
        "--print-reply",
        "--reply-timeout=60000",
        "--dest=org.agentd1",
        path,
    ]
    return subprocess.run(
        [*command, f"org.agentd1.Container.{member}"],
        capture_output=True,
        text=True,
        timeout=70,
        check=False,
    )


def attached(agentd: Embedded, name: str = "here") -> Frame:
    with agentd.client() as client:
        return client.attach(name)


def refused_at_once(agentd: Embedded, name: str = "here") -> str:
    """The sentence with which a connection is refused; no process is started for it."""
    began, log = time.monotonic(), agentd.log()
    answer = attached(agentd, name)
    assert time.monotonic() - began < 7  # the next pause would be 8 s
    assert reason(answer) == "worker_failed" and agentd.log().count(" linked") == log.count(" linked")
    return str(answer["error"]["message"])


def test_worker_that_cannot_start_is_given_up_until_somebody_says_so(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    agentd = start(bus="private", limits=f'[containers.lost]\nruntime = "host"\ndirectory = "{folder}"')
    words = {str(attached(agentd, "lost")["error"]["message"]) for _ in range(4)}
    assert "error" in attached(agentd, "lost")
    message = refused_at_once(agentd, "lost")
    assert "agentctl start lost" in message and words.pop() in message and not words
    lost = agentd.container("lost")
    assert lost["state"] == "failed" and lost["last_error"] in message
    folder.mkdir()
    refused_at_once(agentd, "lost")
    assert order(agentd, "Start", "lost").returncode == 0
    assert (agentd.container("lost")["state"], agentd.container("lost")["last_error"]) == ("serving", "")
    assert "result" in attached(agentd, "lost")


def test_worker_that_crashes_again_and_again_is_given_up_too(start: Start) -> None:
    agentd = start(bus="private")
    for _ in range(5):
        with agentd.client() as client:
            assert "result" in client.attach("here")
            os.kill(agentd.workers()[0], signal.SIGKILL)
            assert client.at_end()
    eventually(lambda: agentd.container()["state"] == "failed")
    assert "ended without a word" in refused_at_once(agentd)
    assert order(agentd, "Start").returncode == 0
    assert len(agentd.workers()) == 1


def test_crashed_worker_is_started_by_the_next_connection_and_by_nothing_else(start: Start) -> None:
    agentd = start(bus="private")
    with agentd.client() as client:
        client.attach("here")
        os.kill(agentd.workers()[0], signal.SIGKILL)
        assert client.at_end()
    here = eventually(lambda: (each := agentd.container())["state"] == "failed" and each)
    assert (here["worker_pid"], agentd.workers()) == (0, [])
    assert "result" in attached(agentd)
    assert agentd.container()["last_error"] == ""


def test_two_starts_racing_a_stop_never_leave_two_workers(start: Start) -> None:
    agentd = start(bus="private")
    for delay in (0.0, 0.1, 0.3):
        clients = [agentd.client() for _ in range(2)]
        starts = [threading.Thread(target=ask, args=(client,)) for client in clients]
        stop = threading.Thread(target=order, args=(agentd, "Stop"))
        starts[0].start()
        time.sleep(delay)
        for each in (stop, starts[1]):
            each.start()
        for each in (*starts, stop):
            each.join(60)
        assert len(agentd.workers()) <= 1
        for client in clients:
            client.sock.close()
        assert order(agentd, "Stop").returncode == 0
        assert not agentd.workers()


def ask(client: Client) -> None:
    """Attach, whatever comes of it."""
    assert {"result", "error"} & client.attach("here").keys()


def test_connection_during_a_stop_gets_the_next_worker(start: Start) -> None:
    agentd = start(bus="private")
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        [old] = agentd.workers()
        stop = threading.Thread(target=order, args=(agentd, "Stop"))
        stop.start()
        eventually(lambda: agentd.container()["state"] == "draining")
        with agentd.client() as late:
            number = late.request("_agentd/attach", {"container": "here"})
            client.notify("_release")
            assert "result" in client.answer_to(turn)[0]
            assert "result" in late.answer_to(number)[0]
            assert old not in agentd.workers()
        stop.join(60)
