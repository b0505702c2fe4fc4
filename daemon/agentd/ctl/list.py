# SPDX-License-Identifier: Apache-2.0
"""`agentctl list`: the containers that opted in, as machinectl lists its machines.

--json: a list of {name, runtime, state, clients, sessions, path}, by name; `path` is the D-Bus object.
"""

import argparse
import json
import sys
from typing import Any

from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.text import count

KEYS = ("name", "runtime", "state", "clients", "sessions", "path")
HEADER = ("NAME", "RUNTIME", "STATE", "CLIENTS", "SESSIONS")


def run(options: argparse.Namespace) -> int:
    containers = with_manager(options, _ask)
    if options.json:
        print(json.dumps([dict(zip(KEYS, each, strict=True)) for each in containers]))
    else:
        _show(options, containers)
    return 0


async def _ask(control: Control) -> list[list[Any]]:
    [containers] = await control.manager("ListContainers")
    return list(containers)


def _show(options: argparse.Namespace, containers: list[list[Any]]) -> None:
    from agentd.ctl.screen import page, table, word

    if not containers:
        page(options, "No containers.")
        return
    rows = [(name, runtime or "-", word(state), *counts) for name, runtime, state, *counts, _ in containers]
    legend = ("", count(len(containers), "container") + " listed.") if sys.stdout.isatty() else ()
    page(options, table(HEADER, rows, right=(3, 4)), *legend)
