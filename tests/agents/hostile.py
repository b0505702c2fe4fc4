# SPDX-License-Identifier: Apache-2.0
"""The scripted agent, which ends whatever people get to see of it in a mark: names, titles, texts, errors.

The first two arguments: the marks in JSON, of running text and of what is in one line, then come switches.
"""

import asyncio
import json
import sys
from typing import Any

import scripted

LINES = ("text",)
WORDS = ("title", "name", "version", "message", "description", "stopReason", "status", "details")
"""Members that have words of the agent's own."""
TEXT, WORD = map(json.loads, sys.argv[1:3])


def marked(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: marked(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [marked(each, name) for each in value]
    if isinstance(value, str) and name in LINES:
        return value + TEXT
    if isinstance(value, str) and name in WORDS and value != "completed":
        return value + WORD
    return value


class Hostile(scripted.Agent):
    def write(self, message: dict[str, Any]) -> None:
        super().write(marked(message))

    async def do_stderr(self, session: str, text: str) -> None:
        await super().do_stderr(session, text + WORD)


if __name__ == "__main__":
    del sys.argv[1:3]
    scripted.Agent = Hostile  # type: ignore[misc]
    asyncio.run(scripted.main())
