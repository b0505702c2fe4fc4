# SPDX-License-Identifier: Apache-2.0
"""The command line of agentctl. Verbs name their module; it is imported when the verb is the one to run."""

from __future__ import annotations

import argparse
import importlib
import math
import os

from agentd import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

LINES = 10
"""How much of a log is shown where nobody says how much."""


def _in(module: str) -> Callable[[argparse.Namespace], int]:
    """`run` of that module, imported at the last moment: `attach` must not pay for what `status` needs."""

    def run(options: argparse.Namespace) -> int:
        return int(importlib.import_module(f"agentd.ctl.{module}").run(options))

    return run


def seconds(text: str) -> float:
    """A number of seconds from the command line."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def count(text: str) -> int:
    """A number of lines, or of rounds, from the command line."""
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a line without repeating what a terminal would obey."""

    def error(self, message: str) -> NoReturn:
        from agentd.printable import printable

        super().error(printable(message))


def parser(verb: str = "") -> argparse.ArgumentParser:
    """`verb`: the one that the command line begins with, if any: most others are left out then, for `attach`
    must not pay for them.
    """
    top: argparse.ArgumentParser = Parser(
        prog="agentctl", description="Use and control the coding agents in containers."
    )
    top.add_argument("--version", action="version", version=f"agentctl {__version__}")
    _where(top, default=None)
    verbs = top.add_subparsers(required=True, metavar="VERB", dest="verb")
    for describe in [each for each, names in VERBS.items() if verb in names] or VERBS:
        describe(verbs)
    return top


def _where(parser: argparse.ArgumentParser, *, default: object = argparse.SUPPRESS) -> None:
    """Which manager is meant. It may be said before the verb and after it, as with systemctl."""
    where = parser.add_mutually_exclusive_group()
    for name, text in (
        ("--system", "the manager of this host"),
        ("--user", "the manager of your own account"),
    ):
        where.add_argument(name, action="store_true", default=default, help=text)
    where.add_argument(
        "--runtime-dir",
        metavar="D",
        default=default,
        help="the manager that was started with this directory",
    )
    where.add_argument(
        "-H",
        "--host",
        metavar="[USER@]HOST[:PORT]",
        default=default,
        help="the manager of another host, through ssh",
    )


class _Instead(argparse.Action):
    """An option with which positional arguments need not be there.

    Optional ones are over at the first option, before Python 3.12: `prompt box --agent a TEXT` would have no
    text.
    """

    def __init__(self, *names: Any, of: Iterable[argparse.Action], **settings: Any) -> None:
        super().__init__(*names, **settings)
        self._of = of

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        setattr(namespace, self.dest, values)
        for each in self._of:
            each.required = False


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    *,
    json: str = "",
    pages: bool = False,
) -> argparse.ArgumentParser:
    """`json`: what --json makes of it, "" for a verb that has none. `pages`: whether a pager may show it."""
    parser = verbs.add_parser(name, help=text, description=text)
    _where(parser)
    if json:
        parser.add_argument("--json", action="store_true", help=json)
    if pages:
        parser.add_argument("--no-pager", action="store_true", help="print all at once, on a terminal too")
    parser.set_defaults(run=_in(name))
    return parser


STABLE = "print JSON with stable keys"
RESULT = "print what came of it as JSON with stable keys"
ROWS = "print lines of JSON with stable keys"


