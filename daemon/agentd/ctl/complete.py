# SPDX-License-Identifier: Apache-2.0
"""What a shell completes: agentctl asks the manager that the line means, and argcomplete does the rest.

Imported where a shell asks for completions, and nowhere else. Nobody waits for longer than a second, no
password is asked for, and whatever goes wrong there is nothing to choose from: a line that is being typed is
no place for errors.
"""

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

from agentd.bus import Bus, BusError
from agentd.ctl.control import CONTAINER, MANAGER, NAME, ROOT, SESSION
from agentd.ctl.places import candidates
from agentd.errors import AgentdError
from agentd.interface import PROPERTIES
from agentd.paths import Mode
from agentd.printable import printable

DEADLINE = 1.0
TITLE = 60
"""Characters of a description."""
NOWHERE = {"system": None, "user": None, "runtime_dir": None, "host": None}
"""What a line says that says nothing of where the manager is."""

Choices = dict[str, str]
"""What a word may become, and what that is."""


class Line(NamedTuple):
    """What is typed already: the beginning of the word, and what the words before it mean."""

    word: str
    options: argparse.Namespace

    @classmethod
    def of(cls, prefix: str, parsed_args: argparse.Namespace) -> Self:
        return cls(prefix, argparse.Namespace(**NOWHERE | vars(parsed_args)))

    def says(self, name: str) -> Any:
        """The value of an option or argument; "" where it has none yet."""
        return getattr(self.options, name, None) or ""


Look = Callable[["Manager", Line], Awaitable[Choices]]
Completer = Callable[..., Choices]


def answer(parser: argparse.ArgumentParser) -> NoReturn:
    """Tell the shell what the line may go on with, as it asks for in the environment, and end."""
    try:
        import argcomplete
    except ImportError:
        sys.exit(1)  # it is only recommended, and without it there is nothing to choose from
    install(parser)
    line = plain(os.environ.get("COMP_LINE", ""), int(os.environ.get("COMP_POINT", "0")))
    os.environ.update(COMP_LINE=line, COMP_POINT=str(len(line)))
    nothing = argcomplete.completers.SuppressCompleter()
    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=nothing)
    sys.exit(1)  # autocomplete ends the process itself, unless the shell has said something odd


def plain(line: str, point: int) -> str:
    """The line up to the cursor, without comments: to argcomplete the # of NAME#SESSION begins one."""
    kept = r"""'[^']*'?|"(?:\\.|[^"\\])*"?|\\."""
    return re.sub(rf"({kept})|#", lambda found: found[1] or r"\#", line[:point])


def install(parser: argparse.ArgumentParser, verb: str = "") -> None:
    """Set the completers of a parser's arguments, and of those of its verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                install(each, name)
        elif completer := COMPLETERS.get(f"{verb} {action.dest}") or COMPLETERS.get(action.dest):
            action.completer = completer  # type: ignore[attr-defined]  # where argcomplete looks for it


# Asking


class Manager:
    """The manager, as completions see it: never asking the user, and taking no longer than they may."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def ask(self, member: str, signature: str = "", *args: object) -> Any:
        """The one result of a method."""
        [result] = await self._bus.call(NAME, ROOT, MANAGER, member, signature, *args)
        return result

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        [found] = await self._bus.call(NAME, path, PROPERTIES, "GetAll", "s", interface)
        return dict(found)

    async def status(self) -> dict[str, Any]:
        return dict(json.loads(await self.ask("Status")))


def asking(look: Look) -> Completer:
    """A completer in argcomplete's form."""

    def complete(prefix: str, parsed_args: argparse.Namespace, **more: object) -> Choices:
        line = Line.of(prefix, parsed_args)
        try:
            found = asyncio.run(_ask(look, line))
        except Exception:  # whatever it is, nobody wants to read it in the middle of a line
            return {}
        return harmless(found)

    return complete


def harmless(found: Choices) -> Choices:
    """Without the words that no line can have: ids, titles and the names of files are somebody else's."""
    return {
        word: printable(about)[:TITLE]
        for word, about in found.items()
        if word.isprintable() and not word.startswith("-")
    }


async def _ask(look: Look, line: Line) -> Choices:
    """Ask the first manager that is there; not one of another host, which is too far away."""
    async with asyncio.timeout(DEADLINE):
        for paths in () if line.says("host") else candidates(line.options):
            try:
                async with await Bus.connect(paths.bus_address) as bus:
                    if await bus.has_owner(NAME):  # one that was stopped is not started by a key
                        return await look(Manager(bus), line)
            except BusError:
                continue  # there is no such bus
    return {}


# What there is


async def containers(manager: Manager, line: Line) -> Choices:
    """Those that are not named already."""
    found = await manager.ask("ListContainers")
    named = line.says("containers")
    return {
        name: f"{state}, {runtime or 'no runtime'}"
        for name, runtime, state, *_ in found
        if name not in named
    }


