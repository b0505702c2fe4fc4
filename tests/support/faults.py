# SPDX-License-Identifier: Apache-2.0
"""What is killed and when: decided by random numbers alone, and then carried out."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from support.actor import Actor
from support.ledger import Ledger
from support.site import CONTAINERS, Site

WEIGHTS = {"agent": 30, "client": 25, "worker": 20, "manager": 12, "bus": 8, "watcher": 5}
"""How often each kind of process is killed."""
UNTIL = {"worker": 0.85, "manager": 0.7}
"""The part of the time after which a kind is spared, so that some live to show what they leak."""
APART_SEC, MOST_A_MINUTE = 8.0, 4
"""Between kills of one container's worker: with more of them it would be given up, as it should."""
AWAY_SEC = 1.0
"""For how long a manager that was killed is away at most."""

AROUND_SEC = 0.05
"""A turn's end is within half of that after its last chunk."""


class Blow(NamedTuple):
    """One fault to come. `draw`: a number from 0 to 1 that chooses among several processes."""

    at: float
    kind: str
    container: str
    draw: float


def plan(luck: random.Random, seconds: float) -> list[Blow]:
    """The faults of so many seconds, which follow from the random numbers alone."""
    blows: list[Blow] = []
    at = luck.uniform(0.3, 2.0)
    while at < seconds:
        [kind] = luck.choices([*WEIGHTS], [*WEIGHTS.values()])
        blow = Blow(at, kind, luck.choice(CONTAINERS), luck.random())
        if at <= UNTIL.get(kind, 1.0) * seconds and _is_bearable(blow, blows):
            blows.append(blow)
            at += luck.uniform(0.3, 2.0)
    return blows


def _is_bearable(blow: Blow, before: list[Blow]) -> bool:
    """Whether a worker may be killed again already."""
    if blow.kind != "worker":
        return True
    earlier = [
        blow.at - each.at for each in before if (each.kind, each.container) == ("worker", blow.container)
    ]
    return min(earlier, default=60.0) >= APART_SEC and sum(ago < 62 for ago in earlier) < MOST_A_MINUTE


class Killer:
    """Carries out a plan."""

    def __init__(self, site: Site, ledger: Ledger, actors: list[Actor]) -> None:
        self._site, self._ledger, self._actors = site, ledger, actors
        self._start: Future[None] | None = None
        self.killed: Counter[str] = Counter()

    def carry_out(self, blows: list[Blow]) -> None:
        """What is to be killed is so while a manager that was is on its way back."""
        began = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            for blow in blows:
                time.sleep(max(0.0, began + blow.at - time.monotonic()))
                if blow.kind == "manager":
                    self._restart(pool, blow.draw)
                else:
                    self._strike(blow)
        self._wait_for_manager()

    def _restart(self, pool: ThreadPoolExecutor, draw: float) -> None:
        self._wait_for_manager()
        self._ledger.fault("manager")
        self.killed["manager"] += 1
        self._site.agentd.kill()
        self._start = pool.submit(self._bring_back, draw)

    def _wait_for_manager(self) -> None:
        if self._start is not None:
            self._start.result()

    def _bring_back(self, draw: float) -> None:
        """At once, or after some time; or it is killed once more while it starts."""
        if draw > 0.75:
            self._spoil_a_start(draw - 0.75)
        elif draw > 0.5:
            time.sleep((draw - 0.5) * 4 * AWAY_SEC)
        self._site.agentd.start()

    def _spoil_a_start(self, after: float) -> None:
        manager = subprocess.Popen(
            [sys.executable, "-m", "agentd", "serve", *self._site.agentd.places()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(2 * after)
        manager.kill()
        manager.wait()
        self.killed["manager, starting"] += 1

    def _strike(self, blow: Blow) -> None:
        match blow.kind:
            case "agent":
                self._kill(blow, self._site.agents(blow.container, "scripted.py"), blow.container)
            case "worker":
                self._aim(blow)
            case "bus":
                self._kill(blow, self._site.bus())
            case "watcher":
                self._kill(blow, self._site.agentd.watchers())
            case "client":
                self._kill(blow, [actor.pid for actor in self._actors if actor.pid], "-")

    def _aim(self, blow: Blow) -> None:
        """Every other worker is killed just when a turn ends: then there is most to lose."""
        workers, finishing = self._site.worker(blow.container), self._site.finishing[blow.container]
        if blow.draw < 0.5:
            finishing.clear()
            finishing.wait(AWAY_SEC)
            time.sleep(blow.draw * AROUND_SEC)
        self._kill(blow, workers, blow.container)

    def _kill(self, blow: Blow, among: list[int], container: str = "") -> None:
        if not among:
            return
        victim = among[int(blow.draw * len(among))]
        self._ledger.fault(blow.kind, container)
        try:
            os.kill(victim, signal.SIGKILL)
            self.killed[blow.kind] += 1
        except ProcessLookupError:
            pass  # it was quicker
