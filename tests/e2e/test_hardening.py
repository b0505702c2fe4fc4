# SPDX-License-Identifier: Apache-2.0
"""What the system's units may do: by systemd's own count, and by what they still have to."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import Machine
from .test_agentd import AGENTS, CONFIGURATION, Host

WORKER = Path(__file__).parents[2] / "units/agentd@.service"
HERE = """\
[containers.here]
runtime = "host"
directory = "/home/olga/work"
"""

# An agent that listens inside a container, on its loopback.
LISTENER = """\
import os, socket
server = socket.create_server(("127.0.0.1", 4711))
while True:
    connection, _ = server.accept()
    if os.fork() == 0:
        for number in (0, 1):
            os.dup2(connection.fileno(), number)
        os.execvp("python3", ["python3", "/srv/agents/scripted.py"])
    connection.close()
"""


@pytest.fixture
def host(fresh: Machine) -> Iterator[Host]:
    host = Host(fresh)
    fresh.copy(AGENTS, "/srv/agents")
    fresh.write("/etc/agentd/agentd.toml", CONFIGURATION)
    host.run("systemctl", "enable", "--now", "agentd.service")
    yield host


@pytest.mark.parametrize(
    ("unit", "most"),
    [
        ("agentd.service", 12),
        ("agentd@box.service", 45),
        ("agentd-watch.service", 45),
        ("agentd-prompt@x.service", 12),
        ("agentd-metrics@x.service", 12),
    ],
)
def test_exposure(installed: Machine, unit: str, most: int) -> None:
    """In tenths, as systemd-analyze takes it."""
    done = installed.run("systemd-analyze", "security", f"--threshold={most}", unit, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_manager_has_no_privilege_and_no_network(host: Host) -> None:
    pid = host.show("agentd.service", "MainPID")
    status = dict(line.split(":\t", 1) for line in host.machine.read(f"/proc/{pid}/status").splitlines())
    assert {int(status[name], 16) for name in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert (
        host.run("readlink", f"/proc/{pid}/ns/net").stdout != host.run("readlink", "/proc/1/ns/net").stdout
    )


def test_slice_has_limits_that_an_administrator_may_change(host: Host) -> None:
    limits = ("MemoryHigh", "MemoryMax", "TasksMax")
    assert "infinity" not in [host.show("agentd.slice", name) for name in limits]
    host.run("systemctl", "set-property", "agentd.slice", "MemoryHigh=infinity", "TasksMax=4000")
    assert [host.show("agentd.slice", name) for name in ("MemoryHigh", "TasksMax")] == ["infinity", "4000"]


def test_agents_on_the_host_have_its_files_and_its_network(host: Host) -> None:
    host.run("useradd", "--create-home", "olga")
    host.run("mkdir", "/home/olga/work")
    host.machine.write("/etc/agentd/agentd.toml.d/10-here.toml", HERE)
    host.run("systemctl", "reload", "agentd")
    editor = host.editor("--agent", "scripted", container="here").open()
    with editor.dialogue:
        agent = host.run("pgrep", "--full", "^python3 /srv/agents/scripted").stdout.strip()
        for kind in ("mnt", "net"):
            spaces = host.run("readlink", f"/proc/{agent}/ns/{kind}", f"/proc/1/ns/{kind}").stdout.split()
            assert len(set(spaces)) == 1
        assert host.run("readlink", f"/proc/{agent}/cwd").stdout == "/home/olga/work\n"
    refused = host.run("agentctl", "prompt", "here", "--agent", "absent", "hello", check=False)
    assert (refused.returncode, "no program no-such-agent" in refused.stderr) == (69, True), refused.stderr


def test_containers_with_more_capabilities_take_a_drop_in(host: Host) -> None:
    """The one that the unit's own comment has."""
    options = ("--cap-add=MKNOD", "--cap-add=SYSLOG", "--volume=/srv/agents:/srv/agents:ro")
    host.machine.start_container("box", *options)
    drop_in = re.search(r"^#     \[Service\]\n(#     .*\n)+", WORKER.read_text(), re.M)
    assert drop_in is not None
    text = drop_in[0].replace("#     ", "")
    host.machine.write("/etc/systemd/system/agentd@box.service.d/10-capabilities.conf", text)
    host.run("systemctl", "daemon-reload")
    host.machine.wait_for(lambda: "box" in host.listed(), 20, "the watcher to tell of box")
    said = host.run("agentctl", "prompt", "box", "--agent", "scripted", "say inside").stdout
    assert said == "inside\n"


def test_agents_that_listen_in_a_container_are_reached(host: Host) -> None:
    host.machine.write(
        "/etc/agentd/agentd.toml.d/10-tcp.toml", '[agents.tcp]\ntransport = "tcp"\nport = 4711\n'
    )
    host.run("systemctl", "reload", "agentd")
    host.machine.start_container("box", "--volume=/srv/agents:/srv/agents:ro")
    host.machine.wait_for(lambda: "box" in host.listed(), 20, "the watcher to tell of box")
    host.run("podman", "exec", "--detach", "box", "python3", "-c", LISTENER)
    said = host.run("agentctl", "prompt", "box", "--agent", "tcp", "say inside").stdout
    assert said == "inside\n"
