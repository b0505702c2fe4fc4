# SPDX-License-Identifier: Apache-2.0
"""An agent built on the Python SDK for benchmarks: a prompt "N SIZE" streams N chunks of about that size."""

import asyncio
from typing import Any
from uuid import uuid4

import acp
from acp.schema import AgentCapabilities, Implementation


class Streamer(acp.Agent):
    def on_connect(self, conn: acp.Client) -> None:
        self.client = conn

    async def initialize(self, protocol_version: int, **others: Any) -> acp.InitializeResponse:
        about = Implementation(name="streamer", version="1")
        return acp.InitializeResponse(
            protocol_version=acp.PROTOCOL_VERSION, agent_capabilities=AgentCapabilities(), agent_info=about
        )

    async def new_session(self, cwd: str, **others: Any) -> acp.NewSessionResponse:
        return acp.NewSessionResponse(session_id=uuid4().hex)

    async def prompt(self, session_id: str, prompt: list[Any], **others: Any) -> acp.PromptResponse:
        count, size = map(int, prompt[-1].text.split() or (0, 0))
        update = acp.update_agent_message_text("x" * max(1, size - 170))
        for _ in range(count):
            await self.client.session_update(session_id=session_id, update=update)
        return acp.PromptResponse(stop_reason="end_turn")


if __name__ == "__main__":
    asyncio.run(acp.run_agent(Streamer()))