def _talking(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    attach = _verb(
        verbs, "attach", "speak ACP with a container's agent over stdin and stdout, as editors do"
    )
    attach.add_argument("container", metavar="NAME")
    attach.add_argument(
        "--session",
        metavar="ID",
        default="",
        help="go on with this session where the editor makes a new one",
    )
    attach.add_argument(
        "--login", metavar="AGENT/METHOD", default="", help="run an agent's own login instead"
    )
    prompt = _verb(
        verbs,
        "prompt",
        "give a container's agent one prompt and print what it answers",
        json="print updates and the result as lines of JSON",
    )
    asked = (
        prompt.add_argument("container", metavar="NAME", default=""),
        prompt.add_argument("text", metavar="TEXT", default="", help="the prompt, or - for standard input"),
    )
    prompt.add_argument(
        "--schedule",
        metavar="NAME",
        default="",
        action=_Instead,
        of=asked,
        help="run the prompt of prompts/NAME.toml, as agentd-prompt@NAME.service does",
    )
    prompt.add_argument(
        "--cwd", metavar="DIR", help="working directory of the session, instead of the current one"
    )
    prompt.add_argument(
        "--permission", choices=("allow", "reject"), help="answer every question so, instead of asking you"
    )
    for each in (attach, prompt):
        each.add_argument("--agent", metavar="A", default="", help="which agent, instead of the default one")
    login = _verb(verbs, "login", "run an agent's own login in the container, on this terminal")
    login.add_argument("container", metavar="NAME")
    login.add_argument("agent", metavar="AGENT")
    login.add_argument(
        "method", metavar="METHOD", nargs="?", default="", help="which login, where there are several"
    )


def _looking(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _verb(verbs, "list", "list the containers that opted in", json=STABLE, pages=True)
    status = _verb(
        verbs,
        "status",
        "show the manager and its containers, or all about some of them",
        json=STABLE,
        pages=True,
    )
    status.add_argument("containers", metavar="NAME", nargs="*")
    status.add_argument(
        "-n", "--lines", type=count, default=LINES, help=f"how much of a container's log to show ({LINES})"
    )
    show = _verb(
        verbs,
        "show",
        "print the properties of the manager, a container or a session, for scripts",
        json=STABLE,
        pages=True,
    )
    show.add_argument("target", metavar="NAME|NAME#SESSION", nargs="?", default="")
    show.add_argument(
        "-p",
        "--property",
        metavar="PROPERTY",
        action="append",
        default=[],
        help="only this one; may be repeated",
    )
    show.add_argument("--value", action="store_true", help="print values without their names")
    agents = _verb(
        verbs, "agents", "show a container's agents and whether they can be used", json=STABLE, pages=True
    )
    shared = _verb(
        verbs, "paths", "show which directories of this host a container shares", json=STABLE, pages=True
    )
    for each in (agents, shared):
        each.add_argument("container", metavar="NAME")
    _verb(
        verbs,
        "check",
        "print the configuration that would be used, or what is wrong with it",
        json=STABLE,
        pages=True,
    )
    _verb(verbs, "doctor", "look for whatever keeps agentd from working", json=STABLE, pages=True)


def _remembering(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sessions = _verb(
        verbs,
        "sessions",
        "list the sessions of a container, those that are only kept included",
        json=STABLE,
        pages=True,
    )
    sessions.add_argument(
        "container",
        metavar="NAME",
        nargs="?",
        default="",
        help="a container; all whose workers run without it",
    )
    history = _verb(
        verbs,
        "history",
        "show what was said in a session",
        json="print each update as a line of JSON",
        pages=True,
    )
    cancel = _verb(
        verbs, "cancel", "cancel the turn that runs in a session, and what waits there", json=RESULT
    )
    for each in (history, cancel):
        each.add_argument(
            "session", metavar="SESSION", help="its ID, or NAME#ID with the container that has it"
        )
        each.add_argument(
            "--container", metavar="NAME", default="", help="the container; SESSION is all ID then"
        )


def _watching(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    top = _verb(
        verbs, "top", "watch containers, sessions and what they take", json="print a line of JSON a round"
    )
    top.add_argument(
        "-d", "--delay", metavar="SECONDS", type=seconds, default=1.0, help="between rounds (1)"
    )
    top.add_argument(
        "-n", "--iterations", metavar="N", type=count, default=0, help="end after so many rounds (0: never)"
    )
    logs = _verb(verbs, "logs", "show the log of agentd, or of one container", json=ROWS, pages=True)
    logs.add_argument("container", metavar="NAME", nargs="?", default="")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is logged from now on")
    logs.add_argument("-n", "--lines", type=count, default=None, help="only so many of the last")
    logs.add_argument("--since", metavar="TIME", default="", help='only since then, as in "1 hour ago"')
    logs.add_argument("--until", metavar="TIME", default="", help="only until then, as in -10min")
    logs.add_argument("--agent", metavar="A", default="", help="only of this agent")
    logs.add_argument("--session", metavar="ID", default="", help="only of this session")
    _verb(verbs, "events", "tell of every change, as it happens", json=ROWS)
    metrics = _verb(verbs, "metrics", "print counters and gauges as Prometheus reads them", json=STABLE)
    metrics.add_argument(
        "--http",
        action="store_true",
        help="answer one HTTP request on standard input, as agentd-metrics@ does",
    )


def _ordering(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    drain = _verb(verbs, "drain", "let running turns end and none begin", json=RESULT)
    drain.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, help="cut turns off that still run then"
    )
    drain.add_argument("--wait", action="store_true", help="show the progress and return when it has ended")
    undrain = _verb(verbs, "undrain", "let turns begin again", json=RESULT)
    for each in (drain, undrain):
        each.add_argument(
            "target",
            metavar="NAME|NAME/AGENT|NAME#SESSION",
            nargs="?",
            default="",
            help="a container, one agent of it, or one session; everything without it",
        )
    start = _verb(
        verbs, "start", "start a container's worker, also one that has failed too often", json=RESULT
    )
    stop = _verb(
        verbs,
        "stop",
        "drain a container's worker and stop it; the next connection starts it again",
        json=RESULT,
    )
    for each in (start, stop):
        each.add_argument("container", metavar="NAME")
    _verb(verbs, "reload", "make the manager read its configuration again", json=RESULT)


VERBS = {
    _talking: ("attach", "prompt", "login"),
    _looking: ("list", "status", "show", "agents", "paths", "check", "doctor"),
    _remembering: ("sessions", "history", "cancel"),
    _watching: ("top", "logs", "events", "metrics"),
    _ordering: ("drain", "undrain", "start", "stop", "reload"),
}
"""What describes which verbs."""


def parse(arguments: list[str]) -> argparse.Namespace:
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what a line may go on with
        importlib.import_module("agentd.ctl.complete").answer(parser())
    return parser(arguments[0] if arguments else "").parse_args(_with_times(arguments))


TIMES = ("--since", "--until")
"""Options whose values may begin with a dash, as -1h does; argparse would take that for an option."""


def _with_times(arguments: list[str]) -> list[str]:
    """Each of these values in one word with its option. What comes after -- is none."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    joined: list[str] = []
    for word in arguments[:end]:
        if joined and joined[-1] in TIMES:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined + arguments[end:]
