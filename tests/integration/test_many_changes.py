# SPDX-License-Identifier: Apache-2.0
"""What the bus hears when more changes than anybody could look at: the latest, and no more."""

import asyncio
import os

import pytest

from agentd import link
from support.control import ROOT, Control, control
from support.embedded import Embedded, Start

WORKERS, CHANGES = 100, 10_000
PROPERTIES = "org.freedesktop.DBus.Properties"


class Chatterbox:
    """Somebody who links as a worker, and has ever something new to tell."""

    def __init__(self, agentd: Embedded, number: int) -> None:
        self.name = f"c{number}"
        self._welcome = asyncio.Event()
        sock = link.connect(str(agentd.runtime_dir / "link.sock"))
        self.link = link.Link(sock, self._message, lambda: None)
        hello = link.Hello(version=link.VERSION, pid=os.getpid() + number, code="x", container=self.name)
        self.link.send(hello)

    def _message(self, message: link.AnyMessage, descriptor: int | None) -> None:
        if isinstance(message, link.Welcome):
            self._welcome.set()

    async def welcome(self) -> None:
        await self._welcome.wait()

    def tell(self, turns: int) -> None:
        self.link.send(link.State(snapshot=link.Snapshot(state="serving", turns=turns)))


@pytest.fixture
def agentd(start: Start) -> Embedded:
    agentd = start(bus="private")
    entries = [
        f'[containers.c{number}]\nruntime = "host"\ndirectory = "{agentd.folder}"\n'
        for number in range(WORKERS)
    ]
    agentd.config.write_text(agentd.config.read_text() + "".join(entries))
    assert agentd.agentctl("reload").returncode == 0
    return agentd


def told(bus: Control, name: str) -> list[int]:
    """What was told of a container's turns, in order."""
    path = f"{ROOT}/container/{name}"
    changes = [each.args[1] for each in bus.heard if each.path == path]
    return [each["NTurns"] for each in changes if "NTurns" in each]


async def test_ten_thousand_changes_are_told_as_the_last_of_each_and_nobody_is_cut_off(
    agentd: Embedded,
) -> None:
    async with control(agentd) as bus:
        bus.listen(PROPERTIES, "PropertiesChanged")
        workers = [Chatterbox(agentd, number) for number in range(WORKERS)]
        for each in workers:
            await each.welcome()
        last = CHANGES // WORKERS
        for turns in range(1, last + 1):
            for each in workers:
                each.tell(turns)
            await asyncio.sleep(0)
        await bus.until(lambda: all(told(bus, each.name)[-1:] == [last] for each in workers))
        heard = [told(bus, each.name) for each in workers]
        assert all(each == sorted(set(each)) for each in heard), "nothing is told twice, or late"
        assert sum(map(len, heard)) < CHANGES, "some were told together"
        assert await bus.get("Manager", ROOT, "NTurns") == CHANGES
        for each in workers:
            each.link.close()
