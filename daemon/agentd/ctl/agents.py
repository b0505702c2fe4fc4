# SPDX-License-Identifier: Apache-2.0
"""`agentctl agents NAME`: which agents a container has, and whether they can be used.

--json: {agents: [{name, state, version, title, reason, default, login: [{id, name, terminal}]}]}; `state` is
ready, needs-login, missing, failing or unknown, `reason` why it is not ready.
"""

import argparse
import asyncio
import json

import msgspec

from agentd.acp import methods
from agentd.acp.extensions import Agents
from agentd.ctl.worker import Worker

PROBE_SEC = 60.0
"""The worker may have to start every agent to see how it is."""
HEADER = ("NAME", "STATE", "VERSION", "DEFAULT")


def run(options: argparse.Namespace) -> int:
    found = asyncio.run(_ask(options))
    if options.json:
        print(json.dumps(msgspec.to_builtins(found)))
    else:
        _show(options, found)
    return 0


async def _ask(options: argparse.Namespace) -> Agents:
    async with Worker(options) as worker:
        return await agents_of(worker)


async def agents_of(worker: Worker) -> Agents:
    """The agents of a worker's container. Raises the worker's error, or WorkerFailed."""
    return await worker.ask(methods.AGENTS, {}, Agents, deadline=PROBE_SEC)


def _show(options: argparse.Namespace, found: Agents) -> None:
    from agentd.ctl.screen import page, plain, table, word

    if not found.agents:
        page(options, f"{options.container} has no agents")
        return
    rows = [
        (each.name, word(each.state), each.version or "-", "yes" if each.default else "no")
        for each in found.agents
    ]
    reasons = [plain(f"{each.name}: {each.reason}") for each in found.agents if each.reason]
    page(options, table(HEADER, rows), *reasons)
