# SPDX-License-Identifier: Apache-2.0
"""Containers of a real docker, served by the worker of a real unit."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import whale
from .machine import Machine
from .test_durable import Box, prepare, start_box


@pytest.fixture(scope="module")
def box(suite: str, staged: Path) -> Iterator[Box]:
    with Machine(suite, layers=[staged, whale.layer(suite)]) as machine:
        whale.start(machine)
        yield start_box(prepare(machine), "box", engine="docker")


def test_an_agent_has_what_docker_gives_it(box: Box) -> None:
    assert box.host.property(box.path, "Container", "Runtime") == "docker"
    assert box.prompt().stdout == "fine\n"
    [agent] = box.host.run("pgrep", "--full", "^python3 /srv/agents/scripted").stdout.split()
    plain = box.host.run("docker", "exec", "box", "cat", "/proc/self/status").stdout
    mine = box.host.machine.read(f"/proc/{agent}/status")
    for name in ("NoNewPrivs", "Seccomp", "CapBnd"):
        assert limit(mine, name) == limit(plain, name), name


def limit(status: str, name: str) -> str:
    return next(line for line in status.splitlines() if line.startswith(f"{name}:"))


def test_a_session_outlives_its_worker_and_its_container(box: Box) -> None:
    editor = box.attached()
    with editor.dialogue:
        assert editor.turn("say one") == ["one"]
        box.kill()
        assert editor.turn("say two") == ["two"]
        session = editor.session
    box.host.run("docker", "stop", "--time=0", "box")
    box.host.machine.wait_for(lambda: box.state() == "stopped", 20, "the watcher to tell that it has ended")
    box.host.run("docker", "start", "box")
    box.host.machine.wait_for(lambda: box.state() != "stopped", 20, "the watcher to tell that it runs")
    editor = box.editor()
    with editor.dialogue:
        editor.load(session)
        assert editor.turn("say three") == ["three"]


def test_a_stop_of_the_worker_leaves_no_agent(box: Box) -> None:
    assert box.prompt().stdout == "fine\n"
    box.host.run("systemctl", "stop", box.unit)
    assert box.host.run("pgrep", "--full", "scripted.py", check=False).stdout == ""
