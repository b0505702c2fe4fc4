# SPDX-License-Identifier: Apache-2.0
"""Measuring the networks of containers: their addresses, and the bytes that have passed."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from agentd import link
from agentd.runtimes.network import enter, in_own_thread
from agentd.tasks import Tasks

ROUND_SEC = 2.0
"""For all that one Measure asks for; one container takes 5 ms. Who is left over is first the next time."""
ADDRESSES = 32
"""Of a container that are told, so that they fit into a message."""
LOOPBACK, LINK_SCOPE, INET6 = 0x8, 253, 10
"""IFF_LOOPBACK, RT_SCOPE_LINK and AF_INET6, as the kernel has them."""

log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """Of all interfaces of a network but the loopback. Bytes."""

    addresses: list[str]
    received: int
    sent: int


class Meter:
    """Measures what it is asked for, one container after the other, and one Measure at a time."""

    def __init__(self, tasks: Tasks, send: Callable[[link.Measured], None]) -> None:
        self._tasks = tasks
        self._send = send
        self._round: asyncio.Task[None] | None = None
        self._thread_runs = False
        self._left_over: set[str] = set()
        self._complained = False

    def measure(self, containers: Iterable[link.ContainerInfo]) -> None:
        """Measure those of them that have a network. Nothing happens while others are being measured.

        Each that has been measured is told of, and in the end there is one for no container.
        """
        running = self._round is not None and not self._round.done()
        if running or self._thread_runs:  # one that hangs, past the end of its round, stays the only one
            return
        ours = [each for each in containers if each.running and each.pid]
        ours.sort(key=lambda each: each.name not in self._left_over)
        self._round = self._tasks.start(self._measure(ours), "measure networks")

    async def _measure(self, containers: list[link.ContainerInfo]) -> None:
        self._left_over = {each.name for each in containers}
        try:
            async with asyncio.timeout(ROUND_SEC):
                for each in containers:
                    await self._measure_one(each)
                    self._left_over.discard(each.name)
        except TimeoutError:
            log.debug("%d networks are left to be measured the next time", len(self._left_over))
        self._send(link.Measured(container="", addresses=[], received=0, sent=0))

    async def _measure_one(self, container: link.ContainerInfo) -> None:
        self._thread_runs = True
        try:
            found = await in_own_thread(lambda: self._read(container.pid))
        except ImportError:
            self._complain("the networks of containers are not measured: this takes python3-pyroute2")
        except PermissionError:
            self._complain("the networks of containers are not measured: this takes root")
        except OSError as exc:
            log.debug("%s: %s", container.name, exc)  # it has ended, or its interfaces change right now
        else:
            if found is not None:
                self._send(link.Measured(container=container.name, **found._asdict()))

    def _read(self, pid: int) -> Reading | None:
        """In a thread."""
        try:
            return reading(pid)
        finally:
            self._thread_runs = False

    def _complain(self, problem: str) -> None:
        """Once: Status asks every second."""
        if not self._complained:
            self._complained = True
            log.warning("%s", problem)


def reading(pid: int) -> Reading | None:
    """Of the network of a process; None where that is our own. For a thread that is good for nothing else.

    Raises ImportError without pyroute2, and OSError: PermissionError where we may not enter.
    """
    if os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
        return None
    enter(pid)
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as network:
            return _summed(list(network.get_links()), list(network.get_addr()))
    except NetlinkError as exc:
        raise OSError(exc.code, str(exc)) from None


def _summed(links: list[Any], addresses: list[Any]) -> Reading:
    ours = {each["index"]: each for each in links if not each["flags"] & LOOPBACK}
    counters = [each.get_attr("IFLA_STATS64") for each in ours.values()]
    told = [_text(each) for each in addresses if each["index"] in ours and _is_told(each)]
    return Reading(
        addresses=told[:ADDRESSES],
        received=sum(each["rx_bytes"] for each in counters if each),
        sent=sum(each["tx_bytes"] for each in counters if each),
    )


def _is_told(address: Any) -> bool:
    return not (address["family"] == INET6 and address["scope"] == LINK_SCOPE)


def _text(address: Any) -> str:
    """Its own; IFA_ADDRESS is the other end's where there are two."""
    return str(address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS"))
