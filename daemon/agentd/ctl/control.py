# SPDX-License-Identifier: Apache-2.0
"""agentctl as a D-Bus client: whatever it orders or shows, busctl can too."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from agentd.bus import Bus
from agentd.ctl.places import candidates, unreachable
from agentd.errors import ManagerUnreachable
from agentd.interface import BusError
from agentd.paths import Paths

NAME, ROOT, MANAGER, JOB = "org.agentd1", "/org/agentd1", "org.agentd1.Manager", "org.agentd1.Job"
CONTAINER = "org.agentd1.Container"
WORKER_SEC = 120.0
"""For a worker to start, or to drain and leave."""
ABSENT = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.NoServer",
)


class Control:
    """A manager on its bus."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def manager(self, member: str, signature: str = "", *args: object) -> list[Any]:
        """Call a method of the Manager; the user may be asked for a password. Raises its error."""
        return await self.bus.call(NAME, ROOT, MANAGER, member, signature, *args, interactive=True)

    async def container(self, name: str, member: str) -> None:
        """Call a method of a Container. Raises its error, or NoSuchContainer."""
        [path] = await self.manager("GetContainer", "s", name)
        await self.bus.call(NAME, path, CONTAINER, member, interactive=True, timeout=WORKER_SEC)

    async def property(self, path: str, interface: str, name: str) -> Any:
        [value] = await self.bus.call(
            NAME, path, "org.freedesktop.DBus.Properties", "Get", "ss", interface, name
        )
        return value


def run(options: argparse.Namespace, work: Callable[[Control], Awaitable[int]]) -> int:
    """Run `work` with the manager the options mean, and return its exit status."""
    return asyncio.run(_run(candidates(options), work))


async def _run(places: list[Paths], work: Callable[[Control], Awaitable[int]]) -> int:
    problems = []
    for paths in places:
        try:
            async with await Bus.connect(paths.bus_address) as bus:
                await bus.call(NAME, ROOT, "org.freedesktop.DBus.Peer", "Ping")
                return await work(Control(bus))
        except BusError as exc:
            if exc.name not in ABSENT:
                raise
            problems.append(f"{paths.mode}: {exc.message}")
    raise ManagerUnreachable(unreachable(problems))
