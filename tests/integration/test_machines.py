# SPDX-License-Identifier: Apache-2.0
"""News of machines, from a machined of ours on a private bus; the end-to-end ring has the real one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest

from agentd.config import Configuration, Container
from agentd.errors import EngineFailed
from agentd.interface import Interface, method, signal
from agentd.runtimes.machined import Machined
from agentd.systemd import machines

NAME, PATH = "org.freedesktop.machine1", "/org/freedesktop/machine1"
BOXES = {
    "box": Container(runtime="machined"),
    "anyones": Container(),
    "theirs": Container(runtime="podman"),
}


class Manager(Interface, name="org.freedesktop.machine1.Manager"):
    @method("", "a(ssso)")
    async def list_machines(self) -> list[tuple[str, str, str, str]]:
        return []

    @signal("so")
    def machine_new(self, machine: str, path: str) -> None: ...

    @signal("so")
    def machine_removed(self, machine: str, path: str) -> None: ...


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def machined(
    peers: Any, daemon: Any, bus: ModuleType, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Any]:
    """The runtime's events, with machined on the bus, and an impostor who is not machined."""

    @asynccontextmanager
    async def machined() -> AsyncIterator[tuple[Any, Any, Manager]]:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", daemon.address)
        monkeypatch.setattr(machines, "Bus", bus.Bus)
        async with peers.connected(2) as (theirs, other):
            theirs.export(PATH, manager)
            await theirs.request_name(NAME)
            impostor = Manager()
            other.export(PATH, impostor)
            events = Machined(Configuration(containers=BOXES)).events(0)
            yield events, theirs, impostor
            await events.aclose()

    return machined


async def test_every_machine_is_looked_at_first(machined: Any) -> None:
    async with machined() as (events, _, _):
        assert {await anext(events), await anext(events)} == {"box", "anyones"}


async def test_machines_that_come_and_go_are_told_of(machined: Any, manager: Manager) -> None:
    async with machined() as (events, theirs, impostor):
        first = {await anext(events), await anext(events)}
        assert first == {"box", "anyones"}
        impostor.machine_new("box", PATH)
        manager.machine_new("theirs", PATH)
        manager.machine_new("unknown", PATH)
        manager.machine_removed("anyones", PATH)
        manager.machine_removed("anyones", PATH)
        for _ in range(2):  # when the bus has answered, all of that has come
            await theirs.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId")
        assert await anext(events) == "anyones"
        manager.machine_new("box", PATH)
        assert await anext(events) == "box"


async def test_a_machined_that_is_not_there_is_an_error(machined: Any, bus: ModuleType) -> None:
    async with machined() as (events, theirs, _):
        await theirs.close()
        with pytest.raises(EngineFailed, match=r"^machined cannot be followed: "):
            await anext(events)


async def test_a_bus_that_is_lost_is_an_error(machined: Any, daemon: Any) -> None:
    async with machined() as (events, _, _):
        assert {await anext(events), await anext(events)} == {"box", "anyones"}
        waiting = asyncio.ensure_future(anext(events))
        daemon.kill()
        with pytest.raises(EngineFailed, match=r"^machined cannot be followed: "):
            await waiting


async def test_a_bus_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    with pytest.raises(EngineFailed, match=r"^machined cannot be followed: cannot connect"):
        await anext(machines.changes(["box"]))
