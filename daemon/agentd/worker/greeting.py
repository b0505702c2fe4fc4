# SPDX-License-Identifier: Apache-2.0
"""What an agent's answer to initialize says that it can do with sessions."""

from typing import Any


def can_load(greeting: dict[str, Any] | None) -> bool:
    """Whether it has a session of another process shown again."""
    match greeting:
        case {"agentCapabilities": {"loadSession": True}}:
            return True
    return False


def can_session(greeting: dict[str, Any] | None, name: str) -> bool:
    """Whether it knows session/`name`: list, resume, close, delete."""
    match greeting:
        case {"agentCapabilities": {"sessionCapabilities": dict(sessions)}}:
            return sessions.get(name) is not None
    return False
