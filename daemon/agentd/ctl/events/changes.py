# SPDX-License-Identifier: Apache-2.0
"""What has happened, as `agentctl events` tells it: made from signals, put into words, or into JSON."""

import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from agentd.bus import Signal
from agentd.ctl.control import CONTAINER, JOB, NAME, SESSION
from agentd.ctl.text import count
from agentd.printable import printable

QUIET = ("LastActivity",)
"""Properties that change all the time: for programs only."""
TIMES = ("ActiveSince", "ConfigTimestamp")
SENTENCES = {
    "manager_gone": "manager: gone",
    "manager_here": "manager: here",
    "bus_lost": "bus: lost, connecting again",
    "bus_back": "bus: back",
}


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """See agentd.ctl.events for what is told of which; None is not told."""

    time_usec: int
    event: str
    container: str | None = None
    session: str | None = None
    job: int | None = None
    target: str | None = None
    result: str | None = None
    remaining: int | None = None
    drained: list[str] | None = None
    active: bool | None = None
    changes: dict[str, Any] | None = None
    lost: int | None = None


# Signals


def event_of(signal: Signal, usec: int, sessions: Mapping[str, str]) -> Event | None:
    """What a signal tells; None for what is no news of ours. `sessions`: ids by path, as far as known."""
    args = signal.args
    match signal.interface, signal.member:
        case _, "ContainerNew" | "ContainerRemoved" as member:
            return Event(time_usec=usec, event=_name(member), container=args[0])
        case _, "SessionNew" | "SessionRemoved" as member:
            return Event(time_usec=usec, event=_name(member), container=args[0], session=args[1])
        case _, "JobNew":
            return Event(time_usec=usec, event="job_new", job=args[0])
        case _, "JobRemoved":
            return Event(time_usec=usec, event="job_removed", job=args[0], target=args[2], result=args[3])
        case _, "Reloading":
            return Event(time_usec=usec, event="reloading", active=args[0])
        case _, "Progress":
            job = job_of(signal.path)
            return Event(time_usec=usec, event="job_progress", job=job, remaining=args[0], drained=args[1])
        case _, "NameOwnerChanged":
            return Event(time_usec=usec, event="manager_here" if args[2] else "manager_gone")
        case _, "PropertiesChanged" if args[0].startswith(f"{NAME}."):
            return _changed(signal, usec, sessions)
    return None


def _changed(signal: Signal, usec: int, sessions: Mapping[str, str]) -> Event:
    interface, values, invalidated = signal.args
    changes = {**values, **dict.fromkeys(invalidated)}
    path, about = signal.path, dict[str, Any]()
    if interface == CONTAINER:
        about = {"container": label_name(path.rpartition("/")[2])}
    elif interface == SESSION:
        about = {"container": session_container(path), "session": sessions.get(path, "")}
    elif interface == JOB:
        about = {"job": job_of(path)}
    return Event(time_usec=usec, event="changed", changes=changes, **about)


def label_name(label: str) -> str:
    """The name of a container whose label this is in a path."""
    plain = re.sub(rb"_([0-9a-f]{2})", lambda found: bytes((int(found[1], 16),)), label.encode())
    return plain.decode("utf-8", "replace")


def session_container(path: str) -> str:
    """The container of the session with this path, /org/agentd1/session/LABEL_N."""
    return label_name(path.rpartition("/")[2].rpartition("_")[0])


def job_of(path: str) -> int:
    return int(path.rpartition("/")[2])


def _name(member: str) -> str:
    """ContainerNew is container_new."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", member).lower()


# Words


def sentence(event: Event, before: str = "") -> str:
    """A line for a person; "" where it is of no interest to one. `before`: the State that it had."""
    if text := _text(event, before):
        at = time.strftime("%H:%M:%S", time.localtime(event.time_usec / 1e6))
        return printable(f"{at} {text}")
    return ""


def _text(event: Event, before: str) -> str:
    who = _who(event)
    match event.event:
        case "changed" if event.job is not None:
            return ""  # job_progress and job_removed say the same
        case "changed":
            changes = _differences(event.changes or {}, before)
            return f"{who}: {changes}" if changes else ""
        case "container_new" | "session_new":
            return f"{who}: new"
        case "container_removed" | "session_removed":
            return f"{who}: removed"
        case "job_new":
            return f"{who} begins"
        case "job_removed":
            return f"{who}: {event.result}"
        case "job_progress":
            return f"{who}: {count(event.remaining or 0, 'turn')} left"
        case "reloading":
            return "configuration: " + ("being read again" if event.active else "has been read")
        case "lost":
            return f"{event.lost} changes are not shown: they came faster than they could be written"
    return SENTENCES[event.event]


def _who(event: Event) -> str:
    if event.job is not None:
        drain = "" if event.target is None else f": drain of {event.target or 'everything'}"
        return f"job {event.job}{drain}"
    if event.session is not None:
        return f"session {event.session or '?'} of {event.container}"
    return "manager" if event.container is None else f"container {event.container}"


def _differences(changes: dict[str, Any], before: str) -> str:
    """State comes first, and is the one that says what it was."""
    shown = {name: value for name, value in changes.items() if name not in QUIET}
    words = []
    if (state := shown.pop("State", None)) is not None:
        words = [f"State {before} → {state}" if before not in ("", state) else f"State {state}"]
    return ", ".join(words + [f"{name} {_value(name, value)}" for name, value in shown.items()])


def _value(name: str, value: object) -> str:
    if value is None:
        return "has changed"
    if name in TIMES and isinstance(value, int):
        return time.strftime("%H:%M:%S", time.localtime(value / 1e6)) if value else "-"
    if isinstance(value, list):
        return ", ".join(_item(each) for each in value) or "none"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value) or "-"


def _item(value: object) -> str:
    """One of a list; an agent is its name, state, process and version."""
    return " ".join(str(part) for part in value if part) if isinstance(value, list) else str(value)
