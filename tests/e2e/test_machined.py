# SPDX-License-Identifier: Apache-2.0
"""Agents in machines of systemd-nspawn: with a systemd, without one, with users of their own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import Machine
from .test_agentd import AGENTS, Host, attached

MKNOD = 1 << 27
SECRET = "hunter2-\\n$HOME"
CONFIGURATION = f"""\
default_agent = "scripted"
[agents.scripted]
command = ["python3", "/srv/agents/scripted.py"]
env = {{ KEY = '{SECRET}' }}
[agents.absent]
command = ["no-such-agent"]
[containers.box]
runtime = "machined"
unmapped_cwd = "workdir"
"""
SETTLED = ("running", "degraded")
UNITS = ("agentd.service", "agentd.socket", "agentd-link.socket", "agentd-watch.service")

HOW = {
    "systemd": ("--boot",),
    "no systemd": ("--as-pid2", "sleep", "infinity"),
    "own users": ("--private-users=pick", "--as-pid2", "sleep", "infinity"),
}

# The Debian of the machine is that of what runs in it too: another layer over the very same files.
ROOT = """\
set -eu
mkdir /home/upper /home/work /home/root
mount -t overlay -o lowerdir=/,upperdir=/home/upper,workdir=/home/work agentd-test /home/root
systemctl --quiet --root=/home/root mask "$@"
"""

TERMINAL = """\
import asyncio, os
from agentd.config import Configuration, Container
from agentd.process import Size
from agentd.runtimes import Command
from agentd.runtimes.machined import Machined

async def main():
    machined = Machined(Configuration(containers={"box": Container(runtime="machined")}))
    box = await machined.inspect("box")
    script = "stty size; id -un; echo $KEY; readlink /proc/self/ns/uts; read word; echo $word"
    command = Command(["sh", "-c", script], {"KEY": "value"})
    child, terminal = machined.terminal(box, command, Size(91, 37))
    os.write(terminal, b"typed\\n")
    print(await child.wait())
    os.set_blocking(terminal, True)
    try:
        while data := os.read(terminal, 4096):
            print(data.decode(), end="")
    except OSError:
        pass

