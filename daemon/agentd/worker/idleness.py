# SPDX-License-Identifier: Apache-2.0
"""When an agent has been idle for long enough to be ended: no turn, no client, no work of its own."""

import asyncio
from typing import Protocol

LOOK_SEC = 60.0
"""How long it is watched, at last, for work in the background."""
AT_WORK = 0.02
"""The part of one processor that is no longer idling."""


class Idler(Protocol):
    """An agent with its sessions."""

    @property
    def quiet_sec(self) -> float:
        """For how long it has neither said nor been told anything; its start counts."""

    @property
    def may_rest(self) -> bool:
        """Whether nobody would miss it, or it could go on where it was."""

    async def processor_sec(self) -> float:
        """What it and all that it has started have used of processors until now."""


async def idle(agent: Idler, idle_sec: float) -> None:
    """Return when the agent has been idle for that long, and does no work of its own either."""
    look = min(LOOK_SEC, idle_sec)
    while True:
        await asyncio.sleep(max(idle_sec - agent.quiet_sec, look if not agent.may_rest else 0.0))
        if not _is_idle(agent, idle_sec):
            continue
        before = await agent.processor_sec()
        await asyncio.sleep(look)
        used = await agent.processor_sec() - before
        if _is_idle(agent, idle_sec) and used <= AT_WORK * look:  # now: to look takes time as well
            return


def _is_idle(agent: Idler, idle_sec: float) -> bool:
    return agent.may_rest and agent.quiet_sec >= idle_sec
