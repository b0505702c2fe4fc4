# SPDX-License-Identifier: Apache-2.0
"""Object paths of org.agentd1."""

from agentd.manager.sessions import Session

NAME = "org.agentd1"
ROOT = "/org/agentd1"


def of_container(name: str) -> str:
    return f"{ROOT}/container/{_label(name)}"


def of_session(session: Session) -> str:
    """The same for as long as the session is kept, whichever manager and worker serve it."""
    container, number = session.key
    return f"{ROOT}/session/{_label(container)}_{number}"


def of_job(number: int) -> str:
    return f"{ROOT}/job/{number}"


def _label(name: str) -> str:
    """What is no ASCII letter or digit becomes _ and two hex digits, so that no two names share a path."""
    plain = (chr(b) if chr(b).isascii() and chr(b).isalnum() else f"_{b:02x}" for b in name.encode())
    return "".join(plain)
