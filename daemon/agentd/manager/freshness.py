# SPDX-License-Identifier: Apache-2.0
"""Counters that nobody is told of as they grow: workers and watcher are asked when somebody looks."""

import asyncio
import time
from collections.abc import Iterable

from agentd import link
from agentd.manager.container import Container
from agentd.manager.orders import SINCE

OLD_SEC = 0.9
"""Below that age they are fresh enough for everybody, also for those who look once a second."""
WAIT_SEC = 0.25
"""For those who are asked to answer. Who does not is shown as it was last."""


class Freshness:
    """Asks at most once a second, however many want to know."""

    def __init__(self) -> None:
        self._asked_at = -OLD_SEC
        self._owing: set[str] = set()
        self._all_here = asyncio.Event()
        self._all_here.set()

    async def ensure(self, containers: Iterable[Container], watcher: link.Link | None) -> None:
        """Return when all have answered, or had the time to."""
        if time.monotonic() - self._asked_at >= OLD_SEC:
            self._asked_at = time.monotonic()
            self._ask([each for each in containers if each.worker is not None], watcher)
        try:
            await asyncio.wait_for(self._all_here.wait(), WAIT_SEC)
        except TimeoutError:
            self._owing.clear()
            self._all_here.set()  # nobody else has to wait for them

    def heard(self, who: str) -> None:
        """A worker, by its container's name, or the watcher, as "", has answered."""
        self._owing.discard(who)
        if not self._owing:
            self._all_here.set()

    def _ask(self, containers: list[Container], watcher: link.Link | None) -> None:
        for container in containers:
            worker = container.worker
            if worker is not None and worker.version >= SINCE and container.ready.is_set():
                self._owing.add(container.name)
                worker.link.send(link.Refresh())
        names = [each.name for each in containers if each.info is not None and each.info.pid]
        if watcher is not None and names:
            self._owing.add("")
            watcher.send(link.Measure(containers=names))
        if self._owing:
            self._all_here.clear()
