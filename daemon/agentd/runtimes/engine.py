# SPDX-License-Identifier: Apache-2.0
"""What podman's and docker's command lines have in common, which is nearly everything."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import msgspec

from agentd import proctree
from agentd.config import Configuration
from agentd.errors import EngineFailed, EngineMissing, NoSuchContainer
from agentd.link import ContainerInfo
from agentd.process import Child, Output, Pipes, close_all, engine_environment, run, spawn_piped
from agentd.runtimes import ENABLE_LABEL, Command

EVENT_BYTES = 1 << 20
STEERING = ("PATH", "HOME", "TMPDIR", "LD_", "XDG_")
"""Variables that would change the engine's own program if it had them too; none is a secret."""


class _State(msgspec.Struct):
    running: bool = msgspec.field(name="Running", default=False)
    pid: int = msgspec.field(name="Pid", default=0)


class _Config(msgspec.Struct):
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)
    image: str = msgspec.field(name="Image", default="")


class Inspected(msgspec.Struct):
    """The part of `inspect` that both engines spell alike."""

    id: str = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")
    state: _State = msgspec.field(name="State")
    config: _Config = msgspec.field(name="Config")


class Engine:
    """A container engine behind its command line. `events` are the kinds it is asked to tell of."""

    name: ClassVar[str]
    no_such: ClassVar[str] = "no such"
    event_kinds: ClassVar[Sequence[str]]

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._deadline = configuration.limits.engine_sec

    # Asking

    async def inspect(self, name: str) -> ContainerInfo:
        output = await self._run("container", "inspect", "--", name)
        if output.status:
            message = output.stderr.decode(errors="replace").strip()
            if self.no_such in message.lower():
                raise NoSuchContainer(f"{self.name} has no container {name}; see: {self.name} ps --all")
            raise EngineFailed(f"{self.name} inspect {name}: {message}")
        return self._described(output.stdout)[0]

    async def containers(self) -> list[ContainerInfo]:
        """The containers that carry the label, and those that the configuration opted in."""
        labelled = await self._names("--filter", f"label={ENABLE_LABEL}")
        opted_in = {
            name
            for name, entry in self._configuration.containers.items()
            if self._may_be_mine(entry.runtime)
        }
        there = opted_in.intersection(await self._names()) if opted_in else set()
        names = sorted(there.union(labelled))
        if not names:
            return []
        output = await self._run("container", "inspect", "--", *names)
        return self._described(
            output.stdout
        )  # one that ended meanwhile is missing here, and its event comes

    async def _names(self, *filters: str) -> list[str]:
        output = await self._run("ps", "--all", "--format", "{{.Names}}", *filters)
        if output.status:
            raise EngineFailed(f"{self.name} ps: {output.stderr.decode(errors='replace').strip()}")
        return output.stdout.decode(errors="replace").split()

    def _may_be_mine(self, runtime: str | None) -> bool:
        return runtime in (None, self.name)

    def _described(self, stdout: bytes) -> list[ContainerInfo]:
        try:
            inspected = msgspec.json.decode(stdout, type=list[Inspected])
        except msgspec.DecodeError as exc:
            raise EngineFailed(f"{self.name} inspect printed something unexpected: {exc}") from None
        return [self._info(each) for each in inspected]

    def _info(self, each: Inspected) -> ContainerInfo:
        return ContainerInfo(
            name=each.name.lstrip("/"),
            runtime=self.name,
            running=each.state.running,
            id=each.id,
            pid=each.state.pid,
            image=each.config.image,
            labels=each.config.labels or {},
        )

    async def _run(self, *arguments: str) -> Output:
        return await run([self.name, *arguments], deadline=self._deadline)

    # Running

    def exec(self, container: ContainerInfo, command: Command) -> tuple[Child, Pipes]:
        options = [item for key, value in command.env.items() for item in ("--env", _variable(key, value))]
        options += ["--user", command.user] if command.user else []
        options += ["--workdir", command.workdir] if command.workdir else []
        argv = [self.name, "exec", "--interactive", *options, container.id, *command.argv]
        try:
            hidden = {key: value for key, value in command.env.items() if not key.startswith(STEERING)}
            return spawn_piped(argv, env={**engine_environment(), **hidden})
        except FileNotFoundError:
            raise EngineMissing(f"{self.name} is not installed, or not on the PATH of agentd") from None
        except OSError as exc:
            raise EngineFailed(f"{self.name} cannot be started: {exc.strerror}") from None

    async def reap(self, container: ContainerInfo, owner: str, *, term: float, kill: float) -> int:
        inside = proctree.pid_namespace_of(container.pid) if container.pid else None
        return len(await proctree.end(owner, term=term, kill=kill, pid_namespace=inside))

    # Watching

    async def wait(self, container: ContainerInfo) -> None:
        """Through a pidfd on its first process; through the engine where that process is out of sight."""
        try:
            pidfd = os.pidfd_open(container.pid)
        except (OSError, ValueError):
            await self._wait_by_engine(container)
            return
        try:
            if await self._still(container):  # else the number may be somebody else's by now
                await _readable(pidfd)
        finally:
            os.close(pidfd)

    async def _still(self, container: ContainerInfo) -> bool:
        """Whether the container has not been restarted or removed since it was described."""
        try:
            now = await self.inspect(container.name)
        except NoSuchContainer:
            return False
        return now.running and (now.id, now.pid) == (container.id, container.pid)

    async def _wait_by_engine(self, container: ContainerInfo) -> None:
        child, pipes = spawn_piped([self.name, "wait", container.id], env=engine_environment())
        close_all(pipes)
        try:
            await child.wait()
        finally:
            await child.stop(term=0.5, kill=2)

    async def events(self, since: float) -> AsyncIterator[str]:
        kinds = [item for kind in self.event_kinds for item in ("--filter", f"event={kind}")]
        try:
            stream = await asyncio.create_subprocess_exec(
                *(self.name, "events", "--since", str(int(since)), "--format", "{{json .}}"),
                *("--filter", "type=container", *kinds),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=engine_environment(),
                limit=EVENT_BYTES,
            )
        except FileNotFoundError:
            raise EngineMissing(f"{self.name} is not installed, or not on the PATH of agentd") from None
        assert stream.stdout is not None
        try:
            while line := await stream.stdout.readline():
                if name := self.event_name(line):
                    yield name
        finally:
            if stream.returncode is None:
                stream.kill()
            await stream.wait()

    def event_name(self, line: bytes) -> str:
        """The name of the container that a line of `events` is about, "" for none."""
        raise NotImplementedError


def _variable(key: str, value: str) -> str:
    """How `exec --env` gets a variable: by name alone, so that its value is in no argument vector."""
    return f"{key}={value}" if key.startswith(STEERING) else key


async def _readable(pidfd: int) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
