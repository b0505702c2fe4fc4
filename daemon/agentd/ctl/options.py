# SPDX-License-Identifier: Apache-2.0
"""The command line of agentctl. Verbs name their module; it is imported when the verb is the one to run."""

import argparse
import importlib
import math
from collections.abc import Callable

from agentd import __version__


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


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="agentctl", description="Use and control the coding agents in containers."
    )
    top.add_argument("--version", action="version", version=f"agentctl {__version__}")
    where = top.add_mutually_exclusive_group()
    where.add_argument("--system", action="store_true", help="the manager of this host")
    where.add_argument("--user", action="store_true", help="the manager of your own account")
    where.add_argument("--runtime-dir", metavar="D", help="the manager that was started with this directory")
    verbs = top.add_subparsers(required=True, metavar="VERB")
    _talking(verbs)
    _looking(verbs)
    _remembering(verbs)
    _ordering(verbs)
    return top


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(run=_in(name))
    return parser


def _talking(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    attach = _verb(
        verbs, "attach", "speak ACP with a container's agent over stdin and stdout, as editors do"
    )
    prompt = _verb(verbs, "prompt", "give a container's agent one prompt and print what it answers")
    for each in (attach, prompt):
        each.add_argument("container", metavar="NAME")
        each.add_argument("--agent", metavar="A", default="", help="which agent, instead of the default one")
    prompt.add_argument("text", metavar="TEXT", help="the prompt, or - for standard input")
    prompt.add_argument(
        "--cwd", metavar="DIR", help="working directory of the session, instead of the current one"
    )
    prompt.add_argument(
        "--permission", choices=("allow", "reject"), help="answer every question so, instead of asking you"
    )
    prompt.add_argument("--json", action="store_true", help="print updates and the result as lines of JSON")
    attach.add_argument(
        "--session",
        metavar="ID",
        default="",
        help="go on with this session where the editor makes a new one",
    )
    attach.add_argument(
        "--login", metavar="AGENT/METHOD", default="", help="run an agent's own login instead"
    )
    _login(verbs)


def _login(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    login = _verb(verbs, "login", "run an agent's own login in the container, on this terminal")
    login.add_argument("container", metavar="NAME")
    login.add_argument("agent", metavar="AGENT")
    login.add_argument(
        "method", metavar="METHOD", nargs="?", default="", help="which login, where there are several"
    )


def _looking(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    status = _verb(verbs, "status", "show the manager, its containers and what goes on in them")
    listing = _verb(verbs, "list", "list the containers that opted in")
    agents = _verb(verbs, "agents", "show a container's agents and whether they can be used")
    shared = _verb(verbs, "paths", "show which directories of this host a container shares")
    for each in (agents, shared):
        each.add_argument("container", metavar="NAME")
    for each in (status, listing, agents, shared):
        each.add_argument("--json", action="store_true", help="print JSON with stable keys")


def _remembering(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sessions = _verb(
        verbs, "sessions", "list the sessions of a container, those that are only kept included"
    )
    sessions.add_argument(
        "container",
        metavar="NAME",
        nargs="?",
        default="",
        help="a container; all whose workers run without it",
    )
    sessions.add_argument("--json", action="store_true", help="print JSON with stable keys")
    history = _verb(verbs, "history", "show what was said in a session")
    history.add_argument(
        "session", metavar="SESSION", help="its ID, or NAME#ID with the container that has it"
    )
    history.add_argument(
        "--container", metavar="NAME", default="", help="the container; SESSION is all ID then"
    )
    history.add_argument("--json", action="store_true", help="print each update as a line of JSON")
    history.add_argument("--no-pager", action="store_true", help="print all at once, on a terminal too")


def _ordering(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    drain = _verb(verbs, "drain", "let running turns end and none begin")
    drain.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, help="cut turns off that still run then"
    )
    drain.add_argument("--wait", action="store_true", help="show the progress and return when it has ended")
    undrain = _verb(verbs, "undrain", "let turns begin again")
    for each in (drain, undrain):
        each.add_argument(
            "target", metavar="NAME", nargs="?", default="", help="a container; all without it"
        )
    start = _verb(verbs, "start", "start a container's worker, also one that has failed too often")
    stop = _verb(
        verbs, "stop", "drain a container's worker and stop it; the next connection starts it again"
    )
    for each in (start, stop):
        each.add_argument("container", metavar="NAME")
    _verb(verbs, "reload", "make the manager read its configuration again")


def parse(arguments: list[str]) -> argparse.Namespace:
    return parser().parse_args(arguments)
