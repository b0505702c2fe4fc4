# SPDX-License-Identifier: Apache-2.0
"""What a proxy costs that parses every message with the standard library and writes it anew.

Usage: reserialise.py SOCKET COMMAND… . One connection at a time, on asyncio's streams.
"""

import asyncio
import json
import sys

LIMIT = 1 << 26


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(json.dumps(json.loads(line)).encode() + b"\n")
        await writer.drain()
    writer.close()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pipe = asyncio.subprocess.PIPE
    agent = await asyncio.create_subprocess_exec(*sys.argv[2:], stdin=pipe, stdout=pipe, limit=LIMIT)
    assert agent.stdin is not None and agent.stdout is not None
    await asyncio.gather(relay(reader, agent.stdin), relay(agent.stdout, writer))


async def main() -> None:
    await (await asyncio.start_unix_server(serve, sys.argv[1], limit=LIMIT)).serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
