# SPDX-License-Identifier: Apache-2.0
"""`agentctl agents NAME`: which agents a container has, and whether they can be used."""

import argparse
import asyncio
import json

import msgspec

from agentd.acp import methods
from agentd.acp.extensions import AgentReport, Agents
from agentd.ctl.text import printable, table
from agentd.ctl.worker import Worker

PROBE_SEC = 60.0
"""The worker may have to start every agent to see how it is."""
HEADER = ("NAME", "STATE", "VERSION", "DEFAULT")


def run(options: argparse.Namespace) -> int:
    found = asyncio.run(_ask(options))
    print(json.dumps(msgspec.to_builtins(found)) if options.json else pretty(options.container, found))
    return 0


async def _ask(options: argparse.Namespace) -> Agents:
    async with Worker(options) as worker:
        return await agents_of(worker)


async def agents_of(worker: Worker) -> Agents:
    """The agents of a worker's container. Raises the worker's error, or WorkerFailed."""
    return await worker.ask(methods.AGENTS, {}, Agents, deadline=PROBE_SEC)


def pretty(container: str, found: Agents) -> str:
    if not found.agents:
        return f"{container} has no agents"
    reasons = [f"{each.name}: {each.reason}" for each in found.agents if each.reason]
    return "\n".join(
        [table(HEADER, [_row(each) for each in found.agents])]
        + [printable(each, lines=False) for each in reasons]
    )


def _row(agent: AgentReport) -> tuple[str, ...]:
    return agent.name, agent.state, agent.version or "-", "yes" if agent.default else "no"
