# SPDX-License-Identifier: Apache-2.0
"""Running coroutines in tests, on a loop whose clock can be put forward, and that must be empty then."""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

PATIENCE = 10.0
"""Seconds after which a test hangs: generous, for nothing waits that long in a passing one."""

T = TypeVar("T")


class Loop(asyncio.SelectorEventLoop):
    """asyncio's own loop, but that time can be skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped

    def watched(self) -> int:
        """Descriptors somebody still has a reader or writer on, the loop's own one left out."""
        return len(self._selector.get_map()) - 1  # type: ignore[attr-defined]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end. Fails where a task, a reader or an unseen exception is left over."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(_checked(work))


async def settle() -> None:
    """Let everything happen that can happen now."""
    for _ in range(10):
        await asyncio.sleep(0)


async def skip(seconds: float) -> None:
    """Put the clock forward, and let the timers go off that are due then."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    loop.skipped += seconds
    await settle()


class Changes:
    """Something that changes as callbacks come in, and a way to wait for it that is not sleeping."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


async def _checked(work: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    problems: list[str] = []
    loop.set_exception_handler(lambda _, context: problems.append(_described(context)))
    result = await _bounded(work)
    await settle()
    gc.collect()  # finds exceptions that nobody has fetched
    left_over = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left_over, f"tasks left behind: {left_over}"
    assert not loop.watched(), f"readers or writers left behind: {loop.watched()}"
    assert not problems, problems
    return result


async def _bounded(work: Coroutine[Any, Any, T]) -> T:
    """The result. The bound is in real time: skipped seconds only make this look earlier."""
    task, began = asyncio.ensure_future(work), time.monotonic()
    while not task.done() and time.monotonic() - began < PATIENCE:
        await asyncio.wait([task], timeout=PATIENCE)
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
        raise AssertionError(f"nothing came of it within {PATIENCE:g} s")
    return task.result()


def _described(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"
