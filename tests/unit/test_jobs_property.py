# SPDX-License-Identifier: Apache-2.0
"""Whatever is ordered, breaks and comes back: every drain ends, and what the last orders say is drained."""

import random
from collections.abc import Callable

import pytest

from agentd import errors, link
from agentd.manager.job import Job
from agentd.manager.jobs import ALL, GRACE_SEC, LINGER_SEC
from agentd.manager.targets import Target
from unit.house import MINUTE, House, Wire, drain, session
from unit.loop import run, skip

OPS = 200
SEEDS = range(20)
NAMES = ("box", "cat")
SESSIONS = [session("s1", "claude", "prompting"), session("s2", "codex")]
TARGETS = [ALL, *(name + part for name in NAMES for part in ("", "/claude", "/codex", "#s1", "#s2"))]
REFUSALS = (
    errors.AlreadyDraining,
    errors.NotDraining,
    errors.NoSuchContainer,
    errors.NoSuchSession,
)


class Worker(Wire):
    """A worker as it should be: it does as it is told, and does not forget that when its link breaks."""

    def __init__(self, name: str, pid: int) -> None:
        super().__init__()
        self.name = name
        self.pid = pid
        self.held: dict[Target, int] = {}
        self.results: dict[int, str] = {}
        self.breaks: Callable[[], None] | None = None

    def send(self, message: link.AnyMessage, descriptor: int | None = None) -> None:
        if self.breaks is not None:
            self.breaks()
        elif isinstance(message, link.Drain):
            self.held[Target(self.name, message.agent, message.session)] = message.job
        elif isinstance(message, link.Undrain):
            gone = Target(self.name, message.agent, message.session)
            self.held = {each: job for each, job in self.held.items() if not gone.covers(each)}

    def drains(self) -> dict[Target, link.DrainInfo]:
        return {
            each: drain(job, 1, result=self.results.get(job, ""), agent=each.agent, session=each.session)
            for each, job in self.held.items()
        }


class Story:
    """Random things that happen, and what is drained by the orders among them alone."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.house = House()
        self.everything = False
        self.ordered: set[str] = set()
        self.workers: dict[str, Worker] = {}
        """Those that live; the manager may have no link to them."""
        self.pids = 1
        for name in NAMES:
            self.appear(name)

    def linked(self, name: str) -> bool:
        there = [each for each in self.house.registry if each.name == name]
        return bool(there) and there[0].worker is not None

    def happen(self) -> float:
        """Something; returns how much time it takes."""
        name, target = self.random.choice(NAMES), self.random.choice(TARGETS)
        match self.random.choices(range(10), (8, 6, 2, 5, 3, 1, 4, 1, 1, 2))[0]:
            case 0:
                self.drain(target)
            case 1:
                self.undrain(target, lambda: self.house.jobs.undrain(target))
            case 2:
                self.cancel()
            case 3:
                self.link(name)
            case 4:
                self.die(name)
            case 5:
                self.die_of_the_next_word(name)
            case 6:
                self.report(name)
            case 7:
                self.vanish(name)
            case 8:
                self.restart()
            case _:
                return self.random.choice((0.1, 20.0))
        return 0.0

    # Orders

    def drain(self, target: str) -> None:
        there = {each.name for each in self.house.registry}
        try:
            self.house.jobs.drain(target, self.random.choice((None, None, 5.0, MINUTE)))
        except REFUSALS:
            return
        self.everything = self.everything or target == ALL
        self.ordered |= there if target == ALL else {target}

    def undrain(self, target: str, order: Callable[[], None]) -> None:
        covered = {each for each in self.ordered if Target.parse(target).covers(Target.parse(each))}
        try:
            order()
        except REFUSALS:
            assert not covered
            return
        assert covered or (target == ALL and self.everything)
        self.everything = self.everything and Target.parse(target).is_part
        self.ordered -= covered

    def cancel(self) -> None:
        running = [job for job in self.house.jobs if job.running]
        if running:
            job = self.random.choice(running)
            self.undrain(job.target, lambda: self.house.jobs.cancel(job))
            assert job.state == "canceled"

    # Containers and workers

    def appear(self, name: str) -> None:
        self.house.registry.seen(link.ContainerInfo(name=name, runtime="podman", running=True))
        if self.everything:
            self.ordered.add(name)

    def vanish(self, name: str) -> None:
        """And come back, as another one of that name."""
        self.die(name)
        self.house.registry.gone(name, "podman")
        self.ordered = {each for each in self.ordered if not each.startswith(f"{name}#")}
        self.appear(name)

    def link(self, name: str) -> None:
        """A new worker, or one that lives and was without a link, or has broken it off."""
        if name not in self.workers:
            self.pids += 1
            self.workers[name] = Worker(name, self.pids)
        worker = self.workers[name]
        held = worker.drains()
        whole = held.pop(Target(name), None)
        state = "serving" if whole is None else "drained" if whole.result else "draining"
        self.house.link(
            name,
            pid=worker.pid,
            turns=1,
            state=state,
            drain=whole,
            drains=held.values(),
            sessions=SESSIONS,
            wire=worker,
        )

    def die(self, name: str) -> None:
        self.workers.pop(name, None)
        if self.linked(name):
            self.house.lose(name)

    def die_of_the_next_word(self, name: str) -> None:
        if self.linked(name):
            self.workers[name].breaks = lambda: self.die(name)

    def report(self, name: str) -> None:
        """How a drain goes on or ends: one that is held, or that was once."""
        if not self.linked(name):
            return
        worker = self.workers[name]
        number = self.random.choice([*worker.held.values(), self.random.randrange(40)])
        result = self.random.choice(("", "done", "timeout"))
        worker.results[number] = result
        container = self.house.registry.get(name)
        if result:
            self.house.jobs.ended(container, link.Ended(job=number, result=result, drained=["s1"]))
        else:
            self.house.jobs.progress(container, link.Progress(job=number, remaining=1, drained=[]))

    def restart(self) -> None:
        """Of the manager: workers live on."""
        self.house = House(self.house.paper.last)
        for name in NAMES:
            self.appear(name)

    # What holds

    def check(self) -> None:
        jobs = self.house.jobs
        assert jobs.all_drained == self.everything
        for name in NAMES:
            mine = sorted(each for each in self.ordered if Target.parse(each).container == name)
            assert jobs.drained_of(name) == mine
            assert self.house.registry.get(name).drained == (name in mine)
        for job in jobs:
            told = self.house.told.count(f"{job.id}: ended")
            assert job.timer is not None and not job.timer.cancelled()
            assert told == 0 if job.running else told <= 1
            if job.running:
                self.check_running(job)

    def check_running(self, job: Job) -> None:
        """It waits for somebody, and what it is about has not been undone."""
        assert [part for part in job.parts.values() if not part.result]
        assert {str(share) for share in job.parts} <= self.ordered

    def check_workers(self) -> None:
        """Each drains what is drained of its container, and nothing else."""
        for name, worker in self.workers.items():
            assert sorted(map(str, worker.held)) == self.house.jobs.drained_of(name)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_drain_ends_and_the_last_order_counts(seed: int) -> None:
    async def test() -> None:
        story = Story(seed)
        for _ in range(OPS):
            if seconds := story.happen():
                await skip(seconds)
            story.check()
        for worker in story.workers.values():
            worker.breaks = None
        for name in NAMES:
            story.link(name)
        story.check()
        story.check_workers()
        await skip(MINUTE + GRACE_SEC)
        assert [job for job in story.house.jobs if job.running] == []
        story.check()
        await skip(LINGER_SEC)
        assert list(story.house.jobs) == []
        story.check_workers()

    run(test())
