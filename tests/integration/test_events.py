# SPDX-License-Identifier: Apache-2.0
"""`agentctl events`: while a manager works, comes and goes with its bus, and says more than is read."""

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from agentd.bus import Bus
from agentd.interface import Interface, method, prop
from agentd.interface import signal as dbus_signal
from support.acp_client import DEADLINE
from support.embedded import Embedded, Start, eventually, memory

Seen = dict[str, Any]


class Events:
    """`agentctl events`, whose lines are read as they come."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.seen: list[Seen] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self._reader.join(DEADLINE)
        self.process.communicate(timeout=DEADLINE)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)

    def has_more(self) -> bool:
        return not self._lines.empty()

    def line(self) -> str:
        return self._lines.get(timeout=DEADLINE).rstrip("\n")

    def until(self, event: str, **members: object) -> Seen:
        """Read on until there is an event with these members, and return it."""
        while True:
            seen: Seen = json.loads(self.line())
            if seen["event"] == event and members.items() <= seen.items():
                return seen
            self.seen.append(seen)

    def until_line(self, text: str) -> None:
        while text not in self.line():
            pass

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """What a signal makes of it: its exit status and what it says."""
        self.process.send_signal(number)
        assert self.process.stderr
        return self.process.wait(DEADLINE), self.process.stderr.read()


@pytest.fixture
def agentd(start: Start) -> Embedded:
    return start(bus="private")


@contextmanager
def listening(agentd: Embedded, *options: str) -> Iterator[Events]:
    """Events that are heard already: what an order brings about from now on is told."""
    with Events(agentd.agentctl_command("events", *options)) as events:
        eventually(lambda: agentd.agentctl("reload").returncode or events.has_more(), "it listens")
        yield events


@pytest.fixture
def events(agentd: Embedded) -> Iterator[Events]:
    with listening(agentd, "--json") as events:
        yield events


def test_a_session_from_beginning_to_end(agentd: Embedded, events: Events) -> None:
    with agentd.client() as client:
        client.open()
        here = {"container": "here"}
        assert events.until("session_new")["session"] == client.session
        client.prompt("say working", "hold")
        changed = events.until("changed", session=client.session)["changes"]
        while changed.get("State") != "prompting":
            changed = events.until("changed", session=client.session)["changes"]
        assert agentd.agentctl("drain", "here").returncode == 0
        assert events.until("job_new")["target"] == "here"
        client.notify("_release")
        assert events.until("job_removed", target="here")["result"] == "done"
        assert agentd.agentctl("stop", "here").returncode == 0
        assert events.until("session_removed", **here)["session"] == client.session


def test_lines_for_a_person(agentd: Embedded) -> None:
    with listening(agentd) as events, agentd.client() as client:
        client.open()
        events.until_line(" container here: State idle → starting")
        events.until_line(f" session {client.session} of here: new")


def test_interrupt_ends_it(events: Events) -> None:
    assert events.end(signal.SIGINT) == (130, "")


def test_it_ends_with_its_reader_though_nothing_happens(agentd: Embedded) -> None:
    reading, writing = os.pipe()
    command = agentd.agentctl_command("events")
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        os.close(reading)
        assert process.communicate(timeout=DEADLINE)[1] == b""
        assert process.returncode == 0


def test_manager_and_bus_that_come_back_are_told_of(agentd: Embedded, events: Events) -> None:
    """In embedded mode the bus is the manager's own, and goes with it."""
    agentd.kill()
    events.until("bus_lost")
    agentd.start()
    events.until("bus_back")
    with agentd.client() as client:
        client.open()
        assert events.until("session_new")["session"] == client.session


def test_no_manager_is_an_error(agentd: Embedded) -> None:
    agentd.stop()
    done = agentd.agentctl("events")
    assert (done.returncode, done.stdout) == (69, "")


# A manager of ours


class Manager(Interface, name="org.agentd1.Manager"):
    @prop("s")
    def state(self) -> str:
        return "running"

    @method("", "a(sssuuo)")
    async def list_containers(self) -> list[Any]:
        return [("box", "podman", "serving", 0, 1, "/org/agentd1/container/box")]

    @method("s", "a(sssssto)")
    async def list_sessions(self, container: str) -> list[Any]:
        return []

    @dbus_signal("b")
    def reloading(self, active: bool) -> None: ...


