# SPDX-License-Identifier: Apache-2.0
"""`agentctl events`: a line for every change, as it happens. Nothing is said of what was there before.

With --json each is an object on a line of its own: `time_usec`, when agentctl heard of it, `event`, and

    container_new, container_removed    container
    session_new, session_removed        container, session
    changed                             changes: {Property: value}, and of which object: container; container
                                        and session; job; or none of them for the manager
    job_new                             job, target
    job_progress                        job, remaining, drained
    job_removed                         job, target, result
    reloading                           active: true as it begins, false as it has ended
    manager_gone, manager_here          nothing else: the manager has left the bus, or has come
    bus_lost, bus_back                  nothing else: it is connected to again, for half a minute
    lost                                lost: how many changes came too fast and are not told

Properties, and what signals mean, are those of org.agentd1(5). A value is null where it is only told that it
has changed. `target`: "" is everything. `session`: "" where its id cannot be found out.

Ends with 0 when nobody reads any more, with 130 at Ctrl-C, and with 69 where the bus does not come back.
"""

import argparse
import asyncio
import logging
import sys
import time
from typing import Any, TypeVar

import msgspec

from agentd.bus import Bus, Signal
from agentd.ctl.control import JOB, MANAGER, NAME, ROOT, SESSION, Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.events.changes import Event, event_of, sentence
from agentd.ctl.events.outlet import Outlet
from agentd.ctl.places import candidates
from agentd.ctl.text import as_json
from agentd.errors import AgentdError, ManagerUnreachable
from agentd.interface import PROPERTIES, BusError
from agentd.paths import Mode, Paths

BACK_SEC = 30.0
"""For the bus to be there again."""
RETRY_SEC = 0.25
ANSWER_SEC = 5.0
WAITING_MAX = 10_000
"""Signals that have not been told yet; more of them are lost."""
KNOWN_MAX = 65_536
"""Sessions, and states, that are remembered."""
AT_ONCE = 256
DAEMON = "org.freedesktop.DBus"
SIGNALS = (
    *((MANAGER, member) for member in ("ContainerNew", "ContainerRemoved", "SessionNew", "SessionRemoved")),
    *((MANAGER, member) for member in ("JobNew", "JobRemoved", "Reloading")),
    (JOB, "Progress"),
    (PROPERTIES, "PropertiesChanged"),
)

T = TypeVar("T")

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    async def mode_of(control: Control) -> Mode:
        return control.mode

    mode = with_manager(options, mode_of)
    paths = next(each for each in candidates(options) if each.mode is mode)
    asyncio.run(_tell(paths, json=options.json))
    return 0


