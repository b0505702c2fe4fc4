# SPDX-License-Identifier: Apache-2.0

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from agentd.worker.idleness import LOOK_SEC, idle
from unit.loop import run, settle, skip

IDLE_SEC = 900.0


class Agent:
    """One whose activity and work a test tells."""

    def __init__(self) -> None:
        self.may_rest = True
        self.used = 0.0
        self.touch()

    def touch(self) -> None:
        self._active = asyncio.get_running_loop().time()

    @property
    def quiet_sec(self) -> float:
        return asyncio.get_running_loop().time() - self._active

    async def processor_sec(self) -> float:
        return self.used


def watched(test: Callable[[Agent, "asyncio.Task[None]"], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        agent = Agent()
        ended = asyncio.ensure_future(idle(agent, IDLE_SEC))
        await settle()
        await test(agent, ended)
        ended.cancel()
        await asyncio.wait([ended])

    run(inside())


def test_it_is_idle_after_its_time_and_a_look() -> None:
    async def test(agent: Agent, ended: "asyncio.Task[None]") -> None:
        await skip(IDLE_SEC - 1)
        assert not ended.done()
        await skip(1)
        await skip(LOOK_SEC)
        assert ended.done()

    watched(test)


def test_every_activity_begins_it_anew() -> None:
    async def test(agent: Agent, ended: "asyncio.Task[None]") -> None:
        await skip(IDLE_SEC - 1)
        agent.touch()
        await skip(IDLE_SEC - 1)
        assert not ended.done()

    watched(test)


def test_what_is_done_in_the_last_look_counts() -> None:
    async def test(agent: Agent, ended: "asyncio.Task[None]") -> None:
        await skip(IDLE_SEC)
        agent.touch()
        await skip(LOOK_SEC)
        await skip(IDLE_SEC - LOOK_SEC - 1)
        assert not ended.done()

    watched(test)


def test_work_in_the_background_keeps_it() -> None:
    async def test(agent: Agent, ended: "asyncio.Task[None]") -> None:
        await skip(IDLE_SEC)
        for _ in range(10):
            agent.used += LOOK_SEC / 2
            await skip(LOOK_SEC)
            assert not ended.done()
        await skip(LOOK_SEC)
        assert ended.done()

    watched(test)


def test_one_that_would_be_missed_is_kept_and_looked_at_again() -> None:
    async def test(agent: Agent, ended: "asyncio.Task[None]") -> None:
        agent.may_rest = False
        for _ in range(50):
            await skip(IDLE_SEC / 10)
        assert not ended.done()
        agent.may_rest = True
        await skip(LOOK_SEC)
        await skip(LOOK_SEC)
        assert ended.done()

    watched(test)
