# SPDX-License-Identifier: Apache-2.0
"""What a worker does about what an earlier one has left, on a real store."""

import itertools
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from agentd.config import Store as Settings
from agentd.errors import StoreCorrupt
from agentd.log import Context, Redactor
from agentd.store.keeper import Keeper, Nothing
from agentd.store.records import Asked, Progress
from agentd.worker.keeping import FILE, open_keeper
from unit.loop import run
from unit.world import FakeAgent, FakeClient, Message, World, in_world, outcome, prompt

LOG = Context(logging.getLogger("test"), {})


async def kept(folder: Path, settings: Settings = Settings()) -> Keeper:  # noqa: B008
    return await open_keeper(
        str(folder / FILE),
        settings,
        redact=Redactor([]),
        log=LOG,
        on_full=lambda full: None,
        on_trouble=lambda error: None,
    )


class Loading(FakeAgent):
    def __init__(self, world: World, name: str, mark: str) -> None:
        super().__init__(world, name, mark)
        self.capabilities = {"loadSession": True}
        self.answers["session/load"] = lambda params: {}

    def new_id(self) -> str:
        return f"made-{len(self.world.agents)}"


class Lives:
    """Workers of one container, one after the other."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.options = folder, options

    async def live(self, test: Callable[[World], Coroutine[Any, Any, None]], *, crash: bool = False) -> None:
        """One of them. With `crash` nothing of its end reaches the store, as if it had been killed."""
        store = await kept(self.folder)
        world = World(self.folder, ("one",), store=store, **self.options)
        try:
            await test(world)
            await world.hub.kept()
        finally:
            if crash:
                world.hub.store = Nothing()
                for session in world.hub.sessions.alive.values():
                    session.turns._store = session.transcript._store = Nothing()
                world.hub.sessions._store = Nothing()
            await world.close()
            await store.close()


def updates(client: FakeClient) -> list[Message]:
    return [each["params"]["update"] for each in client.inbox if each.get("method") == "session/update"]


def test_a_session_is_there_after_its_worker(tmp_path: Path) -> None:
    made: dict[str, Any] = {}

    async def first(world: World) -> None:
        client = await world.client("one")
        made["id"] = await client.new()
        number = client.request("session/prompt", prompt(made["id"], "hello"))
        await world.until(lambda: world.agent.open)
        asked = world.agent.open.pop()
        world.agent.say(
            {"method": "session/update", "params": chunk(made["id"], "hi")},
            {"id": asked["id"], "result": {"stopReason": "end_turn"}},
        )
        made["token"], made["number"] = world.hub._clients[client.number].token, number
        assert outcome(await client.answer_to(number)) == {"stopReason": "end_turn"}

    async def second(world: World) -> None:
        client = await world.client("one", uid=1000)
        listed = await client.call("session/list", {})
        assert [(each["sessionId"], each["title"]) for each in listed["sessions"]] == [(made["id"], "hello")]
        await client.call("session/load", {"sessionId": made["id"], "cwd": "/work", "mcpServers": []})
        assert client.heard(made["id"]) == ["hello", "hi", "<end_turn>"]
        assert await recover(client, made, made["number"]) == [{"stopReason": "end_turn"}]

    async def both() -> None:
        lives = Lives(tmp_path, agent_class=Loading)
        await lives.live(first)
        await lives.live(second)

    run(both())


def chunk(session: str, text: str) -> Message:
    content = {"type": "text", "text": text}
    return {"sessionId": session, "update": {"sessionUpdate": "agent_message_chunk", "content": content}}


async def recover(client: FakeClient, made: dict[str, Any], *pending: int) -> list[Any]:
    """What has become of the prompts of an earlier connection, under ids of which this one uses none."""
    client._ids = itertools.count(1000)
    client.answers.clear()
    await client.call("_agentd/recover", {"client": made["token"], "pending": list(pending)})
    return [outcome(client.answers[number]) for number in pending]


def test_a_turn_that_was_cut_short_is_told_of_once_and_not_run_again(tmp_path: Path) -> None:
    made: dict[str, Any] = {}

    async def first(world: World) -> None:
        client = await world.client("one")
        made["id"] = await client.new()
        made["number"] = client.request("session/prompt", prompt(made["id"], "long"))
        client.request("session/prompt", prompt(made["id"], "waiting"))
        await world.until(lambda: world.agent.open)
        made["token"] = world.hub._clients[client.number].token

    async def second(world: World) -> None:
        client = await world.client("one")
        await client.call("session/load", {"sessionId": made["id"], "cwd": "/work", "mcpServers": []})
        assert "<interrupted>" in client.heard(made["id"])
        texts = [
            each["_meta"]["agentd.notice"]
            for each in updates(client)
            if "agentd.notice" in each.get("_meta", {})
        ]
        assert [("was not done to its end" in text, "was not run" in text) for text in texts] == [
            (True, False),
            (False, True),
        ]
        assert client.heard(made["id"]).count("long") == client.heard(made["id"]).count("waiting") == 1
        answers = await recover(client, made, made["number"], made["number"] + 1, 99)
        assert answers == ["interrupted"] * 3
        assert not any(each["method"] == "session/prompt" for agent in world.agents for each in agent.asked)
        session = world.hub.sessions.alive[made["id"]]
        assert session.is_idle

    async def third(world: World) -> None:
        client = await world.client("one")
        await client.call("session/load", {"sessionId": made["id"], "cwd": "/work", "mcpServers": []})
        assert client.heard(made["id"]).count("<interrupted>") == 2

    async def all_three() -> None:
        lives = Lives(tmp_path, agent_class=Loading)
        await lives.live(first, crash=True)
        await lives.live(second)
        await lives.live(third)

    run(all_three())


def test_a_session_given_in_place_of_a_new_one_stays_where_it_was_and_gets_the_servers(
    tmp_path: Path,
) -> None:
    made: dict[str, Any] = {}

    async def first(world: World) -> None:
        client = await world.client("one")
        made["id"] = await client.new()
        asked = client.request("session/prompt", prompt(made["id"], "hello"))
        await world.until(lambda: world.agent.open)
        world.agent.say({"id": world.agent.open.pop()["id"], "result": {"stopReason": "end_turn"}})
        await client.answer_to(asked)

    async def second(world: World) -> None:
        client = await world.client("one")
        world.hub._clients[client.number]._wanted = made["id"]
        servers = [{"name": "s", "command": "/bin/s", "args": [], "env": []}]
        assert await client.new(cwd="/elsewhere", mcpServers=servers) == made["id"]
        client.request("session/prompt", prompt(made["id"], "on"))
        await world.until(lambda: world.agent.open)
        (loaded,) = [each["params"] for each in world.agent.asked if each["method"] == "session/load"]
        assert (loaded["cwd"], loaded["mcpServers"]) == ("/work", servers)

    async def both() -> None:
        lives = Lives(tmp_path, agent_class=Loading)
        await lives.live(first)
        await lives.live(second)

    run(both())


def test_a_permission_that_was_pending_has_expired(tmp_path: Path) -> None:
    made: dict[str, Any] = {}

    async def first(world: World) -> None:
        client = await world.client("one")
        made["id"] = await client.new()
        client.request("session/prompt", prompt(made["id"], "may I"))
        await world.until(lambda: world.agent.open)
        world.agent.ask(
            "session/request_permission", {"sessionId": made["id"], "toolCall": {}, "options": []}
        )
        await world.until(lambda: client.asked)

    async def second(world: World) -> None:
        client = await world.client("one")
        await client.call("session/load", {"sessionId": made["id"], "cwd": "/work", "mcpServers": []})
        await client.sync()
        assert client.asked == []
        key = world.hub.store.sessions[made["id"]].key
        assert [each.progress for each in await world.hub.store.permissions(key)] == [Asked.EXPIRED]
        (turn,) = await world.hub.store.turns(key)
        assert turn.progress is Progress.INTERRUPTED

    async def both() -> None:
        lives = Lives(tmp_path, agent_class=Loading)
        await lives.live(first, crash=True)
        await lives.live(second)

    run(both())


def test_nobody_else_gets_the_answers_of_a_connection(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client, other = await world.client("one"), await world.client("one", uid=2000)
        session = await client.new()
        number = client.request("session/prompt", prompt(session, "hello"))
        await world.until(lambda: world.agents[0].open)
        token = world.hub._clients[client.number].token
        assert await recover(other, {"token": token}, number) == ["interrupted"]

    in_world(tmp_path, test, agent_class=Loading)


def test_one_that_was_cut_off_is_told_so(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        token = world.hub._clients[client.number].token
        world.hub.cut_off(world.hub._clients[client.number])
        assert await client.call("_agentd/recover", {"client": token}) == "cut_off"

    in_world(tmp_path, test)


def test_a_client_that_comes_back_is_asked_under_new_numbers(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        session = await client.new()
        await client.call("_agentd/recover", {"client": "another", "asked": 41})
        client.request("session/prompt", prompt(session, "may I"))
        await world.until(lambda: world.agent.open)
        world.agent.ask("session/request_permission", {"sessionId": session, "toolCall": {}, "options": []})
        await world.until(lambda: client.asked)
        assert client.asked[0]["id"] == 42

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    "params", [{}, {"client": 5}, {"client": "x", "asked": -1}, {"client": "x", "pending": 1}]
)
def test_what_is_no_wish_is_refused(tmp_path: Path, params: Message) -> None:
    async def test(world: World) -> None:
        client = await world.client("one")
        assert await client.call("_agentd/recover", params) == "invalid_args"

    in_world(tmp_path, test)


# Where it is kept


def test_a_damaged_store_is_refused_or_done_without(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to be looked at" * 100)
    (tmp_path / FILE).chmod(0o600)

    async def test() -> None:
        with pytest.raises(StoreCorrupt, match=r"sessions\.db"):
            await kept(tmp_path)
        assert isinstance(await kept(tmp_path, Settings(required=False)), Nothing)

    run(test())


def test_nothing_is_kept_where_nothing_is_to_be(tmp_path: Path) -> None:
    async def test() -> None:
        assert isinstance(await kept(tmp_path, Settings(transcripts="off")), Nothing)
        assert list(tmp_path.iterdir()) == []

    run(test())
