# SPDX-License-Identifier: Apache-2.0
"""Knowing when a container has ended: by a pidfd on its first process, once it is sure whose that is."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from agentd.errors import AgentdError, NoSuchContainer
from agentd.link import ContainerInfo

ASK_AGAIN_SEC = 5.0

Inspect = Callable[[str], Awaitable[ContainerInfo]]

log = logging.getLogger(__name__)


async def outlived(container: ContainerInfo, inspect: Inspect) -> bool:
    """Return True when the container has ended, or False at once where its first process is out of sight."""
    try:
        pidfd = os.pidfd_open(container.pid)
    except (OSError, ValueError):
        return False
    try:
        if await is_still(container, inspect, pidfd):  # else the number may be somebody else's by now
            await _readable(pidfd)
        return True
    finally:
        os.close(pidfd)


async def is_still(container: ContainerInfo, inspect: Inspect, pidfd: int | None = None) -> bool:
    """Whether it is the one that was described; an engine that fails is asked again."""
    while True:
        try:
            now = await inspect(container.name)
        except NoSuchContainer:
            return False
        except AgentdError as exc:
            log.warning("asking again: %s", exc.message)
        else:
            return now.running and (now.id, now.pid) == (container.id, container.pid)
        if pidfd is not None and await _readable(pidfd, timeout=ASK_AGAIN_SEC):
            return False
        if pidfd is None:
            await asyncio.sleep(ASK_AGAIN_SEC)


async def _readable(descriptor: int, *, timeout: float | None = None) -> bool:
    """Wait until it is; False where time is over before."""
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), timeout)
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
