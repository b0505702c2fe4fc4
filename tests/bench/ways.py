# SPDX-License-Identifier: Apache-2.0
"""The ways to the quick agent that the tables compare, and a client that costs next to nothing.

All ways lead to tests/agents/fast.py: over a pipe, through the proxies beside this file, through agentd.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.embedded import Embedded, eventually

HERE = Path(__file__).parent
AGENT = [sys.executable, str(HERE.parent / "agents" / "fast.py")]
SDK_AGENT = [sys.executable, "-W", "ignore", str(HERE.parent / "agents" / "sdk_stream.py")]
DEADLINE_SEC = 300


def set_deadline() -> None:
    """From now on everything may wait as long as it likes, until the deadline."""

    def too_late(number: int, frame: object) -> None:
        raise TimeoutError(f"not done within {DEADLINE_SEC} s")

    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(DEADLINE_SEC)


class Cut(Exception):
    """The connection has ended before all had come."""


class Wire:
    """A connected client: sends requests and counts the lines that come, in one buffer for all of them."""

    buffer = bytearray(1 << 18)

    def __init__(self, read: int, write: int) -> None:
        self.read = FileIO(read, "r", closefd=False)
        self._write = FileIO(write, "w", closefd=False)
        self._number = 0
        self.session = ""

    def send(self, method: str, params: dict[str, object]) -> int:
        """Returns the request's id."""
        self._number += 1
        frame = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        self._write.write(json.dumps(frame).encode() + b"\n")
        return self._number

    def take(self) -> int:
        """Read what is there, without waiting for more, into the buffer; the number of bytes."""
        try:
            size = self.read.readinto(self.buffer)
        except ConnectionResetError:
            size = 0
        if not size:
            raise Cut
        return size

    def lines(self) -> int:
        """Read what is there and return how many lines have ended in it."""
        return self.buffer.count(b"\n", 0, self.take())

    def call(self, method: str, params: dict[str, object]) -> bytes:
        """Send a request and return its answer's line, which must be the last that comes."""
        self.send(method, params)
        line = b""
        while not line.endswith(b"\n"):
            line += self.buffer[: self.take()]
        return line

    # ACP

    def attach(self, container: str = "here") -> None:
        assert b'"result"' in self.call("_agentd/attach", {"container": container})

    def initialize(self) -> None:
        self.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})

    def open(self) -> str:
        """Make a session, the one for all prompts that name no other."""
        made = json.loads(self.call("session/new", {"cwd": "/", "mcpServers": []}))
        self.session = made["result"]["sessionId"]
        return self.session

    def join(self, session: str, method: str = "session/load") -> None:
        """Enter a session that somebody else has made, and read all that is replayed."""
        self.session = session
        answer = self.call(method, {"sessionId": session, "cwd": "/", "mcpServers": []})
        assert b'"error"' not in answer[-4096:], answer[-4096:]

    def prompt(self, text: str = "", session: str = "") -> int:
        block = {"type": "text", "text": text}
        return self.send("session/prompt", {"sessionId": session or self.session, "prompt": [block]})

    def round_trips(self, count: int, sessions: Iterable[str] = ()) -> list[float]:
        """Seconds of each of some turns that end at once, in all those sessions one after the other."""
        names = list(sessions) or [self.session]
        taken = []
        for number in range(count):
            began = time.perf_counter()
            self.prompt("", names[number % len(names)])
            collect({self: 1})
            taken.append(time.perf_counter() - began)
        return taken

    def rate(self, count: int, size: int) -> float:
        """Updates a second, over one turn that streams `count` of `size` bytes."""
        began = time.perf_counter()
        self.prompt(f"{count} {size}")
        collect({self: count + 1})
        return count / (time.perf_counter() - began)


def collect(wanted: dict[Wire, int]) -> None:
    """Read until so many lines have come to each; one loop for all. Raises Cut where a connection ends."""
    if len(wanted) == 1:
        ((wire, left),) = wanted.items()
        while left > 0:
            left -= wire.lines()
        return
    left_of, poller = dict(wanted), select.epoll()
    by_fd = {wire.read.fileno(): wire for wire in wanted}
    with poller:
        for fd in by_fd:
            poller.register(fd, select.EPOLLIN)
        while left_of:
            _collect_once(poller, by_fd, left_of)


def _collect_once(poller: select.epoll, by_fd: dict[int, Wire], left_of: dict[Wire, int]) -> None:
    for fd, _ in poller.poll():
        wire = by_fd[fd]
        left_of[wire] -= wire.lines()
        if left_of[wire] <= 0:
            del left_of[wire]
            poller.unregister(fd)


# The ways


@contextlib.contextmanager
def over_pipes(command: list[str], **environment: str) -> Iterator[Wire]:
    """A child's stdin and stdout."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment}
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        yield Wire(child.stdout.fileno(), child.stdin.fileno())
        child.stdin.close()


@contextlib.contextmanager
def over_socket(path: Path) -> Iterator[Wire]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(path))
        yield Wire(sock.fileno(), sock.fileno())


@contextlib.contextmanager
def through(program: str, folder: Path) -> Iterator[Wire]:
    """One of the proxies beside this file."""
    path = folder / program
    proxy = subprocess.Popen([sys.executable, "-W", "ignore", str(HERE / program), str(path), *AGENT])
    try:
        eventually(path.exists, f"{program} listens")
        with over_socket(path) as wire:
            yield wire
    finally:
        proxy.kill()
        proxy.wait()


@contextlib.contextmanager
def agentd(
    folder: Path,
    *containers: str,
    isolation: str = "shared",
    sessions: int = 32,
    transcripts: str = "off",
    agent: list[str] = AGENT,
) -> Iterator[Embedded]:
    """An agentd with these containers. `isolation`: whether the sessions of one share an agent process.

    `transcripts`: what is kept on disk. Without it the relay alone is measured.
    """
    command = ", ".join(f"'{word}'" for word in agent)
    text = 'default_agent = "fast"\nruntimes = []\n[limits]\n'
    text += f"sessions = {sessions}\nsessions_per_uid = {sessions}\n"
    text += f'[store]\ntranscripts = "{transcripts}"\n'
    text += f'[agents.fast]\ncommand = [{command}]\nisolation = "{isolation}"\n'
    for name in containers or ("here",):
        text += f'[containers.{name}]\nruntime = "host"\ndirectory = "{folder}"\n'
    daemon = Embedded(folder, text)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.clean_up()


@contextlib.contextmanager
def client(daemon: Embedded, container: str = "here") -> Iterator[Wire]:
    """A client of a container's, introduced and in no session yet."""
    with over_socket(daemon.runtime_dir / "agentd.sock") as wire:
        wire.attach(container)
        wire.initialize()
        yield wire
