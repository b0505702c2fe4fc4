# SPDX-License-Identifier: Apache-2.0
"""A whole agentd in a temporary folder: real processes, a real socket, a real private bus."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from agentd.proctree import ENVIRONMENT_BYTES, MARKER, owner_of
from support.acp_client import DEADLINE, Client
from support.editor import Editor

SCRIPTED = Path(__file__).parents[1] / "agents" / "scripted.py"
T = TypeVar("T")
Start = Callable[..., "Embedded"]
"""The fixture `start`: starts an agentd whose scripted agent has the switches given."""


def scripted(*switches: str) -> list[str]:
    """The command of the scripted agent."""
    return [sys.executable, str(SCRIPTED), *switches]


def house(folder: Path, agents: dict[str, str], *, top: str = "", limits: str = "", here: str = "") -> str:
    """A configuration: a host container called here with scripted agents, by name, of these switches.

    What begins with a slash is another command. `top` comes before all tables, `here` goes into the
    container's.
    """
    commands = {
        name: what.split() if what.startswith("/") else scripted(*what.split())
        for name, what in agents.items()
    }
    tables = [f"[agents.{name}]\ncommand = {json.dumps(command)}\n" for name, command in commands.items()]
    return f"""
runtimes = []
{top}
[limits]
agent_stop_sec = 1.0
drain_sec = 5.0
{limits}
{"".join(tables)}
[containers.here]
runtime = "host"
directory = "{folder}"
agents = {json.dumps(list(agents))}
{here}
"""


def eventually(look: Callable[[], T], what: str = "", deadline: float = DEADLINE) -> T:
    """Look until there is something true to see, and return it."""
    end = time.monotonic() + deadline
    while not (seen := look()):
        assert time.monotonic() < end, f"not within {deadline} s: {what or look}"
        time.sleep(0.02)
    return seen


class Notices:
    """The socket on which a service tells its supervisor how it is; always read, as systemd does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.settimeout(0.05)
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._read, name="notices")
        self._reader.start()

    def _read(self) -> None:
        while not self._closed.is_set():
            try:
                for line in self._sock.recv(65536).decode().splitlines():
                    self._heard.put(line)
            except TimeoutError:
                continue

    def forget(self) -> None:
        """What was said until now is of no interest."""
        while not self._heard.empty():
            self._heard.get()

    def until(self, wanted: str, *, unless: Callable[[], bool]) -> bool:
        """Wait for a line; False where it does not come, or cannot come any more."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and not unless():
            try:
                if self._heard.get(timeout=0.1) == wanted:
                    return True
            except queue.Empty:
                continue
        return False

    def close(self) -> None:
        self._closed.set()
        self._reader.join()
        self._sock.close()


class Embedded:
    """agentd in embedded mode. `configuration` is the TOML it starts with."""

    def __init__(self, folder: Path, configuration: str, *, bus: str = "none", **environment: str) -> None:
        self.folder = folder
        self.runtime_dir = folder / "run"
        self.config = folder / "agentd.toml"
        self.config.write_text(configuration)
        self.bus = bus
        self.environment = {**os.environ, **environment}
        self.log_file = folder / "log"
        self.notices = Notices(folder / "notify")
        self.process: subprocess.Popen[bytes] | None = None

    # Life

    def start(self) -> None:
        """Start it and return when it says that it is ready, in systemd's words."""
        self.notices.forget()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agentd", "serve", *self.places()],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**self.environment, "NOTIFY_SOCKET": str(self.notices.path)},
            )
        assert self.notices.until("READY=1", unless=lambda: self.process.poll() is not None), self.log()

    def places(self) -> list[str]:
        return ["--config", str(self.config), "--runtime-dir", str(self.runtime_dir), "--bus", self.bus]

    def stop(self) -> int:
        """Stop it politely and return its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def clean_up(self) -> None:
        """End whatever is left, and fail if anything should not have been."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.notices.close()
        left = eventually_none(self.processes)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"left behind: {left}\n{self.log()}"

    def processes(self) -> dict[int, str]:
        """Every process that was started for this folder: its own, and those of its agents."""
        return {
            pid: text
            for pid, text in command_lines().items()
            if str(self.folder) in text or is_marked(pid, self)
        }

    # Talking

    def client(self) -> Client:
        return Client(self.runtime_dir / "agentd.sock")

    def agentctl_command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "agentd.ctl", "--runtime-dir", str(self.runtime_dir), *arguments]

    def agentctl(self, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run agentctl to its end."""
        return subprocess.run(
            self.agentctl_command(*arguments),
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
            **options,
        )

    def attach(self, *arguments: str) -> Editor:
        """`agentctl attach` with these arguments, as an editor starts it."""
        return Editor(self.agentctl_command("attach", *arguments), self.environment)

    def status(self) -> dict[str, Any]:
        """What Status() says. Needs a bus."""
        done = self.agentctl("status", "--json")
        assert done.returncode == 0, done.stderr
        status = json.loads(done.stdout)
        assert isinstance(status, dict)
        return status

    def container(self, name: str = "here") -> dict[str, Any]:
        """One container's part of the status."""
        return next(each for each in self.status()["containers"] if each["name"] == name)

    # Looking

    def log(self) -> str:
        return self.log_file.read_text()

    def workers(self) -> list[int]:
        """The processes that are workers of this agentd."""
        return self._running(" -m agentd worker ")

    def watchers(self) -> list[int]:
        """The processes that are watchers of this agentd."""
        return self._running(" -m agentd watch ")

    def agents(self) -> list[int]:
        """The processes of agents in the container `here`, with all that descend from them."""
        return [pid for pid in command_lines() if is_marked(pid, self)]

    def _running(self, what: str) -> list[int]:
        found = [pid for pid, text in command_lines().items() if what in text and str(self.folder) in text]
        return [pid for pid in found if parent(pid) not in found]  # or it is about to be another program


def command_lines() -> dict[int, str]:
    """The command line of every live process."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if entry.name.isdigit() and text:
            found[int(entry.name)] = text
    return found


def parent(pid: int) -> int:
    """0 for a process that has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def memory(pid: int, field: str) -> int:
    """Bytes of a process's memory: VmRSS now, VmHWM at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10
    raise LookupError(field)


def is_marked(pid: int, agentd: Embedded) -> bool:
    """Whether a process descends from an agent that was started by this agentd's workers."""
    owner = owner_of(str(agentd.runtime_dir / "state"), "here")
    return has(pid, f"{MARKER}={owner}".encode())


def has(pid: int, mark: bytes) -> bool:
    """Whether a process has this variable, or one that begins so."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            # No more: one that a test of attacks starts says that it has a gigabyte.
            return b"\0" + mark in b"\0" + file.read(ENVIRONMENT_BYTES)
    except OSError:
        return False


def eventually_none(look: Callable[[], dict[int, str]], deadline: float = 10.0) -> dict[int, str]:
    """Look until nothing is left, and return what still is at the deadline."""
    end = time.monotonic() + deadline
    while (seen := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return seen