class Session(Interface, name="org.agentd1.Session"):
    """One that ListSessions does not tell."""

    now = "idle"

    @prop("s")
    def id(self) -> str:
        return "unlisted"

    @prop("s")
    def state(self) -> str:
        return self.now


async def come(address: str, manager: Manager) -> Bus:
    bus = await Bus.connect(address)
    bus.export("/org/agentd1", manager)
    await bus.request_name("org.agentd1")
    return bus


def events_of(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "agentd.ctl", "--runtime-dir", str(folder), "events", *options]


async def heard(events: Events, manager: Manager) -> None:
    """Return when it listens."""
    while not events.has_more():
        manager.reloading(True)
        await asyncio.sleep(0.05)


async def test_a_manager_that_leaves_the_bus_and_comes_back(daemon: Any, tmp_path: Path) -> None:
    manager = Manager()
    bus = await come(daemon.address, manager)
    with Events(events_of(tmp_path, "--json")) as events:
        await heard(events, manager)
        await bus.close()
        await asyncio.to_thread(events.until, "manager_gone")
        bus = await come(daemon.address, manager)
        await asyncio.to_thread(events.until, "manager_here")
        manager.reloading(False)
        await asyncio.to_thread(events.until, "reloading", active=False)
    await bus.close()


async def test_a_session_that_was_not_listed_is_asked_for_its_id(daemon: Any, tmp_path: Path) -> None:
    manager, session = Manager(), Session()
    bus = await come(daemon.address, manager)
    bus.export("/org/agentd1/session/box_5", session)
    with Events(events_of(tmp_path, "--json")) as events:
        await heard(events, manager)
        session.now = "prompting"
        session.changed("State")
        seen = await asyncio.to_thread(events.until, "changed")
        assert (seen["container"], seen["session"]) == ("box", "unlisted")
    await bus.close()


async def test_anybody_else_on_the_bus_is_not_believed(daemon: Any, tmp_path: Path) -> None:
    manager, liar = Manager(), Manager()
    bus, other = await come(daemon.address, manager), await Bus.connect(daemon.address)
    other.export("/org/agentd1", liar)
    with Events(events_of(tmp_path, "--json")) as events:
        await heard(events, manager)
        liar.reloading(False)
        await other._ask("GetId", "")  # the bus has passed it on
        await bus.close()
        await asyncio.to_thread(events.until, "manager_gone")
        assert all(seen["active"] for seen in events.seen)
    await other.close()


async def test_a_bus_that_stays_away_is_an_error(daemon: Any, tmp_path: Path) -> None:
    manager = Manager()
    bus = await come(daemon.address, manager)
    script = "from agentd.ctl import events, main; import sys; events.BACK_SEC = 0.2; sys.exit(main())"
    command = [sys.executable, "-c", script, *events_of(tmp_path, "--json")[3:]]
    with Events(command) as events:
        await heard(events, manager)
        daemon.kill()
        await asyncio.to_thread(events.until, "bus_lost")
        assert await asyncio.to_thread(events.process.wait, DEADLINE) == 69
        assert events.process.stderr and "has not come back" in events.process.stderr.read()
    await bus.close()


async def test_more_than_anybody_reads_is_lost_and_told_to_be(daemon: Any, tmp_path: Path) -> None:
    """30,000 signals while nobody reads: bounded memory, and told and lost are all that there were."""
    manager = Manager()
    bus = await come(daemon.address, manager)
    reading, writing = os.pipe()
    with subprocess.Popen(events_of(tmp_path, "--json"), stdout=writing) as process, open(reading) as lines:
        os.close(writing)
        first = asyncio.create_task(asyncio.to_thread(lines.readline))
        while not first.done():
            manager.reloading(True)
            await asyncio.sleep(0.05)
        before = memory(process.pid, "VmRSS")
        for _ in range(300):
            for _ in range(100):
                manager.reloading(True)
            await bus._ask("GetId", "")
        assert await asyncio.to_thread(lost_of, lines, 30_000) > 1000
        assert memory(process.pid, "VmHWM") - before < 64 << 20
        process.kill()
    await bus.close()


def lost_of(lines: Any, count: int) -> int:
    """Read on until so many events have been told, or told to be lost; how many those are."""
    told = lost = 0
    while told + lost < count:
        number = json.loads(lines.readline()).get("lost", 0)
        told, lost = told + (not number), lost + number
    return lost
