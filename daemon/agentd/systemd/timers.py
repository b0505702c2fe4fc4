# SPDX-License-Identifier: Apache-2.0
"""Timers: whether what one has started is a run that overlaps the one before it.

systemd never runs a unit twice at a time. A calendar timer that comes due while its unit runs is not
forgotten, though: it goes off as soon as the unit has ended. (`DeferReactivation=` changes that since 257.)
"""

from collections.abc import Mapping
from typing import Any

from agentd.bus import Bus
from agentd.systemd.units import CALL_TIMEOUT, MANAGER, PATH, SYSTEMD, UNIT

TIMER = "org.freedesktop.systemd1.Timer"


def started_by(environ: Mapping[str, str]) -> str:
    """The timer that started this process, "" where it was none.

    systemd tells since 252, and what it has told once it goes on telling: the unit may have been started by
    hand since, and $TRIGGER_TIMER_REALTIME_USEC stays when the timer goes off at the end of a run.
    """
    unit = environ.get("TRIGGER_UNIT", "")
    return unit if unit.endswith(".timer") else ""


async def came_due_meanwhile(bus: Bus, timer: str) -> bool:
    """Whether the timer came due while its unit still ran, so that this run is late because of the last one.

    What counts is the time in the calendar, without the random delay and the inaccuracy that the timer may
    have. To be asked in the run itself: once it has ended the timer looks ahead. A last run that ended after
    the timer went off is one of before the clock was put back. Raises BusError.
    """
    path = await _path(bus, timer)
    calendar, fired, unit = [
        await _property(bus, path, TIMER, name) for name in ("TimersCalendar", "LastTriggerUSec", "Unit")
    ]
    ended = await _property(bus, await _path(bus, unit), UNIT, "InactiveEnterTimestamp")
    due = min((next_usec for _, _, next_usec in calendar), default=0)
    return bool(0 < due < ended <= fired)


async def _path(bus: Bus, unit: str) -> str:
    [path] = await bus.call(SYSTEMD, PATH, MANAGER, "GetUnit", "s", unit, timeout=CALL_TIMEOUT)
    return str(path)


async def _property(bus: Bus, path: str, interface: str, name: str) -> Any:
    return await bus.property(SYSTEMD, path, interface, name, timeout=CALL_TIMEOUT)
