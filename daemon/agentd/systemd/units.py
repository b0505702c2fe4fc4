# SPDX-License-Identifier: Apache-2.0
"""Unit jobs: having systemd start and stop our workers, and say which unit a process is of."""

import asyncio
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agentd.bus import INTERACTIVE_AUTHORIZATION_REQUIRED, Bus, BusError, Signal
from agentd.errors import AccessDenied, AgentdError, NotRunning, WorkerFailed

SYSTEMD = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "org.freedesktop.systemd1.Unit"

NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
NO_UNIT_FOR_PID = "org.freedesktop.systemd1.NoUnitForPID"
ALREADY_SUBSCRIBED = "org.freedesktop.systemd1.AlreadySubscribed"
UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"

CALL_TIMEOUT = 10.0

RESULTS = {
    "canceled": "another job took its place",
    "timeout": "it took too long",
    "failed": "it failed",
    "dependency": "something that it needs failed",
    "skipped": "a condition of the unit does not hold",
}

Removed = asyncio.Queue[tuple[str, str]]
"""Jobs that have ended: their paths and results."""


class UnitJobs:
    """`bus` is set to another connection when it was lost."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._subscribed_on: Bus | None = None
        self._knows_pidfds = True  # until it says otherwise, as systemd before 253 does

    # Jobs

    async def start(self, unit: str, timeout: float) -> None:
        """Return when the unit has started. WorkerFailed, with what to do, when it has not in time."""
        await self._run("start", unit, timeout)

    async def stop(self, unit: str, timeout: float) -> None:
        """Return when the unit has stopped, or was not there."""
        await self._run("stop", unit, timeout)

    async def _run(self, verb: str, unit: str, timeout: float) -> None:
        see = f"see journalctl -u {unit}"
        try:
            async with asyncio.timeout(timeout):
                result = await self._job(verb.capitalize() + "Unit", unit)
        except TimeoutError:
            raise WorkerFailed(f"{unit} did not {verb} within {timeout:g} s; {see}") from None
        except AgentdError as error:
            if verb == "stop" and _is(error, NO_SUCH_UNIT):
                return
            raise WorkerFailed(_explanation(error, verb, unit)) from error
        if result != "done":
            raise WorkerFailed(f"{unit} did not {verb}: {RESULTS.get(result, result)}; {see}")

    async def _job(self, member: str, unit: str) -> str:
        """Have a job done and return its result."""
        with self._removed_jobs() as removed:
            await self._subscribe()
            [job] = await self._call(member, "ss", unit, "replace")
            while (ended := await self.bus.until(removed.get()))[0] != job:
                pass
            return ended[1]

    @contextmanager
    def _removed_jobs(self) -> Iterator[Removed]:
        """To be listened to before a job is asked for: it may end before we are told its path."""
        removed: Removed = asyncio.Queue()

        def heard(news: Signal) -> None:
            _, job, _, result = news.args
            removed.put_nowait((job, result))

        stop = self.bus.subscribe(heard, interface=MANAGER, member="JobRemoved", path=PATH, sender=SYSTEMD)
        try:
            yield removed
        finally:
            stop()

    async def _subscribe(self) -> None:
        """systemd sends no signals to a connection that has not asked for them, once."""
        if self._subscribed_on is self.bus:
            return
        bus = self.bus
        try:
            await self._call("Subscribe")
        except BusError as error:
            if error.name != ALREADY_SUBSCRIBED:
                raise
        self._subscribed_on = bus

    # Processes

    async def unit_of(self, pid: int, pidfd: int | None = None) -> str:
        """The unit of a process, as systemd names it; "" when it is of none.

        A pid may belong to another process by now: with a `pidfd` the answer is about the right one.
        """
        try:
            if pidfd is not None and self._knows_pidfds:
                return await self._unit_by_pidfd(pid, pidfd)
            unit = await self._unit_by_pid(pid)
        except AgentdError as error:
            if _is(error, NO_UNIT_FOR_PID):
                return ""
            raise
        if pidfd is not None and _has_ended(pidfd):
            raise NotRunning(f"process {pid} has ended")
        return unit

    async def _unit_by_pidfd(self, pid: int, pidfd: int) -> str:
        try:
            _, name, _ = await self._call("GetUnitByPIDFD", "h", pidfd)
        except (BusError, AccessDenied) as error:
            # a system bus whose policy does not know the method says that it is denied
            if isinstance(error, BusError) and error.name != UNKNOWN_METHOD:
                raise
            self._knows_pidfds = False
            return await self.unit_of(pid, pidfd)
        return str(name)

    async def _unit_by_pid(self, pid: int) -> str:
        [path] = await self._call("GetUnitByPID", "u", pid)
        return str(await self.bus.property(SYSTEMD, path, UNIT, "Id", timeout=CALL_TIMEOUT))

    async def _call(self, member: str, signature: str = "", *args: object) -> list[Any]:
        return await self.bus.call(SYSTEMD, PATH, MANAGER, member, signature, *args, timeout=CALL_TIMEOUT)


def _is(error: AgentdError, name: str) -> bool:
    return isinstance(error, BusError) and error.name == name


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _explanation(error: AgentdError, verb: str, unit: str) -> str:
    if isinstance(error, AccessDenied) or _is(error, INTERACTIVE_AUTHORIZATION_REQUIRED):
        return (
            f"systemd does not let agentd {verb} {unit}: install the polkit rule that comes with agentd, "
            f"or run systemctl {verb} {unit} yourself"
        )
    if _is(error, NO_SUCH_UNIT):
        template = unit.partition("@")[0] + "@.service" if "@" in unit else unit
        return f"there is no {unit}: install {template}, then run systemctl daemon-reload"
    return f"systemd could not {verb} {unit}: {error.message}"
