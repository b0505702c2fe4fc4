# SPDX-License-Identifier: Apache-2.0
"""A container as the manager knows it: what the engine says, what its worker says, and the state of both."""

import asyncio
import enum

from agentd import link
from agentd.errors import AgentdError


class State(enum.StrEnum):
    STOPPED = "stopped"
    IDLE = "idle"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"
    FAILED = "failed"


KNOWN = {state.value: state for state in State}
"""A newer worker may have states that an older manager has not."""


class WorkerEnd:
    """A worker that has said Hello: its link, and the last it told of itself."""

    def __init__(self, wire: link.Link, hello: link.Hello) -> None:
        self.link = wire
        self.pid = hello.pid
        self.code = hello.code
        self.version = link.agreed(hello.version)
        """Of the link, as both sides speak it."""
        self.snapshot = hello.snapshot
        self.dismissed = False
        """Whether it was asked to leave, or has said that it does."""

    @property
    def leaving(self) -> bool:
        """Whether it takes no connections any more."""
        return self.dismissed or self.snapshot.leaving

    @property
    def was_drained(self) -> bool:
        """Whether it drains because somebody wanted that, and not just before its end."""
        drains = self.snapshot.state in (State.DRAINING, State.DRAINED)
        return drains and (self.snapshot.drain is not None or not self.snapshot.leaving)


class Container:
    """One container. Its state is never stored: it follows from what is known, in `state` alone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.info: link.ContainerInfo | None = None
        self.configured = False
        self.retired = False
        """Whether it has opted out while its worker still serves those it has."""
        self.worker: WorkerEnd | None = None
        self.start: asyncio.Task[None] | None = None
        self.turn = asyncio.Lock()
        """Held by a start or a stop of its worker: one is over before the next begins."""
        self.drained = False
        """Whether somebody wants all of it drained, worker or not."""
        self.failure: AgentdError | None = None
        self.measured: link.Measured | None = None
        """What the watcher has seen of its network last."""
        self.ready = asyncio.Event()
        """Set while a worker is there that takes connections."""
        self.unlinked = asyncio.Event()

    @property
    def state(self) -> State:
        if self.worker is not None:
            state = KNOWN.get(self.worker.snapshot.state, State.SERVING)
            # what was ordered is in force before the worker has said that it does it
            return State.DRAINING if self.drained and state is State.SERVING else state
        if self.start is not None:
            return State.STARTING
        if self.stopped:
            return State.STOPPED
        if self.drained:
            return State.DRAINED
        return State.FAILED if self.failure else State.IDLE

    @property
    def last_error(self) -> str:
        """Why there is no worker, or why the one there is cannot work; "" for nothing of the kind."""
        return self.failure.message if self.failure else self.snapshot.problem

    @property
    def stopped(self) -> bool:
        """Known not to run; one the watcher has said nothing of may well run."""
        return self.info is not None and not self.info.running

    @property
    def runtime(self) -> str:
        return self.info.runtime if self.info else ""

    @property
    def snapshot(self) -> link.Snapshot:
        return self.worker.snapshot if self.worker else link.Snapshot()

    @property
    def sessions_open(self) -> int:
        """How many there are, also those that the worker could not tell of."""
        return self.snapshot.sessions_open or len(self.snapshot.sessions)

    # What changes it

    def seen(self, info: link.ContainerInfo) -> bool:
        """The watcher's word. A restart, for which it returns True, clears an old failure: another try is
        worth it.
        """
        known = self.info is not None and (info.id, info.pid) == (self.info.id, self.info.pid)
        if not known and self.start is None:  # what a start under way has found out is its own to tell
            self.failure = None
        self.info = info
        self.retired = False
        return not known

    def attach(self, worker: WorkerEnd) -> None:
        self.worker, self.failure = worker, None
        self.drained = self.drained or worker.was_drained
        self.unlinked.clear()
        self.told(worker.snapshot)

    def told(self, snapshot: link.Snapshot) -> None:
        """The worker's word on itself."""
        if self.worker is not None:
            self.worker.snapshot = snapshot
            (self.ready.clear if snapshot.state == State.STARTING else self.ready.set)()

    def detach(self) -> None:
        self.worker = None
        self.ready.clear()
        self.unlinked.set()
