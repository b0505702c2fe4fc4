# SPDX-License-Identifier: Apache-2.0
"""session/list over what is kept: page by page, everything once, and the agents' own at the end."""

from pathlib import Path
from typing import Any

import pytest

from agentd.config import Container
from agentd.store.keeper import Nothing
from agentd.store.records import Record
from agentd.worker.listing import PAGE
from unit.world import MINE, FakeAgent, FakeClient, Message, World, in_world, prompt


class Shelf(Nothing):
    """Has these sessions, number 0 used first."""

    def __init__(self, count: int, **more: Any) -> None:
        super().__init__()
        for number in range(count):
            name = f"kept-{number}"
            self.sessions[name] = Record(
                key=number + 1000,
                id=name,
                native=name,
                agent="one",
                owner=more.get("owner", MINE),
                state="idle",
                created=1e9,
                updated=1e9 + number // 2,
                prompted=more.get("prompted", True),
                cwd="/work" if number % 2 else "/other",
                title=f"number {number}",
            )


class Lister(FakeAgent):
    """Has sessions of its own, two a page."""

    own = tuple(f"its-{number}" for number in range(5))

    def __init__(self, world: World, name: str, mark: str) -> None:
        super().__init__(world, name, mark)
        self.capabilities = {"sessionCapabilities": {"list": {}}}
        self.answers["session/list"] = self._list

    def _list(self, params: Message) -> Message:
        at = int(params.get("cursor", 0))
        page = {
            "sessions": [{"sessionId": each, "cwd": "/work"} for each in [*self.own, "kept-3"][at : at + 2]]
        }
        return page | ({"nextCursor": str(at + 2)} if at + 2 < 6 else {})


async def pages(client: FakeClient, **params: Any) -> list[list[str]]:
    found: list[list[str]] = []
    while True:
        answer = await client.call("session/list", params)
        found.append([each["sessionId"] for each in answer["sessions"]])
        if "nextCursor" not in answer:
            return found
        params["cursor"] = answer["nextCursor"]


@pytest.mark.parametrize("count", [0, 1, PAGE, PAGE + 1, 3 * PAGE - 1])
def test_every_session_once_newest_first(tmp_path: Path, count: int) -> None:
    async def test(world: World) -> None:
        found = await pages(await world.client("one"))
        assert sorted(each for page in found for each in page) == sorted(
            f"kept-{number}" for number in range(count)
        )
        assert all(len(page) == PAGE for page in found[:-1])
        numbers = [int(each.partition("-")[2]) // 2 for page in found for each in page]
        assert numbers == sorted(numbers, reverse=True)

    in_world(tmp_path, test, store=Shelf(count))


def test_only_those_of_a_directory_are_listed_where_one_is_named(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        listed = await pages(await world.client("one"), cwd="/work")
        found = [each for page in listed for each in page]
        assert found == [f"kept-{number}" for number in range(199, 0, -2)]

    in_world(tmp_path, test, store=Shelf(200))


def test_what_the_agent_has_kept_comes_last_and_what_is_ours_not_twice(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        found = await pages(await world.client("one"))
        assert found == [
            ["kept-3", "kept-2", "kept-1", "kept-0", *Lister.own[:2]],
            [*Lister.own[2:4]],
            ["its-4"],
        ]

    in_world(tmp_path, test, store=Shelf(4), agent_class=Lister)


def test_somebody_elses_are_listed_only_where_they_are_shared(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        entry = world.hub.configuration.containers["box"]
        found = await pages(await world.client("one"))
        assert found == ([["kept-1", "kept-0"]] if entry.share_sessions else [[]])

    for share in (True, False):
        in_world(tmp_path, test, store=Shelf(2, owner=1), container=Container(share_sessions=share))


def test_what_was_never_used_is_not_listed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await pages(await world.client("one")) == [[]]

    in_world(tmp_path, test, store=Shelf(2, prompted=False))


def test_one_that_is_alive_is_listed_as_it_is_now(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        client.request("session/prompt", prompt(session, "hello"))
        await world.until(lambda: world.agent.open)
        assert await pages(client) == [[session, "kept-1", "kept-0"]]

    in_world(tmp_path, test, store=Shelf(2))


@pytest.mark.parametrize("cursor", ["", "x", "eyJvdXJzIjogNX0=", 5, {}])
def test_a_cursor_that_is_not_ours_is_refused(tmp_path: Path, cursor: Any) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        assert await client.call("session/list", {"cursor": cursor}) == "invalid_args"

    in_world(tmp_path, test)
