# SPDX-License-Identifier: Apache-2.0
"""`agentctl logs [NAME]`: journalctl, with the matches that find what is agentd's.

Without a container everything that units of agentd have logged. With one, what its worker's unit has, what
systemd says about that unit, and what the others log about the container, which is in AGENTD_CONTAINER=.
That field anybody may send to the journal, so it counts only from within agentd.slice.
"""

import argparse
import os
import sys
from typing import NoReturn

from agentd.advice import scope
from agentd.config import valid_name
from agentd.ctl.meant import place
from agentd.errors import InvalidArgs, NotInstalled, NotRunning
from agentd.paths import Mode
from agentd.printable import printable

UNITS = ("agentd.service", "agentd-watch.service", "agentd@*.service", "agentd-prompt@*.service")
SLICE = "agentd.slice"
INIT = "_PID=1"


def run(options: argparse.Namespace) -> NoReturn:
    """Become journalctl. Errors: InvalidArgs, NotRunning in embedded mode, NotInstalled."""
    if options.container and not valid_name(options.container):
        raise InvalidArgs(f"{options.container!r} cannot be the name of a container")
    where = place(options)
    if where.mode is Mode.EMBEDDED:
        raise NotRunning(
            "this agentd was started by hand, and logs to the terminal that it runs in, or to its stderr; "
            "for one that systemd runs say --system or --user"
        )
    become(command(options, where.mode))


def become(argv: list[str]) -> NoReturn:
    """Errors: NotInstalled."""
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)  # noqa: S606  # as systemctl finds its pager
    except OSError as error:
        raise NotInstalled(
            f"{argv[0]} cannot be run ({error.strerror}): install systemd, or, where something else keeps "
            "the logs of services, look there"
        ) from None


def command(options: argparse.Namespace, mode: Mode) -> list[str]:
    """The argument vector of journalctl."""
    about = {"AGENTD_AGENT": options.agent, "AGENTD_SESSION": options.session}
    details = [f"{field}={printable(value)}" for field, value in about.items() if value]  # as it was logged
    found = matches(options.container, mode, details) if options.container else everything(mode, details)
    return ["journalctl", *_how(options, mode), *found]


def everything(mode: Mode, details: list[str]) -> list[str]:
    option = "--user-unit" if mode is Mode.USER else "--unit"
    return [*(f"{option}={unit}" for unit in UNITS), *details]


def matches(name: str, mode: Mode, details: list[str]) -> list[str]:
    """Of one container; with `details`, fields that only records of agentd itself have, only of those."""
    unit = f"agentd@{name}.service"
    if mode is Mode.USER:
        mine = f"_UID={os.geteuid()}"
        told = [f"AGENTD_CONTAINER={name}", *details, f"_SYSTEMD_USER_SLICE={SLICE}", mine]
        others = [[f"_SYSTEMD_USER_UNIT={unit}", mine], [f"USER_UNIT={unit}", mine]]
    else:
        told = [f"AGENTD_CONTAINER={name}", *details, f"_SYSTEMD_SLICE={SLICE}"]
        others = [[f"_SYSTEMD_UNIT={unit}"], [f"UNIT={unit}", INIT]]
    return told if details else [*told, *(word for other in others for word in ("+", *other))]


def _how(options: argparse.Namespace, mode: Mode) -> list[str]:
    switches = {
        "--follow": options.follow,
        "--no-pager": options.no_pager,
        "--output=json": options.json,
    }
    words = scope(mode) + [word for word, wanted in switches.items() if wanted]
    words += [] if options.lines is None else [f"--lines={options.lines}"]
    words += [f"--since={options.since}"] if options.since else []
    return words + ([f"--until={options.until}"] if options.until else [])
