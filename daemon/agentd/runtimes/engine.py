# SPDX-License-Identifier: Apache-2.0
"""What podman's and docker's command lines have in common, which is nearly everything."""

import asyncio
import logging
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import msgspec

from agentd import proctree
from agentd.config import Configuration
from agentd.errors import AgentdError, EngineFailed, EngineMissing, NoSuchContainer
from agentd.link import ContainerInfo
from agentd.process import Child, Output, Pipes, close_all, engine_environment, run, spawn_piped
from agentd.runtimes import ENABLE_LABEL, Command

ASK_AGAIN_SEC = 5.0
NOT_STARTED = 127
EVENT_BYTES = 1 << 20

log = logging.getLogger(__name__)
STEERING = frozenset(
    (
        *("PATH", "HOME", "TMPDIR", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "GODEBUG"),
        *("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"),
        *("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
        *("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
        *("CONTAINER_HOST", "CONTAINER_CONNECTION", "CONTAINERS_CONF", "CONTAINERS_CONF_OVERRIDE"),
        *("CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"),
    )
)
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


class Engine(ABC):
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
        found = self._described(output.stdout)
        if not found:
            raise EngineFailed(f"{self.name} inspect {name} printed nothing of it")
        return found[0]

    async def containers(self) -> list[ContainerInfo]:
        """The containers that carry the label, and those that the configuration opted in."""
        labelled = await self._names("--filter", f"label={ENABLE_LABEL}")
        opted_in = {
            name
            for name, entry in self._configuration.containers.items()
            if self._may_be_mine(entry.runtime)
        }
        there = opted_in.intersection(await self._names()) if opted_in else set()
        entries = self._configuration.containers
        mine = [name for name in labelled if name not in entries or self._may_be_mine(entries[name].runtime)]
        names = sorted(there.union(mine))
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
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
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
            hidden = {key: value for key, value in command.env.items() if key not in STEERING}
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
            if await self._still(container, pidfd):  # else the number may be somebody else's by now
                await _readable(pidfd)
        finally:
            os.close(pidfd)

    async def _still(self, container: ContainerInfo, pidfd: int | None = None) -> bool:
        """Whether it is the one that was described; an engine that fails is asked again."""
        while True:
            try:
                now = await self.inspect(container.name)
            except NoSuchContainer:
                return False
            except AgentdError as exc:
                log.warning("asking again: %s", exc.message)
            else:
                return now.running and (now.id, now.pid) == (container.id, container.pid)
            if pidfd is not None and await _readable(pidfd, timeout=ASK_AGAIN_SEC):
                return False
            if pidfd is None:
                await asyncio.sleep(ASK_AGAIN_SEC)

    async def _wait_by_engine(self, container: ContainerInfo) -> None:
        while True:
            if await self._wait_once(container) == 0 or not await self._still(container):
                return
            await asyncio.sleep(ASK_AGAIN_SEC)

    async def _wait_once(self, container: ContainerInfo) -> int:
        try:
            child, pipes = spawn_piped([self.name, "wait", container.id], env=engine_environment())
        except OSError as exc:
            log.warning("%s cannot be started: %s", self.name, exc.strerror)
            return NOT_STARTED
        close_all(pipes)
        try:
            return await child.wait()
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
        except OSError as exc:
            raise EngineFailed(f"{self.name} cannot be started: {exc.strerror}") from None
        assert stream.stdout is not None
        try:
            while line := await stream.stdout.readline():
                if name := self._event_name(line):
                    yield name
        except ValueError:
            raise EngineFailed(f"{self.name} told of an event in more than {EVENT_BYTES} bytes") from None
        finally:
            if stream.returncode is None:
                stream.kill()
            await stream.wait()

    def _event_name(self, line: bytes) -> str:
        try:
            return self.event_name(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.warning("%s told of an event in words that are not understood", self.name)
            return ""

    @abstractmethod
    def event_name(self, line: bytes) -> str:
        """The name of the container that a line of `events` is about, "" for none. Raises DecodeError."""


def _variable(key: str, value: str) -> str:
    """How `exec --env` gets a variable: by name alone, so that its value is in no argument vector."""
    return f"{key}={value}" if key in STEERING else key


async def _readable(descriptor: int, *, timeout: float | None = None) -> bool:
    """Wait until it is; False where time is over before."""
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), timeout)
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
