# SPDX-License-Identifier: Apache-2.0
"""An owner for tasks: nothing runs that nobody waits for, and no exception is lost."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from agentd.errors import AgentdError

log = logging.getLogger(__name__)


class Tasks:
    """Tasks that live as long as their owner. One that fails is logged and ends alone."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        running = [task for task in self._running if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (exc := task.exception()):
            ours = isinstance(exc, AgentdError)  # says all there is to say
            log.error("%s failed: %s", task.get_name(), exc, exc_info=None if ours else exc)