async def _tell(paths: Paths, *, json: bool) -> None:
    """Return when nobody reads any more. Raises BrokenPipeError for the same, and ManagerUnreachable."""
    with Outlet(sys.stdout.fileno()) as out:
        teller = Teller(paths, out, json=json)
        parts = [asyncio.create_task(part) for part in (teller.listen(), teller.tell(), out.wait_gone())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
        for part in done:
            part.result()


class Known(dict[str, T]):
    """Remembers the last of what it is told, and not without end."""

    def __setitem__(self, key: str, value: T) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > KNOWN_MAX:
            del self[next(iter(self))]


class Teller:
    """Hears the signals of a manager, and tells them in order."""

    def __init__(self, paths: Paths, out: Outlet, *, json: bool) -> None:
        self._paths = paths
        self._out = out
        self._json = json
        self._bus: Bus | None = None
        self._waiting: asyncio.Queue[tuple[int, Signal | str]] = asyncio.Queue(WAITING_MAX)
        self._lost = 0
        self._sessions: Known[str] = Known()
        self._states: Known[str] = Known()

    # Hearing

    async def listen(self) -> None:
        """Raises ManagerUnreachable where the bus does not come back."""
        bus = await self._connect()
        while True:
            async with bus:
                await self._hear(bus)
                await bus.wait_closed()
            self._put("bus_lost")
            bus = await self._connect()
            self._put("bus_back")

    async def _connect(self) -> Bus:
        end = time.monotonic() + BACK_SEC
        while True:
            try:
                return await Bus.connect(self._paths.bus_address, timeout=ANSWER_SEC)
            except BusError as error:
                if time.monotonic() > end:
                    text = (
                        f"the bus has not come back for {BACK_SEC:g} s ({error.message}); start agentd again"
                    )
                    raise ManagerUnreachable(text) from None
            await asyncio.sleep(RETRY_SEC)

    async def _hear(self, bus: Bus) -> None:
        self._bus = bus
        for interface, member in SIGNALS:
            bus.subscribe(self._put, interface=interface, member=member, sender=NAME)
        bus.subscribe(self._put, interface=DAEMON, member="NameOwnerChanged", sender=DAEMON, arg0=NAME)
        await self._learn(bus)

    def _put(self, news: Signal | str) -> None:
        try:
            self._waiting.put_nowait((time.time_ns() // 1000, news))
        except asyncio.QueueFull:
            self._lost += 1

    # Knowing

    async def _learn(self, bus: Bus) -> None:
        """What was there before: for the words of what comes, which are fewer where it does not tell."""
        try:
            await self._look_around(bus)
        except AgentdError as error:
            log.debug("not all is known of what was there before: %s", error)

    async def _look_around(self, bus: Bus) -> None:
        """Raises the manager's error; one that is not there must not be started by it."""
        if not await bus.has_owner(NAME):
            self._put("manager_gone")
            return
        [state] = await self._ask(bus, ROOT, PROPERTIES, "Get", "ss", MANAGER, "State")
        self._states[ROOT] = state
        [containers] = await self._ask(bus, ROOT, MANAGER, "ListContainers")
        for _, _, state, _, _, path in containers:
            self._states[path] = state
        [sessions] = await self._ask(bus, ROOT, MANAGER, "ListSessions", "s", "")
        for id, _, _, state, _, _, path in sessions:
            self._sessions[path], self._states[path] = id, state

    async def _ask(self, bus: Bus, path: str, interface: str, member: str, *args: str) -> list[Any]:
        return await bus.call(NAME, path, interface, member, *args, timeout=ANSWER_SEC)

    async def _property(self, path: str, interface: str, name: str) -> str | None:
        """None where nobody can tell any more."""
        if self._bus is None:
            return None
        try:
            [value] = await self._ask(self._bus, path, PROPERTIES, "Get", "ss", interface, name)
        except AgentdError:
            return None
        return str(value)

    # Telling

    async def tell(self) -> None:
        """Raises BrokenPipeError where nobody reads any more."""
        while True:
            heard = [await self._waiting.get()]
            while len(heard) < AT_ONCE and not self._waiting.empty():
                heard.append(self._waiting.get_nowait())
            lines = [await self._line(usec, news) for usec, news in heard]
            await self._out.write("".join(lines) + self._own_up())

    def _own_up(self) -> str:
        lost, self._lost = self._lost, 0
        return (
            self._written(Event(time_usec=time.time_ns() // 1000, event="lost", lost=lost)) if lost else ""
        )

    async def _line(self, usec: int, news: Signal | str) -> str:
        if isinstance(news, str):
            return self._written(Event(time_usec=usec, event=news))
        if news.member in ("SessionNew", "SessionRemoved"):
            self._sessions[news.args[2]] = news.args[1]
        await self._find_session(news)
        event = event_of(news, usec, self._sessions)
        if event is None:
            return ""
        if event.event == "job_new":
            target = await self._property(news.args[1], JOB, "Target")
            event = msgspec.structs.replace(event, target=target)
        line = self._written(event, self._states.get(news.path, ""))
        if state := (event.changes or {}).get("State"):
            self._states[news.path] = state
        if event.event == "manager_here" and self._bus is not None:
            await self._learn(self._bus)
        return line

    async def _find_session(self, news: Signal) -> None:
        """Ask for the id of a session that was there before, and is new to us."""
        if news.member != "PropertiesChanged" or news.args[0] != SESSION or news.path in self._sessions:
            return
        if (id := await self._property(news.path, SESSION, "Id")) is not None:
            self._sessions[news.path] = id

    def _written(self, event: Event, before: str = "") -> str:
        if self._json:
            return as_json(msgspec.to_builtins(event)) + "\n"
        line = sentence(event, before)
        return f"{line}\n" if line else ""
