# SPDX-License-Identifier: Apache-2.0
"""A turn of `agentctl prompt` with a worker that the test plays, and a clock that it puts forward."""

import asyncio
import json
import os
import signal
import socket
from typing import Any

import pytest

from agentd.acp.peer import Params
from agentd.ctl.options import parse
from agentd.ctl.prompt import GRACE_SEC, Order, Text, Turn, order
from agentd.errors import InvalidArgs
from unit import loop


class Worker:
    """The other end of a turn's connection."""

    def __init__(self) -> None:
        self.turn = Turn(Order(container="box", text="x", cwd="/", permission="reject"), Text())
        self._theirs, self._sock = socket.socketpair()

    async def run(self, *, limit: float | None = None) -> "asyncio.Task[Params | None]":
        self._reader, self._writer = await asyncio.open_connection(sock=self._sock)
        return asyncio.ensure_future(self.turn.run(self._theirs, limit=limit))

    async def hear(self) -> dict[str, Any]:
        heard = json.loads(await self._reader.readline())
        assert isinstance(heard, dict)
        return heard

    async def answer(self, **result: object) -> str:
        """Answer the next request, and return what it was."""
        asked = await self.hear()
        self.say(id=asked["id"], result=result)
        return str(asked["method"])

    def say(self, **message: object) -> None:
        self._writer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def prompted(self) -> int:
        """Have the turn begin; the id of the request for it."""
        begun = [await self.answer(sessionId="s1") for _ in range(3)]
        assert begun == ["_agentd/attach", "initialize", "session/new"]
        asked = await self.hear()
        assert asked["method"] == "session/prompt"
        return int(asked["id"])

    async def cancelled(self) -> None:
        assert (await self.hear())["method"] == "session/cancel"

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def test_a_turn_that_does_not_end_when_it_is_cancelled_is_left() -> None:
    async def play() -> None:
        worker = Worker()
        turn = await worker.run(limit=5.0)
        await worker.prompted()
        await loop.skip(5.0)
        await worker.cancelled()
        await loop.skip(GRACE_SEC - 1.0)
        assert not turn.done()
        await loop.skip(1.0)
        assert await turn is None and worker.turn.late and worker.turn.session == "s1"
        await worker.close()

    loop.run(play())


def test_a_turn_that_ends_by_itself_has_its_result_however_late() -> None:
    async def play() -> None:
        worker = Worker()
        turn = await worker.run(limit=5.0)
        asked = await worker.prompted()
        await loop.skip(5.0)
        worker.say(id=asked, result={"stopReason": "end_turn"})
        assert await turn == {"stopReason": "end_turn"}
        await worker.close()

    loop.run(play())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_and_a_second_one_leaves(number: signal.Signals) -> None:
    async def play() -> None:
        worker = Worker()
        turn = await worker.run(limit=5.0)
        await worker.prompted()
        os.kill(os.getpid(), number)
        await worker.cancelled()
        await loop.skip(5.0)
        assert not turn.done() and not worker.turn.late
        os.kill(os.getpid(), number)
        assert await turn is None
        await worker.close()

    loop.run(play())


def test_before_there_is_a_session_there_is_nothing_to_cancel() -> None:
    async def play() -> None:
        worker = Worker()
        turn = await worker.run(limit=5.0)
        await worker.answer()
        await loop.skip(5.0)
        assert await turn is None and worker.turn.late
        await worker.close()

    loop.run(play())


# What is asked


def test_options_may_stand_between_container_and_text() -> None:
    asked = order(parse(["prompt", "box", "--agent", "claude", "--cwd", "/srv", "Look.", "--json"]))
    assert asked == Order(container="box", text="Look.", agent="claude", cwd="/srv", anywhere=False)


@pytest.mark.parametrize("arguments", [["box", ""], ["", "Look."]])
def test_there_has_to_be_something_to_ask_and_somebody(arguments: list[str]) -> None:
    with pytest.raises(InvalidArgs, match="agentctl prompt NAME TEXT"):
        order(parse(["prompt", *arguments]))
