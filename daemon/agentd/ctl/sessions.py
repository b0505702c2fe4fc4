# SPDX-License-Identifier: Apache-2.0
"""`agentctl sessions [NAME]`: the sessions of a container, or of all whose workers run."""

import argparse
import asyncio
import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from agentd.acp import methods
from agentd.acp.extensions import SessionList, SessionReport
from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.text import printable, table
from agentd.ctl.worker import Worker
from agentd.errors import AgentdError

ANSWER_SEC = 60.0
AT_ONCE = 4
"""Containers that are asked at the same time; the manager counts the connections of an account."""
FAILED = 1
HEADER = ("SESSION", "AGENT", "STATE", "UPDATED", "TITLE")
UNITS = ((48, 1, "hour"), (14 * 24, 24, "day"), (60 * 24, 7 * 24, "week"), (730 * 24, 30 * 24, "month"))
"""Below how many hours, in what number of hours, and what that is called."""

T = TypeVar("T")


class Found(NamedTuple):
    """A session, and the container that has it."""

    container: str
    session: SessionReport


def run(options: argparse.Namespace) -> int:
    if options.container:
        names, failed = [options.container], False
        lists = {options.container: asyncio.run(asked(options, options.container, _list))}
    else:
        names = [each["name"] for each in containers(options) if each["worker_pid"]]
        lists, problems = asyncio.run(ask_all(options, names, _list))
        failed = bool(problems)
        tell(problems)
    found = _newest_first(lists)
    more = [name for name in names if name in lists and lists[name].more]
    print(_as_json(found, more) if options.json else pretty(found, options.container))
    for name in () if options.json else more:
        print(f"agentctl: {name} has more sessions than these, which are its newest", file=sys.stderr)
    return FAILED if failed else 0


def tell(problems: Mapping[str, AgentdError]) -> None:
    """A line for each container that could not be asked."""
    for name, problem in problems.items():
        print(f"agentctl: {name}: {printable(problem.message, lines=False)}", file=sys.stderr)


# Asking


def containers(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What Status says of each container. Raises ManagerUnreachable."""
    found: list[dict[str, Any]] = []

    async def look(control: Control) -> int:
        [text] = await control.manager("Status")
        found.extend(json.loads(text)["containers"])
        return 0

    with_manager(options, look)
    return found


async def asked(options: argparse.Namespace, name: str, ask: Callable[[Worker], Awaitable[T]]) -> T:
    """What that container's worker says. Raises what the manager, or the worker, says against it."""
    async with Worker(argparse.Namespace(**{**vars(options), "container": name})) as worker:
        return await ask(worker)


async def ask_all(
    options: argparse.Namespace, names: Sequence[str], ask: Callable[[Worker], Awaitable[T]]
) -> tuple[dict[str, T], dict[str, AgentdError]]:
    """What each container's worker says, and why the others could not be asked, both by name."""
    places, problems = asyncio.Semaphore(AT_ONCE), dict[str, AgentdError]()
    answers: dict[str, T] = {}

    async def one(name: str) -> None:
        try:
            async with places:
                answers[name] = await asked(options, name, ask)
        except AgentdError as exc:
            problems[name] = exc

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(one(name))
    return answers, problems


async def _list(worker: Worker) -> SessionList:
    return await worker.ask(methods.SESSIONS, {}, SessionList, deadline=ANSWER_SEC)


# Showing


def _newest_first(lists: Mapping[str, SessionList]) -> list[Found]:
    found = [Found(name, session) for name, each in lists.items() for session in each.sessions]
    return sorted(found, key=lambda each: each.session.updated, reverse=True)


def _as_json(found: list[Found], more: list[str]) -> str:
    """{sessions: [{container, and what SessionReport has}], more}"""
    sessions = [{"container": each.container, **msgspec.to_builtins(each.session)} for each in found]
    return json.dumps({"sessions": sessions, "more": bool(more)})


def pretty(found: list[Found], container: str) -> str:
    """A table; with a column for the container where none is named."""
    if not found:
        return f"{container or 'no container whose worker runs'} has {'no' if container else 'any'} sessions"
    now, first = time.time(), () if container else ("CONTAINER",)
    rows = [((each.container,) if first else ()) + _row(each.session, now) for each in found]
    text = table((*first, *HEADER), rows)
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(cut(line, width) for line in text.splitlines())


def _row(session: SessionReport, now: float) -> tuple[str, ...]:
    return session.id, session.agent, session.state, ago(now - session.updated), session.title or "-"


def ago(seconds: float) -> str:
    """How long something is past, as `podman ps` says it."""
    minutes, hours = int(seconds / 60), int(seconds / 3600 + 0.5)
    if seconds < 1:
        return "Less than a second ago"
    if minutes < 1:
        return _count(int(seconds), "second")
    if minutes < 60:
        return "About a minute ago" if minutes == 1 else _count(minutes, "minute")
    if hours == 1:
        return "About an hour ago"
    size, unit = next(((size, unit) for most, size, unit in UNITS if hours < most), (365 * 24, "year"))
    return _count(hours // size, unit)


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'} ago"


def cut(line: str, columns: int) -> str:
    """A line that fits, with … where something of it is left out."""
    if _columns(line) <= columns:
        return line
    while line and _columns(line) >= columns:
        line = line[:-1]
    return f"{line}…"


def _columns(text: str) -> int:
    """How much room a text takes: most of what East Asia writes is two columns wide."""
    return sum(_width(char) for char in text)


def _width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
