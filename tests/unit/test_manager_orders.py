# SPDX-License-Identifier: Apache-2.0

import asyncio

import pytest

from agentd import errors, link
from agentd.manager.container import Container
from agentd.manager.orders import ANSWER_SEC, Orders
from unit.loop import run, settle, skip
from unit.wire import served


def cancel(number: int) -> link.AnyMessage:
    return link.CancelTurn(number=number, session="s1")


def test_an_order_ends_with_its_answer_and_no_other() -> None:
    async def scenario() -> None:
        (box, wire), orders = served(), Orders()
        given = asyncio.ensure_future(orders.give(box, cancel))
        await settle()
        assert wire.sent == [link.CancelTurn(number=1, session="s1")]
        orders.answered(box.worker, link.Answer(number=2))  # type: ignore[arg-type]
        await settle()
        assert not given.done()
        orders.answered(box.worker, link.Answer(number=1))  # type: ignore[arg-type]
        assert await given == link.Answer(number=1)

    run(scenario())


def test_another_worker_does_not_answer_for_it() -> None:
    async def scenario() -> None:
        (box, _), (other, _), orders = served(), served("other"), Orders()
        given = asyncio.ensure_future(orders.give(box, cancel))
        await settle()
        orders.answered(other.worker, link.Answer(number=1))  # type: ignore[arg-type]
        await settle()
        assert not given.done()
        orders.answered(box.worker, link.Answer(number=1))  # type: ignore[arg-type]
        await given

    run(scenario())


def test_a_workers_error_is_the_callers() -> None:
    async def scenario() -> None:
        (box, _), orders = served(), Orders()
        given = asyncio.ensure_future(orders.give(box, cancel))
        await settle()
        refusal = link.Answer(number=1, reason="no_such_session", message="no session s1")
        orders.answered(box.worker, refusal)  # type: ignore[arg-type]
        with pytest.raises(errors.NoSuchSession, match="no session s1"):
            await given

    run(scenario())


def test_a_worker_that_ends_has_failed() -> None:
    async def scenario() -> None:
        (box, wire), orders = served(), Orders()
        given = asyncio.ensure_future(orders.give(box, cancel))
        await settle()
        wire.gone.set()
        with pytest.raises(errors.WorkerFailed, match="ended before it answered"):
            await given

    run(scenario())


def test_a_worker_that_says_nothing_has_failed_and_its_late_answer_is_nothing() -> None:
    async def scenario() -> None:
        (box, _), orders = served(), Orders()
        given = asyncio.ensure_future(orders.give(box, cancel))
        await settle()
        await skip(ANSWER_SEC)
        with pytest.raises(errors.WorkerFailed, match="not answered within"):
            await given
        orders.answered(box.worker, link.Answer(number=1))  # type: ignore[arg-type]

    run(scenario())


def test_without_a_worker_nobody_can_carry_it_out() -> None:
    async def scenario() -> None:
        with pytest.raises(errors.NotRunning, match="agentctl start box"):
            await Orders().give(Container("box"), cancel)

    run(scenario())


def test_an_older_worker_is_not_asked() -> None:
    async def scenario() -> None:
        box, wire = served(version=1)
        with pytest.raises(errors.WorkerOutdated, match="restart it"):
            await Orders().give(box, cancel)
        assert not wire.sent

    run(scenario())
