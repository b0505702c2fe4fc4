# SPDX-License-Identifier: Apache-2.0
"""Work that may take longer than anybody should wait: it goes on, and whoever asks again joins it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from agentd.errors import InProgress, ShuttingDown
from agentd.tasks import Tasks

ANSWER_SEC = 20.0
"""Below the 25 s for which callers wait."""


class Errands:
    """The last thing that each container was to do, by its name."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._under_way: dict[str, tuple[str, asyncio.Task[Any]]] = {}

    async def run(self, name: str, verb: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Do it, or join what was asked for last, if that is the same. Raises its error, or InProgress."""
        before, task = self._under_way.get(name, ("", None))
        if task is None or before != verb:
            task = self._tasks.start(work(), f"{verb} {name}")
            self._under_way[name] = verb, task
            task.add_done_callback(lambda _: self._ended(name, verb, task))
        done, _ = await asyncio.wait((task,), timeout=ANSWER_SEC)
        if not done:
            raise InProgress(f"{verb} {name}: still under way, and going on; see: agentctl status {name}")
        if task.cancelled():
            raise ShuttingDown(f"{verb} {name}: given up, for somebody has ordered the opposite since")
        task.result()

    def give_up(self, name: str, verb: str) -> None:
        """What was asked for last is not wanted any more, if it is that."""
        before, task = self._under_way.get(name, ("", None))
        if task is not None and before == verb:
            task.cancel()

    def _ended(self, name: str, verb: str, task: "asyncio.Task[Any] | None") -> None:
        if self._under_way.get(name) == (verb, task):
            del self._under_way[name]
