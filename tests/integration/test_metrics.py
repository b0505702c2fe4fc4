# SPDX-License-Identifier: Apache-2.0
"""`agentctl metrics`, of a manager that really serves, on stdout and through a connection."""

import json
import signal
import socket
import subprocess
from http.client import HTTPResponse

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families

from support.embedded import Embedded, Start, eventually

BUDGET = "[budget]\nturns_per_minute = 50\n"


def value(text: str, name: str, **labels: str) -> float | None:
    """The value of a sample, as Prometheus' own parser reads it; None where there is none."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if (sample.name, sample.labels) == (f"agentd_{name}", labels):
                return float(sample.value)
    return None


def metrics(agentd: Embedded) -> str:
    done = agentd.agentctl("metrics")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def agentd(start: Start) -> Embedded:
    return start(bus="private", agent=BUDGET)


def test_a_turn_that_runs_is_counted(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().prompt("say working", "hold")
        client.until_text("working")
        here = {"container": "here"}
        running = lambda: value(metrics(agentd), "container_turns_running", **here)  # noqa: E731
        eventually(lambda: running() == 1, "the manager knows of the turn")
        text = metrics(agentd)
        assert value(text, "up") == value(text, "info", mode="embedded", version=agentd.status()["version"])
        assert value(text, "container_clients", **here) == value(text, "container_sessions", **here) == 1
        assert value(text, "container_agents", agent="scripted", state="ready", **here) == 1
        assert value(text, "container_budget_turns", window="minute", **here) == 1
        assert value(text, "container_budget_limit_turns", window="minute", **here) == 50
        assert (value(text, "container_frames_total", **here) or 0) >= 4
        assert client.session not in text


def test_json_has_the_same_samples(agentd: Embedded) -> None:
    listed = json.loads(agentd.agentctl("metrics", "--json").stdout)
    idle = {"container": "here", "state": "idle"}
    assert {"name": "agentd_container_state", "labels": idle, "value": 1.0} in listed


# Through a connection


def scrape(agentd: Embedded, accept: str = "*/*") -> tuple[HTTPResponse, str]:
    """What a request gets from agentctl, started as systemd would for its connection."""
    ours, theirs = socket.socketpair()
    command = agentd.agentctl_command("metrics", "--http")
    with ours, theirs, subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE) as serving:
        theirs.close()
        ours.sendall(f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode())
        response = HTTPResponse(ours)
        response.begin()
        text = response.read().decode()
        said = serving.communicate(timeout=30)[1]
        assert (serving.returncode, said) == (0, b"")
    return response, text


def test_a_scrape(agentd: Embedded) -> None:
    response, text = scrape(agentd)
    assert response.status == 200 and str(response.getheader("Content-Type")).startswith("text/plain")
    assert value(text, "containers", state="idle") == 1


def test_a_scrape_in_open_metrics(agentd: Embedded) -> None:
    response, text = scrape(agentd, "application/openmetrics-text; version=1.0.0")
    assert "openmetrics" in str(response.getheader("Content-Type"))
    assert [each for each in read_open_metrics(text) if each.name == "agentd_up"]


def test_a_manager_that_hangs_is_down_in_time(agentd: Embedded) -> None:
    assert agentd.process
    agentd.process.send_signal(signal.SIGSTOP)
    try:
        assert scrape(agentd)[1].splitlines()[-1] == "agentd_up 0.0"
    finally:
        agentd.process.send_signal(signal.SIGCONT)
