# SPDX-License-Identifier: Apache-2.0
"""Eight callers that order a manager about at random, and what has to be true when they stop.

What a caller does next comes from the seed; whose order comes first does not, so that only what is ordered
when all the others have been answered is known to be the last.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack

from agentd.errors import AgentdError, Internal
from agentd.interface import BusError, Variant
from support.control import ROOT, Control, control
from support.embedded import Embedded

CALLERS = 8
ORDERS = ("drain", "undrain", "reload", "start", "stop")
QUICK_SEC = 60.0
"""For one order: a worker that is stopped drains before."""
SETTLED_SEC = 30.0
DRAIN_USEC = 300_000


class Races:
    """Callers of an agentd whose containers have these names."""

    def __init__(self, agentd: Embedded, names: list[str], seed: int) -> None:
        self._agentd = agentd
        self._names = names
        self._dice = [random.Random(f"{seed} caller {number}") for number in range(CALLERS)]
        self._callers: list[Control] = []
        self.answers: Counter[str] = Counter()
        self.problems: list[str] = []
        self._said = ""

    async def run(self, rounds: Iterable[object], orders: int) -> None:
        """Rounds of so many orders a caller, each with an end that is known."""
        async with AsyncExitStack() as stack:
            self._callers = [await stack.enter_async_context(control(self._agentd)) for _ in range(CALLERS)]
            for _ in rounds:
                await asyncio.gather(*(self._call(number, orders) for number in range(CALLERS)))
                for name in self._names:
                    await self._last_order(name)
                await self._no_job_without_an_end()

    async def _call(self, number: int, orders: int) -> None:
        dice = self._dice[number]
        for _ in range(orders):
            await self._give(self._callers[number], dice.choice(ORDERS), dice.choice(self._names))

    async def _give(self, bus: Control, order: str, name: str) -> bool:
        """Returns whether it was carried out. Whatever else it comes to must have a name."""
        try:
            async with asyncio.timeout(QUICK_SEC):
                await self._ask(bus, order, name)
        except TimeoutError:
            self.problems.append(f"{order} {name} was not answered within {QUICK_SEC:g} s")
        except (BusError, Internal) as exc:
            self.problems.append(f"{order} {name}: {exc.dbus_name}: {exc.message}")
        except AgentdError as exc:
            self.answers[f"{order}: {exc.reason}"] += 1
            self._said = exc.message
        else:
            self.answers[f"{order}: done"] += 1
            return True
        return False

    async def _ask(self, bus: Control, order: str, name: str) -> None:
        match order:
            case "drain":
                options = {"timeout_usec": Variant("t", DRAIN_USEC)}
                await bus.manager("Drain", "sa{sv}", name, options)
            case "undrain":
                await bus.manager("Undrain", "s", name)
            case "reload":
                await bus.manager("Reload")
            case "start":
                await bus.manager("StartContainer", "s", name)
            case "stop":
                await bus.manager("StopContainer", "s", name)

    # The end of a round

    async def _last_order(self, name: str) -> None:
        """One of each kind, which nobody else comes after."""
        bus, dice = self._callers[0], self._dice[0]
        drain, worker = dice.choice(("drain", "undrain")), dice.choice(("start", "stop"))
        await self._give(bus, drain, name)
        if not await self._give(bus, worker, name):
            self.problems.append(f"the last {worker} of {name} failed: {self._said}")
        await self._expect(name, "Drained", [name] if drain == "drain" else [])
        wanted = {
            ("drain", "start"): "drained",
            ("drain", "stop"): "drained",
            ("undrain", "start"): "serving",
            ("undrain", "stop"): "idle",
        }[drain, worker]
        await self._expect(name, "State", wanted)
        there = await self._property(name, "WorkerPID")
        if bool(there) != (worker == "start"):
            self.problems.append(f"the last order was {worker} {name}, and its worker is {there}")

    async def _expect(self, name: str, member: str, wanted: object) -> None:
        try:
            async with asyncio.timeout(SETTLED_SEC):
                while await self._property(name, member) != wanted:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            found = await self._property(name, member)
            self.problems.append(f"{member} of {name} is {found}, and not {wanted}")

    async def _property(self, name: str, member: str) -> object:
        return await self._callers[0].get("Container", f"{ROOT}/container/{name}", member)

    async def _no_job_without_an_end(self) -> None:
        """Every drain was to last for less than a second."""
        try:
            async with asyncio.timeout(SETTLED_SEC):
                while await self._running_jobs():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self.problems.append(f"jobs without an end: {await self._running_jobs()}")

    async def _running_jobs(self) -> list[str]:
        objects = await self._callers[0].objects()
        jobs = {path: faces.get("org.agentd1.Job", {}) for path, faces in objects.items()}
        return [path for path, job in jobs.items() if job.get("State") == "running"]
