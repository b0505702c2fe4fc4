# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the integration ring: when a test ends, so have its agentd and all its agents."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.acp_client import Client
from support.embedded import Embedded, house, scripted

Start = Callable[..., Embedded]


def configuration(folder: Path, *switches: str, limits: str = "", agent: str = "") -> str:
    """One host container called here, with the scripted agent."""
    command = ", ".join(f"'{word}'" for word in scripted(*switches))
    return f"""
default_agent = "scripted"
runtimes = []
[limits]
drain_sec = 5.0
agent_stop_sec = 1.0
{limits}
[agents.scripted]
command = [{command}]
{agent}
[containers.here]
runtime = "host"
directory = "{folder}"
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Start]:
    """Starts an agentd with this configuration."""
    started: list[Embedded] = []

    def serve(text: str, *, bus: str = "none", **environment: str) -> Embedded:
        agentd = Embedded(tmp_path, text, bus=bus, **environment)
        started.append(agentd)
        agentd.start()
        return agentd

    yield serve
    for agentd in started:
        agentd.clean_up()


@pytest.fixture
def start(tmp_path: Path, serve: Start) -> Start:
    """Starts an agentd whose scripted agent has these switches."""

    def start(
        *switches: str, limits: str = "", agent: str = "", bus: str = "none", **environment: str
    ) -> Embedded:
        text = configuration(tmp_path, *switches, limits=limits, agent=agent)
        return serve(text, bus=bus, **environment)

    return start


@pytest.fixture
def several(tmp_path: Path, serve: Start) -> Start:
    """Starts an agentd with scripted agents: `several({"alpha": "--models a,b", "beta": ""})`."""

    def several(agents: dict[str, str], *, bus: str = "none", **parts: str) -> Embedded:
        environment = {name: parts.pop(name) for name in list(parts) if name.isupper()}
        return serve(house(tmp_path, agents, **parts), bus=bus, **environment)

    return several


@pytest.fixture
def agentd(start: Start) -> Embedded:
    """An agentd with nothing special about it."""
    return start()


@pytest.fixture
def client(agentd: Embedded) -> Iterator[Client]:
    """A client with an open session in the container `here`."""
    with agentd.client() as client:
        yield client.open()
