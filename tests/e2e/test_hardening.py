# SPDX-License-Identifier: Apache-2.0
"""What the system's units may do: by systemd's own count, and by what they still have to."""

from collections.abc import Iterator

import pytest

from .machine import Machine
from .test_agentd import AGENTS, CONFIGURATION, Host

HERE = """\
[containers.here]
runtime = "host"
directory = "/home/olga/work"
"""

SECRET = """\
[agents.keyed]
command = ["python3", "/srv/agents/scripted.py"]
env.KEY.file = "/etc/agentd/key"
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
    host.machine.start_agentd()
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


def test_podman_may_be_new_and_keep_its_things_elsewhere(fresh: Machine) -> None:
    """A sandbox is laid out when its unit starts, which is before podman has made any folder of its own."""
    fresh.run("mkdir", "/data")
    fresh.run("mount", "-t", "tmpfs", "agentd-test", "/data")
    fresh.run(
        "sed", "-i", 's|^graphroot = .*|graphroot = "/data/containers"|', "/etc/containers/storage.conf"
    )
    fresh.copy(AGENTS, "/srv/agents")
    fresh.write("/etc/agentd/agentd.toml", CONFIGURATION)
    fresh.start_agentd()
    host = Host(fresh)
    fresh.wait_for(lambda: host.engines().get("podman") == "", 20, "the watcher to follow podman")
    host.start_box()
    fresh.wait_for(lambda: host.listed() == {"box": "idle"}, 20, "the watcher to tell of box")
    assert host.run("agentctl", "prompt", "box", "hello").stdout == "Client sent:hello\n"
    assert fresh.run("ls", "/data/containers").stdout != ""


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


@pytest.fixture
def able(host: Host) -> Host:
    """With a container that has capabilities of which a worker has none."""
    options = ("--cap-add=MKNOD", "--cap-add=SYSLOG", "--volume=/srv/agents:/srv/agents:ro")
    host.machine.start_container("box", *options)
    host.machine.wait_for(lambda: "box" in host.listed(), 20, "the watcher to tell of box")
    return host


def test_agents_in_containers_may_what_the_engine_lets_them(able: Host) -> None:
    """As after podman exec: sudo works, apt installs setuid programs, and no system call is missing."""
    with able.editor("--agent", "scripted").open().dialogue:
        mine, plain = (status(able, pid) for pid in (agent(able), exec_by_hand(able)))
        limits = ("NoNewPrivs", "Seccomp", "Seccomp_filters", "CapBnd", "CapEff")
        assert [mine[name] for name in limits] == [plain[name] for name in limits]
        assert mine["NoNewPrivs"] == "0"
    said = able.run("podman", "exec", "box", "sh", "-c", "touch /x && chmod u+s /x && stat -c %a /x").stdout
    assert said == "4644\n"


def agent(host: Host) -> int:
    """The process of the only agent in the container."""
    return int(host.run("pgrep", "--full", "^python3 /srv/agents/scripted").stdout)


def exec_by_hand(host: Host) -> int:
    """As somebody who has logged in does: what enters our machines from outside is not held by filters."""
    host.run("systemd-run", "podman", "exec", "box", "sleep", "4711")
    return int(host.machine.wait_for(lambda: pgrep(host, "^sleep 4711"), 10, "podman exec"))


def pgrep(host: Host, pattern: str) -> str:
    return host.run("pgrep", "--full", pattern, check=False).stdout


def status(host: Host, pid: int) -> dict[str, str]:
    lines = host.machine.read(f"/proc/{pid}/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_a_unit_that_starts_an_agent_shows_no_secret_and_ends_with_it(able: Host) -> None:
    able.machine.write("/etc/agentd/key", "hunter2", 0o600)
    able.machine.write("/etc/agentd/agentd.toml.d/10-secret.toml", SECRET)
    able.run("systemctl", "reload", "agentd")
    editor = able.editor("--agent", "keyed").open()
    with editor.dialogue:
        answer, texts = editor.answer(editor.prompt("env KEY"))
        assert ("result" in answer, texts) == (True, ["KEY=hunter2"])
        [unit] = units(able)
        shown = able.run("systemctl", "show", unit).stdout + able.run("systemctl", "cat", unit).stdout
        assert "for agents of box" in shown and "hunter2" not in shown
        assert able.run("pgrep", "--full", "hunter2", check=False).stdout == ""
    able.run("systemctl", "stop", "agentd@box")
    able.machine.wait_for(lambda: not units(able), 10, "the unit to end")


def units(host: Host) -> list[str]:
    shown = host.run("systemctl", "list-units", "--plain", "--no-legend", "run-*.service").stdout
    return [line.split()[0] for line in shown.splitlines() if "for agents of box" in line]


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
