# SPDX-License-Identifier: Apache-2.0
"""`agentctl status [NAME…]`: the manager and its containers, or all about some, as systemctl shows units.

--json: what Manager.Status gives, see agentctl(1); with names {containers: […]}, those of it that were
named, in that order.

Exit status, with names: 0 where the worker of each runs, 3 where one does not, 4 where there is no such
container (a sentence on stderr for each of these).
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from agentd.advice import renew
from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.screen import STYLE_OF, Facts, dot, page, plain, table, word
from agentd.ctl.text import count, since, span
from agentd.paths import Mode
from agentd.printable import printable

OK, NOT_RUNNING, NO_SUCH_UNIT = 0, 3, 4
"""Exit statuses, as of systemctl status."""
RESTING = ("stopped", "idle", "failed")
NOT_TOLD: dict[str, Any] = {"started_usec": 0, "configured_usec": 0}
NOT_TOLD_OF_CONTAINER: dict[str, Any] = {
    "id": "", "leader": 0, "outdated": False, "active_since_usec": 0, "drained": [], "addresses": [],
    "network": None, "budget": None,
}  # fmt: skip
NOT_TOLD_OF_SESSION: dict[str, Any] = {"title": "", "permissions": 0, "updated_usec": 0}
"""What a manager does not tell that is older than this agentctl."""
HEADER = ("NAME", "RUNTIME", "STATE", "CLIENTS", "SESSIONS", "TURNS", "AGENTS")


def run(options: argparse.Namespace) -> int:
    status = with_manager(options, Control.status)
    if options.containers:
        return _some(options, status)
    if options.json:
        print(json.dumps(status))
    else:
        page(options, *overview(whole(status), time.time()))
    return OK


def whole(status: dict[str, Any]) -> dict[str, Any]:
    """With all that is shown, also where an older manager has not told it."""
    return NOT_TOLD | status | {"containers": list(map(_whole, status["containers"]))}


def _whole(container: dict[str, Any]) -> dict[str, Any]:
    sessions = [NOT_TOLD_OF_SESSION | each for each in container["sessions"]]
    return {"sessions_open": len(sessions)} | NOT_TOLD_OF_CONTAINER | container | {"sessions": sessions}


# Some of the containers


def _some(options: argparse.Namespace, status: dict[str, Any]) -> int:
    known = {each["name"]: each for each in status["containers"]}
    named = list(dict.fromkeys(options.containers))
    found = [known[name] for name in named if name in known]
    missing = [name for name in named if name not in known]
    if options.json:
        print(json.dumps({"containers": found}))
    elif found:
        from agentd.ctl.status.card import cards

        page(options, *cards(options, status["mode"], map(_whole, found), time.time()))
    for name in missing:
        text = printable(f"no container is called {name}")
        print(f"agentctl: {text}; see: agentctl list", file=sys.stderr)
    return NO_SUCH_UNIT if missing else max(map(exit_status, found))


def exit_status(container: dict[str, Any]) -> int:
    return OK if container["worker_pid"] and container["state"] not in RESTING else NOT_RUNNING


# All of it


def overview(status: dict[str, Any], now: float) -> Iterator[RenderableType]:
    containers = status["containers"]
    yield Text.assemble(
        dot(status["state"]), plain(f" agentd {status['version']} - coding agents in containers")
    )
    yield Facts(_facts(status, now))
    yield ""
    yield table(HEADER, list(map(_row, containers)), right=(3, 4, 5)) if containers else "No containers."
    notes = [_problem(each) for each in containers if each["last_error"]]
    notes += [_older(each, status["mode"]) for each in containers if each["outdated"]]
    if notes := notes + [_job(each, now) for each in status["jobs"]]:
        yield ""
        yield from notes


def _facts(status: dict[str, Any], now: float) -> Iterator[tuple[str, str | Text]]:
    began = status["started_usec"]
    yield "State", word(status["state"]) + (f" since {since(began, now)}" if began else "")
    yield "Mode", status["mode"]
    yield "Main PID", str(status["pid"])
    yield "Config", f"read {since(status['configured_usec'], now)}" if status["configured_usec"] else ""
    yield "Watcher", _watcher(status["watcher"])
    yield "Containers", _sum(status["containers"])


def _watcher(watcher: dict[str, Any]) -> Text:
    if not watcher["connected"]:
        return plain("not there; containers are shown as they were last known", "yellow")
    engines = [
        plain(f"{name} ({problem})", "yellow") if problem else plain(name)
        for name, problem in sorted(watcher["engines"].items())
    ]
    return Text.assemble("follows ", Text(", ").join(engines) if engines else "nothing yet")


def _sum(containers: list[dict[str, Any]]) -> str:
    """How many there are of everything."""
    serving = sum(bool(each["worker_pid"]) for each in containers)
    figures = [f"{len(containers)} ({serving} with a worker)"]
    figures += [
        count(sum(each[key] for each in containers), noun)
        for key, noun in (("clients", "client"), ("sessions_open", "session"), ("turns", "turn"))
    ]
    return "; ".join(figures)


def _row(container: dict[str, Any]) -> tuple[object, ...]:
    return (
        container["name"],
        container["runtime"] or "-",
        word(container["state"]),
        container["clients"],
        container["sessions_open"],
        container["turns"],
        _agents(container) or "-",
    )


def _agents(container: dict[str, Any]) -> Text:
    """Their names, and how those are that cannot be used at once."""
    return Text(", ").join(map(_agent, container["agents"]))


def _agent(agent: dict[str, Any]) -> Text:
    if agent["state"] == "ready":
        return plain(agent["name"], STYLE_OF["ready"])
    return Text.assemble(plain(agent["name"]), " (", word(agent["state"]), ")")


def _problem(container: dict[str, Any]) -> Text:
    return Text.assemble(dot("failed"), " ", plain(f"{container['name']}: {container['last_error']}"))


def _older(container: dict[str, Any], mode: str) -> Text:
    how = renew(Mode(mode), container["name"], container["unit"])
    text = f"{container['name']}: older code {container['worker_version']}: {how}, when it suits"
    return Text.assemble(dot("starting"), " ", plain(text))


def _job(job: dict[str, Any], now: float) -> Text:
    what = f" job {job['id']}: {job['kind']} of {job['target'] or 'everything'}, "
    text = Text.assemble(dot(job["state"]), plain(what), word(job["state"]))
    if job["state"] == "running":
        left = span(job["deadline_usec"] / 1e6 - now)
        text += f", {count(job['remaining'], 'turn')} left, cut off in {left}"
    return text
