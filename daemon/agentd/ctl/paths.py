# SPDX-License-Identifier: Apache-2.0
"""`agentctl paths NAME`: which directories of this host a container shares, and what it calls them.

--json: {paths: [{host, container}], everything, unmapped_cwd, workdir}; `everything` where it sees all files
of this host, `unmapped_cwd` refuse or workdir: what becomes of a session in any other directory.
"""

import argparse
import asyncio
import json

import msgspec

from agentd.acp import methods
from agentd.acp.extensions import SharedPaths
from agentd.ctl.worker import Worker
from agentd.printable import printable

ANSWER_SEC = 60.0


def run(options: argparse.Namespace) -> int:
    shared = asyncio.run(_ask(options))
    if options.json:
        print(json.dumps(msgspec.to_builtins(shared)))
    else:
        _show(options, shared)
    return 0


async def _ask(options: argparse.Namespace) -> SharedPaths:
    async with Worker(options) as worker:
        return await worker.ask(methods.PATHS, {}, SharedPaths, deadline=ANSWER_SEC)


def _show(options: argparse.Namespace, shared: SharedPaths) -> None:
    from agentd.ctl.screen import page, table

    if shared.everything:
        page(options, f"{options.container} sees all files of this host, under the same names")
    elif shared.paths:
        rows = [(each.host, each.container) for each in shared.paths]
        page(options, table(("HOST", "CONTAINER"), rows), _elsewhere(shared))
    else:
        page(options, f"{options.container} shares no directory with this host", _elsewhere(shared))


def _elsewhere(shared: SharedPaths) -> str:
    if shared.unmapped_cwd == "workdir":
        workdir = printable(shared.workdir)
        return f"a session in any other directory works in {workdir} of the container"
    return "a session in any other directory is refused"
