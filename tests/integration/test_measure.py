# SPDX-License-Identifier: Apache-2.0
"""Measuring real network namespaces, of processes that stand for containers' first ones."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentd.watcher.measure import ADDRESSES, Reading, reading

Start = Callable[..., int]
PAIR = "ip link add near type veth peer name far && ip link set near up && ip link set far up"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process in a network of its own, in which these commands have been run: its number."""
    started = []

    def start(*commands: str) -> int:
        script = " && ".join(["ip link set lo up", *commands, "echo ready", "exec cat"])
        argv = ["unshare", "--net", "sh", "-c", script]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process.pid

    yield start
    for process in started:
        process.communicate()


def read(pid: int) -> Reading | None:
    """In a thread of its own, as the watcher does it."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(reading, pid).result()


def test_its_own_addresses_but_those_that_everybody_has(start: Start) -> None:
    pid = start(PAIR, "ip addr add 10.1.2.3/24 dev near", "ip -6 addr add fd00::5/64 dev far nodad")
    found = read(pid)
    assert found is not None
    assert sorted(found.addresses) == ["10.1.2.3", "fd00::5"]  # no 127.0.0.1, ::1 and fe80::


def test_of_two_ends_the_nearer_one_is_its_address(start: Start) -> None:
    found = read(start(PAIR, "ip addr add 10.1.2.3 peer 10.9.9.9 dev near"))
    assert found is not None
    assert found.addresses == ["10.1.2.3"]


def send(pid: int, host: str) -> None:
    """Send 1000 bytes from inside, to whoever has that address."""
    script = f"""
import socket
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
sock.sendto(bytes(1000), ("{host}", 7))
"""
    command = ["nsenter", "--target", str(pid), "--net", sys.executable, "-c", script]
    subprocess.run(command, check=True)


def test_bytes_of_all_its_interfaces_but_the_loopback(start: Start) -> None:
    pid = start(PAIR, "ip addr add 10.1.2.3/24 brd + dev near")
    before = read(pid)
    send(pid, "10.1.2.255")
    after = read(pid)
    assert before is not None and after is not None
    assert after.sent - before.sent >= 1000
    assert after.received - before.received >= 1000  # what the one end sends, the other receives


def test_bytes_of_the_loopback_do_not_count(start: Start) -> None:
    pid = start()
    send(pid, "127.0.0.1")
    assert read(pid) == Reading([], 0, 0)


def test_more_addresses_than_fit_into_a_message_are_not_told(start: Start) -> None:
    many = [f"ip addr add 10.1.2.{number}/24 dev near" for number in range(1, ADDRESSES + 5)]
    found = read(start(PAIR, *many))
    assert found is not None
    assert len(found.addresses) == ADDRESSES


def test_who_has_the_network_of_the_host_has_none_of_his_own() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert read(process.pid) is None
        process.communicate()


def test_who_has_ended_cannot_be_read(start: Start) -> None:
    with pytest.raises(FileNotFoundError):
        read(1 << 23)  # over any pid_max


def test_nothing_is_left_of_it_and_we_are_where_we_were(start: Start) -> None:
    ours, threads = os.readlink("/proc/self/ns/net"), threading.active_count()
    pid = start(PAIR)
    read(pid)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        read(pid)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads
    assert os.readlink("/proc/self/ns/net") == ours
