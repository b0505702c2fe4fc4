# SPDX-License-Identifier: Apache-2.0
"""Object paths of org.agentd1."""

NAME = "org.agentd1"
ROOT = "/org/agentd1"


def of_container(name: str) -> str:
    """What is no ASCII letter or digit becomes _ and two hex digits, so that no two names share a path."""
    plain = (chr(b) if chr(b).isascii() and chr(b).isalnum() else f"_{b:02x}" for b in name.encode())
    return f"{ROOT}/container/{''.join(plain)}"


def of_job(number: int) -> str:
    return f"{ROOT}/job/{number}"
