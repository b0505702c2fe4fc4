# SPDX-License-Identifier: Apache-2.0

import asyncio

from agentd import link
from agentd.manager.freshness import WAIT_SEC, Freshness
from unit.loop import run, settle, skip
from unit.wire import Wire, served

RUNS = link.ContainerInfo(name="box", runtime="podman", running=True, pid=7)


def test_workers_and_watcher_are_asked_and_waited_for() -> None:
    async def scenario() -> None:
        (box, wire), watcher, freshness = served(), Wire(), Freshness()
        box.info = RUNS
        asked = asyncio.ensure_future(freshness.ensure([box], watcher))  # type: ignore[arg-type]
        await settle()
        assert wire.sent == [link.Refresh()] and watcher.sent == [link.Measure(containers=["box"])]
        freshness.heard("box")
        await settle()
        assert not asked.done(), "the watcher has not said that this was all"
        freshness.heard("")
        await asked

    run(scenario())


def test_who_does_not_answer_is_not_waited_for_long() -> None:
    async def scenario() -> None:
        (box, _), freshness = served(), Freshness()
        asked = asyncio.ensure_future(freshness.ensure([box], None))
        await settle()
        await skip(WAIT_SEC)
        await asked
        await freshness.ensure([box], None)

    run(scenario())


def test_those_who_come_within_the_same_second_share_the_answer() -> None:
    async def scenario() -> None:
        (box, wire), freshness = served(), Freshness()
        many = [asyncio.ensure_future(freshness.ensure([box], None)) for _ in range(10)]
        await settle()
        freshness.heard("box")
        await asyncio.gather(*many)
        await freshness.ensure([box], None)
        assert wire.sent == [link.Refresh()]

    run(scenario())


def test_where_there_is_nobody_to_ask_nobody_waits() -> None:
    async def scenario() -> None:
        old, wire = served(version=1)
        await asyncio.wait_for(Freshness().ensure([old], None), WAIT_SEC / 2)
        assert not wire.sent

    run(scenario())