async def sessions(manager: Manager, line: Line) -> Choices:
    """As NAME#ID, or as ID where the container has been named."""
    if line.says("container"):
        return await session_ids(manager, line)
    found = await manager.ask("ListSessions", "s", "")
    return {f"{each[1]}#{each[0]}": _session(*each) for each in found}


async def session_ids(manager: Manager, line: Line) -> Choices:
    found = await manager.ask("ListSessions", "s", line.says("container"))
    return {each[0]: _session(*each) for each in found}


def _session(id: str, container: str, agent: str, state: str, title: str, *more: object) -> str:
    return f"{agent}, {state}: {title}" if title else f"{agent}, {state}"


async def agents(manager: Manager, line: Line) -> Choices:
    """Of the container that is named: those that run, and those that are configured for it."""
    container = line.says("container")
    configured = await _configured(manager, container)
    return configured | await _running(manager, container)


async def _running(manager: Manager, container: str) -> Choices:
    found = (await manager.status())["containers"]
    mine = (each for each in found if container in ("", each["name"]))
    return {agent["name"]: agent["state"] for each in mine for agent in each["agents"]}


async def _configured(manager: Manager, container: str) -> Choices:
    """As far as this account may read the manager's configuration."""
    from agentd.config import load
    from agentd.errors import ConfigurationInvalid

    try:
        files = (await manager.properties(ROOT, MANAGER))["ConfigFiles"]
        configuration = load(files).configuration
    except ConfigurationInvalid:
        return {}  # or it is wrong, which is not the manager's either then
    return dict.fromkeys(configuration.offered(container) or configuration.agent_names(), "")


async def targets(manager: Manager, line: Line) -> Choices:
    """Containers; agents and sessions too, of the only one that the word can mean."""
    found = await containers(manager, line)
    name = re.split("[/#]", line.word)[0]
    meant = [each for each in found if each == name or (each.startswith(name) and name == line.word)]
    if len(meant) != 1:
        return found
    mine = Line(line.word, argparse.Namespace(container=meant[0]))
    for mark, what in (("/", await _running(manager, meant[0])), ("#", await session_ids(manager, mine))):
        found |= {f"{meant[0]}{mark}{each}": about for each, about in what.items()}
    return found


async def drained(manager: Manager, line: Line) -> Choices:
    """What an undrain would undo."""
    found = (await manager.status())["containers"]
    return {target: each["state"] for each in found for target in each["drained"]}


async def shown(manager: Manager, line: Line) -> Choices:
    return await containers(manager, line) | await sessions(manager, line)


async def properties(manager: Manager, line: Line) -> Choices:
    """Of whatever is to be shown."""
    name, mark, id = line.says("target").partition("#")
    if mark:
        found = await manager.ask("ListSessions", "s", name)
        path, interface = next(each[-1] for each in found if each[0] == id), SESSION
    else:
        path, interface = (
            (await manager.ask("GetContainer", "s", name), CONTAINER) if name else (ROOT, MANAGER)
        )
    return dict.fromkeys(await manager.properties(path, interface), "")


def schedules(prefix: str, parsed_args: argparse.Namespace, **more: object) -> Choices:
    """Prompts that are kept in files: what there is of them on this host."""
    line = Line.of(prefix, parsed_args)
    try:
        places = () if line.says("host") else candidates(line.options)
        folders = [Path(each.prompt_file("any")).parent for each in places if each.mode is not Mode.EMBEDDED]
    except AgentdError:
        return {}  # this account has no such place
    return harmless({file.stem: "" for folder in folders for file in folder.glob("*.toml")})


def directories(prefix: str, **more: object) -> Choices:
    """Of this host, the hidden ones only where the word asks for them."""
    begun = prefix.rpartition("/")[2]
    at = Path(prefix.removesuffix(begun) or ".").expanduser()
    try:
        names = sorted(each.name for each in at.iterdir() if each.is_dir())
    except OSError:
        return {}  # there is no such directory, or it is closed to this account
    hidden = begun.startswith(".")
    path = prefix.removesuffix(begun)
    return harmless({f"{path}{name}/": "" for name in names if hidden or not name.startswith(".")})


COMPLETERS: dict[str, Completer] = {
    "agent": asking(agents),
    "container": asking(containers),
    "containers": asking(containers),
    "session": asking(session_ids),
    "history session": asking(sessions),
    "cancel session": asking(sessions),
    "drain target": asking(targets),
    "undrain target": asking(drained),
    "show target": asking(shown),
    "property": asking(properties),
    "schedule": schedules,
    "runtime_dir": directories,
    "cwd": directories,
}
"""By an argument's name, or by that of a verb and one of its arguments."""
