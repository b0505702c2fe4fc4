# SPDX-License-Identifier: Apache-2.0
"""A day in the life of a worker, in a second: what it ends, closes and forgets, and what it must not."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

import pytest

from agentd.config import Limits
from agentd.config import Store as Settings
from agentd.log import Context, Redactor
from agentd.store.keeper import Keeper, Nothing
from agentd.store.records import Record
from agentd.worker.agent import Agent
from agentd.worker.keeping import FILE, open_keeper
from unit.loop import run, skip
from unit.world import HERE, FakeAgent, FakeClient, World, in_world, prompt

MINUTE, HOUR = 60.0, 3600.0
LIMITS = Limits(agent_idle_sec=15 * MINUTE, session_ttl_sec=6 * HOUR, agent_stop_sec=0.1, agent_kill_sec=0.1)
MADE = 1.8e9
"""When these days begin, in Unix time."""


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No agent works in the background; asking the kernel would take real time."""

    async def processor_sec(agent: Agent) -> float:
        return 0.0

    monkeypatch.setattr(Agent, "processor_sec", processor_sec)


class Loading(FakeAgent):
    def __init__(self, world: World, name: str, mark: str) -> None:
        super().__init__(world, name, mark)
        self.capabilities = {"loadSession": True, "sessionCapabilities": {"close": {}}}
        self.answers["session/load"] = lambda params: {}

    def new_id(self) -> str:
        return f"{self.name}-{len(self.world.agents)}-{super().new_id()}"


class Day:
    """A world whose time passes when it is told to."""

    def __init__(self, folder: Path, store: Keeper, settings: Settings) -> None:
        self._begun = asyncio.get_running_loop().time()
        self.world = World(
            folder,
            ("one", "two"),
            agent_class=Loading,
            limits=LIMITS,
            store=store,
            clock=self.now,
            settings=settings,
        )

    def now(self) -> float:
        return MADE + asyncio.get_running_loop().time() - self._begun

    async def passes(self, seconds: float, step: float = 5 * MINUTE) -> None:
        """Nothing may be on its way to the disk while time jumps: it would seem to take that long."""
        for _ in range(round(seconds / step)):
            await self.world.hub.kept()
            await skip(step)
            await self.world.hub.kept()

    async def used(self, agent: str = "one") -> tuple[FakeClient, str]:
        """A client with a session in which a turn was."""
        client = await self.world.client(agent)
        session = await client.new()
        asked = client.request("session/prompt", prompt(session, "hello"))
        serving = next(each for each in self.world.agents if each.name == agent and each.alive)
        await self.world.until(lambda: serving.open)
        serving.say({"id": serving.open.pop()["id"], "result": {"stopReason": "end_turn"}})
        await client.answer_to(asked)
        return client, session

    @property
    def running(self) -> list[str]:
        return [agent.name for agent in self.world.agents if agent.alive]

    async def listed(self) -> set[str]:
        client = await self.world.client("two")
        answer = await client.call("session/list", {})
        await self.world.until_gone(client)
        return {each["sessionId"] for each in answer["sessions"]}


def day(
    folder: Path, test: Callable[[Day], Coroutine[Any, Any, None]], settings: Settings | None = None
) -> None:
    settings = settings or Settings()

    async def whole() -> None:
        log = Context(logging.getLogger("test"), {})
        holder: list[Day] = []
        store = await open_keeper(
            str(folder / FILE),
            settings,
            redact=Redactor([]),
            log=log,
            on_full=lambda full: None,
            on_trouble=lambda error: None,
            clock=lambda: holder[0].now() if holder else MADE,
        )
        holder.append(Day(folder, store, settings))
        try:
            await test(holder[0])
        finally:
            await holder[0].world.close()
            await store.close()

    run(whole())


def test_a_session_that_is_left_loses_its_agent_then_its_place_and_stays_in_the_list(tmp_path: Path) -> None:
    async def test(day: Day) -> None:
        client, session = await day.used()
        await day.world.until_gone(client)
        await day.passes(14 * MINUTE, MINUTE)
        assert day.running == ["one"]
        await day.passes(10 * MINUTE, MINUTE)
        assert (day.running, list(day.world.hub.sessions.alive)) == ([], [session])
        await day.passes(8 * HOUR)
        assert list(day.world.hub.sessions.alive) == []
        assert await day.listed() == {session}

    day(tmp_path, test)


