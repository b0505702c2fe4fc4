# SPDX-License-Identifier: Apache-2.0
"""`agentctl paths NAME`: which directories of this host a container shares, and what it calls them."""

import argparse
import asyncio
import json

import msgspec

from agentd.acp import methods
from agentd.acp.extensions import SharedPaths
from agentd.ctl.text import printable, table
from agentd.ctl.worker import Worker

ANSWER_SEC = 60.0


def run(options: argparse.Namespace) -> int:
    shared = asyncio.run(_ask(options))
    print(json.dumps(msgspec.to_builtins(shared)) if options.json else pretty(options.container, shared))
    return 0


async def _ask(options: argparse.Namespace) -> SharedPaths:
    async with Worker(options) as worker:
        return await worker.ask(methods.PATHS, {}, SharedPaths, deadline=ANSWER_SEC)


def pretty(container: str, shared: SharedPaths) -> str:
    if shared.everything:
        return f"{container} sees all files of this host, under the same names"
    rows = [(each.host, each.container) for each in shared.paths]
    what = table(("HOST", "CONTAINER"), rows) if rows else f"{container} shares no directory with this host"
    return f"{what}\n{_elsewhere(shared)}"


def _elsewhere(shared: SharedPaths) -> str:
    if shared.unmapped_cwd == "workdir":
        workdir = printable(shared.workdir, lines=False)
        return f"a session in any other directory works in {workdir} of the container"
    return "a session in any other directory is refused"
