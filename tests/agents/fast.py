# SPDX-License-Identifier: Apache-2.0
"""The quickest agent there can be in Python, for benchmarks: it blocks, and writes what it has prepared.

A prompt whose text is "N SIZE" streams N updates of SIZE bytes each; one with no text ends at once. Turns of
several sessions run at the same time: one update of each, over and over.
"""

import functools
import itertools
import json
import os
import select

CHUNK = 1 << 18
SESSIONS = (f"{os.getpid()}-{number}" for number in itertools.count(1))


class Turn:
    """A prompt that is being answered."""

    def __init__(self, request: object, session: str, text: str) -> None:
        self.request = request
        self.left, size = map(int, text.split()) if text else (0, 0)
        self.line = update(session, size) if text else b""


def update(session: str, size: int) -> bytes:
    """A session/update line of exactly that many bytes, newline included."""
    content = {"type": "text", "text": ""}
    params = {
        "sessionId": session,
        "update": {"sessionUpdate": "agent_message_chunk", "content": content},
    }
    frame = {"jsonrpc": "2.0", "method": "session/update", "params": params}
    content["text"] = "x" * (size - len(json.dumps(frame)) - 1)
    return json.dumps(frame).encode() + b"\n"


# Writing


def write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def answer(request: object, result: dict[str, object]) -> None:
    write(json.dumps({"jsonrpc": "2.0", "id": request, "result": result}).encode() + b"\n")


@functools.lru_cache(1)
def prepared(lines: tuple[bytes, ...], rounds: int) -> bytes:
    return b"".join(lines) * rounds


def stream(turns: list[Turn]) -> None:
    """Write about a chunk of what the turns have left, and end those that have nothing left."""
    lines = tuple(turn.line for turn in turns)
    at_once = max(1, CHUNK // max(1, sum(map(len, lines))))
    rounds = min(at_once, *(turn.left for turn in turns))
    write(prepared(lines, rounds))
    for turn in list(turns):
        turn.left -= rounds
        if not turn.left:
            turns.remove(turn)
            answer(turn.request, {"stopReason": "end_turn"})


# Reading


def take(message: dict[str, dict[str, object]], turns: list[Turn]) -> None:
    if "id" not in message:
        return
    match message["method"], message["params"]:
        case "initialize", _:
            answer(message["id"], {"protocolVersion": 1, "agentCapabilities": {}, "authMethods": []})
        case "session/new", _:
            answer(message["id"], {"sessionId": next(SESSIONS)})
        case "session/prompt", {"sessionId": str(session), "prompt": [{"text": str(text)}]}:
            turns.append(Turn(message["id"], session, text))


def main() -> None:
    """Read whenever there is something to read, or nothing else to do."""
    turns: list[Turn] = []
    rest = b""
    while True:
        if not turns or select.select([0], [], [], 0)[0]:
            data = os.read(0, CHUNK)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                take(json.loads(line), turns)
        if turns:
            stream(turns)


if __name__ == "__main__":
    main()
