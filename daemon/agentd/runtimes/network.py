# SPDX-License-Identifier: Apache-2.0
"""Networks of containers: a socket belongs to the network namespace it was made in.

It is made by a thread of its own, which enters the namespace and then ends. pyroute2's create_socket is not
used: it forks, and ends the copy by a SIGTERM that arrives at our own event loop's handler.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from agentd.errors import AgentFailed, AgentTimeout, NotRunning
from agentd.link import ContainerInfo

LOOPBACK = "127.0.0.1"
T = TypeVar("T")


# Reaching a TCP port inside


async def connect(container: ContainerInfo, port: int, *, deadline: float) -> socket.socket:
    """Connect to a port of this host, where the container has no network of its own.

    Returns a non-blocking socket. Raises AgentFailed, or AgentTimeout after `deadline` seconds.
    """
    async with _explained(container, port, deadline):
        return await _connected(_tcp_socket(), port)


async def connect_inside(container: ContainerInfo, port: int, *, deadline: float) -> socket.socket:
    """Connect to a port in the network namespace of the container's first process.

    Returns a non-blocking socket. Raises as `connect` does, and NotRunning where there is no such process.
    """
    if not container.pid:
        raise NotRunning(f"{container.name} does not run on this host, so nothing in it can be connected to")
    async with _explained(container, port, deadline):
        made = await in_own_thread(lambda: _socket_inside(container), discard=socket.socket.close)
        return await _connected(made, port)


@asynccontextmanager
async def _explained(container: ContainerInfo, port: int, deadline: float) -> AsyncIterator[None]:
    """Bound what is done in the block, and turn its errors into ours."""
    place = f"port {port} of {container.name}"
    try:
        async with asyncio.timeout(deadline):
            yield
    except TimeoutError:
        raise AgentTimeout(f"{place} took no connection within {deadline:g} s") from None
    except ConnectionRefusedError:
        message = f"nothing listens on {place}; start the agent there, or correct its port"
        raise AgentFailed(message) from None
    except OSError as exc:
        raise AgentFailed(f"{place} cannot be connected to: {exc.strerror}") from None


async def _connected(sock: socket.socket, port: int) -> socket.socket:
    try:
        await asyncio.get_running_loop().sock_connect(sock, (LOOPBACK, port))
        if sock.getsockname() == sock.getpeername():  # TCP connects to itself where it was given that port
            raise ConnectionRefusedError
        return sock
    except BaseException:
        sock.close()
        raise


def _tcp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setblocking(False)
    return sock


def _socket_inside(container: ContainerInfo) -> socket.socket:
    try:
        enter(container.pid)
        return _tcp_socket()
    except FileNotFoundError:
        raise NotRunning(f"{container.name} has ended") from None
    except PermissionError:
        raise AgentFailed(f"agentd may not enter the network of {container.name}: this takes root") from None
    except ImportError:
        raise AgentFailed("agents that listen on TCP take pyroute2: install python3-pyroute2") from None


# Entering


async def in_own_thread(work: Callable[[], T], *, discard: Callable[[T], Any] | None = None) -> T:
    """What `work` returns, in a thread that ends then. `discard` gets what nobody waits for any more."""
    executor = ThreadPoolExecutor(1, "network")
    done = executor.submit(work)
    executor.shutdown(wait=False)
    try:
        return await asyncio.shield(asyncio.wrap_future(done))
    except asyncio.CancelledError:
        done.add_done_callback(lambda done: _discard(done, discard))
        raise


def _discard(done: "Future[T]", discard: Callable[[T], Any] | None) -> None:
    if done.exception() is None and discard is not None:
        discard(done.result())


def enter(pid: int) -> None:
    """Leave this thread in the network namespace of a process: it must be good for nothing else.

    Raises ImportError without pyroute2, PermissionError, and other OSErrors where there is no such process.
    """
    import ctypes

    from pyroute2 import netns  # not before it is needed: it costs 100 ms and 13 MiB

    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        netns.setns(namespace, libc=ctypes.CDLL(None, use_errno=True))  # else ldconfig is run to find libc
    finally:
        os.close(namespace)
