# SPDX-License-Identifier: Apache-2.0
"""Several containers at work: agents and agentd are real processes, networks are real namespaces.

Only the engine (tests/support/engine) is none: what it runs in a container runs on the host.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from support.acp_client import Client
from support.box import ENGINE
from support.embedded import Embedded, scripted

TALK = """
import select, socket, subprocess, sys
near = "ip link add near type veth peer name far && ip addr add 10.88.0.1/24 brd + dev near"
subprocess.run(f"{near} && ip link set near up && ip link set far up", shell=True, check=True)
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    sock.sendto(bytes(int(sys.argv[1])), ("10.88.0.255", 7))
"""
"""A first process that talks in its own network, so many bytes ten times a second, until its input ends."""


class Busy:
    """An agentd with containers of an engine, and one of this host that is called scratch."""

    def __init__(self, folder: Path, containers: Mapping[str, int], agents: Mapping[str, str]) -> None:
        """`containers`: what each sends all the time. `agents`: switches of scripted agents, by name."""
        self.folder = folder
        self._stack = ExitStack()
        (folder / "bin").mkdir(parents=True)
        os.mkfifo(folder / "events")
        known = [self._container(number, *each) for number, each in enumerate(containers.items(), start=1)]
        (folder / "containers").write_text(json.dumps(known))
        environment = {"PATH": f"{ENGINE}:{os.environ['PATH']}", "ENGINE": str(folder)}
        text = self._configuration(containers, agents)
        self.agentd = Embedded(folder, text, bus="private", **environment)

    def __enter__(self) -> Self:
        self._stack.callback(self.agentd.clean_up)
        self.agentd.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def client(self, container: str, agent: str) -> Client:
        """A client with a session, until the end."""
        return self._stack.enter_context(self.agentd.client()).open(container, agent)

    def _container(self, number: int, name: str, traffic: int) -> dict[str, object]:
        """As the engine describes it."""
        argv = ["unshare", "--net", sys.executable, "-c", TALK, str(traffic)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return {
            "Id": f"{number:08x}",
            "Name": name,
            "State": {"Running": True, "Pid": process.pid},
            "Config": {"Labels": {}, "Image": "img", "WorkingDir": "/work"},
            "Image": "sha256:1",
            "Mounts": [],
        }

    def _configuration(self, containers: Mapping[str, int], agents: Mapping[str, str]) -> str:
        names = json.dumps(list(agents))
        here = f"runtime = 'podman'\nagents = {names}\nunmapped_cwd = 'workdir'"
        tables = [f"[containers.{name}]\n{here}" for name in containers]
        tables += [
            f"[agents.{name}]\ncommand = {json.dumps(scripted(*switches.split()))}"
            for name, switches in agents.items()
        ]
        tables.append(f"[containers.scratch]\nruntime = 'host'\ndirectory = '{self.folder}'")
        return "\n".join(
            ["runtimes = ['podman']", "[limits]\nagent_stop_sec = 1.0\ndrain_sec = 1.0", *tables]
        )
