# SPDX-License-Identifier: Apache-2.0
"""No container at all: agents as processes of this host, started in a directory. The embedded default.

The unit of a worker shuts it off from the host's files and network, which agents are to have: as into any
container, they get there by the namespaces of the first process.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator

from msgspec import structs

from agentd import proctree
from agentd.config import Configuration
from agentd.errors import AgentMissing, NoSuchContainer, NotRunning
from agentd.link import ContainerInfo
from agentd.process import Child, Pipes, Size, agent_environment, spawn_on_terminal, spawn_piped
from agentd.runtimes import Command, network
from agentd.runtimes.sandbox import FIRST, SANDBOXED


class Host:
    """The containers whose configuration says `runtime = "host"`; each runs while its directory is there."""

    name = "host"

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._deadline = configuration.limits.engine_sec

    async def inspect(self, name: str) -> ContainerInfo:
        entry = self._configuration.containers.get(name)
        if entry is None or entry.runtime != "host":
            raise NoSuchContainer(f'no container {name} has runtime = "host" in the configuration')
        return ContainerInfo(name=name, runtime="host", running=_is_there(entry.directory or ""), id=name)

    async def containers(self) -> list[ContainerInfo]:
        """All of them as running: nobody tells when a directory comes, so a worker looks for itself."""
        entries = self._configuration.containers.items()
        names = [name for name, entry in entries if entry.runtime == "host"]
        return [ContainerInfo(name=name, runtime="host", running=True, id=name) for name in names]

    def exec(self, container: ContainerInfo, command: Command) -> tuple[Child, Pipes]:
        directory = self._directory(container, command)
        try:
            return spawn_piped(_argv(command, directory), env=_environment(command), cwd=_cwd(directory))
        except OSError as exc:
            raise _missing(command, exc) from None

    def terminal(self, container: ContainerInfo, command: Command, size: Size) -> tuple[Child, int]:
        directory = self._directory(container, command)
        try:
            argv, env = _argv(command, directory), _environment(command)
            return spawn_on_terminal(argv, env=env, size=size, cwd=_cwd(directory))
        except OSError as exc:
            raise _missing(command, exc) from None

    def _directory(self, container: ContainerInfo, command: Command) -> str:
        directory = command.workdir or self._configuration.containers[container.name].directory or ""
        if not _is_there(directory):
            raise NotRunning(f"the directory {directory} of {container.name} is not there")
        return directory

    async def connect(self, container: ContainerInfo, port: int) -> socket.socket:
        if not SANDBOXED:
            return await network.connect(container, port, deadline=self._deadline)
        first = structs.replace(container, pid=FIRST)
        return await network.connect_inside(first, port, deadline=self._deadline)

    async def wait(self, container: ContainerInfo) -> None:
        await asyncio.get_running_loop().create_future()

    async def reap(self, container: ContainerInfo, owner: str, *, term: float, kill: float) -> int:
        return len(await proctree.end(owner, term=term, kill=kill))

    async def events(self, since: float) -> AsyncIterator[str]:
        await asyncio.get_running_loop().create_future()
        yield ""


# Out of the sandbox


def _is_there(directory: str) -> bool:
    return os.path.isdir(f"/proc/{FIRST}/root{directory}" if SANDBOXED else directory)


def _cwd(directory: str) -> str | None:
    return None if SANDBOXED else directory


def _argv(command: Command, directory: str) -> list[str]:
    if not SANDBOXED:
        return list(command.argv)
    return ["nsenter", f"--target={FIRST}", "--mount", "--net", f"--wdns={directory}", "--", *command.argv]


def _environment(command: Command) -> dict[str, str]:
    return {**agent_environment(), **command.env}


def _missing(command: Command, problem: OSError) -> AgentMissing:
    return AgentMissing(f"{command.argv[0]} cannot be started on this host: {problem.strerror}")
