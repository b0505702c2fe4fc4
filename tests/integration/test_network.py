# SPDX-License-Identifier: Apache-2.0
"""Connecting into a real network namespace, of a process that stands for a container's first one."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from agentd.config import Configuration, Limits
from agentd.errors import AgentFailed, AgentTimeout, NotRunning
from agentd.link import ContainerInfo
from agentd.runtimes.podman import Podman
from support.embedded import eventually

PORT = 45678
LISTEN = f"""
import socket, subprocess, sys
for command in sys.argv[1:]:
    subprocess.run(command, shell=True, check=True)
listener = socket.create_server(("127.0.0.1", {PORT}), backlog=0)
print("ready", flush=True)
sys.stdin.readline()
while True:
    sock, _ = listener.accept()
    sock.sendall(sock.recv(100).upper())
    sock.close()
"""
UP = "ip link set lo up"


@dataclass
class Box:
    """A process in a network of its own; it answers connections when it has been told to."""

    process: "subprocess.Popen[str]"

    @property
    def info(self) -> ContainerInfo:
        return ContainerInfo(name="box", runtime="podman", running=True, pid=self.process.pid)

    def answer(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def start() -> Iterator[Any]:
    started = []

    def start(*commands: str) -> Box:
        argv = ["unshare", "--net", sys.executable, "-c", LISTEN, *commands]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return Box(process)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def connect(box: Box, port: int = PORT, *, deadline: float = 20.0) -> socket.socket:
    podman = Podman(Configuration(limits=Limits(engine_sec=deadline)))
    return asyncio.run(podman.connect(box.info, port))


def networks_of_threads() -> set[str]:
    found = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):  # it ended just now
            found.add(os.readlink(f"/proc/self/task/{thread}/ns/net"))
    return found


def said_back(sock: socket.socket, text: bytes) -> bytes:
    sock.setblocking(True)
    sock.settimeout(20)
    sock.sendall(text)
    return sock.recv(100)


def test_a_port_inside_is_connected_to_and_not_the_hosts_own(start: Any) -> None:
    box = start(UP)
    box.answer()
    with connect(box) as sock:
        assert (sock.getblocking(), sock.get_inheritable()) == (False, False)
        assert said_back(sock, b"hello") == b"HELLO"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", PORT), timeout=20)


def test_two_boxes_with_one_port_are_not_mixed_up(start: Any) -> None:
    boxes = [start(UP), start(UP)]
    boxes[1].answer()
    with connect(boxes[0]) as silent, connect(boxes[1]) as sock:
        assert said_back(sock, b"second") == b"SECOND"
        with pytest.raises(BlockingIOError):
            silent.recv(1)


def test_we_stay_in_our_own_network_and_get_no_signal_of_it(start: Any) -> None:
    async def test() -> list[int]:
        terminated: list[int] = []
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.append, 1)
        podman = Podman(Configuration())
        for _ in range(20):
            with await podman.connect(box.info, PORT) as sock:
                await asyncio.to_thread(said_back, sock, b"x")
        return terminated

    box = start(UP)
    box.answer()
    assert asyncio.run(test()) == []
    ours = os.readlink("/proc/self/ns/net")
    eventually(lambda: networks_of_threads() == {ours}, "the threads that entered have ended")


def test_where_nothing_listens_inside(start: Any) -> None:
    with pytest.raises(AgentFailed, match=f"^nothing listens on port {PORT + 1} of box"):
        connect(start(UP), PORT + 1)


def test_a_socket_that_would_be_connected_to_itself_is_refused(start: Any) -> None:
    port = PORT + 2
    box = start(UP, f"echo {port} {port} >/proc/sys/net/ipv4/ip_local_port_range")
    with pytest.raises(AgentFailed, match=f"^nothing listens on port {port} of box"):
        connect(box, port)


def test_where_the_network_inside_is_down(start: Any) -> None:
    with pytest.raises(AgentFailed, match=f"^port {PORT} of box cannot be connected to: "):
        connect(start())


def test_a_listener_that_takes_nobody_is_waited_for_until_the_deadline(start: Any) -> None:
    box = start(UP)
    with (
        connect(box),
        pytest.raises(AgentTimeout, match=rf"^port {PORT} of box took no connection within 0.5 s$"),
    ):
        connect(box, deadline=0.5)


def test_where_the_box_has_ended(start: Any) -> None:
    box = start(UP)
    box.process.kill()
    box.process.wait()
    with pytest.raises(NotRunning, match=r"^box has ended$"):
        connect(box)


def test_pyroute2_is_loaded_by_nobody_who_does_not_need_it() -> None:
    program = """
import sys, agentd.runtimes.podman, agentd.runtimes.host, agentd.runtimes.network
sys.exit(any(name.startswith("pyroute2") for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
