# SPDX-License-Identifier: Apache-2.0
"""An agent built on the Python SDK, the way its users do: it repeats a prompt once it was allowed to.

A prompt that says `wait` ends only when it is cancelled.
"""

import asyncio
from typing import Any
from uuid import uuid4

import acp
from acp.schema import (
    AgentCapabilities,
    Implementation,
    PermissionOption,
    ToolCallUpdate,
)

OPTIONS = [
    PermissionOption(option_id="yes", name="Allow", kind="allow_once"),
    PermissionOption(option_id="no", name="Reject", kind="reject_once"),
]


class Parrot(acp.Agent):
    def __init__(self) -> None:
        self.cancelled: dict[str, asyncio.Event] = {}

    def on_connect(self, conn: acp.Client) -> None:
        self.client = conn

    async def initialize(self, protocol_version: int, **others: Any) -> acp.InitializeResponse:
        about = Implementation(name="parrot", version="1")
        return acp.InitializeResponse(
            protocol_version=acp.PROTOCOL_VERSION, agent_capabilities=AgentCapabilities(), agent_info=about
        )

    async def new_session(self, cwd: str, **others: Any) -> acp.NewSessionResponse:
        session = uuid4().hex
        self.cancelled[session] = asyncio.Event()
        return acp.NewSessionResponse(session_id=session)

    async def prompt(self, session_id: str, prompt: list[Any], **others: Any) -> acp.PromptResponse:
        self.cancelled[session_id].clear()
        for block in prompt:
            await self.say(session_id, block.text)
            if block.text == "wait":
                await self.cancelled[session_id].wait()
                return acp.PromptResponse(stop_reason="cancelled")
        call = ToolCallUpdate(tool_call_id="call-1", title="Repeat it")
        answer = await self.client.request_permission(session_id=session_id, tool_call=call, options=OPTIONS)
        await self.say(session_id, getattr(answer.outcome, "option_id", "cancelled"))
        return acp.PromptResponse(stop_reason="end_turn")

    async def say(self, session_id: str, text: str) -> None:
        await self.client.session_update(session_id=session_id, update=acp.update_agent_message_text(text))

    async def cancel(self, session_id: str, **others: Any) -> None:
        self.cancelled[session_id].set()


if __name__ == "__main__":
    asyncio.run(acp.run_agent(Parrot()))
