# SPDX-License-Identifier: Apache-2.0
"""agentctl as a D-Bus client: whatever it orders or shows, busctl can too."""

import argparse
import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from agentd.advice import systemctl
from agentd.bus import INTERACTIVE_AUTHORIZATION_REQUIRED, NO_REPLY, Bus
from agentd.ctl.asking import terminal
from agentd.ctl.places import candidates, named, unreachable
from agentd.errors import ManagerUnreachable
from agentd.interface import PROPERTIES, BusError
from agentd.paths import Mode, Paths

NAME, ROOT, MANAGER, JOB = "org.agentd1", "/org/agentd1", "org.agentd1.Manager", "org.agentd1.Job"
CONTAINER, SESSION = "org.agentd1.Container", "org.agentd1.Session"
FIRST_SEC = 5.0
"""For a manager to say anything: the bus starts it, and waits for longer than a person likes to."""
PERSON_SEC = 150.0
"""For an answer, where polkit has to ask somebody before: a little more than the manager gives it."""
SYSTEMD, SYSTEMD_PATH, UNIT = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "agentd.service"
SYSTEMD_SEC = 2.0
ABSENT = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.NoServer",
    "org.freedesktop.DBus.Error.Spawn.",
    "org.freedesktop.systemd1.",
)
"""How the names of errors begin which say that there is no manager, and none that could be started."""
MASKED = "org.freedesktop.systemd1.UnitMasked"

T = TypeVar("T")


class Control:
    """A manager on its bus."""

    def __init__(self, bus: Bus, mode: Mode) -> None:
        self.bus = bus
        self.mode = mode

    async def manager(self, member: str, signature: str = "", *args: object) -> list[Any]:
        """Call a method of the Manager; the user may be asked for a password. Raises its error."""
        return await self.call(ROOT, MANAGER, member, signature, *args)

    async def call(
        self, path: str, interface: str, member: str, signature: str = "", *args: object
    ) -> list[Any]:
        """Call a method of any object of its; the user may be asked for a password. Raises its error."""
        call = functools.partial(self.bus.call, NAME, path, interface, member, signature, *args)
        try:
            return await call()
        except BusError as exc:
            if exc.name != INTERACTIVE_AUTHORIZATION_REQUIRED:
                raise
        async with terminal():
            return await call(interactive=True, timeout=PERSON_SEC)

    async def status(self) -> dict[str, Any]:
        """What Manager.Status says."""
        [text] = await self.manager("Status")
        status: dict[str, Any] = json.loads(text)
        return status

    async def container(self, name: str) -> str:
        """The path of a container. Raises NoSuchContainer."""
        [path] = await self.manager("GetContainer", "s", name)
        return str(path)

    async def property(self, path: str, interface: str, name: str) -> Any:
        return await self.bus.property(NAME, path, interface, name)

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        [values] = await self.bus.call(NAME, path, PROPERTIES, "GetAll", "s", interface)
        return dict(values)


def run(options: argparse.Namespace, work: Callable[[Control], Awaitable[T]]) -> T:
    """Do `work` with the manager that the options mean. Raises ManagerUnreachable, or what `work` raises."""
    return asyncio.run(_run(candidates(options), named(options), work))


async def _run(places: list[Paths], meant: Paths | None, work: Callable[[Control], Awaitable[T]]) -> T:
    problems = []
    for paths in places:
        try:
            async with await Bus.connect(paths.bus_address, timeout=FIRST_SEC) as bus:
                await _greet(bus, paths.mode)
                return await work(Control(bus, paths.mode))
        except BusError as exc:
            if not exc.name.startswith(ABSENT):
                raise
            problems.append(f"{paths.mode}: {exc.message}")
    raise ManagerUnreachable(unreachable(problems, meant))


# A manager that does not answer


async def _greet(bus: Bus, mode: Mode) -> None:
    """Raises ManagerUnreachable where nobody answers in time, or a BusError where nobody can."""
    try:
        await bus.call(NAME, ROOT, "org.freedesktop.DBus.Peer", "Ping", timeout=FIRST_SEC)
    except BusError as exc:
        if exc.name == NO_REPLY:
            raise ManagerUnreachable(await _why_silent(bus, mode)) from None
        if not await _is_masked(bus):
            raise
        text = f"{UNIT} is masked; to have it back: {systemctl(mode, 'unmask', UNIT)}"
        raise BusError(MASKED, text) from None


async def _is_masked(bus: Bus) -> bool:
    """Whether somebody wants no manager: what systemd says instead of starting one is of no use then."""
    try:
        ask = ("GetUnitFileState", "s", UNIT)
        [state] = await bus.call(SYSTEMD, SYSTEMD_PATH, f"{SYSTEMD}.Manager", *ask, timeout=SYSTEMD_SEC)
    except BusError:  # no systemd there, or it has no such unit
        return False
    return str(state).startswith("masked")


async def _why_silent(bus: Bus, mode: Mode) -> str:
    silent = f"agentd has not answered for {FIRST_SEC:g} s"
    if mode is Mode.EMBEDDED:
        return f"{silent}: it hangs; see what it has logged, and start it again"
    return f"{silent}: {await _unit_state(bus)}; see: {systemctl(mode, 'status', UNIT)}"


async def _unit_state(bus: Bus) -> str:
    """What systemd, on the same bus, says of the manager's unit."""
    try:
        manager = f"{SYSTEMD}.Manager"
        [path] = await bus.call(SYSTEMD, SYSTEMD_PATH, manager, "GetUnit", "s", UNIT, timeout=SYSTEMD_SEC)
        state = await bus.property(SYSTEMD, path, f"{SYSTEMD}.Unit", "ActiveState", timeout=SYSTEMD_SEC)
    except BusError:  # no systemd there, or it has no such unit loaded: nothing more is known
        return f"{UNIT} is not there, or cannot start"
    if state == "activating":
        return f"{UNIT} is still starting, or fails each time it does"
    return f"{UNIT} runs, but hangs" if state == "active" else f"{UNIT} is {state}"
