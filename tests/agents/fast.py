# SPDX-License-Identifier: Apache-2.0
"""The quickest agent there can be in Python, for benchmarks: it blocks, and answers what it has prepared.

A prompt whose text is "N SIZE" streams N updates of SIZE bytes each; one with no text ends at once.
"""

import json
import os
import sys

CHUNK = 1 << 18


def update(size: int) -> bytes:
    """A session/update line of exactly that many bytes, newline included."""
    params = {
        "sessionId": "s",
        "update": {"sessionUpdate": "agent_message_chunk", "content": {"type": "text"}},
    }
    frame = {"jsonrpc": "2.0", "method": "session/update", "params": params}
    content = params["update"]["content"]  # type: ignore[index]
    content["text"] = "x" * (size - len(json.dumps(frame)) - len(', "text": ""') - 1)
    return json.dumps(frame).encode() + b"\n"


def answer(message: dict[str, object]) -> bytes:
    results = {
        "initialize": {"protocolVersion": 1, "agentCapabilities": {}, "authMethods": []},
        "session/new": {"sessionId": "s"},
        "session/prompt": {"stopReason": "end_turn"},
    }
    return json.dumps(
        {"jsonrpc": "2.0", "id": message["id"], "result": results[str(message["method"])]}
    ).encode()


def write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def stream(text: str) -> None:
    count, size = map(int, text.split())
    line = update(size)
    at_once = max(1, CHUNK // size)
    block = line * at_once
    for _ in range(count // at_once):
        write(block)
    write(line * (count % at_once))


def main() -> None:
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" not in message:
            continue
        prompt = message["params"].get("prompt")
        if prompt and prompt[0]["text"]:
            stream(prompt[0]["text"])
        write(answer(message) + b"\n")


if __name__ == "__main__":
    main()
