# SPDX-License-Identifier: Apache-2.0

import asyncio

import pytest

from agentd.errors import WorkerFailed
from agentd.tasks import Tasks
from unit.loop import run, settle


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def fail(error: Exception) -> None:
    raise error


def test_closing_ends_what_runs_and_waits_for_its_end() -> None:
    async def test() -> None:
        tasks, ends = Tasks(), list[str]()

        async def slow_to_end() -> None:
            try:
                await for_ever()
            finally:
                await settle()
                ends.append("now")

        started = [tasks.start(slow_to_end(), "slow") for _ in range(2)]
        await settle()
        await tasks.close()
        assert ([each.cancelled() for each in started], ends) == ([True, True], ["now", "now"])

    run(test())


def test_a_task_has_its_name_and_its_result() -> None:
    async def test() -> None:
        task = Tasks().start(asyncio.sleep(0, "done"), "nap")
        assert (task.get_name(), await task) == ("nap", "done")

    run(test())


@pytest.mark.parametrize(
    ("error", "traced"), [(WorkerFailed("it ended"), False), (ValueError("it ended"), True)]
)
def test_one_that_fails_is_logged_and_ends_alone(
    error: Exception, traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        tasks = Tasks()
        other = tasks.start(for_ever(), "other")
        tasks.start(fail(error), "start of box")
        await settle()
        assert not other.done()
        await tasks.close()

    run(test())
    (record,) = caplog.records
    assert (record.getMessage(), bool(record.exc_info)) == ("start of box failed: it ended", traced)


def test_one_that_was_cancelled_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        tasks = Tasks()
        tasks.start(for_ever(), "x").cancel()
        await settle()
        await tasks.close()

    run(test())
    assert caplog.records == []


def test_one_of_them_may_close_them_all() -> None:
    async def test() -> None:
        tasks = Tasks()
        other = tasks.start(for_ever(), "other")
        await settle()
        closer = tasks.start(tasks.close(), "closer")
        await closer
        assert (other.cancelled(), closer.cancelled()) == (True, False)

    run(test())
