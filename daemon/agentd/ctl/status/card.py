# SPDX-License-Identifier: Apache-2.0
"""All about a container, as `systemctl status` shows a unit: facts, its sessions, the last of its log."""

import argparse
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from agentd.advice import renew, scope
from agentd.ctl.logs import matches
from agentd.ctl.screen import Facts, dot, plain, table, word
from agentd.ctl.text import ago, count, since, size
from agentd.paths import Mode
from agentd.printable import LINES, printable

HEADER = ("SESSION", "AGENT", "STATE", "LAST USED", "TITLE")
SHORT_ID = 12
"""Characters of an engine's id for a container, as the engine shows it."""
JOURNAL_SEC = 5.0
ENGINES = ("podman", "docker")


def cards(
    options: argparse.Namespace, mode: str, containers: Iterable[dict[str, Any]], now: float
) -> Iterator[RenderableType]:
    for number, each in enumerate(containers):
        if number:
            yield ""
        yield from card(each, mode, now)
        yield from log(each["name"], Mode(mode), options.lines)


def card(container: dict[str, Any], mode: str, now: float) -> Iterator[RenderableType]:
    yield Text.assemble(
        dot(container["state"]), " ", plain(container["name"], "bold"), f" - {_what(container)}"
    )
    yield Facts(_facts(container, mode, now))
    if container["sessions"]:
        yield ""
        yield table(HEADER, [_session(each, now) for each in _newest(container)])
    if (more := container["sessions_open"] - len(container["sessions"])) > 0:
        yield f"and {count(more, 'session')} more; see: agentctl sessions {container['name']}"


def _what(container: dict[str, Any]) -> str:
    runtime, id_ = container["runtime"], container["id"]
    if not runtime:
        return "container that no engine has now"
    return printable(f"{runtime} container {id_[:SHORT_ID] if runtime in ENGINES else ''}".rstrip())


def _facts(container: dict[str, Any], mode: str, now: float) -> Iterator[tuple[str, str | Text]]:
    began = container["active_since_usec"]
    yield "State", word(container["state"]) + (f" since {since(began, now)}" if began else "")
    yield "Unit", container["unit"]
    yield "Main PID", _worker(container, mode)
    yield "Leader", str(container["leader"] or "")
    yield "Clients", str(container["clients"])
    yield "Sessions", _sessions(container)
    yield "Turns", str(container["turns"])
    yield "Agents", _agents(container)
    yield "Network", _network(container)
    yield "Budget", _budget(container["budget"])
    yield "Drained", ", ".join(container["drained"])
    yield from _trouble(container, mode)


def _worker(container: dict[str, Any], mode: str) -> str | Text:
    if not container["worker_pid"]:
        return ""
    running = plain(f"{container['worker_pid']} (agentd {container['worker_version']})")
    if container["outdated"]:
        how = renew(Mode(mode), container["name"], container["unit"])
        running += plain(f" older than the manager: {how}, when it suits", "yellow")
    return running


def _sessions(container: dict[str, Any]) -> str:
    """How many there are, of each state that is not idle, and what waits in them."""
    told = container["sessions"]
    figures = [
        f"{len(having)} {state}"
        for state in ("prompting", "cancelling", "resuming")
        if (having := [each for each in told if each["state"] == state])
    ]
    figures += [
        text.format(number)
        for key, text in (("queued", "{} queued"), ("permissions", "{} waiting for permission"))
        if (number := sum(each[key] for each in told))
    ]
    more = f" ({', '.join(figures)})" if figures else ""
    return f"{container['sessions_open']}{more}"


def _agents(container: dict[str, Any]) -> Text:
    """As in the overview, with versions and processes."""
    return Text(", ").join(map(_agent, container["agents"]))


def _agent(agent: dict[str, Any]) -> Text:
    name = f"{agent['name']} {agent['version']}".rstrip()
    process = f", PID {agent['pid']}" if agent["pid"] else ""
    return Text.assemble(plain(name), " (", word(agent["state"]), process, ")")


def _network(container: dict[str, Any]) -> str:
    facts = [*container["addresses"]]
    if (traffic := container["network"]) is not None:
        facts.append(f"{size(traffic['received'])} in, {size(traffic['sent'])} out")
    return "; ".join(facts)


def _budget(budget: dict[str, int] | None) -> str:
    if budget is None:
        return ""
    return ", ".join(
        f"{budget[f'last_{unit}']} of {budget[f'per_{unit}']} turns in the last {unit}"
        for unit in ("minute", "day")
        if budget[f"per_{unit}"]
    )


def _trouble(container: dict[str, Any], mode: str) -> Iterator[tuple[str, str | Text]]:
    if container["last_error"]:
        yield (
            "Last error",
            plain(container["last_error"], "bold red" if container["state"] == "failed" else "yellow"),
        )
    if container["state"] == "failed":
        where = "" if mode == "embedded" else f" the log: agentctl logs {container['name']};"
        yield "What to do", f"see{where} then try again: agentctl start {container['name']}"


def _newest(container: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(container["sessions"], key=lambda each: -each["updated_usec"])


def _session(session: dict[str, Any], now: float) -> tuple[object, ...]:
    used = ago(now - session["updated_usec"] / 1e6) if session["updated_usec"] else "-"
    return session["id"], session["agent"], word(session["state"]), used, session["title"] or "-"


# The log


def log(name: str, mode: Mode, lines: int) -> Iterator[RenderableType]:
    if not lines:
        return
    yield ""
    if mode is Mode.EMBEDDED:
        yield Text("no journal: this agentd was started by hand, and logs to its stderr", "dim")
        return
    command = ["journalctl", "--no-pager", "--output=short", f"--lines={lines}", *scope(mode)]
    yield from _journal([*command, *matches(name, mode, [])])


def _journal(command: list[str]) -> Iterator[RenderableType]:
    """The lines, or one that says why there are none."""
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=JOURNAL_SEC, check=False
        )
    except subprocess.TimeoutExpired:
        yield Text(f"the log was not read: journalctl did not end within {JOURNAL_SEC:g} s", "dim")
        return
    except OSError as exc:
        yield Text(f"the log cannot be read: journalctl: {exc.strerror}", "dim")
        return
    said, complaint = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
    entries = [line for line in said.split("\n") if line and not line.startswith("-- ")]
    if entries:
        yield printable("\n".join(entries), keep=LINES)
    else:
        yield Text(_why_nothing(complaint), "dim")


def _why_nothing(complaint: str) -> str:
    """What journalctl says of what it could not see; below the lines that matter it has advice, indented."""
    reasons = [line for line in complaint.splitlines() if line.strip() and not line.startswith(" ")]
    if not reasons:
        return "nothing is logged"
    return f"the log cannot be read: {printable(reasons[-1]).removeprefix('Hint: ')}"
