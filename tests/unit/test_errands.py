# SPDX-License-Identifier: Apache-2.0

import asyncio

import pytest

from agentd import errors
from agentd.manager.errands import ANSWER_SEC, Errands
from agentd.tasks import Tasks
from unit.loop import run, settle, skip


class Work:
    """Something that goes on until a test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.over = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        await self.over.wait()


def test_work_that_ends_in_time_has_a_result() -> None:
    async def scenario() -> None:
        async def fail() -> None:
            raise errors.NotRunning("box is not running")

        errands, work = Errands(Tasks()), Work()
        work.over.set()
        await errands.run("box", "start", work)
        with pytest.raises(errors.NotRunning):
            await errands.run("box", "start", fail)

    run(scenario())


def test_work_that_takes_long_goes_on_and_is_joined() -> None:
    async def scenario() -> None:
        errands, work = Errands(Tasks()), Work()
        first = asyncio.ensure_future(errands.run("box", "start", work))
        await settle()
        await skip(ANSWER_SEC)
        with pytest.raises(errors.InProgress, match="agentctl status box"):
            await first
        second = asyncio.ensure_future(errands.run("box", "start", work))
        await settle()
        work.over.set()
        await second
        assert work.begun == 1

    run(scenario())


def test_another_order_is_not_joined_and_the_last_one_counts() -> None:
    async def scenario() -> None:
        errands, starts, stops = Errands(Tasks()), Work(), Work()
        orders = []
        for verb, work in (("start", starts), ("stop", stops), ("start", starts)):
            orders.append(asyncio.ensure_future(errands.run("box", verb, work)))
            await settle()
        starts.over.set()
        stops.over.set()
        await asyncio.gather(*orders)
        assert (starts.begun, stops.begun) == (2, 1)

    run(scenario())


def test_what_is_given_up_is_told_to_those_who_wait() -> None:
    async def scenario() -> None:
        errands, work = Errands(Tasks()), Work()
        waiting = asyncio.ensure_future(errands.run("box", "start", work))
        await settle()
        errands.give_up("box", "stop")
        await settle()
        assert not waiting.done()
        errands.give_up("box", "start")
        with pytest.raises(errors.ShuttingDown, match="opposite"):
            await waiting

    run(scenario())


def test_containers_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        errands, slow, quick = Errands(Tasks()), Work(), Work()
        quick.over.set()
        waiting = asyncio.ensure_future(errands.run("box", "start", slow))
        await errands.run("other", "start", quick)
        slow.over.set()
        await waiting

    run(scenario())
