# SPDX-License-Identifier: Apache-2.0
"""The ground for attacks: a host with containers, people who may use some, and one who may use none."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import CompletedProcess
from typing import Any

from .machine import Machine
from .test_agentd import AGENTS, Editor, Host

MALLORY, EVE, BOB = "mallory", "eve", "bob"
"""One without any right; one who may use box and common; one who may use vault and common."""
SECRET = "sk-not-for-you"
CONFIGURATION = """\
default_agent = "scripted"
[agents.scripted]
command = ["python3", "/srv/agents/scripted.py", "--can", "load"]
env = { AGENT_KEY = { file = "/etc/agentd/keys/agent" } }
[agents.hostile]
command = ["python3", "/srv/agents/scripted.py"]
[agents.remembers]
command = ["python3", "/srv/agents/scripted.py", "--count-sessions", "--memory", "/work", "--can", "load"]
[containers.box]
users = ["eve"]
[containers.vault]
users = ["bob"]
[containers.common]
users = ["eve", "bob"]
"""


class Ground(Host):
    """`box`, `vault` and `common` run, each with a folder of the host as /work that it may write to."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        machine.copy(AGENTS, "/srv/agents")
        machine.write("/etc/agentd/agentd.toml", CONFIGURATION)
        machine.write("/etc/agentd/keys/agent", SECRET, mode=0o600)

    def settle(self, *containers: str) -> None:
        for name in (MALLORY, EVE, BOB):
            self.run("useradd", "--create-home", name)
        for name in containers:
            self.start_container(name)
        self.machine.start_agentd()
        self.machine.wait_for(lambda: self.idle(*containers), 20, "the watcher to tell of the containers")

    def idle(self, *containers: str) -> bool:
        known = self.listed()
        return all(known.get(name) == "idle" for name in containers)

    def start_container(self, name: str, *options: str) -> None:
        self.run("mkdir", "--parents", f"/srv/{name}")
        volumes = ("--volume=/srv/agents:/srv/agents:ro", f"--volume=/srv/{name}:/work")
        self.machine.start_container(name, *volumes, *options)

    # People

    def sh(self, script: str, *arguments: str, user: str | None = MALLORY) -> CompletedProcess[str]:
        """Run a shell's script as somebody; whatever comes of it is for the caller to judge."""
        return self.run("sh", "-c", script, "sh", *arguments, user=user, check=False)

    def python(self, script: str, *arguments: str, user: str | None = MALLORY, **options: Any) -> str:
        """What a script of Python prints that somebody runs."""
        return self.run("python3", "-c", script, *arguments, user=user, **options).stdout.strip()

    def as_editor(self, user: str | None, container: str, *options: str) -> Editor:
        command = ("agentctl", "--system", "attach", container, *options)
        return Editor(self.machine.dialogue(*command, user=user))

    @contextmanager
    def attached(self, user: str | None, container: str, *options: str) -> Iterator[Editor]:
        """Somebody's editor with a session in the container."""
        editor = self.as_editor(user, container, *options)
        with editor.dialogue:
            yield editor.open()

    def prompt(self, user: str | None, container: str, text: str, *options: str) -> CompletedProcess[str]:
        command = ("agentctl", "--system", "prompt", container, *options, text)
        return self.run(*command, user=user, check=False)

    # The front door, without any client of ours

    def says(self, user: str | None, *lines: str, socket: str = "/run/agentd/agentd.sock") -> list[Any]:
        """What is answered to lines on a connection, up to its end or as many answers as there are lines."""
        spoken = self.python(SPEAK, socket, *lines, user=user)
        return [json.loads(line) for line in spoken.splitlines()]

    # What goes on

    def pids(self, *units: str) -> dict[str, str]:
        """The main process of each unit."""
        done = self.run("systemctl", "show", "--value", "--property=MainPID", *units)
        return dict(zip(units, done.stdout.split(), strict=True))

    def memory(self, unit: str) -> int:
        """The most that the main process of a unit has ever had, in KiB."""
        status = self.machine.read(f"/proc/{self.pids(unit)[unit]}/status")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


SPEAK = """\
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(20)
sock.connect(sys.argv[1])
lines = sock.makefile("rwb")
for line in sys.argv[2:]:
    lines.write(line.encode() + b"\\n")
    lines.flush()
    answer = lines.readline()
    if not answer:
        break
    sys.stdout.write(answer.decode())
"""


def reason(frame: Any) -> str:
    """Why something was refused; "" where it was not."""
    return str(frame.get("error", {}).get("data", {}).get("reason", ""))


def attach(container: str, **more: Any) -> str:
    """A first line for a container."""
    return request("_agentd/attach", {"container": container, **more})


def request(method: str, params: dict[str, Any], number: int = 7) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


INITIALIZE = request("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
