# SPDX-License-Identifier: Apache-2.0
"""`agentctl -H [USER@]HOST[:PORT]`: the same command, by agentctl of that host, through ssh.

This process becomes ssh: nothing of ours is between an editor and the other host.
"""

from __future__ import annotations

import os
import shlex
import sys

from agentd.ctl.options import parse
from agentd.errors import InvalidArgs, ManagerUnreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SHORT, LONG = "-H", "--host"
PROGRAM = "agentctl"
"""As the other host's shell finds it."""
SHOWN = "AGENTCTL_SHOWN"
"""Variable that is set there where what it prints is shown on a terminal here, which it cannot see."""


def run(host: str, arguments: list[str]) -> NoReturn:
    """Become ssh. Raises InvalidArgs, or ManagerUnreachable where there is no ssh."""
    command = ssh(host, without_host(arguments), terminal=os.isatty(0) and os.isatty(1), shown=os.isatty(1))
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606  # the user's own ssh, found as a shell finds it
    except OSError as exc:
        raise ManagerUnreachable(
            f"-H goes through ssh, which cannot be run: {exc.strerror}; install openssh-client"
        ) from None


def ssh(host: str, arguments: list[str], *, terminal: bool, shown: bool = False) -> list[str]:
    """The command. `terminal`: the other host gets one. `shown`: stdout is one. Raises InvalidArgs."""
    destination, port = parts(host)
    where = ["-p", port] if port else []
    kind = ["-t"] if terminal else []
    told = ["env", f"{SHOWN}=1"] if shown and not terminal else []
    return ["ssh", *where, *kind, "--", destination, *told, PROGRAM, *map(shlex.quote, arguments)]


def parts(host: str) -> tuple[str, str]:
    """[USER@]HOST and PORT, "" for ssh's own choice. An IPv6 address with a port is in brackets.

    Raises InvalidArgs.
    """
    user, mark, place = host.rpartition("@")
    name, mark_port, port = place, "", ""
    if place.startswith("["):
        name, closed, rest = place[1:].partition("]")
        wrong, mark_port, port = rest.partition(":")
        name = "" if wrong or not closed else name
    elif place.count(":") == 1:
        name, mark_port, port = place.partition(":")
    destination = user + mark + name
    if not name or bool(user) != bool(mark) or destination.startswith("-") or name.startswith("-"):
        raise InvalidArgs(f"{host!r} is no host: it is written [USER@]HOST[:PORT]")
    if mark_port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise InvalidArgs(f"{port!r} is no port: it is a number from 1 to 65535")
    return destination, port


def without_host(arguments: list[str]) -> list[str]:
    """All arguments but -H, in any of its spellings. Raises InvalidArgs for one that it cannot take out."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept, skip = [], False
    for argument in arguments[:end]:
        name, mark, _ = argument.partition("=")
        long = len(name) > len("--h") and LONG.startswith(name)
        short = argument.startswith(SHORT)
        if not (skip or long or short):
            kept.append(argument)
        skip = not skip and ((long and not mark) or argument == SHORT)
    kept += arguments[end:]
    if parse(kept).host is not None:
        raise InvalidArgs(f"{SHORT} is to be said by itself, and not together with other letters")
    return kept
