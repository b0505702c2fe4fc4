# SPDX-License-Identifier: Apache-2.0
"""Clients at work while processes are killed under them, all of it decided by one seed.

Three containers, whose agents know their sessions again, remember nothing, or are one for each session;
eight clients, each in a thread of its own. What is killed and when, and what a client does next, comes from
the seed; how far each process has come by then does not.
"""

import json
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from support.actor import ANSWER_SEC, Actor, Gone
from support.embedded import eventually, eventually_none
from support.faults import Blow, Killer, plan
from support.ledger import Ledger, runs_in
from support.site import CONTAINERS, Site, descriptors, threads

SEATS = (
    ("alpha", 0), ("alpha", 0), ("alpha", 1),
    ("beta", 0), ("beta", 0), ("beta", 1),
    ("gamma", 0), ("gamma", 1),
)  # fmt: skip
"""The container of each client, and which of its sessions it is in."""
RESTART_SEC = 2.0
SPARE = 2
"""Descriptors more than before that are no leak: a reader of the database, a pipe on its way."""
SPARE_THREADS = 6
"""A loop's pool grows to as many, and no further."""


@dataclass
class Census:
    """What the manager and the workers have open while nobody is there."""

    open: dict[str, Counter[str]] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)
    sockets: set[str] = field(default_factory=set)


