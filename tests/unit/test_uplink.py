# SPDX-License-Identifier: Apache-2.0

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd import __version__, errors, link, uplink
from agentd.uplink import LONGEST_PAUSE, WELCOME_SEC, Uplink
from unit.loop import Changes, run, settle, skip

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "ORPHANED_SEC", PATIENCE)


class Manager(Changes):
    """The far end: takes every link, and notes what comes over any of them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = str(folder / "link.sock")
        self.links: list[link.Link] = []
        self.said: list[link.AnyMessage] = []

    def open(self) -> "Manager":
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.bind(self.path)
        self._sock.listen()
        asyncio.get_running_loop().add_reader(self._sock, self._accept)
        return self

    def close(self) -> None:
        """End, as a manager that is killed does."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        os.unlink(self.path)
        for each in self.links:
            each.close()

    def _accept(self) -> None:
        self.links.append(link.Link(self._sock.accept()[0], self._message, self.changed))
        self.changed()

    def _message(self, message: link.AnyMessage, descriptor: int | None) -> None:
        self.said.append(message)
        self.changed()

    async def heard(self, count: int) -> list[link.AnyMessage]:
        await self.until(lambda: len(self.said) >= count)
        return self.said

    def say(self, message: link.AnyMessage, descriptor: int | None = None) -> None:
        self.links[-1].send(message, descriptor)


class Near(Changes):
    """The near end, as a worker has it, and all that it is told."""

    def __init__(self, manager: Manager, *, needed: bool = False) -> None:
        super().__init__()
        self.orders: list[link.AnyMessage] = []
        self.descriptors: list[int | None] = []
        self.welcomes = 0
        self.turns = 0
        self.uplink = Uplink(
            manager.path,
            self._order,
            container="box",
            snapshot=lambda: link.Snapshot(turns=self.turns),
            on_welcome=self._welcome,
            needed=lambda: needed,
        )
        self.task = asyncio.ensure_future(self.uplink.run())

    def _order(self, message: link.AnyMessage, descriptor: int | None) -> None:
        self.orders.append(message)
        self.descriptors.append(descriptor)
        self.changed()

    def _welcome(self) -> None:
        self.welcomes += 1
        self.changed()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


WELCOME = link.Welcome(version=link.VERSION)
REFUSED = link.Refused(reason="already_running", message="another one has it")


def test_hello_says_who_it_is_and_all_it_knows(tmp_path: Path) -> None:
    async def test() -> None:
        manager = Manager(tmp_path).open()
        near = Near(manager)
        near.turns = 3
        hello = link.Hello(
            version=link.VERSION,
            pid=os.getpid(),
            code=__version__,
            container="box",
            snapshot=link.Snapshot(turns=3),
        )
        assert await manager.heard(1) == [hello]
        await near.close()
        manager.close()

    run(test())


def test_orders_come_with_their_descriptors(tmp_path: Path) -> None:
    async def test() -> None:
        manager = Manager(tmp_path).open()
        near = Near(manager)
        await manager.heard(1)
        orders: list[link.AnyMessage] = [link.Connect(connection=1, uid=0), link.Undrain()]
        manager.say(WELCOME)
        manager.say(orders[0], 0)
        manager.say(orders[1])
        await near.until(lambda: near.orders == orders)
        passed, nothing = near.descriptors
        assert (near.welcomes, nothing) == (1, None)
        assert passed is not None
        os.close(passed)
        await near.close()
        manager.close()

    run(test())


def test_nothing_but_hello_is_sent_before_the_welcome(tmp_path: Path) -> None:
    async def test() -> None:
        manager = Manager(tmp_path)
        near = Near(manager)
        near.uplink.send(link.Leaving(container_ended=True))  # no manager at all
        manager.open()
        await manager.heard(1)
        near.uplink.send(link.Leaving(container_ended=True))
        manager.say(WELCOME)
        await near.until(lambda: near.welcomes)
        near.uplink.send(link.Taken(connection=1))
        assert (await manager.heard(2))[1:] == [link.Taken(connection=1)]
        await near.close()
        manager.close()

    run(test())


