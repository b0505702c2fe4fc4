# SPDX-License-Identifier: Apache-2.0

import asyncio
import os
import socket

import pytest

from agentd import errors, link
from agentd.config import Configuration, Container, Limits
from agentd.manager.access import Access, peer_of
from agentd.manager.container import WorkerEnd
from agentd.manager.front_door import FINISH_SEC, TAKE_SEC, FrontDoor
from agentd.manager.handshake import Opening
from agentd.manager.registry import Registry
from agentd.tasks import Tasks
from unit.loop import run, settle, skip
from unit.test_registry import Spawner


class Wire:
    """A worker's link that ends when a test says so."""

    def __init__(self) -> None:
        self.offered: list[link.Connect] = []
        self.gone = asyncio.Event()

    def send(self, message: link.AnyMessage, descriptor: int | None = None) -> None:
        assert isinstance(message, link.Connect) and descriptor is not None
        self.offered.append(message)

    async def wait_closed(self) -> None:
        await self.gone.wait()


class House:
    """A front door with one container, and a connection that has said whom it wants."""

    def __init__(self) -> None:
        self.spawner, configuration = Spawner(), Configuration(containers={"box": Container()})
        self.registry = Registry(self.spawner, Tasks())
        self.registry.configure(configuration)
        self.box = self.registry.get("box")
        self.door = FrontDoor(self.registry, Tasks(), Limits)
        self.door.access = Access(configuration, any_account=False)
        self.ours, self.theirs = socket.socketpair()

    def link(self) -> WorkerEnd:
        hello = link.Hello(
            version=1, pid=5, code="0", container="box", snapshot=link.Snapshot(state="serving")
        )
        worker = WorkerEnd(Wire(), hello)  # type: ignore[arg-type]
        self.registry.attach("box", worker)
        return worker

    def lose(self, worker: WorkerEnd) -> None:
        wire(worker).gone.set()
        self.registry.detach(self.box, worker)

    def come(self, opening: Opening = Opening("box", "", b"0", b"")) -> "asyncio.Task[None]":  # noqa: B008
        return asyncio.ensure_future(self.door._hand_over(self.ours, peer_of(self.theirs), opening))

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def wire(worker: WorkerEnd) -> Wire:
    assert isinstance(worker.link, Wire)
    return worker.link


def test_a_worker_is_told_of_the_session_the_client_goes_on_with() -> None:
    async def test() -> None:
        house = House()
        worker = house.link()
        coming = house.come(Opening("box", "claude", b"0", b"x", session="s-1"))
        await settle()
        [offer] = wire(worker).offered
        assert (offer.session, offer.agent, offer.uid) == ("s-1", "claude", os.getuid())
        house.door.taken(offer.connection)
        await coming
        house.close()

    run(test())


def test_one_that_leaves_instead_of_taking_it_is_followed_by_the_next_as_soon_as_it_is_gone() -> None:
    async def test() -> None:
        house = House()
        old = house.link()
        coming = house.come()
        await settle()
        old.dismissed = True  # it has said Leaving
        await skip(TAKE_SEC + 1)
        assert (coming.done(), house.spawner.started) == (False, [])
        house.lose(old)
        await settle()
        house.spawner.go()
        new = house.link()
        await settle()
        house.door.taken(wire(new).offered[0].connection)
        await coming
        assert house.spawner.started == ["box"]
        house.close()

    run(test())


def test_one_that_was_leaving_before_is_not_even_offered_it() -> None:
    async def test() -> None:
        house = House()
        old = house.link()
        old.snapshot = link.Snapshot(state="draining", leaving=True)
        coming = house.come()
        await settle()
        assert wire(old).offered == []
        coming.cancel()
        await asyncio.wait([coming])
        house.close()

    run(test())


def test_one_that_takes_nothing_and_does_not_leave_is_a_failure() -> None:
    async def test() -> None:
        house = House()
        house.link()
        coming = house.come()
        await settle()
        await skip(TAKE_SEC)
        with pytest.raises(errors.WorkerFailed, match="did not take the connection within 10 s"):
            await coming
        house.close()

    run(test())


def test_a_container_that_is_drained_while_a_connection_waits_refuses_it() -> None:
    async def test() -> None:
        house = House()
        old = house.link()
        coming = house.come()
        await settle()
        house.box.drained = True
        house.lose(old)
        await asyncio.wait([coming])
        with pytest.raises(errors.Draining):
            await coming
        assert house.spawner.started == []
        house.close()

    run(test())


def test_no_worker_is_started_for_one_that_does_not_want_that() -> None:
    async def test() -> None:
        house = House()
        coming = house.come(Opening("box", "", b"0", b"", start=False))
        await settle()
        await skip(20.0)
        with pytest.raises(errors.NotRunning, match="connect again to start it"):
            await coming
        assert house.spawner.started == []
        house.close()

    run(test())


def test_connections_that_wait_for_a_worker_count_as_pending() -> None:
    async def test() -> None:
        house = House()
        tasks, first = [], b'{"id":0,"method":"_agentd/attach","params":{"container":"box","start":false}}\n'
        ends = [socket.socketpair() for _ in range(Limits().pending_per_uid + 1)]
        for ours, theirs in ends:
            ours.setblocking(False)
            theirs.sendall(first)
            tasks.append(asyncio.ensure_future(house.door._welcome(ours, "")))
        await asyncio.wait([tasks[-1]])
        assert b"too_many_connections" in ends[-1][1].recv(4096)
        assert not any(task.done() for task in tasks[:-1])
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for pair in ends:
            for end in pair:
                end.close()
        house.close()

    run(test())


def test_who_is_on_the_way_when_the_manager_ends_is_told_to_connect_again() -> None:
    async def test() -> None:
        house = House()
        house.ours.setblocking(False)
        house.theirs.sendall(
            b'{"id":7,"method":"_agentd/attach","params":{"container":"box","start":false}}\n'
        )
        house.door._begin(house.door._welcome(house.ours, ""))
        await settle()
        finishing = asyncio.ensure_future(house.door.finish())
        await settle()
        assert not finishing.done(), "it may get there yet"
        await skip(FINISH_SEC)
        await finishing
        answer = house.theirs.recv(4096)
        assert b'"id":7' in answer and b'"shutting_down"' in answer
        house.close()

    run(test())


def test_who_gets_to_a_worker_while_the_manager_ends_is_its_client() -> None:
    async def test() -> None:
        house = House()
        worker = house.link()
        house.ours.setblocking(False)
        house.theirs.sendall(b'{"id":7,"method":"_agentd/attach","params":{"container":"box"}}\n')
        house.door._begin(house.door._welcome(house.ours, ""))
        finishing = asyncio.ensure_future(house.door.finish())
        while not wire(worker).offered:
            await asyncio.sleep(0)
        house.door.taken(wire(worker).offered[0].connection)
        await finishing
        house.close()

    run(test())
