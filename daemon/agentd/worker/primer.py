# SPDX-License-Identifier: Apache-2.0
"""What an agent is told that takes over a session and cannot load it: the last of what was said, as text."""

from collections.abc import Iterable
from typing import Any

from agentd.acp import envelope
from agentd.errors import AgentdError
from agentd.worker import notices

ENTRIES = 50
FRAMES = 4000
"""The last frames that are looked at; an entry may have come in many."""
ENTRY_CHARACTERS = 2000
CHARACTERS = 65_536
BEFORE = (
    "[This session began with another process, which has ended. What was said in it last, oldest first, "
    "so that you can go on from there:]"
)
AFTER = "[End of what was said before. What follows is new.]"


def primer(frames: Iterable[bytes]) -> str:
    """A text of a bounded length; "" where nothing was said."""
    entries: list[tuple[str, str]] = []
    for frame in frames:
        who, text = _entry(frame)
        if entries and entries[-1][0] == who and who != "Tool":
            entries[-1] = who, entries[-1][1] + text
        elif text:
            entries.append((who, text))
    lines = [f"{who}: {_cut(text)}" for who, text in entries[-ENTRIES:]]
    while sum(map(len, lines)) > CHARACTERS:
        del lines[0]
    return "\n\n".join([BEFORE, *lines, AFTER]) if lines else ""


def _cut(text: str) -> str:
    return text if len(text) <= ENTRY_CHARACTERS else text[:ENTRY_CHARACTERS] + " […]"


def _entry(frame: bytes) -> tuple[str, str]:
    """Who has said what in a frame; "" for what is not worth repeating."""
    match _update(frame):
        case {"_meta": {notices.MARK: _}}:
            pass
        case {"sessionUpdate": "user_message_chunk", "content": {"type": "text", "text": str(text)}}:
            return "User", text
        case {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": str(text)}}:
            return "You", text
        case {"sessionUpdate": "tool_call", "title": str(title)}:
            return "Tool", title
    return "", ""


def _update(frame: bytes) -> Any:
    try:
        params = envelope.value(envelope.members(frame).get("params", envelope.NULL))
    except AgentdError:
        return None
    return params.get("update") if isinstance(params, dict) else None
