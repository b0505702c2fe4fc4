# SPDX-License-Identifier: Apache-2.0
"""Orders to workers that have an answer: what a session or an agent of theirs is to do."""

import asyncio
import itertools

from agentd import link
from agentd.errors import NotRunning, WorkerFailed, WorkerOutdated, revive
from agentd.manager.container import Container, WorkerEnd

ANSWER_SEC = 18.0
"""A little more than a worker gives itself, and less than callers have."""
SINCE = 2
"""The version of the link that has orders."""


class Orders:
    """Those that are not answered yet, by number."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[WorkerEnd, asyncio.Future[link.Answer]]] = {}

    async def give(self, container: Container, order: link.MakeOrder) -> link.Answer:
        """Have a container's worker carry it out. `order` makes it, of its number.

        Raises NotRunning, WorkerOutdated, WorkerFailed, or the worker's error.
        """
        worker = _able(container)
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._open[number] = worker, answer
        gone = asyncio.ensure_future(worker.link.wait_closed())
        worker.link.send(order(number))
        try:
            await asyncio.wait((answer, gone), timeout=ANSWER_SEC, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            del self._open[number]
        return _understood(container, answer, gone)

    def answered(self, worker: WorkerEnd, answer: link.Answer) -> None:
        """A worker says what came of an order."""
        whom, waiting = self._open.get(answer.number, (None, None))
        if whom is worker and waiting is not None and not waiting.done():
            waiting.set_result(answer)


def _able(container: Container) -> WorkerEnd:
    worker = container.worker
    if worker is None or not container.ready.is_set():
        raise NotRunning(f"{container.name} has no worker now; start it: agentctl start {container.name}")
    if worker.version < SINCE:
        raise WorkerOutdated(
            f"the worker of {container.name} runs agentd {worker.code}, which cannot do this: restart it"
        )
    return worker


def _understood(
    container: Container, answer: "asyncio.Future[link.Answer]", gone: "asyncio.Future[None]"
) -> link.Answer:
    if not answer.done():
        text = "ended before it answered" if gone.done() else f"has not answered within {ANSWER_SEC:g} s"
        raise WorkerFailed(f"the worker of {container.name} {text}; see: agentctl status {container.name}")
    said = answer.result()
    if said.reason:
        raise revive(said.reason, said.message)
    return said
