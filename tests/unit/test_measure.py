# SPDX-License-Identifier: Apache-2.0

import asyncio
import threading
from collections.abc import Callable

import pytest

from agentd.link import ContainerInfo, Measured
from agentd.tasks import Tasks
from agentd.watcher import measure
from agentd.watcher.measure import ROUND_SEC, Meter, Reading
from unit.loop import Changes, run, skip

END = Measured(container="", addresses=[], received=0, sent=0)
Read = Callable[[int], Reading | None]


def box(pid: int, *, running: bool = True) -> ContainerInfo:
    return ContainerInfo(name=f"box{pid}", runtime="podman", running=running, pid=pid)


def measured(pid: int) -> Measured:
    return Measured(container=f"box{pid}", addresses=[f"10.0.0.{pid}"], received=pid, sent=pid)


def passed(pid: int) -> Reading:
    return Reading([f"10.0.0.{pid}"], pid, pid)


class Told(Changes):
    """A meter that reads as the test says, and what it tells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
        super().__init__()
        self.messages: list[Measured] = []
        self.tasks = Tasks()
        self.meter = Meter(self.tasks, self._send)
        monkeypatch.setattr(measure, "reading", read)

    def _send(self, message: Measured) -> None:
        self.messages.append(message)
        self.changed()

    async def end(self) -> list[Measured]:
        """What is told until the end of a round."""
        await self.until(lambda: END in self.messages)
        await asyncio.sleep(0)  # the task ends, too
        taken, self.messages = self.messages, []
        return taken

    async def measure(self, *containers: ContainerInfo) -> list[Measured]:
        self.meter.measure(containers)
        return await self.end()


class Gate:
    """Reads that wait, each in a thread, until the test lets them."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.waits = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, pid: int) -> Reading:
        self.begun.append(pid)
        self.waits.set()
        assert self.go_on.wait(10)
        return passed(pid)

    async def until_waiting(self) -> None:
        while not self.waits.is_set():
            await asyncio.sleep(0)

    async def open(self) -> None:
        self.go_on.set()
        while any(thread.name.startswith("network") for thread in threading.enumerate()):
            await asyncio.sleep(0)


def test_what_runs_here_and_has_a_network_is_told_and_then_that_this_was_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        told = Told(monkeypatch, lambda pid: None if pid == 3 else passed(pid))
        there = [box(1), box(2, running=False), box(3), box(0), box(4)]
        assert await told.measure(*there) == [measured(1), measured(4), END]
        assert await told.measure() == [END]

    run(test())


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (PermissionError(1, "no"), "the networks of containers are not measured: this takes root"),
        (ImportError(), "the networks of containers are not measured: this takes python3-pyroute2"),
    ],
)
def test_where_it_cannot_be_done_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: Exception, says: str
) -> None:
    def read(pid: int) -> Reading:
        raise problem

    async def test() -> None:
        told = Told(monkeypatch, read)
        assert await told.measure(box(1), box(2)) == [END]
        assert await told.measure(box(1)) == [END]

    run(test())
    assert caplog.messages == [says]


def test_one_that_has_ended_meanwhile_keeps_nobody_from_being_measured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read(pid: int) -> Reading:
        if pid == 1:
            raise FileNotFoundError(2, "No such file or directory")
        return passed(pid)

    async def test() -> None:
        told = Told(monkeypatch, read)
        assert await told.measure(box(1), box(2)) == [measured(2), END]

    run(test())
    assert not caplog.messages


def test_while_one_measure_runs_others_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        told = Told(monkeypatch, gate)
        told.meter.measure([box(1)])
        await gate.until_waiting()
        told.meter.measure([box(2)])
        gate.go_on.set()
        assert await told.end() == [measured(1), END]
        assert await told.measure(box(3)) == [measured(3), END]

    gate = Gate()
    run(test())
    assert gate.begun == [1, 3]


def test_a_round_ends_in_time_and_the_next_begins_with_who_was_left_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        told = Told(monkeypatch, lambda pid: passed(pid) if pid == 1 else gate(pid))
        told.meter.measure([box(1), box(2), box(3)])
        await gate.until_waiting()
        await skip(ROUND_SEC)
        assert await told.end() == [measured(1), END]
        told.meter.measure([box(3)])  # one thread hangs, and stays the only one
        assert gate.begun == [2]
        await gate.open()
        assert await told.measure(box(1), box(2), box(3)) == [measured(2), measured(3), measured(1), END]

    gate = Gate()
    run(test())


def test_a_watcher_that_ends_does_not_wait_for_a_thread_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        told = Told(monkeypatch, gate)
        told.meter.measure([box(1)])
        await gate.until_waiting()
        await told.tasks.close()
        assert not told.messages
        await gate.open()

    gate = Gate()
    run(test())
