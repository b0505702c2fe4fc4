# SPDX-License-Identifier: Apache-2.0
"""Podman, rootful or rootless: whichever the account of this process has."""

import msgspec

from agentd.runtimes.engine import Engine
from agentd.runtimes.sandbox import outside
from agentd.runtimes.start import Start


class _Event(msgspec.Struct):
    name: str = msgspec.field(name="Name", default="")


class Podman(Engine):
    name = "podman"
    event_kinds = ("create", "start", "died", "rename", "remove")

    def event_name(self, line: bytes) -> str:
        return msgspec.json.decode(line, type=_Event).name

    def outside(self, start: Start, container: str, *, terminal: bool = False) -> Start:
        """There is no daemon: agents descend from the podman that starts them."""
        return outside(start, container, terminal=terminal)
