# SPDX-License-Identifier: Apache-2.0
"""`agentctl list`: the containers that opted in."""

import argparse
import json

from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.text import table

KEYS = ("name", "runtime", "state", "clients", "sessions", "path")


def run(options: argparse.Namespace) -> int:
    async def show(control: Control) -> int:
        [containers] = await control.manager("ListContainers")
        if options.json:
            print(json.dumps([dict(zip(KEYS, each, strict=True)) for each in containers]))
        else:
            print(table([key.upper() for key in KEYS[:-1]], [each[:-1] for each in containers]))
        return 0

    return with_manager(options, show)
