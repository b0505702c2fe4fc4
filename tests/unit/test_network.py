# SPDX-License-Identifier: Apache-2.0

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from agentd.config import Configuration, Limits
from agentd.errors import AgentFailed, AgentTimeout, NotRunning
from agentd.link import ContainerInfo
from agentd.runtimes import network
from agentd.runtimes.docker import Docker
from agentd.runtimes.engine import Engine
from agentd.runtimes.host import Host
from agentd.runtimes.podman import Podman
from unit.loop import run, skip

HERE = ContainerInfo(name="here", runtime="host", running=True)
BOX = ContainerInfo(name="box", runtime="podman", running=True, pid=os.getpid())


@pytest.fixture(autouse=True)
def threads_have_ended() -> Iterator[None]:
    """A thread that made a socket is not waited for: it may still be ending when the test is over."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("network"):
            thread.join(10)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def nobodys_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return port_of(sock)


# This host


def test_the_hosts_own_port_is_connected_to(listener: socket.socket) -> None:
    with run(Host(Configuration()).connect(HERE, port_of(listener))) as sock:
        accepted, _ = listener.accept()
        with accepted:
            assert sock.getpeername() == accepted.getsockname()
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        assert sock.proto == socket.IPPROTO_TCP  # else asyncio does not switch Nagle's delay off


def test_a_port_where_nothing_listens() -> None:
    port = nobodys_port()
    with pytest.raises(AgentFailed, match=f"^nothing listens on port {port} of here; start"):
        run(Host(Configuration()).connect(HERE, port))


def test_a_port_that_cannot_be_reached_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "LOOPBACK", "255.255.255.255")
    with pytest.raises(AgentFailed, match=r"^port 7 of here cannot be connected to: "):
        run(Host(Configuration()).connect(HERE, 7))


# A container

engines = pytest.mark.parametrize("engine", [Podman, Docker])
Kind = type[Podman] | type[Docker]


def made(engine: Kind) -> Engine:
    return engine(Configuration(limits=Limits(engine_sec=3.0)))


@engines
def test_a_container_without_a_process_does_not_run(engine: Kind) -> None:
    with pytest.raises(NotRunning, match=r"^box does not run on this host"):
        run(made(engine).connect(ContainerInfo(name="box", runtime="x", running=False), 7))


@engines
def test_a_container_that_has_ended_meanwhile_does_not_run(engine: Kind) -> None:
    no_process = ContainerInfo(name="box", runtime="x", running=True, pid=1 << 23)  # over any pid_max
    with pytest.raises(NotRunning, match=r"^box has ended$"):
        run(made(engine).connect(no_process, 7))


@engines
def test_without_pyroute2_it_is_said_what_to_install(engine: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    with pytest.raises(AgentFailed, match=r"install python3-pyroute2$"):
        run(made(engine).connect(BOX, 7))


@engines
def test_a_network_that_may_not_be_entered_says_what_it_takes(
    engine: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(network, "enter", refuse)
    with pytest.raises(AgentFailed, match=r"^agentd may not enter the network of box: this takes root$"):
        run(made(engine).connect(BOX, 7))


class Slow:
    """An entering of a namespace that takes as long as the test wants, and what became of the socket."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.sockets: list[socket.socket] = []
        self._make = network._tcp_socket
        monkeypatch.setattr(network, "enter", self._enter)
        monkeypatch.setattr(network, "_tcp_socket", self._tcp_socket)

    def _enter(self, pid: int) -> None:
        self.thread = threading.current_thread()
        self.entered.set()
        assert self.go_on.wait(10)

    def _tcp_socket(self) -> socket.socket:
        self.sockets.append(self._make())
        return self.sockets[0]

    def finish(self) -> None:
        self.go_on.set()
        self.thread.join(10)


async def begun(slow: Slow) -> "asyncio.Task[socket.socket]":
    task = asyncio.ensure_future(made(Podman).connect(BOX, 7))
    while not slow.entered.is_set():
        await asyncio.sleep(0)
    return task


def test_a_thread_that_hangs_is_not_waited_for_past_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        task = await begun(slow)
        await skip(2.9)
        assert not task.done()
        await skip(0.2)
        with pytest.raises(AgentTimeout, match=r"^port 7 of box took no connection within 3 s$"):
            await task
        slow.finish()

    slow = Slow(monkeypatch)
    run(test())
    assert [sock.fileno() for sock in slow.sockets] == [-1]


def test_a_socket_nobody_waits_for_any_more_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        task = await begun(slow)
        task.cancel()
        await asyncio.wait([task])
        slow.finish()

    slow = Slow(monkeypatch)
    run(test())
    assert [sock.fileno() for sock in slow.sockets] == [-1]


def test_the_thread_that_entered_does_nothing_else_and_ends(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    async def test() -> None:
        slow.go_on.set()
        (await made(Podman).connect(BOX, port_of(listener))).close()

    slow = Slow(monkeypatch)
    run(test())
    slow.thread.join(10)
    assert not slow.thread.is_alive()
    assert slow.thread is not threading.main_thread()
