# SPDX-License-Identifier: Apache-2.0
"""What agentd itself has to say in a session. The protocol has no word for it: a chunk, marked."""

import functools
from typing import Any

from agentd.acp import envelope, methods

MARK = "agentd.notice"


def update(session_id: str, change: dict[str, Any]) -> bytes:
    """A session/update of our own, with its newline."""
    return envelope.notification(methods.SESSION_UPDATE, {"sessionId": session_id, "update": change}) + b"\n"


def notice(text: str) -> dict[str, Any]:
    """Something a person has to know."""
    return {
        "sessionUpdate": "agent_message_chunk",
        "content": {"type": "text", "text": f"\n[agentd] {text}\n"},
        "_meta": {MARK: text},
    }


@functools.lru_cache(maxsize=256)
def ended(session_id: str, outcome: str) -> bytes:
    """The end of a turn, for those who do not get its answer."""
    told = {"agentd.turn": {"state": "ended", "outcome": outcome}}
    return update(session_id, {"sessionUpdate": "session_info_update", "_meta": told})
