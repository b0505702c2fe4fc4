# SPDX-License-Identifier: Apache-2.0
"""A job: what was ordered, which share of it each worker has, how far they are, and how it ended."""

import asyncio
import enum
import time

from agentd.errors import AlreadyDraining
from agentd.manager.drains import JobRecord, PartRecord
from agentd.manager.targets import Target

LONGEST_SEC = 7 * 86400.0
"""A drain may take at most that long."""


class State(enum.StrEnum):
    RUNNING = "running"
    DONE = "done"
    TIMEOUT = "timeout"
    CANCELED = "canceled"
    FAILED = "failed"


KNOWN = {state.value: state for state in State}


class Part:
    """One worker's share of a job. `pid`: the worker that was told. `result`: "" before its end."""

    def __init__(self, remaining: int, pid: int, drained: list[str] | None = None, result: str = "") -> None:
        self.remaining = remaining
        self.pid = pid
        self.drained = drained or []
        self.result = result

    def record(self) -> PartRecord:
        return PartRecord(remaining=self.remaining, pid=self.pid, drained=self.drained, result=self.result)


class Job:
    """A drain. It ends by itself, at the latest a little after its deadline.

    `aim`: what is to be drained. `timeout`: the seconds it was given, 0 where an older manager has not said.
    `parts`: by container, or by the agent or session that it is about.
    """

    def __init__(
        self,
        number: int,
        aim: Target,
        deadline_usec: int,
        *,
        timeout: float = 0.0,
        state: State = State.RUNNING,
        ended_usec: int = 0,
    ) -> None:
        self.id = number
        self.kind = "drain"
        self.aim = aim
        self.timeout = timeout
        self.state = state
        self.deadline_usec = deadline_usec
        self.ended_usec = ended_usec
        self.parts: dict[Target, Part] = {}
        self.timer: asyncio.TimerHandle | None = None
        """To end it when it is overdue, and then to forget it."""

    def record(self) -> JobRecord:
        return JobRecord(
            id=self.id,
            target=self.target,
            state=self.state,
            deadline_usec=self.deadline_usec,
            ended_usec=self.ended_usec,
            timeout=self.timeout,
            parts={str(key): part.record() for key, part in self.parts.items()},
        )

    @property
    def target(self) -> str:
        """What is to be drained, as people write it."""
        return str(self.aim)

    def share_of(self, container: str) -> Target:
        """Which part is that container's."""
        return Target(container) if self.aim.is_all else self.aim

    def check_timeout(self, timeout: float | None) -> None:
        """Raises AlreadyDraining for somebody who would join, but wants another deadline."""
        if timeout is None or not self.timeout or timeout == self.timeout:
            return
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.deadline_usec / 1e6))
        raise AlreadyDraining(
            f"{self.name} is being drained already, by job {self.id}, which cuts off at {until} "
            "what still runs: name no timeout to join it, or cancel it first",
            job=self.id,
            deadline_usec=self.deadline_usec,
        )

    @property
    def name(self) -> str:
        """The target, in a sentence."""
        return self.target or "everything"

    @property
    def time_left(self) -> float:
        """Seconds until turns are cut off."""
        return min(max(0.0, self.deadline_usec / 1e6 - time.time()), LONGEST_SEC)

    @property
    def remaining(self) -> int:
        """Turns that still run."""
        return sum(part.remaining for part in self.parts.values())

    @property
    def drained(self) -> list[str]:
        """The sessions that have really ended their turn."""
        return [session for part in self.parts.values() for session in part.drained]

    @property
    def running(self) -> bool:
        return self.state is State.RUNNING

    @property
    def result(self) -> State | None:
        """What has become of it, by what has become of its parts; None while one of them goes on."""
        results = {part.result for part in self.parts.values()}
        if "" in results:
            return None
        if not results <= {State.DONE, State.TIMEOUT}:
            return State.FAILED
        return State.TIMEOUT if State.TIMEOUT in results else State.DONE


def revived(record: JobRecord) -> Job:
    """A job that an earlier manager has written down."""
    job = Job(
        record.id,
        Target.split(record.target),
        record.deadline_usec,
        timeout=record.timeout,
        state=KNOWN.get(record.state, State.FAILED),
        ended_usec=record.ended_usec,
    )
    for name, part in record.parts.items():
        job.parts[Target.split(name)] = Part(part.remaining, part.pid, list(part.drained), part.result)
    return job
