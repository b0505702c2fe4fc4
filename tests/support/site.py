# SPDX-License-Identifier: Apache-2.0
"""An agentd with three containers that is there to be struck, and a look at all its processes."""

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from agentd.proctree import MARKER, owner_of
from support.embedded import Embedded, command_lines, has, scripted

CONTAINERS = ("alpha", "beta", "gamma")


def configuration(folder: Path) -> str:
    """Three host containers, and what their agents write down in `folder`."""
    notes = ("--ledger", str(folder / "runs"))
    agents = {
        "loads": scripted(*notes, "--can", "load", "--memory", str(folder / "memory"), "--child-at-start"),
        "forgets": scripted(*notes, "--ignore-eof"),
        "alone": scripted(*notes, "--can", "resume", "--memory", str(folder / "memory")),
    }
    tables = [f"[agents.{name}]\ncommand = {json.dumps(command)}\n" for name, command in agents.items()]
    for container, agent in zip(CONTAINERS, agents, strict=True):
        tables.append(
            f'[containers.{container}]\nruntime = "host"\ndirectory = "{folder}"\nagents = ["{agent}"]\n'
        )
    limits = "agent_stop_sec = 1.0\ndrain_sec = 5.0\nagent_idle_sec = 1.0\nprompt_queue = 50\n"
    isolated = tables[2] + 'isolation = "session"\n'
    return f"runtimes = []\n[limits]\n{limits}" + "".join((*tables[:2], isolated, *tables[3:]))


class Site:
    """An agentd with its containers, in a folder, and the processes in which it is."""

    def __init__(self, folder: Path) -> None:
        (folder / "memory").mkdir()
        self.folder = folder
        self.agentd = Embedded(folder, configuration(folder), bus="private")
        self.runs = folder / "runs"
        self.runs.touch()
        self.finishing = {name: threading.Event() for name in CONTAINERS}
        """Set when somebody has been shown the last chunk of a turn, and not yet its end."""

    def manager(self) -> int:
        assert self.agentd.process is not None
        return self.agentd.process.pid

    def worker(self, container: str) -> list[int]:
        return [
            pid for pid in self.agentd.workers() if f" worker {container} " in command_lines().get(pid, "")
        ]

    def bus(self) -> list[int]:
        return [pid for pid, text in self.agentd.processes().items() if "dbus-daemon" in text]

    def agents(self, container: str, named: str = "") -> list[int]:
        """The processes of its agents and of what they have started; only those named so."""
        mark = f"{MARKER}={owner_of(str(self.agentd.runtime_dir / 'state'), container)}".encode()
        return sorted(pid for pid, text in command_lines().items() if named in text and has(pid, mark))

    def processes(self) -> dict[int, str]:
        """All there are."""
        agents = {pid: f"of {name}" for name in CONTAINERS for pid in self.agents(name)}
        return {**self.agentd.processes(), **agents}

    def sockets(self) -> set[str]:
        return {str(path) for path in self.agentd.runtime_dir.rglob("*") if path.is_socket()}

    def databases(self) -> Iterator[Path]:
        yield from self.agentd.runtime_dir.glob("state/containers/*/sessions.db")


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, by kind."""
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kinds[os.readlink(entry).partition(":[")[0]] += 1
        except OSError:
            continue  # closed meanwhile
    return kinds


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