def test_a_manager_that_comes_back_is_found_and_told_how_things_are_now(tmp_path: Path) -> None:
    async def test() -> None:
        manager = Manager(tmp_path).open()
        near = Near(manager)
        await manager.heard(1)
        manager.say(WELCOME)
        await near.until(lambda: near.welcomes == 1)
        manager.close()
        await skip(PATIENCE / 2)
        near.turns = 7
        manager.open()
        await manager.heard(2)
        manager.say(WELCOME)
        await near.until(lambda: near.welcomes == 2)
        assert [each.snapshot.turns for each in manager.said if isinstance(each, link.Hello)] == [0, 7]
        await near.close()
        manager.close()

    run(test())


def test_a_refusal_is_the_end_and_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        manager = Manager(tmp_path).open()
        near = Near(manager)
        first = asyncio.ensure_future(near.uplink.first(asyncio.Event()))
        await manager.heard(1)
        manager.say(REFUSED)
        await asyncio.wait([near.task, first])
        for each in (near.task, first):
            assert isinstance(error := each.exception(), errors.AlreadyRunning)
            assert error.message == "another one has it"
        await manager.until(lambda: manager.links[0].closed)
        assert (len(manager.links), near.welcomes) == (1, 0)
        manager.close()

    run(test())


def test_the_first_news_end_the_wait_for_them(tmp_path: Path) -> None:
    async def test() -> None:
        near, news = Near(Manager(tmp_path)), asyncio.Event()
        first = asyncio.ensure_future(near.uplink.first(news))
        await settle()
        news.set()
        await first
        await near.close()

    run(test())


@pytest.mark.parametrize("there", [True, False])
def test_a_manager_that_says_nothing_is_not_waited_for_long(tmp_path: Path, there: bool) -> None:
    async def test() -> None:
        manager = Manager(tmp_path)
        near = Near(manager.open() if there else manager)
        first = asyncio.ensure_future(near.uplink.first(asyncio.Event()))
        await settle()
        assert not first.done()
        await skip(WELCOME_SEC)
        with pytest.raises(errors.ManagerUnreachable, match=r"link.sock; is agentd.service running\?"):
            await first
        await near.close()
        if there:
            manager.close()

    run(test())


async def skip_in_steps(seconds: float, over: Callable[[], object] = lambda: False) -> None:
    """Skip time so that every attempt on the way is made."""
    for _ in range(int(seconds / LONGEST_PAUSE) + 1):
        if not over():
            await skip(LONGEST_PAUSE)


def test_one_that_nobody_needs_ends_when_no_manager_comes(tmp_path: Path) -> None:
    async def test() -> None:
        near = Near(Manager(tmp_path))
        await skip_in_steps(PATIENCE - 5)
        assert not near.task.done()
        await skip_in_steps(10, near.task.done)
        with pytest.raises(errors.ManagerUnreachable, match="no manager came back"):
            await near.task

    run(test())


def test_one_that_is_needed_waits_for_as_long_as_it_takes(tmp_path: Path) -> None:
    async def test() -> None:
        manager = Manager(tmp_path)
        near = Near(manager, needed=True)
        await skip_in_steps(2 * PATIENCE)
        assert not near.task.done()
        manager.open()
        await manager.heard(1)
        await near.close()
        manager.close()

    run(test())


def test_each_absence_of_a_manager_is_given_all_the_patience(tmp_path: Path) -> None:
    async def test() -> None:
        manager = Manager(tmp_path)
        near = Near(manager)
        await skip_in_steps(0.7 * PATIENCE)
        manager.open()
        await manager.heard(1)
        manager.close()
        await skip_in_steps(0.7 * PATIENCE)
        assert not near.task.done()
        await near.close()

    run(test())


def test_one_that_is_given_up_closes_its_link(tmp_path: Path) -> None:
    async def test() -> None:
        manager = Manager(tmp_path).open()
        near = Near(manager)
        await manager.heard(1)
        await near.close()
        await manager.until(lambda: manager.links[0].closed)
        near.uplink.send(link.Taken(connection=1))
        manager.close()

    run(test())
