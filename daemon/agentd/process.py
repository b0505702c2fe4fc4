# SPDX-License-Identifier: Apache-2.0
"""The one place that starts processes: short commands with a deadline, and children watched by pidfd."""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
import termios
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from agentd.errors import EngineFailed, EngineMissing
from agentd.pipes import reading_end

PRIVATE_PREFIXES = ("NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_", "MAINPID", "CREDENTIALS_DIRECTORY", "AGENTD_")
"""Variables between systemd, agentd and its own processes; nobody else's business."""

AGENT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TERM", "TMPDIR")
"""What an agent on the host inherits: no SSH_AUTH_SOCK, no bus address, no secret of ours by accident."""


def engine_environment() -> dict[str, str]:
    """Our environment for an engine's command line, which may need $DOCKER_HOST or $XDG_RUNTIME_DIR."""
    return {key: value for key, value in os.environ.items() if not key.startswith(PRIVATE_PREFIXES)}


def agent_environment() -> dict[str, str]:
    """The little of our environment that an agent on the host gets."""
    return {k: v for k, v in os.environ.items() if k in AGENT_VARIABLES or k.startswith("LC_")}


KILLED_SEC = 1.0
"""What a killed command has to let go of its pipes."""


class Output(NamedTuple):
    status: int
    stdout: bytes
    stderr: bytes


async def run(argv: Sequence[str], *, deadline: float) -> Output:
    """Run a command to its end. Raises EngineMissing, or EngineFailed past the deadline (seconds)."""
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=engine_environment(),
            start_new_session=True,
        )
    except FileNotFoundError:
        raise EngineMissing(f"{argv[0]} is not installed, or not on the PATH of agentd") from None
    except OSError as exc:
        raise EngineFailed(f"{argv[0]} cannot be started: {exc.strerror}") from None
    talk = asyncio.ensure_future(child.communicate())
    late = True
    try:
        await asyncio.wait((talk,), timeout=deadline)
        late = not talk.done()
    finally:
        if late:
            await _give_up(child, talk)
    if late:
        raise EngineFailed(f"{' '.join(argv[:2])} gave no answer within {deadline:g} s")
    stdout, stderr = talk.result()
    return Output(child.returncode or 0, stdout, stderr)


async def _give_up(child: asyncio.subprocess.Process, talk: "asyncio.Future[Any]") -> None:
    """Kill a command and all of its session; what has left that may keep its pipes, nobody waits for it."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended just now
    await asyncio.wait((talk,), timeout=KILLED_SEC)
    talk.cancel()
    await asyncio.gather(talk, return_exceptions=True)
    if (transport := getattr(child, "_transport", None)) is not None:
        transport.close()  # asyncio has no public way to let go of pipes that somebody else still holds


class Child:
    """A running child, on a pidfd: no signal for it can reach a stranger with its number."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self.pid = popen.pid
        self._pidfd = os.pidfd_open(popen.pid)
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        loop.add_reader(self._pidfd, self._reap)

    @property
    def status(self) -> int | None:
        """Exit status, or minus the signal that ended it; None while it runs."""
        return self._popen.returncode

    async def wait(self) -> int:
        """Wait for the end, for as long as it takes, and return the status."""
        return await asyncio.shield(self._ended)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens to one that has ended."""
        if not self._ended.done():
            signal.pidfd_send_signal(self._pidfd, number)

    async def stop(self, *, term: float, kill: float) -> None:
        """SIGTERM, SIGKILL after `term` seconds, and at most `kill` more of waiting."""
        for number, patience in ((signal.SIGTERM, term), (signal.SIGKILL, kill)):
            self.signal(number)
            try:
                await asyncio.wait_for(self.wait(), patience)
                return
            except TimeoutError:
                continue

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(self._popen.wait())


class Pipes(NamedTuple):
    """Our ends of a child's three streams; whoever gets them closes them."""

    stdin: int
    stdout: int
    stderr: int


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Child:
    """Start a child in a session of its own. Raises OSError where the program cannot be executed."""
    return Child(
        subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    )


def spawn_piped(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: str | None = None
) -> tuple[Child, Pipes]:
    """Start a child with a pipe on each of its streams."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        read_in, write_in = _pipe(theirs, ours)
        read_out, write_out = _pipe(ours, theirs)
        read_err, write_err = _pipe(ours, theirs)
        child = spawn(argv, env=env, cwd=cwd, stdin=read_in, stdout=write_out, stderr=write_err)
        ours.pop_all()
    return child, Pipes(write_in, read_out, read_err)


class Size(NamedTuple):
    """Of a terminal, in characters."""

    columns: int
    rows: int


def spawn_on_terminal(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    size: Size,
    cwd: str | None = None,
    stdin: int | None = None,
) -> tuple[Child, int]:
    """Start a child on a terminal of its own, its controlling one; also returns our end, non-blocking.

    `stdin`: what it reads in place of the terminal, which then is no process's controlling one yet. Raises
    OSError where the program cannot be executed.
    """
    _require_program(argv[0], env, cwd)
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        master, slave = os.openpty()
        ours.callback(os.close, master)
        theirs.callback(os.close, slave)
        os.set_blocking(master, False)
        resize(slave, size)
        if stdin is not None:
            child = spawn(argv, env=env, cwd=cwd, stdin=stdin, stdout=slave, stderr=slave)
        else:
            # not start_new_session: setsid would then have to fork, and the child would be a stranger
            leader = [shutil.which("setsid") or "setsid", "--ctty", "--", *argv]
            child = Child(
                subprocess.Popen(leader, env=env, cwd=cwd, stdin=slave, stdout=slave, stderr=slave)
            )
        ours.pop_all()
    return child, master


def _require_program(program: str, env: Mapping[str, str], cwd: str | None) -> None:
    """Raises FileNotFoundError: setsid would only say so on the terminal."""
    path = os.path.join(cwd or "", program) if "/" in program else program
    if shutil.which(path, path=env.get("PATH", os.defpath)) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)


def resize(terminal: int, size: Size) -> None:
    """Give a terminal another size; the programs on it get SIGWINCH."""
    termios.tcsetwinsize(terminal, (size.rows, size.columns))


def _pipe(readers: contextlib.ExitStack, writers: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose ends are closed with those they belong to."""
    read, write = os.pipe()
    readers.callback(os.close, read)
    writers.callback(os.close, write)
    return read, write


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def dies_with_us(argv: Sequence[str]) -> list[str]:
    """The same command, ended by the kernel when we end, however we end."""
    return ["setpriv", "--pdeathsig", "TERM", "--", *argv]


async def capture(child: Child, pipes: Pipes, *, deadline: float) -> tuple[int, bytes]:
    """Let a child run to its end with nothing to read: its status, and what it wrote on stdout.

    At most CAPTURED bytes. Raises EngineFailed for more, or past the deadline (seconds).
    """
    os.close(pipes.stdin)
    try:
        async with asyncio.timeout(deadline):
            stdout, _ = await asyncio.gather(_read_all(pipes.stdout), _read_all(pipes.stderr))
            return await child.wait(), stdout
    except TimeoutError:
        raise EngineFailed(f"a command in the container did not end within {deadline:g} s") from None
    finally:
        if child.status is None:
            await child.stop(term=0.2, kill=2.0)


CAPTURED = 1 << 20


async def _read_all(descriptor: int) -> bytes:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), reading_end(descriptor)
    )
    data = bytearray()
    try:
        while piece := await reader.read(1 << 16):
            data += piece
            if len(data) > CAPTURED:
                raise EngineFailed(f"a command in the container wrote more than {CAPTURED} bytes")
        return bytes(data)
    finally:
        transport.close()
