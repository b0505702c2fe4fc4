# SPDX-License-Identifier: Apache-2.0
"""Every error that the contract names can be met, under its name, with a sentence for a person."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from agentd import errors, link
from agentd.interface import BusError, Variant
from support.acp_client import Client
from support.control import ROOT, Control, control, eventually
from support.embedded import Embedded, Start

CONTRACT = Path(__file__).parents[2] / "dbus" / "org.agentd1.xml"
HERE = f"{ROOT}/container/here"
ELSEWHERE = {
    "AccessDenied": "by accounts: tests/e2e/test_polkit.py",
    "InteractiveAuthorizationRequired": "by accounts: tests/e2e/test_polkit.py",
    "Internal": "is a bug of ours: tests/integration/test_bus.py",
    "ShuttingDown": "is for callers of a manager that ends: tests/integration/test_bus.py",
}
"""Errors that are met in other tests, and why."""

Met = Callable[["Scene"], Awaitable[object]]


class Scene:
    """An agentd with a session in `here`, where a test has brought something about."""

    def __init__(self, agentd: Embedded, client: Client, bus: Control) -> None:
        self.agentd, self.client, self.bus = agentd, client, bus

    async def session(self, member: str, signature: str = "", *args: object) -> object:
        [listed] = await eventually(lambda: self.bus.sessions("here"))
        return await self.bus.session(listed[-1], member, signature, *args)

    async def drain(self, target: str, **options: int) -> object:
        settings = {name: Variant("t", value) for name, value in options.items()}
        return await self.bus.manager("Drain", "sa{sv}", target, settings)

    async def busy(self) -> None:
        self.client.prompt("cancelled")
        [listed] = await eventually(lambda: self.bus.sessions("here"))

        async def prompting() -> bool:
            return bool(await self.bus.get("Session", listed[-1], "State") == "prompting")

        await eventually(prompting)


async def two_containers(scene: Scene) -> object:
    text = scene.agentd.config.read_text()
    scene.agentd.config.write_text(text + '[containers.other]\nruntime = "host"\ndirectory = "/"\n')
    await scene.bus.manager("Reload")
    return await scene.bus.manager("OpenContainer", "sa{sv}", "", {})


async def broken_configuration(scene: Scene) -> object:
    scene.agentd.config.write_text("colour = 1")
    return await scene.bus.manager("Reload")


async def too_many(scene: Scene) -> object:
    text = scene.agentd.config.read_text()
    scene.agentd.config.write_text(text.replace("[limits]", "[limits]\npending_per_uid = 1"))
    await scene.bus.manager("Reload")
    await scene.bus.container("Stop")
    calls = [scene.bus.manager("OpenContainer", "sa{sv}", "here", {}) for _ in range(3)]
    done = await asyncio.gather(*calls, return_exceptions=True)
    for each in done:
        if isinstance(each, int):
            os.close(each)
    raise next(each for each in done if isinstance(each, BaseException))


async def drained_connection(scene: Scene) -> object:
    await scene.drain("here")
    return await scene.bus.manager("OpenContainer", "sa{sv}", "here", {})


async def drained_twice(scene: Scene) -> object:
    await scene.busy()
    await scene.drain("here")
    return await scene.drain("here", timeout_usec=1_000_000)


async def without_worker(scene: Scene) -> object:
    await scene.bus.container("Stop")
    return await scene.bus.container("StopAgent", "s", "scripted")


async def worker_that_fails(scene: Scene) -> object:
    await scene.bus.container("Stop")
    state = scene.agentd.runtime_dir / "state" / "containers" / "here"
    (state / "sessions.db").write_bytes(b"this is no database" * 100)
    return await scene.bus.manager("StartContainer", "s", "here")


async def store_that_fails(scene: Scene) -> object:
    folder = scene.agentd.runtime_dir / "state" / "manager"
    (folder / "drains.json.new").mkdir()
    return await scene.drain("here")


async def older_worker(scene: Scene) -> object:
    await scene.bus.container("Stop")
    welcome = asyncio.Event()

    def heard(message: link.AnyMessage, descriptor: int | None) -> None:
        if isinstance(message, link.Welcome):
            welcome.set()

    wire = link.Link(link.connect(str(scene.agentd.runtime_dir / "link.sock")), heard, lambda: None)
    snapshot = link.Snapshot(state="serving")
    wire.send(link.Hello(version=1, pid=os.getpid(), code="0.0.1", container="here", snapshot=snapshot))
    try:
        await welcome.wait()
        return await scene.bus.container("StopAgent", "s", "scripted")
    finally:
        wire.close()


async def slow_start(scene: Scene) -> object:
    """A worker that is stopped while it has a turn takes longer than anybody waits for an answer."""
    text = scene.agentd.config.read_text()
    scene.agentd.config.write_text(text.replace("drain_sec = 5.0", "drain_sec = 40.0"))
    await scene.bus.manager("Reload")
    await scene.busy()
    try:
        return await scene.bus.manager("StopContainer", "s", "here", timeout=25.0)
    finally:
        scene.client.cancel()


WAYS: dict[str, Met] = {
    "NoSuchContainer": lambda scene: scene.bus.manager("GetContainer", "s", "nowhere"),
    "NoSuchSession": lambda scene: scene.drain("here#none"),
    "NoSuchAgent": lambda scene: scene.drain("here/nobody"),
    "NoSuchTarget": lambda scene: scene.drain("here/"),
    "NoSuchPermission": lambda scene: scene.session("ResolvePermission", "ss", "7", "allow"),
    "AmbiguousContainer": two_containers,
    "NotRunning": without_worker,
    "NotDraining": lambda scene: scene.bus.manager("Undrain", "s", "here"),
    "AlreadyDraining": drained_twice,
    "Draining": drained_connection,
    "ConfigurationInvalid": broken_configuration,
    "LimitReached": too_many,
    "InvalidArgs": lambda scene: scene.drain("here", colour=1),
    "InProgress": slow_start,
    "StoreFailed": store_that_fails,
    "WorkerFailed": worker_that_fails,
    "WorkerOutdated": older_worker,
}
FAMILIES = {"TooManyConnections": "LimitReached", "StoreCorrupt": "WorkerFailed"}
"""Errors that are a kind of another, or that a worker itself has named."""


@pytest.fixture
def agentd(start: Start) -> Embedded:
    return start(bus="private")


@pytest.fixture
def client(agentd: Embedded) -> Iterator[Client]:
    with agentd.client() as client:
        yield client.open()


def named() -> set[str]:
    """Every error that the contract names."""
    text = re.sub(r"\s+", " ", CONTRACT.read_text())
    known = {each.__name__ for each in errors.BY_REASON.values()}
    found = {"AccessDenied", "Internal", "ShuttingDown", "InteractiveAuthorizationRequired"}
    for listed in re.findall(r"Errors: (.*?)\.? -->", text):
        words = set(re.findall(r"\b[A-Z]\w+\b", re.sub(r"\w+\.\w+", "", listed)))
        assert words <= known, f"there are no {words - known}"
        found |= words
    return found


def test_every_error_of_the_contract_is_met_somewhere() -> None:
    assert named() == WAYS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("name", sorted(WAYS))
async def test_an_error_is_met(name: str, agentd: Embedded, client: Client) -> None:
    async with control(agentd) as bus:
        with pytest.raises(errors.AgentdError) as raised:
            await WAYS[name](Scene(agentd, client, bus))
    error = raised.value
    assert not isinstance(error, BusError), error
    met = error.dbus_name.rpartition(".")[2]
    assert FAMILIES.get(met, met) == name
    assert len(error.message) > 15 and "Traceback" not in error.message