class Trial:
    """A site with its clients: `open` it, let it be struck, and see what is left of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.site = Site(folder)
        self.ledger = Ledger()
        self.seed = seed
        self.actors = [
            Actor(self.site, self.ledger, f"c{number}", container, random.Random(f"{seed} client {number}"))
            for number, (container, _) in enumerate(SEATS)
        ]
        self.killer = Killer(self.site, self.ledger, self.actors)
        self.before = self.after = Census()

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *problem: object) -> None:
        """End whatever is left, however it went."""
        for actor in self.actors:
            actor.vanish()
        self.site.agentd.clean_up()

    # Beginning

    def open(self) -> None:
        """Everybody comes, says something and goes; then it is counted what there is, and all come back."""
        self.site.agentd.start()
        sessions: dict[tuple[str, int], str] = {}
        for actor, seat in zip(self.actors, SEATS, strict=True):
            actor.come(sessions.get(seat, ""))
            sessions[seat] = actor.session
            assert actor.turn(3, 0) == "end_turn"
        self.leave()
        self.before = self.census()
        self.come_back()

    def come_back(self) -> None:
        for actor in self.actors:
            actor.come()

    def leave(self) -> None:
        for actor in self.actors:
            actor.leave()

    def census(self) -> Census:
        """Once all agents have ended and the bus and the watcher are there."""
        eventually(lambda: not any(map(self.site.agents, CONTAINERS)), "idle agents end", ANSWER_SEC)
        eventually(self._is_complete, "the manager has all its workers, its watcher and its bus", ANSWER_SEC)
        processes = {"manager": self.site.manager()}
        processes |= {f"worker {name}": self.site.worker(name)[0] for name in CONTAINERS}
        return Census(
            {name: descriptors(pid) for name, pid in processes.items()},
            {name: threads(pid) for name, pid in processes.items()},
            self.site.sockets(),
        )

    def _is_complete(self) -> bool:
        done = self.site.agentd.agentctl("status", "--json")
        if done.returncode:
            return False
        status = json.loads(done.stdout)
        here = [each for each in status["containers"] if each["worker_pid"] and not each["clients"]]
        return len(here) == len(CONTAINERS) and status["watcher"]["connected"]

    # Faults

    def under(self, faults: Callable[[], None]) -> None:
        """Let the clients work while this is going on."""
        enough = threading.Event()
        workers = [
            threading.Thread(target=actor.live, args=(enough,), name=actor.name) for actor in self.actors
        ]
        for each in workers:
            each.start()
        try:
            faults()
        finally:
            enough.set()
            for each in workers:
                each.join()

    def random_faults(self, seconds: float) -> None:
        """Kill whatever the seed says for so long."""
        blows = plan(random.Random(f"{self.seed} faults"), seconds)
        self.under(lambda: self.killer.carry_out(blows))

    def restarts(self, seconds: float) -> None:
        """Kill the manager and start it again every 2 s, which no client may notice."""
        errors, attached = self._errors(), self._attached()
        blows = [
            Blow(RESTART_SEC * number, "manager", "", 0.0)
            for number in range(1, int(seconds / RESTART_SEC) + 1)
        ]
        self.under(lambda: self.killer.carry_out(blows))
        if seen := self._errors() - errors:
            self.ledger.problem(f"clients saw errors under restarts of the manager: {dict(seen)}")
        if self._attached() != attached:
            self.ledger.problem("a connection broke under restarts of the manager")
        self.leave()
        self._judge_leaks()  # the workers have lived through it all
        self.come_back()

    def _errors(self) -> Counter[str]:
        fine = ("end_turn", "cancelled")
        return self.ledger.refused + Counter(
            {outcome: count for outcome, count in self.ledger.outcomes.items() if outcome not in fine}
        )

    def _attached(self) -> int:
        return self.site.agentd.log().count("client attached")

    # The end

    def close(self) -> None:
        """Everybody goes and comes once more, reads everything and asks something; then all ends."""
        self.leave()
        self.ledger.judge_answers()
        runs = runs_in(self.site.runs)
        self.ledger.judge_runs(runs)
        for actor in self.actors:
            try:
                self._review(actor, set(runs))
            except (Gone, AssertionError) as exc:
                self.ledger.problem(f"{actor.name}: could not look at it all again: {exc!r}")
        self.leave()
        self._judge_leaks()
        self._judge_end()

    def _review(self, actor: Actor, ran: set[str]) -> None:
        """Raises Gone or AssertionError where the client is not served."""
        actor.come()
        self.ledger.judge_replay(actor.session, actor.view.shown(), ran)
        extras = self.ledger.used(actor.extras, ran)
        for session in extras:
            self.ledger.judge_replay(session, actor.load(session).shown(), ran)
            actor.close_session(session)
        if (outcome := actor.turn(5, 0)) != "end_turn":
            self.ledger.problem(f"{actor.name}: a prompt after it all: {outcome}")
        self._judge_list(actor, extras)

    def _judge_list(self, actor: Actor, extras: list[str]) -> None:
        expected = {each.session for each in self.actors if each.container == actor.container}
        if lacking := expected.union(extras) - actor.listed():
            self.ledger.problem(f"{actor.name}: session/list lacks {lacking}")

    def _judge_leaks(self) -> None:
        try:
            self.after = now = self.census()
        except AssertionError as exc:
            self.ledger.problem(f"what is left does not come to rest: {exc}")
            return
        for name, before in self.before.open.items():
            if now.open[name].total() > before.total() + SPARE:
                self.ledger.problem(f"{name} has open, more than before: {dict(now.open[name] - before)}")
            if now.threads[name] > self.before.threads[name] + SPARE_THREADS:
                self.ledger.problem(
                    f"{name} has {now.threads[name]} threads, not {self.before.threads[name]}"
                )
        if now.sockets != self.before.sockets:
            self.ledger.problem(f"sockets: {now.sockets} and not {self.before.sockets}")

    def _judge_end(self) -> None:
        if status := self.site.agentd.stop():
            self.ledger.problem(f"agentd ended with status {status}")
        if alive := eventually_none(self.site.processes):
            self.ledger.problem(f"processes left behind: {alive}")
        if left := self.site.sockets():
            self.ledger.problem(f"sockets left behind: {left}")
        if "Traceback" in self.site.agentd.log():
            self.ledger.problem("agentd's log has a traceback")
        for file in self.site.databases():
            self._judge_database(file)

    def _judge_database(self, file: Path) -> None:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
            state = connection.execute("PRAGMA integrity_check").fetchall()
            unfinished = connection.execute(
                "SELECT count(*) FROM turn WHERE progress IN ('queued', 'running')"
            ).fetchall()
        connection.close()
        if (state, unfinished) != ([("ok",)], [(0,)]):
            self.ledger.problem(f"{file}: {state}, {unfinished[0][0]} turns unfinished")
