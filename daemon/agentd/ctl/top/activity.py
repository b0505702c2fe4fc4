# SPDX-License-Identifier: Apache-2.0
"""What goes on in containers, from two looks at them: counters become rates. Pure; nothing is drawn here."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from agentd.ctl.top.gauges import Subject, Usage

BUSY = ("cancelling", "prompting", "resuming")
"""States of a session in which something happens."""


# What Manager.Status says, as far as it matters here


class Network(msgspec.Struct, frozen=True):
    received: int
    sent: int


class Agent(msgspec.Struct, frozen=True):
    pid: int = 0


class Session(msgspec.Struct, frozen=True):
    id: str
    agent: str = ""
    state: str = ""
    title: str = ""
    queued: int = 0
    permissions: int = 0
    updated_usec: int = 0


class Container(msgspec.Struct, frozen=True):
    name: str
    id: str = ""
    state: str = ""
    unit: str = ""
    leader: int = 0
    worker_pid: int = 0
    clients: int = 0
    turns: int = 0
    sessions_open: int = 0
    frames: int = 0
    network: Network | None = None
    sessions: list[Session] = []
    agents: list[Agent] = []


class Status(msgspec.Struct, frozen=True):
    version: str
    state: str
    started_usec: int = 0
    containers: list[Container] = []


class Sample(NamedTuple):
    """A look: `at` in seconds of a clock that only goes forward, `time` in seconds of Unix time."""

    at: float
    time: float
    status: Status
    usage: dict[str, Usage]
    """By container."""


def subject(container: Container) -> Subject:
    return Subject(
        name=container.name,
        id=container.id,
        unit=container.unit,
        worker=container.worker_pid,
        leader=container.leader,
        agents=tuple(each.pid for each in container.agents if each.pid),
    )


# What becomes of it


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A container. None for what cannot be known, as rates in the first round. 100 % are one processor."""

    name: str
    state: str
    clients: int
    sessions: int
    turns: int
    frames_per_sec: float | None
    memory_bytes: int | None
    cpu_percent: float | None
    received_per_sec: float | None
    sent_per_sec: float | None


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """`containers`: how many there are; the rest are sums of what is known."""

    containers: int
    clients: int
    sessions: int
    turns: int
    frames_per_sec: float | None
    memory_bytes: int | None
    cpu_percent: float | None
    received_per_sec: float | None
    sent_per_sec: float | None


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """`time`: Unix time, seconds. The containers with most to do come first."""

    time: float
    containers: list[Row]
    totals: Totals


class SessionRow(NamedTuple):
    container: str
    session: Session


def compared(before: Sample | None, now: Sample) -> Round:
    """What went on between two looks; without the first there are no rates."""
    known = {each.name: each for each in before.status.containers} if before else {}
    rows = [_row(each, known.get(each.name), before, now) for each in now.status.containers]
    rows.sort(key=_idleness)
    return Round(time=round(now.time, 3), containers=rows, totals=_totals(rows))


def busiest(status: Status) -> list[SessionRow]:
    """All sessions that are told of: those first in which something happens, or somebody is waited for."""
    found = [SessionRow(each.name, session) for each in status.containers for session in each.sessions]
    return sorted(found, key=lambda each: _session_idleness(each.session))


def rate(before: float | None, now: float | None, seconds: float) -> float | None:
    """Of a counter, a second. One that has gone back has begun anew: that makes 0, not less."""
    if before is None or now is None or seconds <= 0:
        return None
    return max(0.0, (now - before) / seconds)


def _row(now: Container, before: Container | None, last: Sample | None, this: Sample) -> Row:
    usage = this.usage.get(now.name, Usage())
    cpu = received = sent = frames = None
    if before is not None and last is not None:
        seconds = this.at - last.at
        if _is_same(before, now):
            frames = rate(before.frames, now.frames, seconds)
            cpu = rate(last.usage.get(now.name, Usage()).cpu_sec, usage.cpu_sec, seconds)
        if before.network and now.network and before.leader == now.leader:
            received = rate(before.network.received, now.network.received, seconds)
            sent = rate(before.network.sent, now.network.sent, seconds)
    return Row(
        name=now.name,
        state=now.state,
        clients=now.clients,
        sessions=now.sessions_open,
        turns=now.turns,
        frames_per_sec=_rounded(frames),
        memory_bytes=usage.memory,
        cpu_percent=_rounded(None if cpu is None else 100 * cpu),
        received_per_sec=_rounded(received),
        sent_per_sec=_rounded(sent),
    )


def _is_same(before: Container, now: Container) -> bool:
    """Whether the counters of the two go on: nobody was replaced by somebody who has a past of his own."""
    return (before.worker_pid, before.leader) == (now.worker_pid, now.leader)


def _totals(rows: list[Row]) -> Totals:
    memory = [each.memory_bytes for each in rows if each.memory_bytes is not None]
    return Totals(
        containers=len(rows),
        clients=sum(each.clients for each in rows),
        sessions=sum(each.sessions for each in rows),
        turns=sum(each.turns for each in rows),
        frames_per_sec=_sum(each.frames_per_sec for each in rows),
        memory_bytes=sum(memory) if memory else None,
        cpu_percent=_sum(each.cpu_percent for each in rows),
        received_per_sec=_sum(each.received_per_sec for each in rows),
        sent_per_sec=_sum(each.sent_per_sec for each in rows),
    )


def _sum(rates: Iterable[float | None]) -> float | None:
    known = [each for each in rates if each is not None]
    return _rounded(sum(known)) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _idleness(row: Row) -> tuple[float | str, ...]:
    """Sorts by what goes on, and what does not by its name."""
    busy = (row.turns, row.frames_per_sec, row.cpu_percent, row.clients, row.sessions)
    return (*(-(each or 0) for each in busy), row.name)


def _session_idleness(session: Session) -> tuple[float | str, ...]:
    busy = session.state in BUSY
    return (-session.permissions, -busy, -session.queued, -session.updated_usec, session.id)