asyncio.run(main())
"""


class Nspawn(Host):
    """A host with agentd enabled, and box, which is configured to be a machine, of some kind."""

    def __init__(self, machine: Machine, kind: str) -> None:
        super().__init__(machine)
        self.kind = kind

    def start_box(self, name: str = "box") -> None:
        place = (f"--machine={name}", "--directory=/home/root", "--private-network", "--link-journal=no")
        nspawn = ("systemd-nspawn", "--quiet", *place, *HOW[self.kind])
        self.run("systemd-run", "--quiet", "--collect", *nspawn)
        self.machine.wait_for(self._is_up, 60, f"{name} to be up")

    def _is_up(self) -> bool:
        if self.kind == "systemd":
            up = self.run("systemctl", "--machine=box", "is-system-running", check=False)
            return up.stdout.strip() in SETTLED
        shown = self.run("machinectl", "show", "--property=State", "box", check=False)
        return shown.stdout == "State=running\n"

    def terminate(self) -> None:
        self.run("machinectl", "terminate", "box")

    def leader(self) -> str:
        return self.run("machinectl", "show", "--value", "--property=Leader", "box").stdout.strip()

    def agents(self) -> list[str]:
        """The processes of agents, in box or on the way into it, by their numbers on the host."""
        return self.run("pgrep", "-f", "^python3 /srv/agents/scripted", check=False).stdout.split()

    def status(self, pid: str) -> dict[str, str]:
        lines = self.machine.read(f"/proc/{pid}/status").splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def namespaces(self, pid: str) -> list[str]:
        kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
        return self.run("readlink", *(f"/proc/{pid}/ns/{kind}" for kind in kinds)).stdout.split()

    def configure(self, text: str) -> None:
        self.machine.write("/etc/agentd/agentd.toml.d/10-test.toml", text)
        self.run("systemctl", "reload", "agentd")


def started(machine: Machine, kind: str) -> Nspawn:
    """agentd, and box as a machine of that kind."""
    host = Nspawn(machine, kind)
    machine.copy(AGENTS, "/srv/agents")
    machine.write("/etc/agentd/agentd.toml", CONFIGURATION)
    host.run("sh", "-c", ROOT, "root", *UNITS)
    host.start_box()
    host.machine.start_agentd()
    machine.wait_for(lambda: host.state() == "idle", 20, "the watcher to tell of box")
    return host


@pytest.fixture(scope="module", params=HOW)
def seen(suite: str, staged: Path, request: pytest.FixtureRequest) -> Iterator[Nspawn]:
    """A box of every kind, shared by the tests that only look."""
    with Machine(suite, layers=[staged]) as machine:
        yield started(machine, request.param)


@pytest.fixture(params=["systemd", "no systemd"])
def own(fresh: Machine, request: pytest.FixtureRequest) -> Nspawn:
    """A box of either main kind, for one test alone."""
    return started(fresh, request.param)


def prompt(host: Nspawn, text: str, *options: str) -> str:
    return host.run("agentctl", "prompt", "box", *options, text).stdout.rstrip("\n")


# A turn


def test_a_turn_with_its_environment(seen: Nspawn) -> None:
    assert prompt(seen, "env KEY") == f"KEY={SECRET}"
    assert prompt(seen, "env HOME") == "HOME=/root"
    assert prompt(seen, "env NOTIFY_SOCKET") == "NOTIFY_SOCKET=(unset)"
    assert prompt(seen, "cwd") == "/"


def test_an_agent_is_a_process_of_the_machine(seen: Nspawn) -> None:
    with attached(seen).dialogue:
        seen.machine.wait_for(seen.agents)
        agent, leader = seen.agents()[-1], seen.leader()
        assert seen.namespaces(agent) == seen.namespaces(leader)
        group = seen.machine.read(f"/proc/{agent}/cgroup").splitlines()[-1]
        assert group.startswith("0::/machine.slice/machine-box.scope/payload")
        inside, outside = seen.status(agent), seen.status(leader)
        assert inside["Umask"] == "0022"
        if seen.kind != "own users":  # there, root has all capabilities, over what is the machine's alone
            lacking = MKNOD if seen.kind == "no systemd" else 0  # as the worker does that it comes from
            assert int(inside["CapBnd"], 16) == int(outside["CapBnd"], 16) & ~lacking
            assert inside["CapEff"] == inside["CapBnd"]


def test_secrets_are_nowhere_to_be_seen(seen: Nspawn) -> None:
    with attached(seen).dialogue:
        agent = seen.machine.wait_for(seen.agents)[-1]
        assert SECRET in seen.machine.read(f"/proc/{agent}/environ")
        assert "hunter2" not in seen.run("ps", "-e", "-o", "args").stdout
        inside = ("nsenter", "--all", f"--target={seen.leader()}", "--")
        if seen.kind == "systemd":
            shown = seen.run(*inside, "systemctl", "show", "*.service").stdout
            assert "agent of agentd" in shown and "hunter2" not in shown
            assert "hunter2" not in seen.run(*inside, "journalctl", "--output=export").stdout
        assert seen.run(*inside, "grep", "-rls", "hunter2", "/run", check=False).stdout == ""


def test_user_and_directory_are_those_of_the_configuration(own: Nspawn) -> None:
    own.configure('[containers.box]\nuser = "games:staff"\nworkdir = "/srv"\n')
    assert prompt(own, "cwd") == "/srv"
    assert prompt(own, "env HOME") == "HOME=/usr/games"
    with attached(own).dialogue:
        status = own.status(own.machine.wait_for(own.agents)[-1])
        assert (status["Uid"].split()[1], status["Gid"].split()[1]) == ("5", "50")
        assert int(status["CapEff"], 16) == 0


def test_an_agent_that_is_not_there_is_said(seen: Nspawn) -> None:
    refused = seen.run("agentctl", "prompt", "box", "--agent", "absent", "hello", check=False)
    assert (refused.returncode, "no program no-such-agent" in refused.stderr) == (69, True), refused.stderr


def test_a_terminal_is_one_of_the_machine(seen: Nspawn) -> None:
    said = seen.run("python3", "-c", TERMINAL).stdout.split()
    there = seen.namespaces(seen.leader())[-1]
    assert said[0] == "0" and {"37", "91", "root", "value", there, "typed"} <= set(said)


# The end


def test_worker_leaves_with_its_machine_and_the_client_is_told(own: Nspawn) -> None:
    editor = attached(own)
    with editor.dialogue:
        turn = editor.prompt("say working", "hold")
        editor.until_text("working")
        own.terminate()
        answer, _ = editor.answer(turn)
        assert answer["error"]["data"]["reason"] in ("not_running", "agent_exited")
        with pytest.raises(EOFError):
            editor.hear()
    own.machine.wait_for(lambda: own.show("agentd@box", "ActiveState") == "inactive")
    assert own.show("agentd@box", "Result") == "success"
    own.machine.wait_for(lambda: own.state() == "stopped")
    refused = own.run("agentctl", "prompt", "box", "hello", check=False)
    assert (refused.returncode, "not running" in refused.stderr) == (69, True), refused.stderr
    own.start_box()
    own.machine.wait_for(lambda: own.state() == "idle")
    assert prompt(own, "say again") == "again"


def test_killed_worker_leaves_no_agent_once_the_next_is_up(own: Nspawn) -> None:
    editor = attached(own)
    with editor.dialogue:
        editor.answer(editor.prompt("child"))
        agents, worker = own.agents(), own.show("agentd@box", "MainPID")
        assert agents and own.run("pgrep", "-f", "sleep 1000").stdout
        own.run("kill", "-KILL", worker)
        own.machine.wait_for(lambda: own.show("agentd@box", "MainPID") not in (worker, "0"), 20)
        own.machine.wait_for(lambda: own.show("agentd@box", "ActiveState") == "active", 20)
        assert not set(agents) & set(own.agents())
        assert own.run("pgrep", "-f", "sleep 1000", check=False).stdout == ""


# What there is


def test_machines_are_stopped_until_they_register_and_opt_in_by_the_configuration(own: Nspawn) -> None:
    own.terminate()
    own.machine.wait_for(lambda: own.listed() == {"box": "stopped"})
    own.run("systemctl", "restart", "agentd-watch")
    own.machine.wait_for(
        lambda: json.loads(own.run("agentctl", "status", "--json").stdout)["watcher"]["connected"]
    )
    assert own.listed() == {"box": "stopped"}
    own.start_box()
    own.machine.wait_for(lambda: own.listed() == {"box": "idle"})
    own.configure('[containers.box]\nruntime = "podman"\n')
    own.machine.wait_for(lambda: own.state() == "idle")
    refused = own.run("agentctl", "prompt", "box", "hello", check=False)
    assert (refused.returncode, "podman has no container box" in refused.stderr) == (66, True), (
        refused.stderr
    )
