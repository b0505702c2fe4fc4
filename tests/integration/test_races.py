# SPDX-License-Identifier: Apache-2.0
"""Orders that cross each other, from eight callers at once; `make soak` goes on with it for a minute."""

from collections.abc import Iterator

import pytest

from support.acp_client import Client
from support.embedded import Embedded, Start
from support.races import Races

NAMES = ["here", "there"]


@pytest.fixture
def agentd(start: Start) -> Embedded:
    agentd = start(bus="private")
    entry = f'[containers.there]\nruntime = "host"\ndirectory = "{agentd.folder}"\n'
    agentd.config.write_text(agentd.config.read_text() + entry)
    assert agentd.agentctl("reload").returncode == 0
    return agentd


@pytest.fixture
def client(agentd: Embedded) -> Iterator[Client]:
    """Somebody who has a turn that does not end by itself."""
    with agentd.client() as client:
        client.open().prompt("cancelled")
        yield client


async def test_containers_are_in_the_end_as_the_last_order_says(agentd: Embedded, client: Client) -> None:
    races = Races(agentd, NAMES, seed=5)
    await races.run(range(2), orders=4)
    assert not races.problems, (races.problems, races.answers)
    assert races.answers["start: done"] and races.answers["drain: done"]
