# SPDX-License-Identifier: Apache-2.0
"""org.agentd1 of an embedded agentd, as a program on its private bus meets it."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from agentd.bus import Bus, Signal
from support.embedded import Embedded

NAME, ROOT = "org.agentd1", "/org/agentd1"
PROPERTIES, OBJECTS = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.ObjectManager"
DEADLINE = 20.0


class Control:
    """A connection, and the signals that were heard on it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.heard: list[Signal] = []
        self._news = asyncio.Event()

    # Calling

    async def manager(self, member: str, signature: str = "", *args: object, **more: Any) -> Any:
        return _one(await self.bus.call(NAME, ROOT, "org.agentd1.Manager", member, signature, *args, **more))

    async def container(self, member: str, signature: str = "", *args: object, name: str = "here") -> Any:
        path = f"{ROOT}/container/{name}"
        return _one(await self.bus.call(NAME, path, "org.agentd1.Container", member, signature, *args))

    async def session(self, path: str, member: str, signature: str = "", *args: object) -> Any:
        return _one(await self.bus.call(NAME, path, "org.agentd1.Session", member, signature, *args))

    async def job(self, path: str, name: str) -> Any:
        return await self.bus.property(NAME, path, "org.agentd1.Job", name)

    async def get(self, kind: str, path: str, name: str) -> Any:
        return await self.bus.property(NAME, path, f"org.agentd1.{kind}", name)

    async def objects(self) -> dict[str, Any]:
        [found] = await self.bus.call(NAME, ROOT, OBJECTS, "GetManagedObjects")
        return dict(found)

    async def sessions(self, container: str = "") -> list[Any]:
        return list(await self.manager("ListSessions", "s", container))

    async def result(self, job: str) -> str:
        """How a job has ended."""
        while (state := await self.job(job, "State")) == "running":
            await asyncio.sleep(0.02)
        return str(state)

    # Listening

    def listen(self, interface: str, member: str) -> None:
        self.bus.subscribe(self._note, interface=interface, member=member, sender=NAME)

    def _note(self, signal: Signal) -> None:
        self.heard.append(signal)
        self._news.set()

    async def until(self, seen: Callable[[], object]) -> None:
        """Wait until what was heard makes it true."""
        async with asyncio.timeout(DEADLINE):
            while not seen():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def control(agentd: Embedded) -> AsyncIterator[Control]:
    async with await Bus.connect(f"unix:path={agentd.runtime_dir}/bus") as bus:
        yield Control(bus)


async def eventually(look: Callable[[], Any], what: str = "") -> Any:
    """Look, by awaiting, until there is something true to see."""
    async with asyncio.timeout(DEADLINE):
        while not (seen := await look()):
            await asyncio.sleep(0.02)
    return seen


def busctl(agentd: Embedded, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """busctl on that bus, as it is typed."""
    return _run("busctl", f"--address=unix:path={agentd.runtime_dir}/bus", *arguments, check=check)


def busctl_json(agentd: Embedded, *arguments: str) -> Any:
    return json.loads(busctl(agentd, "--json=short", *arguments).stdout)["data"]


def gdbus(agentd: Embedded, verb: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    address = ("--address", f"unix:path={agentd.runtime_dir}/bus")
    return _run("gdbus", verb, *address, "--dest", NAME, *arguments)


def _run(*command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=DEADLINE)


def _one(results: list[Any]) -> Any:
    return results[0] if len(results) == 1 else results
