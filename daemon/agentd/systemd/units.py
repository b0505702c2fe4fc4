# SPDX-License-Identifier: Apache-2.0
"""Unit jobs: having systemd start and stop our workers, and say which unit a process is of."""

import asyncio
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agentd.advice import POLKIT, journalctl, systemctl
from agentd.bus import DISCONNECTED, INTERACTIVE_AUTHORIZATION_REQUIRED, Bus, BusError, Signal
from agentd.errors import AccessDenied, AgentdError, NotRunning, WorkerFailed
from agentd.paths import Mode

SYSTEMD = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "org.freedesktop.systemd1.Unit"
SERVICE = "org.freedesktop.systemd1.Service"

NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
NO_UNIT_FOR_PID = "org.freedesktop.systemd1.NoUnitForPID"
ALREADY_SUBSCRIBED = "org.freedesktop.systemd1.AlreadySubscribed"
UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"

POLKIT_NAME = "org.freedesktop.PolicyKit1"
POLKIT_PATH = "/org/freedesktop/PolicyKit1/Authority"
PEER = "org.freedesktop.DBus.Peer"

CALL_TIMEOUT = 10.0
ORDER_TIMEOUT = 30.0
"""For systemd to take an order: it asks polkit first, and the bus gives that 25 s to start."""
POLKIT_TIMEOUT = 5.0

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
    """`bus` is set to another connection when it was lost. `mode`: whose systemd is on it."""

    def __init__(self, bus: Bus, mode: Mode = Mode.SYSTEM) -> None:
        self.bus = bus
        self.mode = mode
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
        see = f"see: {journalctl(self.mode, '-u', unit)}"
        try:
            async with asyncio.timeout(timeout):
                result = await self._job(verb.capitalize() + "Unit", unit)
        except TimeoutError:
            raise WorkerFailed(f"{unit} did not {verb} within {timeout:g} s; {see}") from None
        except AgentdError as error:
            if verb == "stop" and _is(error, NO_SUCH_UNIT):
                return
            raise WorkerFailed(await self._explanation(error, verb, unit)) from error
        if result != "done":
            raise WorkerFailed(f"{unit} did not {verb}: {RESULTS.get(result, result)}; {see}")

    async def _job(self, member: str, unit: str) -> str:
        """Have a job done and return its result."""
        with self._removed_jobs() as removed:
            await self._subscribe()
            [job] = await self._call(member, "ss", unit, "replace", timeout=ORDER_TIMEOUT)
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
            await self._call("Subscribe", timeout=CALL_TIMEOUT)
        except BusError as error:
            if error.name != ALREADY_SUBSCRIBED:
                raise
        self._subscribed_on = bus

    # Reasons

    async def _explanation(self, error: AgentdError, verb: str, unit: str) -> str:
        """Why systemd did not do it, and what to do."""
        by_hand = systemctl(self.mode, verb, unit)
        if _is(error, NO_SUCH_UNIT):
            template = unit.partition("@")[0] + "@.service" if "@" in unit else unit
            reload = systemctl(self.mode, "daemon-reload")
            return f"there is no {unit}: install {template}, then run {reload}"
        if not _is(error, DISCONNECTED) and (silence := await self._silence_of_polkit()):
            return (
                f"systemd asks polkit whether agentd may {verb} {unit}, and polkit does not answer "
                f"({silence}): {POLKIT}; without it, as root: {by_hand}"
            )
        if not isinstance(error, AccessDenied) and not _is(error, INTERACTIVE_AUTHORIZATION_REQUIRED):
            return f"systemd could not {verb} {unit}: {error.message}"
        if self.mode is not Mode.SYSTEM:
            return f"systemd does not let agentd {verb} {unit}: {error.message}; by hand: {by_hand}"
        return (
            f"polkit does not let agentd {verb} {unit}: its rule for that, agentd.rules, is not installed "
            f"or another one says no; see: agentctl doctor; without polkit, as root: {by_hand}"
        )

    async def _silence_of_polkit(self) -> str:
        """Why polkit does not answer; "" where it does, or nobody asks it, as for an account's own units.

        systemd itself says something else in each case: that access is denied, that a unit is masked, or
        nothing for as long as polkit's start hangs.
        """
        if self.mode is not Mode.SYSTEM:
            return ""
        try:
            await self.bus.call(POLKIT_NAME, POLKIT_PATH, PEER, "Ping", timeout=POLKIT_TIMEOUT)
        except AgentdError as error:
            return "" if _is(error, DISCONNECTED) else error.message
        return ""

    # Processes

    async def unit_of(self, pid: int, pidfd: int | None = None) -> str:
        """The unit whose main process this is, as systemd names it; "" for any other process.

        Who is only in its control group may be an agent, in a container that has none of its own. A pid may
        belong to another process by now: with a `pidfd` the answer is about the right one.
        Raises NotRunning where it has ended, whatever systemd makes of that.
        """
        try:
            unit = await self._unit_of(pid, pidfd)
            if not unit and _has_ended(pid, pidfd):
                raise NotRunning(f"process {pid} has ended")
            return unit
        except AgentdError as error:
            if _has_ended(pid, pidfd):
                raise NotRunning(f"process {pid} has ended") from error
            if _is(error, NO_UNIT_FOR_PID):
                return ""
            raise

    async def _unit_of(self, pid: int, pidfd: int | None) -> str:
        if pidfd is not None and self._knows_pidfds:
            return await self._unit_by_pidfd(pid, pidfd)
        unit = await self._unit_by_pid(pid)
        if _has_ended(pid, pidfd):
            raise NotRunning(f"process {pid} has ended")
        return unit

    async def _unit_by_pidfd(self, pid: int, pidfd: int) -> str:
        try:
            path, name, _ = await self._call("GetUnitByPIDFD", "h", pidfd, timeout=CALL_TIMEOUT)
        except (BusError, AccessDenied) as error:
            # a system bus whose policy does not know the method says that it is denied
            if isinstance(error, BusError) and error.name != UNKNOWN_METHOD:
                raise
            self._knows_pidfds = False
            return await self._unit_of(pid, pidfd)
        return str(name) if await self._is_main(path, pid) else ""

    async def _unit_by_pid(self, pid: int) -> str:
        [path] = await self._call("GetUnitByPID", "u", pid, timeout=CALL_TIMEOUT)
        if not await self._is_main(path, pid):
            return ""
        return str(await self.bus.property(SYSTEMD, path, UNIT, "Id", timeout=CALL_TIMEOUT))

    async def _is_main(self, path: str, pid: int) -> bool:
        try:
            main = await self.bus.property(SYSTEMD, path, SERVICE, "MainPID", timeout=CALL_TIMEOUT)
        except BusError as error:
            if _is(error, DISCONNECTED):
                raise
            return False  # a scope has none
        return bool(main == pid)

    async def _call(self, member: str, signature: str = "", *args: object, timeout: float) -> list[Any]:
        return await self.bus.call(SYSTEMD, PATH, MANAGER, member, signature, *args, timeout=timeout)


def _is(error: AgentdError, name: str) -> bool:
    return isinstance(error, BusError) and error.name == name


def _has_ended(pid: int, pidfd: int | None) -> bool:
    if pidfd is None:
        return _is_nobodys(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _is_nobodys(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:  # it may also be one that is not ours to signal
        return isinstance(error, ProcessLookupError)
    return False
