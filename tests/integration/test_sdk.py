# SPDX-License-Identifier: Apache-2.0
"""Peers that nobody here wrote: the Python SDK's client and agent, with agentd between them."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import acp
import pytest
from acp.schema import AllowedOutcome

from support.acp_client import Client, texts
from support.embedded import Embedded, Start

SDK_AGENT = Path(__file__).parents[1] / "agents" / "sdk_agent.py"
DEADLINE = 30


class Editor(acp.Client):
    """Remembers what was said, and allows everything."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.asked: list[str | None] = []
        self.heard = asyncio.Event()

    def on_connect(self, conn: acp.Agent) -> None:
        pass

    async def session_update(self, session_id: str, update: Any, **others: Any) -> None:
        self.said.append(update.content.text)
        self.heard.set()

    async def request_permission(
        self, session_id: str, tool_call: Any, options: list[Any], **others: Any
    ) -> acp.RequestPermissionResponse:
        self.asked.append(tool_call.title)
        outcome = AllowedOutcome(outcome="selected", option_id=options[0].option_id)
        return acp.RequestPermissionResponse(outcome=outcome)

    async def ext_method(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"method": method, "params": params}


@asynccontextmanager
async def attached(agentd: Embedded, *arguments: str) -> AsyncIterator[tuple[Editor, Any, str]]:
    """The SDK's client over `agentctl attach`, initialized: editor, agent, and the id of a session."""
    editor = Editor()
    program, *rest = agentd.agentctl_command("attach", *arguments)
    async with (
        asyncio.timeout(DEADLINE),
        acp.spawn_agent_process(editor, program, *rest, env=agentd.environment) as (agent, _),
    ):
        await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
        session = await agent.new_session(cwd="/", mcp_servers=[])
        yield editor, agent, session.session_id


@pytest.fixture
def agentd(start: Start) -> Embedded:
    """An agentd with the SDK's agent beside the scripted one."""
    return start(limits=f'[agents.sdk]\ncommand = ["{sys.executable}", "{SDK_AGENT}"]')


async def full_turn(agentd: Embedded) -> None:
    async with attached(agentd, "here") as (editor, agent, session):
        blocks = [acp.text_block("say one\nask May I?\nsay two")]
        ended = await agent.prompt(session_id=session, prompt=blocks)
        assert ended.stop_reason == "end_turn"
        assert editor.said == ["one", "permission: yes", "two"]
        assert editor.asked == ["May I?"]


def test_sdk_client_has_a_turn_with_the_scripted_agent(agentd: Embedded) -> None:
    asyncio.run(full_turn(agentd))


async def cancelled_turn(agentd: Embedded, arguments: tuple[str, ...], text: str) -> None:
    async with attached(agentd, *arguments) as (editor, agent, session):
        turn = asyncio.ensure_future(agent.prompt(session_id=session, prompt=[acp.text_block(text)]))
        await editor.heard.wait()
        await agent.cancel(session_id=session)
        assert (await turn).stop_reason == "cancelled"


def test_sdk_client_cancels_a_turn_of_the_scripted_agent(agentd: Embedded) -> None:
    asyncio.run(cancelled_turn(agentd, ("here",), "say one\ncancelled"))


async def extensions(agentd: Embedded) -> None:
    async with attached(agentd, "here") as (_, agent, _):
        assert await agent.ext_method("echo", {"n": 1}) == {"n": 1}
        with pytest.raises(acp.RequestError, match="no _nothing here"):
            await agent.ext_method("nothing", {})


def test_sdk_client_uses_extensions(agentd: Embedded) -> None:
    asyncio.run(extensions(agentd))


def test_sdk_agent_has_a_turn_with_permission(agentd: Embedded) -> None:
    with agentd.client() as client:
        turn = client.open("here", "sdk").prompt("polly")
        asked = client.until("session/request_permission")
        client.send({"id": asked["id"], "result": {"outcome": {"outcome": "selected", "optionId": "no"}}})
        answer, before = client.answer_to(turn)
        assert (texts(before), answer["result"]["stopReason"]) == (["no"], "end_turn")


def test_sdk_agent_gets_its_answer_from_whoever_comes_next(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open("here", "sdk").prompt("polly")
        client.until("session/request_permission")
    with agentd.client() as other:
        other.attach("here", "sdk")
        other.request("session/load", {"sessionId": client.session, "cwd": "/", "mcpServers": []})
        asked = other.until("session/request_permission")
        other.send({"id": asked["id"], "result": {"outcome": {"outcome": "selected", "optionId": "no"}}})
        other.until_text("no")


def test_sdk_agent_survives_what_would_kill_it(agentd: Embedded) -> None:
    """A batch, and bytes that are not UTF-8: the SDK's agent dies of either."""
    with agentd.client() as client:
        client.open("here", "sdk")
        for bad in (
            b"[]\n",
            b'[{"jsonrpc":"2.0","id":1,"method":"x"}]\n',
            b'{"id":1,"method":"\xff"}\n',
            b"oops\n",
        ):
            client.raw(bad)
            assert "error" in client.read()
        assert still_there(client)


def still_there(client: Client) -> bool:
    turn = client.prompt("polly")
    asked = client.until("session/request_permission")
    client.send({"id": asked["id"], "result": {"outcome": {"outcome": "selected", "optionId": "yes"}}})
    return texts(client.answer_to(turn)[1]) == ["yes"]


async def both(agentd: Embedded) -> None:
    async with attached(agentd, "here", "--agent", "sdk") as (editor, agent, session):
        ended = await agent.prompt(session_id=session, prompt=[acp.text_block("polly")])
        assert (ended.stop_reason, editor.said) == ("end_turn", ["polly", "yes"])


def test_sdk_client_has_a_turn_with_the_sdk_agent(agentd: Embedded) -> None:
    asyncio.run(both(agentd))


def test_sdk_client_cancels_a_turn_of_the_sdk_agent(agentd: Embedded) -> None:
    asyncio.run(cancelled_turn(agentd, ("here", "--agent", "sdk"), "wait"))
