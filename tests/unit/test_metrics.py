# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told, from a Status that has everything, and from one that has next to nothing."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentd.ctl.metrics import as_json, as_text
from agentd.ctl.metrics.figures import CONTAINER_STATES, JOB_STATES, Status

SECRET = "hidden-from-prometheus"
SESSION = {"id": SECRET, "path": SECRET, "agent": SECRET, "state": "idle", "title": SECRET, "owner": 1}
BOX = {
    "name": "box",
    "runtime": "podman",
    "state": "serving",
    "last_error": SECRET,
    "drained": [f"box#{SECRET}"],
    "outdated": True,
    "clients": 2,
    "turns": 1,
    "sessions_open": 5,
    "frames": 1234,
    "network": {"received": 10, "sent": 20},
    "budget": {"last_minute": 3, "last_day": 40, "per_minute": 6, "per_day": 0},
    "sessions": [{**SESSION, "queued": 2, "permissions": 1}, {**SESSION, "queued": 1, "permissions": 0}],
    "agents": [{"name": "claude", "state": "ready", "pid": pid, "version": SECRET} for pid in (1, 2)],
}
IDLE = {"name": "idle.box", "state": "idle", "network": None, "budget": None}
FULL = {
    "version": "1.2",
    "mode": "system",
    "state": "running",
    "draining": False,
    "started_usec": 1_700_000_000_500_000,
    "watcher": {"connected": True, "engines": {"podman": "", "docker": SECRET}},
    "containers": [BOX, IDLE],
    "jobs": [{"id": 1, "target": SECRET, "state": "done"}],
}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def status(raw: dict[str, Any]) -> Status:
    return msgspec.json.decode(json.dumps(raw), type=Status)


def samples(raw: dict[str, Any]) -> Samples:
    """What Prometheus' own parser makes of it."""
    families = text_string_to_metric_families(as_text(status(raw)))
    return {
        (each.name, frozenset(each.labels.items())): each.value for one in families for each in one.samples
    }


def value(name: str, **labels: str) -> float:
    return samples(FULL)[f"agentd_{name}", frozenset(labels.items())]


def test_the_manager() -> None:
    assert value("up") == value("info", version="1.2", mode="system") == value("watcher_connected") == 1
    assert (value("start_time_seconds"), value("draining")) == (1_700_000_000.5, 0)
    assert (value("engine_up", engine="podman"), value("engine_up", engine="docker")) == (1, 0)


def test_every_metric_is_in_the_manual_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "packaging" / "man" / "agentctl.1").read_text()
    told = {name for name, _ in samples(FULL)}
    assert set(re.findall(r"^\.Li (agentd_[a-z_]+)", page, re.MULTILINE)) == told


def test_states_that_nothing_has_are_told_too() -> None:
    assert [value("containers", state=each) for each in CONTAINER_STATES] == [0, 1, 0, 1, 0, 0, 0]
    assert [value("jobs", state=each) for each in JOB_STATES] == [0, 1, 0, 0, 0]
    assert value("container_state", container="box", state="serving") == 1
    assert value("container_state", container="box", state="failed") == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clients", 2),
        ("sessions", 5),
        ("turns_running", 1),
        ("prompts_queued", 3),
        ("permissions_pending", 1),
        ("worker_outdated", 1),
        ("frames_total", 1234),
        ("network_receive_bytes_total", 10),
        ("network_transmit_bytes_total", 20),
    ],
)
def test_a_container(name: str, expected: float) -> None:
    assert value(f"container_{name}", container="box") == expected


def test_agents_are_counted() -> None:
    assert value("container_agents", container="box", agent="claude", state="ready") == 2


def test_budgets_are_told_where_there_are_some() -> None:
    assert value("container_budget_turns", container="box", window="day") == 40
    limits = [labels for name, labels in samples(FULL) if name == "agentd_container_budget_limit_turns"]
    assert limits == [{("container", "box"), ("window", "minute")}]


def test_names_of_others_stay_in_their_quotes() -> None:
    name = 'a"b\\c\nd'
    odd = {**FULL, "containers": [{"name": name, "state": "idle"}]}
    assert samples(odd)["agentd_container_clients", frozenset({("container", name)})] == 0


def test_nothing_that_is_said_is_told() -> None:
    assert SECRET not in as_text(status(FULL)) + as_json(status(FULL))


def test_an_older_manager_tells_less() -> None:
    told = samples({"version": "0.1", "mode": "user", "containers": [{"name": "box", "state": "idle"}]})
    assert told["agentd_container_frames_total", frozenset({("container", "box")})] == 0


def test_json_is_the_same() -> None:
    listed = json.loads(as_json(status(FULL)))
    assert all(set(each) == {"name", "labels", "value"} for each in listed)
    assert {(each["name"], frozenset(each["labels"].items())): each["value"] for each in listed} == samples(
        FULL
    )


# --http


def request(folder: Path, data: bytes) -> tuple[int, bytes]:
    """What a connection gets where no manager is, until it is hung up; and the exit status."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "agentd.ctl", "--runtime-dir", str(folder), "metrics", "--http"]
    with ours, theirs, subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE) as process:
        theirs.close()
        ours.settimeout(30)
        ours.sendall(data)
        with ours.makefile("rb") as answer:
            got = answer.read()
        return process.wait(30), got


def test_a_manager_that_is_not_there_is_down(tmp_path: Path) -> None:
    ended, got = request(tmp_path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert ended == 0 and head.startswith(b"HTTP/1.0 200 ") and b"text/plain" in head
    assert body.splitlines()[-1] == b"agentd_up 0.0"
    assert b"Python" not in head


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.0 404 "),
        (b"GET /metrics/../x HTTP/1.1\r\n\r\n", b"HTTP/1.0 404 "),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.0 501 "),
        (b"nonsense\r\n\r\n", b"<!DOCTYPE HTML"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.0 414 "),
    ],
)
def test_there_is_one_page_and_one_method(tmp_path: Path, data: bytes, answer: bytes) -> None:
    ended, got = request(tmp_path, data)
    assert (ended, got[: len(answer)]) == (0, answer)


def test_whoever_leaves_without_a_request_is_no_error(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "agentd.ctl", "--runtime-dir", str(tmp_path), "metrics", "--http"]
    with theirs, ours:
        ours.close()
        done = subprocess.run(command, stdin=theirs, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_request_has_to_come_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that never stops coming, byte by byte: it is the whole that has a deadline."""
    script = "import agentd.ctl.metrics as m; m.REQUEST_SEC = 0.3; from agentd.ctl import main; main()"
    command = [sys.executable, "-c", script, "--runtime-dir", str(tmp_path), "metrics", "--http"]
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen(command, stdin=theirs) as process:
        ours.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert process.wait(30) == 0


def test_a_terminal_is_no_connection(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agentd.ctl", "--runtime-dir", str(tmp_path), "metrics", "--http"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert done.returncode == 64 and "agentd-metrics.socket" in done.stderr


def test_without_the_library_it_says_which(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not here')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "agentd.ctl", "--runtime-dir", str(tmp_path), "metrics"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 69 and "python3-prometheus-client" in done.stderr
    assert "Traceback" not in done.stderr