def test_a_turn_may_take_all_day(tmp_path: Path) -> None:
    async def test(day: Day) -> None:
        client, session = await day.used()
        client.request("session/prompt", prompt(session, "think"))
        await day.world.until(lambda: day.world.agent.open)
        await day.world.until_gone(client)
        await day.passes(24 * HOUR)
        assert (day.running, list(day.world.hub.sessions.alive)) == (["one"], [session])
        assert day.world.hub.sessions.busy

    day(tmp_path, test)


def test_a_session_somebody_is_in_stays_and_its_next_prompt_starts_the_agent_again(tmp_path: Path) -> None:
    async def test(day: Day) -> None:
        client, session = await day.used()
        await day.passes(24 * HOUR)
        assert (day.running, list(day.world.hub.sessions.alive)) == ([], [session])
        asked = client.request("session/prompt", prompt(session, "and now"))
        await day.world.until(lambda: day.running and day.world.agent.open)
        assert [each["method"] for each in day.world.agent.asked][:2] == ["initialize", "session/load"]
        day.world.agent.say({"id": day.world.agent.open.pop()["id"], "result": {"stopReason": "end_turn"}})
        await client.answer_to(asked)

    day(tmp_path, test)


def test_an_agent_that_is_used_every_now_and_then_is_never_ended(tmp_path: Path) -> None:
    async def test(day: Day) -> None:
        client, session = await day.used()
        for _ in range(24 * 6):
            client.notify("_ping", {"sessionId": session})
            await day.passes(10 * MINUTE)
        assert (day.running, len(day.world.agents)) == (["one"], 1)

    day(tmp_path, test)


def test_what_is_too_old_is_forgotten(tmp_path: Path) -> None:
    async def test(day: Day) -> None:
        client, old = await day.used()
        await day.world.until_gone(client)
        await day.passes(23 * HOUR)
        assert await day.listed() == {old}
        newer, new = await day.used("two")
        await day.passes(4 * HOUR)
        await day.world.hub.sessions.prune()
        assert await day.listed() == {new}
        await day.world.until_gone(newer)

    day(tmp_path, test, Settings(keep_days=1))


def test_what_was_opened_and_never_used_leaves_nothing(tmp_path: Path) -> None:
    async def test(day: Day) -> None:
        client = await day.world.client("one")
        await client.new()
        await day.world.until_gone(client)
        await day.world.hub.kept()
        assert (await day.listed(), dict(day.world.hub.store.sessions)) == (set(), {})

    day(tmp_path, test)


def test_a_session_that_was_put_away_goes_on(tmp_path: Path) -> None:
    async def test(day: Day) -> None:
        client, session = await day.used()
        await day.world.until_gone(client)
        await day.passes(8 * HOUR)
        back = await day.world.client("one")
        await back.call("session/load", {"sessionId": session, **HERE})
        assert back.heard(session) == ["hello", "<end_turn>"]
        back.request("session/prompt", prompt(session, "again"))
        await day.world.until(lambda: day.running and day.world.agent.open)
        assert day.world.agent.asked[1]["params"]["sessionId"] == session

    day(tmp_path, test)


def test_a_session_that_comes_alive_while_others_are_forgotten_is_not_among_them(tmp_path: Path) -> None:
    class Slow(Nothing):
        async def prune(self, *, before: float, most_bytes: int, keep: Collection[int]) -> list[Record]:
            await gate.wait()
            spared.extend(keep)
            return []

    gate, spared = asyncio.Event(), list[int]()

    async def test(world: World) -> None:
        pruning = asyncio.ensure_future(world.hub.sessions.prune())
        client = await world.client("one")
        session = world.hub.sessions.alive[await client.new()]
        gate.set()
        await pruning
        assert spared == [session.key]

    in_world(tmp_path, test, store=Slow())
