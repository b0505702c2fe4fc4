# SPDX-License-Identifier: Apache-2.0
"""What podman's and docker's command lines have in common, which is nearly everything."""

import asyncio
import logging
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar

import msgspec

from agentd import proctree
from agentd.config import Configuration
from agentd.errors import EngineFailed, EngineMissing, NoSuchContainer
from agentd.link import ContainerInfo, Mount
from agentd.process import (
    Child,
    Output,
    Pipes,
    Size,
    close_all,
    engine_environment,
    run,
    spawn_piped,
)
from agentd.runtimes import ENABLE_LABEL, Command, lifetime, network
from agentd.runtimes.start import Start, on_terminal, piped

NOT_STARTED = 127
EVENT_BYTES = 1 << 20
LABEL_PREFIXES, LABEL_LENGTH, LABELS = ("agentd.", "ai.terok."), 1024, 32
MOUNTS, MOUNT_BYTES = 256, 64 * 1024
"""What is told of a container's mounts: all of it has to fit into a message of the link."""
PATH_BYTES = 4096
"""No directory has a longer name; images may claim what they like."""

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
    workdir: str = msgspec.field(name="WorkingDir", default="")


class _Mount(msgspec.Struct):
    type: str = msgspec.field(name="Type", default="")
    source: str = msgspec.field(name="Source", default="")
    target: str = msgspec.field(name="Destination", default="")


class Inspected(msgspec.Struct):
    """The part of `inspect` that both engines spell alike."""

    id: str = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")
    state: _State = msgspec.field(name="State")
    config: _Config = msgspec.field(name="Config")
    image_id: str = msgspec.field(name="Image", default="")
    mounts: list[_Mount] | None = msgspec.field(name="Mounts", default=None)


class Engine(ABC):
    """A container engine behind its command line. `events` are the kinds it is asked to tell of."""

    name: ClassVar[str]
    no_such: ClassVar[str] = "no such"
    event_kinds: ClassVar[Sequence[str]]
    detach_keys: ClassVar[str] = ""
    """Keys that leave a program on a terminal behind: none, where the engine can be told so."""

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
            image_id=each.image_id,
            workdir=each.config.workdir if len(each.config.workdir.encode()) < PATH_BYTES else "",
            labels=_labels_for_us(each.config.labels or {}),
            mounts=_bind_mounts(each.name, each.mounts or []),
        )

    async def _run(self, *arguments: str) -> Output:
        return await run([self.name, *arguments], deadline=self._deadline)

    # Running

    def exec(self, container: ContainerInfo, command: Command) -> tuple[Child, Pipes]:
        start = Start(self._exec(container, command), _environment(command))
        try:
            return piped(self.outside(start, container.name))
        except OSError as exc:
            raise self._not_started(exc) from None

    def terminal(self, container: ContainerInfo, command: Command, size: Size) -> tuple[Child, int]:
        """The engine's own program is on the terminal, and passes keys and sizes on to the one inside."""
        argv = self._exec(container, command, "--tty", f"--detach-keys={self.detach_keys}")
        start = Start(argv, _environment(command))
        try:
            return on_terminal(self.outside(start, container.name, terminal=True), size)
        except OSError as exc:
            raise self._not_started(exc) from None

    def outside(self, start: Start, container: str, *, terminal: bool = False) -> Start:
        """What has to leave our sandbox to start a program in a container: not the client of a daemon."""
        return start

    def _exec(self, container: ContainerInfo, command: Command, *more: str) -> list[str]:
        options = [item for key, value in command.env.items() for item in ("--env", _variable(key, value))]
        options += ["--user", command.user] if command.user else []
        options += ["--workdir", command.workdir] if command.workdir else []
        return [self.name, "exec", "--interactive", *more, *options, container.id, *command.argv]

    def _not_started(self, problem: OSError) -> EngineMissing | EngineFailed:
        if isinstance(problem, FileNotFoundError):
            return EngineMissing(f"{self.name} is not installed, or not on the PATH of agentd")
        return EngineFailed(f"{self.name} cannot be started: {problem.strerror}")

    async def reap(self, container: ContainerInfo, owner: str, *, term: float, kill: float) -> int:
        inside = proctree.pid_namespace_of(container.pid) if container.pid else None
        return len(await proctree.end(owner, term=term, kill=kill, pid_namespace=inside))

    async def connect(self, container: ContainerInfo, port: int) -> socket.socket:
        return await network.connect_inside(container, port, deadline=self._deadline)

    # Watching

    async def wait(self, container: ContainerInfo) -> None:
        """Through its first process; through the engine where that process is out of sight."""
        if not await lifetime.outlived(container, self.inspect):
            await self._wait_by_engine(container)

    async def _wait_by_engine(self, container: ContainerInfo) -> None:
        while True:
            if await self._wait_once(container) == 0 or not await lifetime.is_still(container, self.inspect):
                return
            await asyncio.sleep(lifetime.ASK_AGAIN_SEC)

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


def _environment(command: Command) -> dict[str, str]:
    """Ours, and what the command's is taken from by name."""
    return {**engine_environment(), **{k: v for k, v in command.env.items() if k not in STEERING}}


def _labels_for_us(labels: Mapping[str, str]) -> dict[str, str]:
    """Those that mean something to agentd, none of them long: the rest may be of any size."""
    mine = [(key, value) for key, value in labels.items() if key.startswith(LABEL_PREFIXES)]
    return dict([(key, value) for key, value in mine if len(key) + len(value) <= LABEL_LENGTH][:LABELS])


def _bind_mounts(name: str, mounts: Sequence[_Mount]) -> list[Mount]:
    """What the container has from the host, within bounds; volumes are the engine's own."""
    bound = [Mount(each.source, each.target) for each in mounts if each.type == "bind"]
    kept, room = [], MOUNT_BYTES
    for mount in bound[:MOUNTS]:
        room -= len(mount.source.encode()) + len(mount.target.encode())
        if room < 0:
            break
        kept.append(mount)
    if len(kept) < len(bound):
        log.warning("only %d of the %d bind mounts of %s are used", len(kept), len(bound), name)
    return kept


def _variable(key: str, value: str) -> str:
    """How `exec --env` gets a variable: by name alone, so that its value is in no argument vector."""
    return f"{key}={value}" if key in STEERING else key
