# SPDX-License-Identifier: Apache-2.0
"""Workers as children: real processes, which are shell scripts here and say nothing over a link."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentd import errors
from agentd.config import Configuration, Container, Limits
from agentd.errors import AlreadyRunning, WorkerFailed
from agentd.manager import spawner as module
from agentd.manager.failures import MOST
from agentd.manager.registry import Registry
from agentd.manager.spawner import ChildSpawner, UnitSpawner
from agentd.paths import Mode
from agentd.process import Child
from agentd.systemd import limit
from agentd.tasks import Tasks
from unit.loop import run, settle, skip

READY, FAILS = "exec sleep 100", "exit 3"


class Nursery(ChildSpawner):
    """Whose workers run `script`; `children` are all there ever were. A ready one is so at once."""

    def __init__(self, script: str = READY) -> None:
        super().__init__([], Limits(worker_start_sec=5.0, agent_kill_sec=2.0))
        self.script = script
        self.ready = asyncio.Event()
        self.children: list[Child] = []

    def _command(self, *verb: str) -> list[str]:
        return ["sh", "-c", self.script]

    def _spawn(self, name: str) -> Child:
        child = super()._spawn(name)
        self.children.append(child)
        if self.script == READY:
            self.ready.set()
        return child

    def alive(self) -> list[Child]:
        return [child for child in self.children if child.status is None]

    async def up(self) -> None:
        """Start one, which comes to nothing where its script ends."""
        with contextlib.suppress(WorkerFailed):
            await self.start("box", self.ready)

    async def crash(self) -> None:
        """Start one and kill it."""
        await self.up()
        self.children[-1].signal(signal.SIGKILL)
        self.ready.clear()
        await self.children[-1].wait()
        await settle()


@contextlib.asynccontextmanager
async def nursery(script: str = READY) -> AsyncIterator[Nursery]:
    each = Nursery(script)
    try:
        yield each
    finally:
        await each.close()


async def nobody() -> None:
    """No worker is linked that could be asked to leave."""


async def in_time(work: "asyncio.Task[Any]") -> None:
    """Let the clock run ahead until that is done: pauses pass at once."""
    while not work.done():
        await skip(0.05)
        await asyncio.sleep(0.001)


def test_a_worker_that_ends_before_it_is_ready_is_a_failure() -> None:
    async def test() -> None:
        async with nursery(FAILS) as spawner:
            with pytest.raises(WorkerFailed, match="ended with status 3"):
                await spawner.start("box", spawner.ready)
            assert not await spawner.gave_up("box")

    run(test())


@pytest.mark.parametrize("way", ["up", "crash"])
def test_so_many_failures_within_a_minute_are_the_end_of_it(way: str) -> None:
    async def test() -> None:
        async with nursery(FAILS if way == "up" else READY) as spawner:
            for number in range(MOST):
                assert not await spawner.gave_up("box"), number
                await in_time(asyncio.ensure_future(getattr(spawner, way)()))
                await settle()
            assert await spawner.gave_up("box")
            assert not await spawner.gave_up("other")
            spawner.forgive("box")
            assert not await spawner.gave_up("box")

    run(test())


def test_between_a_failure_and_the_next_start_there_is_a_pause() -> None:
    async def test() -> None:
        async with nursery() as spawner:
            await spawner.crash()
            again = asyncio.ensure_future(spawner.up())
            await settle()
            await skip(0.45)
            assert len(spawner.children) == 1
            await skip(0.1)
            await again
            assert len(spawner.children) == 2

    run(test())


def test_an_earlier_worker_that_links_during_the_pause_is_enough() -> None:
    async def test() -> None:
        async with nursery() as spawner:
            await spawner.crash()
            again = asyncio.ensure_future(spawner.up())
            await settle()
            spawner.ready.set()
            await again
            assert len(spawner.children) == 1

    run(test())


@pytest.mark.parametrize("script", ["exit 0", f"exit {AlreadyRunning.exit_status}"])
def test_an_end_that_is_none_of_its_faults_does_not_count(script: str) -> None:
    async def test() -> None:
        async with nursery(script) as spawner:
            for _ in range(MOST):
                with contextlib.suppress(AlreadyRunning):
                    await spawner.up()
            await settle()
            assert not await spawner.gave_up("box")
            assert len(spawner.children) == MOST

    run(test())


def test_a_stop_is_not_a_failure_however_hard_it_is() -> None:
    async def test() -> None:
        async with nursery() as spawner:
            for _ in range(MOST):
                await spawner.up()
                spawner.ready.clear()
                await spawner.stop("box", nobody)
                assert not spawner.alive()
            assert not await spawner.gave_up("box")

    run(test())


def test_a_program_that_cannot_be_started_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*arguments: object, **options: object) -> Child:
        raise FileNotFoundError(2, "No such file")

    monkeypatch.setattr(module, "spawn", cannot)

    async def test() -> None:
        async with nursery() as spawner:
            for _ in range(MOST):
                await in_time(asyncio.ensure_future(spawner.up()))
            assert await spawner.gave_up("box")

    run(test())


def test_two_starts_that_race_a_stop_never_leave_two_workers() -> None:
    """In whatever order the loop takes them: a start before the stop does not come back after it."""

    async def test(moment: int) -> None:
        tasks = Tasks()
        async with nursery("trap '' TERM; sleep 100 & wait; wait") as spawner:
            registry = Registry(spawner, tasks)
            registry.configure(Configuration(containers={"box": Container()}))
            box = registry.get("box")
            first = asyncio.ensure_future(registry.worker_of(box))
            for _ in range(moment):
                await asyncio.sleep(0)
            stopping = asyncio.ensure_future(registry.stop_worker(box, 1.0))
            second = asyncio.ensure_future(registry.worker_of(box))
            await stopping
            assert len(spawner.alive()) <= 1
            await registry.stop_worker(box, 1.0)
            await asyncio.wait([first, second])
            assert not spawner.alive()
            for each in (first, second):
                assert isinstance(each.exception(), errors.ShuttingDown)
            for child in spawner.children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
        await tasks.close()

    for moment in (0, 1, 3, 10):
        run(test(moment))


# Units


class Jobs:
    """systemd, of which only the answers to these questions count. `state`: of the unit; `tried`: lately."""

    def __init__(self, state: str = "active", *, tried: bool = True) -> None:
        self.state, self.tried = state, tried
        self.asked: list[str] = []
        self.bus = self
        self.mode = Mode.SYSTEM

    async def start(self, unit: str, timeout: float) -> None:
        self.asked.append("start")
        if self.state == "failed":
            raise WorkerFailed(f"{unit} did not start: it failed")

    async def call(
        self, name: str, path: str, interface: str, member: str, *rest: Any, timeout: float
    ) -> Any:
        self.asked.append(member)
        if member == "ResetFailedUnit":
            self.state = "inactive"
        return ["/unit"]

    async def property(self, name: str, path: str, interface: str, member: str, *, timeout: float) -> Any:
        tried = limit.now() if self.tried else 5
        return {"ActiveState": self.state, "ExecMainStartTimestampMonotonic": tried}[member]


def units(jobs: Jobs) -> tuple[UnitSpawner, Callable[[], Any]]:
    ready = asyncio.Event()
    ready.set()
    spawner = UnitSpawner(jobs, Limits())  # type: ignore[arg-type]
    return spawner, lambda: spawner.start("box", ready)


def test_a_unit_that_systemd_does_not_even_try_is_given_up_until_it_is_reset() -> None:
    async def test() -> None:
        spawner, start = units(jobs := Jobs("failed", tried=False))
        with pytest.raises(WorkerFailed):
            await start()
        assert await spawner.gave_up("box")
        assert "systemctl reset-failed agentd@box.service" in spawner.remedy("box")
        jobs.state = "inactive"  # systemctl reset-failed
        assert not await spawner.gave_up("box")

    run(test())


def test_what_to_do_is_said_for_the_systemd_that_has_the_unit() -> None:
    jobs = Jobs()
    jobs.mode = Mode.USER

    async def test() -> None:
        spawner = UnitSpawner(jobs, Limits(worker_start_sec=0.01))  # type: ignore[arg-type]
        remedy = "systemctl --user reset-failed agentd@box.service, and connect again"
        assert spawner.remedy("box") == remedy
        with pytest.raises(WorkerFailed, match=r"does not report; see: systemctl --user status agentd$"):
            await spawner.start("box", asyncio.Event())

    run(test())


def test_a_unit_that_has_failed_once_is_not_given_up() -> None:
    async def test() -> None:
        spawner, start = units(Jobs("failed"))
        with pytest.raises(WorkerFailed):
            await start()
        assert not await spawner.gave_up("box")

    run(test())


def test_a_unit_that_somebody_has_tried_since_is_not_given_up_any_more() -> None:
    async def test() -> None:
        spawner, start = units(jobs := Jobs("failed", tried=False))
        with pytest.raises(WorkerFailed):
            await start()
        jobs.tried = True
        assert not await spawner.gave_up("box")

    run(test())


def test_a_unit_that_was_never_started_is_not_asked_about() -> None:
    async def test() -> None:
        spawner, start = units(jobs := Jobs())
        assert not await spawner.gave_up("box")
        await start()
        assert jobs.asked == ["start"]

    run(test())


def test_one_that_is_forgiven_is_reset_before_its_start() -> None:
    async def test() -> None:
        spawner, start = units(jobs := Jobs("failed", tried=False))
        spawner.forgive("box")
        await start()
        await start()
        assert jobs.asked == ["ResetFailedUnit", "start", "start"]

    run(test())
