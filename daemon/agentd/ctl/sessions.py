# SPDX-License-Identifier: Apache-2.0
"""`agentctl sessions [NAME]`: the sessions of a container, or of all whose workers run.

--json: {sessions: [{container, id, agent, state, title, cwd, owner, created, updated, clients, queued,
prompted}], more}, newest first. `state` is idle, prompting, cancelling, resuming, or kept for one that is
not open; `title` null for none; times are seconds of Unix time; `more`: there are others, which are older.
Exit status 1 where a container could not be asked, with a line on stderr; the others are shown.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from agentd.acp import methods
from agentd.acp.extensions import SessionList, SessionReport
from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.text import ago, complaint
from agentd.ctl.worker import Worker
from agentd.errors import AgentdError

ANSWER_SEC = 60.0
AT_ONCE = 4
"""Containers that are asked at the same time; the manager counts the connections of an account."""
FAILED = 1
HEADER = ("SESSION", "AGENT", "STATE", "LAST USED", "TITLE")

T = TypeVar("T")


class Found(NamedTuple):
    """A session, and the container that has it."""

    container: str
    session: SessionReport


def run(options: argparse.Namespace) -> int:
    lists, problems = _ask(options)
    tell(problems)
    found, more = _newest_first(lists), sorted(name for name, each in lists.items() if each.more)
    if options.json:
        print(_as_json(found, more))
        return FAILED if problems else 0
    show(options, found)
    for name in more:
        print(complaint(f"{name} has more sessions than these, which are its newest"), file=sys.stderr)
    return FAILED if problems else 0


def tell(problems: Mapping[str, AgentdError]) -> None:
    """A line for each container that could not be asked."""
    for name, problem in problems.items():
        print(complaint(f"{name}: {problem.message}"), file=sys.stderr)


# Asking


def _ask(options: argparse.Namespace) -> tuple[dict[str, SessionList], dict[str, AgentdError]]:
    """Of one container, whose refusal is an error, or of all."""
    if options.container:
        return {options.container: asyncio.run(asked(options, options.container, _list))}, {}
    running = [each["name"] for each in containers(options) if each["worker_pid"]]
    return asyncio.run(ask_all(options, running, _list))


def named(options: argparse.Namespace) -> tuple[str, str]:
    """The container, "" where none is named, and the session's id, as --container and SESSION have them."""
    name, mark, session_id = options.session.partition("#")
    if options.container or not mark:
        return options.container, options.session
    return name, session_id


def containers(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What Status says of each container. Raises ManagerUnreachable."""
    return list(with_manager(options, Control.status)["containers"])


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


def show(options: argparse.Namespace, found: list[Found]) -> None:
    """A table; with a column for the container where none is named."""
    from agentd.ctl.screen import page, table

    if not found:
        whose = options.container or "no container whose worker runs"
        page(options, f"{whose} has {'no' if options.container else 'any'} sessions")
        return
    header = HEADER if options.container else ("CONTAINER", *HEADER)
    now = time.time()
    rows = [(() if options.container else (each.container,)) + _row(each.session, now) for each in found]
    page(options, table(header, rows))


def _row(session: SessionReport, now: float) -> tuple[object, ...]:
    from agentd.ctl.screen import word

    return session.id, session.agent, word(session.state), ago(now - session.updated), session.title or "-"
