# SPDX-License-Identifier: Apache-2.0
"""What is drained and what drains, on disk: no restart, upgrade or crash of the manager forgets it."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from agentd.errors import StoreFailed
from agentd.files import replace_file
from agentd.systemd.events import Event
from agentd.tasks import Tasks

VERSION = 1
WRITE_SEC = 10.0
"""What the disk may take, before whoever waits for it is told."""

log = logging.getLogger(__name__)


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's share of a job; `pid` is the worker that was told, `result` "" before its end."""

    remaining: int
    pid: int
    drained: list[str] = []
    result: str = ""


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job. Times are microseconds of Unix time; `ended_usec` is 0 while it runs.

    `timeout`: the seconds it was given, 0 where an older agentd has not written them down.
    """

    id: int
    target: str
    state: str
    deadline_usec: int
    ended_usec: int = 0
    timeout: float = 0.0
    parts: dict[str, PartRecord] = {}


class Drains(msgspec.Struct, frozen=True, kw_only=True):
    """All there is to remember. Containers, agents and sessions are written as targets.

    `orders`: the job whose order the worker of each was given last. `unheard`: what serves again, though
    there was no worker yet to hear it.
    """

    version: int = VERSION
    next_job: int = 1
    all_drained: bool = False
    drained: list[str] = []
    orders: dict[str, int] = {}
    unheard: list[str] = []
    jobs: list[JobRecord] = []


class Ledger:
    """The file, which is always whole: the newest state replaces the one before, in one step."""

    def __init__(self, path: str, tasks: Tasks) -> None:
        self._path = path
        self._tasks = tasks
        self._state: Callable[[], Drains] = Drains
        self._puts = self._written = 0
        """How often something was put, and how much of that is on disk, or could not be written."""
        self._writing: asyncio.Task[None] | None = None
        self._round = asyncio.Event()
        """Set when a write has ended; then there is another for the next one."""
        self._problem: StoreFailed | None = None

    def load(self) -> Drains:
        """What was written last. Where that cannot be known, everything counts as drained."""
        try:
            return _decoded(Path(self._path).read_bytes())
        except FileNotFoundError:
            return Drains()
        except (OSError, msgspec.DecodeError) as exc:
            return self._safe(exc)

    def _safe(self, why: Exception) -> Drains:
        """Keep aside what cannot be understood, and let no work begin that somebody may have stopped."""
        aside = f"{self._path}.{int(time.time())}"
        try:
            os.replace(self._path, aside)
        except OSError as exc:
            aside = f"it stays there ({exc.strerror})"
        log.error(
            "%s cannot be used (%s; kept as %s): what was drained is not known, so everything is, now. "
            "Look into that file, then let work begin again: agentctl undrain, or agentctl undrain NAME",
            *(self._path, why, aside),
            extra={"event": Event.STORE_FAILED},
        )
        drains = Drains(all_drained=True)
        self.put(lambda: drains)
        return drains

    # Writing

    def put(self, state: Callable[[], Drains]) -> None:
        """Have this written next, as it is then: many changes at a time are one to the disk."""
        self._state = state
        self._puts += 1
        if self._writing is None:
            self._writing = self._tasks.start(self._write_all(), "ledger of drains")

    async def written(self) -> None:
        """Return once what was put is on disk; what failed before is tried again. Raises StoreFailed."""
        if self._problem is not None:
            self.put(self._state)
        wanted = self._puts
        try:
            async with asyncio.timeout(WRITE_SEC):
                while self._written < wanted:
                    await self._round.wait()
        except TimeoutError:
            text = f"it is done, but {self._path} was not written within {WRITE_SEC:g} s"
            raise StoreFailed(text) from None
        if self._problem is not None:
            raise self._problem

    async def _write_all(self) -> None:
        try:
            while self._written < self._puts:
                upto = self._puts
                self._problem = await self._write(msgspec.json.encode(self._state()))
                self._written = upto
                self._round.set()
                self._round = asyncio.Event()
        finally:
            self._writing = None

    async def _write(self, data: bytes) -> StoreFailed | None:
        try:
            await asyncio.to_thread(replace_file, self._path, data)
        except OSError as exc:
            text = (
                f"it is done, but a restart would forget it: {self._path} cannot be written: {exc.strerror}"
            )
            log.error("drains: %s", text, extra={"event": Event.STORE_FAILED})
            return StoreFailed(f"{text}; mend that and give the order again")
        return None


def _decoded(data: bytes) -> Drains:
    """Raises DecodeError for what is damaged, or was written by a newer agentd."""
    drains = msgspec.json.decode(data, type=Drains)
    if drains.version > VERSION:
        raise msgspec.DecodeError(f"version {drains.version} is of a newer agentd, this one knows {VERSION}")
    return drains
