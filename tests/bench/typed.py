# SPDX-License-Identifier: Apache-2.0
"""What a proxy costs that models every message: the Python SDK's typed connection on both sides.

Usage: typed.py SOCKET COMMAND… . Serves one connection and ends.
"""

import asyncio
import sys
from typing import Any

from acp import AgentSideConnection, ClientSideConnection


class Forwarder:
    """Both an agent towards the client and a client towards the agent: every call goes to the other side."""

    def __init__(self) -> None:
        self.other: Any = None

    def on_connect(self, connection: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        async def forward(*args: object, **kwargs: object) -> Any:
            return await getattr(self.other, name)(*args, **kwargs)

        return forward


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: list[str]) -> None:
    pipe = asyncio.subprocess.PIPE
    agent = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 26)
    towards_client, towards_agent = Forwarder(), Forwarder()
    towards_client.other = ClientSideConnection(towards_agent, agent.stdin, agent.stdout)  # type: ignore[arg-type]
    towards_agent.other = AgentSideConnection(towards_client, writer, reader, listening=True)  # type: ignore[arg-type]
    await agent.wait()


async def main() -> None:
    server = await asyncio.start_unix_server(
        lambda reader, writer: serve(reader, writer, sys.argv[2:]), sys.argv[1], limit=1 << 26
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
