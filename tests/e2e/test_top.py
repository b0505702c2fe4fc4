# SPDX-License-Identifier: Apache-2.0
"""`agentctl top` where workers have units, and containers have cgroups and networks of their own."""

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest

from .machine import Machine

AGENTS = Path(__file__).parents[1] / "agents"
CONFIGURATION = """\
[agents.scripted]
command = ["python3", "/srv/agents/scripted.py"]
"""
TALK = """
import select, socket, sys
from pyroute2 import IPRoute
with IPRoute() as network:
    network.link("add", ifname="near", kind="veth", peer="far")
    near, far = (network.link_lookup(ifname=name)[0] for name in ("near", "far"))
    network.addr("add", index=near, address="10.88.0.1", prefixlen=24, broadcast="10.88.0.255")
    for each in (near, far):
        network.link("set", index=each, state="up")
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    sock.sendto(bytes(1000), ("10.88.0.255", 7))
"""


BURN = "while True: pass"


def boxes(text: str) -> list[dict[str, Any]]:
    """What lines of top, or of status, have of box."""
    return [
        each
        for line in text.splitlines()
        for each in json.loads(line)["containers"]
        if each["name"] == "box"
    ]


def rounds(machine: Machine, count: int) -> list[dict[str, Any]]:
    return boxes(machine.run("agentctl", "top", "--json", "-n", str(count)).stdout)


@pytest.fixture
def machine(fresh: Machine) -> Iterator[Machine]:
    """With a container called box, which sends 1000 bytes ten times a second in a network of its own."""
    fresh.copy(AGENTS, "/srv/agents")
    fresh.write("/etc/agentd/agentd.toml", CONFIGURATION)
    fresh.start_container("box", "--volume=/srv/agents:/srv/agents:ro")
    leader = fresh.run("podman", "inspect", "--format", "{{.State.Pid}}", "box").stdout.strip()
    with fresh.dialogue("nsenter", f"--net=/proc/{leader}/ns/net", "python3", "-c", TALK) as talk:
        assert talk.hear(30) == "ready"
        fresh.start_agentd()
        listed = lambda: "box" in fresh.run("agentctl", "list").stdout  # noqa: E731
        fresh.wait_for(listed, 20, "the watcher to tell of box")
        yield fresh


def test_bytes_of_its_network_and_frames_of_its_sessions(machine: Machine) -> None:
    script = "tally a 0 1000000 2"
    with machine.popen("agentctl", "prompt", "box", "--cwd", "/srv/agents", script, stdin=DEVNULL) as prompt:
        machine.wait_for(lambda: rounds(machine, 1)[0]["turns"] == 1, 30, "the turn to begin")
        *_, last = rounds(machine, 4)
        prompt.kill()
    assert last["sent_per_sec"] > 5000 and last["received_per_sec"] > 5000
    assert last["frames_per_sec"] > 20
    assert boxes(machine.run("agentctl", "status", "--json").stdout)[0]["addresses"] == ["10.88.0.1"]


def test_whatever_runs_in_the_containers_or_the_workers_cgroup_counts(machine: Machine) -> None:
    """A process in the container that descends from none that agentd knows, and the worker itself."""
    before = rounds(machine, 1)[0]
    assert before["memory_bytes"] < 20 << 20  # it sleeps, and there is no worker
    machine.run("podman", "exec", "--detach", "box", "python3", "-c", BURN)
    machine.run("systemctl", "start", "agentd@box")
    *_, last = rounds(machine, 3)
    assert 10 < last["cpu_percent"] < 400
    assert last["memory_bytes"] > before["memory_bytes"] + (20 << 20)
