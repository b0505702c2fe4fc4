# SPDX-License-Identifier: Apache-2.0
"""systemd-nspawn machines, and whatever else registers with systemd-machined.

A machine has no labels: it opts in by the configuration. machined forgets one that has ended, so what the
configuration says is machined's is stopped while machined does not know it.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import TypeVar

from agentd import proctree
from agentd.config import Configuration
from agentd.errors import EngineFailed, EngineMissing, NoSuchContainer
from agentd.link import ContainerInfo
from agentd.process import Child, Pipes, Size, run
from agentd.runtimes import Command, lifetime, network
from agentd.runtimes.entering import by_namespaces, by_systemd, runs_systemd
from agentd.runtimes.start import Start, on_terminal, piped

PROPERTIES = ("Class", "State", "Leader", "RootDirectory")
UNKNOWN = "no machine "
RUNNING = ("opening", "running")
"""What is opening has its first process already, and nobody would tell when it has a scope as well."""

Started = TypeVar("Started")


class Machined:
    """Machines of the class container, by machinectl; its D-Bus is for the watcher's events alone."""

    name = "machined"

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._deadline = configuration.limits.engine_sec

    # Asking

    async def inspect(self, name: str) -> ContainerInfo:
        wanted = (f"--property={each}" for each in PROPERTIES)
        output = await run(["machinectl", "show", *wanted, "--", name], deadline=self._deadline)
        if output.status == 0:
            return self._described(name, output.stdout)
        message = output.stderr.decode(errors="replace").strip()
        if UNKNOWN not in message.lower():
            raise EngineFailed(f"machinectl show {name}: {message}")
        if name in self._configured(self.name):
            return ContainerInfo(name=name, runtime=self.name, running=False, id=name)
        raise NoSuchContainer(f"machined knows no machine {name}; see: machinectl list")

    def _described(self, name: str, stdout: bytes) -> ContainerInfo:
        lines = stdout.decode(errors="replace").splitlines()
        found = {key: value for key, _, value in (line.partition("=") for line in lines)}
        if (kind := found.get("Class")) != "container":
            raise NoSuchContainer(
                f"the machine {name} is of the class {kind}, and only containers are served"
            )
        leader = found.get("Leader", "")
        if not leader.isdecimal():
            raise EngineFailed(f"machinectl show {name} did not tell its first process")
        return ContainerInfo(
            name=name,
            runtime=self.name,
            running=found.get("State") in RUNNING,
            id=name,  # machines that are copies of each other have one Id
            pid=int(leader),
            image=found.get("RootDirectory", ""),
        )

    async def containers(self) -> list[ContainerInfo]:
        """Those of the configuration that it says are machined's, and those machined knows of the others."""
        found = []
        for name in self._configured(self.name, None):
            try:
                found.append(await self.inspect(name))
            except NoSuchContainer:
                continue
        return found

    def _configured(self, *runtimes: str | None) -> list[str]:
        entries = self._configuration.containers.items()
        return [name for name, entry in entries if entry.runtime in runtimes]

    # Running

    def exec(self, container: ContainerInfo, command: Command) -> tuple[Child, Pipes]:
        way = by_systemd if runs_systemd(container) else by_namespaces
        start = way(container, command)
        return _started(start, lambda: piped(start))

    def terminal(self, container: ContainerInfo, command: Command, size: Size) -> tuple[Child, int]:
        """Never by systemd: nothing can be read off a terminal before the program that is to have it."""
        start = by_namespaces(container, command)
        return _started(start, lambda: on_terminal(start, size))

    async def connect(self, container: ContainerInfo, port: int) -> socket.socket:
        return await network.connect_inside(container, port, deadline=self._deadline)

    async def reap(self, container: ContainerInfo, owner: str, *, term: float, kill: float) -> int:
        inside = proctree.pid_namespace_of(container.pid) if container.pid else None
        return len(await proctree.end(owner, term=term, kill=kill, pid_namespace=inside))

    # Watching

    async def wait(self, container: ContainerInfo) -> None:
        while not await lifetime.outlived(container, self.inspect):
            if not await lifetime.is_still(container, self.inspect):
                return
            await asyncio.sleep(lifetime.ASK_AGAIN_SEC)

    async def events(self, since: float) -> AsyncIterator[str]:
        """First all that could have changed since `since`, which nobody else remembers."""
        from agentd.systemd import machines  # a worker has no D-Bus

        if not (names := self._configured(self.name, None)):
            await asyncio.get_running_loop().create_future()
        async with aclosing(machines.changes(names)) as news:
            async for name in news:
                yield name


def _started(start: Start, spawn: Callable[[], Started]) -> Started:
    program = start.argv[0]
    try:
        return spawn()
    except FileNotFoundError:
        raise EngineMissing(f"{program} is not installed, or not on the PATH of agentd") from None
    except OSError as exc:
        raise EngineFailed(f"{program} cannot be started: {exc.strerror}") from None
