# SPDX-License-Identifier: Apache-2.0
"""Where containers run: one small protocol, a module an implementation. Nobody else calls an engine."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from agentd.config import Configuration
from agentd.errors import AgentdError, AmbiguousContainer, EngineMissing, NoSuchContainer
from agentd.link import ContainerInfo
from agentd.process import Child, Pipes, Size

ENABLE_LABEL = "agentd.enable=true"


class Command(NamedTuple):
    """A program to run in a container. Values of `env` never appear in an argument vector."""

    argv: Sequence[str]
    env: Mapping[str, str]
    user: str | None = None
    workdir: str | None = None


class Runtime(Protocol):
    """One kind of containers. Every call has a deadline and fails with an error of its own, never worse."""

    @property
    def name(self) -> str: ...

    async def inspect(self, name: str) -> ContainerInfo:
        """Raises NoSuchContainer, EngineMissing or EngineFailed."""

    def exec(self, container: ContainerInfo, command: Command) -> tuple[Child, Pipes]:
        """Start a program in the container with pipes on its streams. Raises AgentMissing, EngineMissing."""

    def terminal(self, container: ContainerInfo, command: Command, size: Size) -> tuple[Child, int]:
        """Start a program in the container on a terminal, whose other end is returned. Errors as of exec."""

    async def connect(self, container: ContainerInfo, port: int) -> socket.socket:
        """A connected, non-blocking TCP socket to 127.0.0.1:port as the container sees it.

        Raises NotRunning, AgentFailed where nothing listens or nobody may look, and AgentTimeout.
        """

    async def wait(self, container: ContainerInfo) -> None:
        """Return when the container has ended. Does not poll."""

    async def reap(self, container: ContainerInfo, owner: str, *, term: float, kill: float) -> int:
        """End every process in the container that is marked with `owner`; returns how many would not end."""

    async def containers(self) -> list[ContainerInfo]:
        """The containers that opted in."""

    def events(self, since: float) -> AsyncIterator[str]:
        """Names of containers that change after `since` (Unix time), until the engine ends the stream."""


def runtime(name: str, configuration: Configuration) -> Runtime:
    """The runtime of that name, loaded only now."""
    if name == "host":
        from agentd.runtimes.host import Host

        return Host(configuration)
    if name == "docker":
        from agentd.runtimes.docker import Docker

        return Docker(configuration)
    if name == "machined":
        from agentd.runtimes.machined import Machined

        return Machined(configuration)
    from agentd.runtimes.podman import Podman

    return Podman(configuration)


async def locate(name: str, configuration: Configuration) -> tuple[Runtime, ContainerInfo]:
    """Find a container by name: where the configuration puts it, else in every runtime that is there.

    Raises NoSuchContainer, AmbiguousContainer where two know the name, or the error of the one engine asked.
    """
    if (entry := configuration.containers.get(name)) and entry.runtime:
        only = runtime(entry.runtime, configuration)
        return only, await only.inspect(name)
    candidates = [runtime(each, configuration) for each in configuration.runtimes]
    answers = await asyncio.gather(*(_ask(each, name) for each in candidates))
    found = [
        (each, info)
        for each, info in zip(candidates, answers, strict=True)
        if isinstance(info, ContainerInfo)
    ]
    if len(found) > 1:
        known = " and ".join(each.name for each, _ in found)
        raise AmbiguousContainer(f"{known} both have a container {name}; set runtime in [containers.{name}]")
    if not found:
        raise _worst([each for each in answers if isinstance(each, AgentdError)], name)
    return found[0]


async def _ask(candidate: Runtime, name: str) -> ContainerInfo | AgentdError:
    try:
        return await candidate.inspect(name)
    except AgentdError as exc:
        return exc


def _worst(problems: Sequence[AgentdError], name: str) -> AgentdError:
    """What to tell of several failures: an engine that broke, then a plain no, then one not installed."""
    for problem in problems:
        if not isinstance(problem, NoSuchContainer | EngineMissing):
            return problem
    for problem in problems:
        if isinstance(problem, NoSuchContainer):
            return NoSuchContainer(f"no container is called {name}; see the names with: agentctl list")
    return problems[0] if problems else NoSuchContainer(f"no runtime is configured to look for {name} in")
