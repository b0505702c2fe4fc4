# SPDX-License-Identifier: Apache-2.0
"""No container at all: agents as processes of this host, started in a directory. The embedded default."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator

from agentd import proctree
from agentd.config import Configuration
from agentd.errors import AgentMissing, NoSuchContainer, NotRunning
from agentd.link import ContainerInfo
from agentd.process import Child, Pipes, Size, agent_environment, spawn_on_terminal, spawn_piped
from agentd.runtimes import Command, network


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
        return ContainerInfo(
            name=name, runtime="host", running=os.path.isdir(entry.directory or ""), id=name
        )

    async def containers(self) -> list[ContainerInfo]:
        """All of them as running: nobody tells when a directory comes, so a worker looks for itself."""
        entries = self._configuration.containers.items()
        names = [name for name, entry in entries if entry.runtime == "host"]
        return [ContainerInfo(name=name, runtime="host", running=True, id=name) for name in names]

    def exec(self, container: ContainerInfo, command: Command) -> tuple[Child, Pipes]:
        directory = self._directory(container, command)
        try:
            return spawn_piped(command.argv, env=_environment(command), cwd=directory)
        except OSError as exc:
            raise _missing(command, exc) from None

    def terminal(self, container: ContainerInfo, command: Command, size: Size) -> tuple[Child, int]:
        directory = self._directory(container, command)
        try:
            return spawn_on_terminal(command.argv, env=_environment(command), size=size, cwd=directory)
        except OSError as exc:
            raise _missing(command, exc) from None

    def _directory(self, container: ContainerInfo, command: Command) -> str:
        directory = command.workdir or self._configuration.containers[container.name].directory or ""
        if not os.path.isdir(directory):
            raise NotRunning(f"the directory {directory} of {container.name} is not there")
        return directory

    async def connect(self, container: ContainerInfo, port: int) -> socket.socket:
        return await network.connect(container, port, deadline=self._deadline)

    async def wait(self, container: ContainerInfo) -> None:
        await asyncio.get_running_loop().create_future()

    async def reap(self, container: ContainerInfo, owner: str, *, term: float, kill: float) -> int:
        return len(await proctree.end(owner, term=term, kill=kill))

    async def events(self, since: float) -> AsyncIterator[str]:
        await asyncio.get_running_loop().create_future()
        yield ""


def _environment(command: Command) -> dict[str, str]:
    return {**agent_environment(), **command.env}


def _missing(command: Command, problem: OSError) -> AgentMissing:
    return AgentMissing(f"{command.argv[0]} cannot be started on this host: {problem.strerror}")
