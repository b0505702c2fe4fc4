# SPDX-License-Identifier: Apache-2.0
"""The machines that come and go, as systemd-machined tells of them."""

import asyncio
from collections.abc import AsyncGenerator, Collection

from agentd.bus import Bus, Signal
from agentd.errors import EngineFailed
from agentd.interface import BusError

MACHINED = "org.freedesktop.machine1"
PATH = "/org/freedesktop/machine1"
MANAGER = "org.freedesktop.machine1.Manager"


class _News:
    """Names that something is new about, each of them once; of no others than the `wanted` ones."""

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = frozenset(wanted)
        self._names = dict.fromkeys(wanted)
        self._any = asyncio.Event()

    def heard(self, signal: Signal) -> None:
        if (name := signal.args[0]) in self._wanted:
            self._names[name] = None
            self._any.set()

    async def next(self) -> str:
        while not self._names:
            self._any.clear()
            await self._any.wait()
        name = next(iter(self._names))
        del self._names[name]
        return name


async def changes(wanted: Collection[str]) -> AsyncGenerator[str, None]:
    """Which of the `wanted` machines have come or gone: first each of them, to be looked at once more.

    From then on nothing is missed. Raises EngineFailed where machined is not there, or the bus is lost.
    """
    news = _News(wanted)
    try:
        async with await Bus.connect("system") as bus:
            for member in ("MachineNew", "MachineRemoved"):
                bus.subscribe(news.heard, interface=MANAGER, member=member, path=PATH, sender=MACHINED)
            await bus.call(MACHINED, PATH, MANAGER, "ListMachines")  # answered after the rules are in force
            while True:
                yield await bus.until(news.next())
    except BusError as error:
        raise EngineFailed(f"machined cannot be followed: {error.message}") from None
