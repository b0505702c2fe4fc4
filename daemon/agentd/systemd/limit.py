# SPDX-License-Identifier: Apache-2.0
"""The start limit of a unit, which systemd counts: whether it was hit, and taking it back."""

import logging
import time

from agentd.bus import Bus
from agentd.errors import AgentdError
from agentd.systemd.units import CALL_TIMEOUT, MANAGER, PATH, SYSTEMD, UNIT

SERVICE = "org.freedesktop.systemd1.Service"

log = logging.getLogger(__name__)


def now() -> int:
    """The clock of systemd's timestamps, in microseconds."""
    return time.monotonic_ns() // 1000


async def is_barred(bus: Bus, unit: str, asked: int) -> bool:
    """Whether the unit has failed, and was not even tried when its start was asked for at `asked`.

    That is the start limit: the unit's Result keeps what came first. False where it cannot be found out.
    """
    try:
        [path] = await bus.call(SYSTEMD, PATH, MANAGER, "GetUnit", "s", unit, timeout=CALL_TIMEOUT)
        state = await bus.property(SYSTEMD, path, UNIT, "ActiveState", timeout=CALL_TIMEOUT)
        tried = await bus.property(
            SYSTEMD, path, SERVICE, "ExecMainStartTimestampMonotonic", timeout=CALL_TIMEOUT
        )
    except AgentdError as exc:
        log.debug("%s: %s", unit, exc.message)  # such a unit is not loaded: nothing ever happened to it
        return False
    return bool(state == "failed" and tried < asked)


async def reset_failed(bus: Bus, unit: str) -> None:
    """Have systemd forget its failures. Where it cannot, the start that follows says what is wrong."""
    try:
        await bus.call(SYSTEMD, PATH, MANAGER, "ResetFailedUnit", "s", unit, timeout=CALL_TIMEOUT)
    except AgentdError as exc:
        log.info("%s was not reset: %s", unit, exc.message)
