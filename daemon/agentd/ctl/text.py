# SPDX-License-Identifier: Apache-2.0
"""What agentctl says, and numbers and times as people read them. No rich here."""

import json
import time
from typing import Any

from agentd.printable import indented

MINUTE, HOUR, DAY = 60, 3600, 86_400
WEEK, MONTH, YEAR = 7 * DAY, 30 * DAY, 365 * DAY
SPANS = (
    (YEAR, " year", MONTH, " month"),
    (MONTH, " month", DAY, " day"),
    (WEEK, " week", DAY, " day"),
    (DAY, " day", HOUR, "h"),
    (HOUR, "h", MINUTE, "min"),
    (MINUTE, "min", 1, "s"),
)
"""From how many seconds on: in what, and what is left in what."""
SIZES = "BKMGTPE"


def complaint(message: str) -> str:
    """An error as stderr has it."""
    return f"agentctl: {indented(message)}"


def as_json(value: Any) -> str:
    """In one line and in ASCII, so that it says the same to a terminal as to a program."""
    return json.dumps(value, separators=(",", ":"))


def ago(seconds: float) -> str:
    """How long something is past, in its largest unit: "5min ago", "3 days ago"."""
    whole = max(0, int(seconds))
    size, unit = next((each[:2] for each in SPANS if whole >= each[0]), (1, "s"))
    return f"{_count(whole // size, unit)} ago"


def span(seconds: float) -> str:
    """How long something takes, or has taken, in two units as systemd has them: "2min 5s", "3 days 4h"."""
    whole = max(0, int(seconds))
    if whole < MINUTE:
        return f"{whole}s"
    size, unit, rest, lesser = next(each for each in SPANS if whole >= each[0])
    left = whole % size // rest
    return _count(whole // size, unit) + (f" {_count(left, lesser)}" if left else "")


def since(usec: int, now: float) -> str:
    """A point in time, in microseconds, as systemctl has it: "Tue 2025-06-03 14:02:11 UTC; 5min ago"."""
    return f"{moment(usec)}; {span(now - usec / 1e6)} ago"


def moment(usec: int) -> str:
    """The same without how long that is past; "" for none."""
    return time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(usec / 1e6)) if usec else ""


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def size(number: float) -> str:
    """Bytes, as systemctl has them: "512B", "1.2G"."""
    power = 0
    while number >= 1024 and power < len(SIZES) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.1f}{SIZES[power]}" if power else f"{int(number)}B"


def _count(number: int, unit: str) -> str:
    """Units that are words have a plural."""
    return f"{number}{unit}{'s' if unit.startswith(' ') and number != 1 else ''}"
