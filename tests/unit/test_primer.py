# SPDX-License-Identifier: Apache-2.0

import json

from agentd.worker import notices
from agentd.worker.primer import AFTER, BEFORE, CHARACTERS, ENTRIES, ENTRY_CHARACTERS, primer


def frame(kind: str, **members: object) -> bytes:
    params = {"sessionId": "s", "update": {"sessionUpdate": kind, **members}}
    return json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": params}).encode()


def chunk(who: str, text: str) -> bytes:
    return frame(f"{who}_message_chunk", content={"type": "text", "text": text})


def entries(*frames: bytes) -> list[str]:
    before, *found, after = primer(frames).split("\n\n")
    assert (before, after) == (BEFORE, AFTER)
    return found


def test_who_said_what_in_order_and_chunks_as_one() -> None:
    said = chunk("user", "Fix it"), chunk("agent", "I "), chunk("agent", "do"), chunk("user", "Thanks")
    assert entries(*said) == ["User: Fix it", "You: I do", "User: Thanks"]


def test_tools_are_named_one_by_one() -> None:
    tools = frame("tool_call", title="Read a"), frame("tool_call", title="Read b")
    assert entries(*tools) == ["Tool: Read a", "Tool: Read b"]


def test_what_tells_nothing_is_left_out() -> None:
    other = (
        frame("plan", entries=[]),
        b"not json",
        b"{}",
        frame("agent_message_chunk", content={"type": "image"}),
    )
    assert entries(chunk("agent", "one "), *other, chunk("agent", "two")) == ["You: one two"]


def test_our_own_notices_are_not_what_anybody_has_said() -> None:
    ours = notices.update("s", notices.notice("it was started anew"))
    assert entries(chunk("user", "hello"), ours) == ["User: hello"]


def test_only_the_last_are_told_and_of_each_not_too_much() -> None:
    said = [chunk(("user", "agent")[number % 2], f"{number} " + "x" * 3000) for number in range(100)]
    found = entries(*said)
    assert found[-1].startswith("You: 99 ")
    assert max(map(len, found)) < ENTRY_CHARACTERS + 20
    assert len(found) <= ENTRIES
    assert sum(map(len, found)) <= CHARACTERS


def test_as_many_as_may_be() -> None:
    said = [chunk(("user", "agent")[number % 2], str(number)) for number in range(100)]
    assert len(entries(*said)) == ENTRIES


def test_where_nothing_was_said_there_is_nothing_to_tell() -> None:
    assert primer([]) == ""
