# SPDX-License-Identifier: Apache-2.0
"""Podman, rootful or rootless: whichever the account of this process has."""

import msgspec

from agentd.runtimes.engine import Engine


class _Event(msgspec.Struct):
    name: str = msgspec.field(name="Name", default="")


class Podman(Engine):
    name = "podman"
    event_kinds = ("create", "start", "died", "rename", "remove")

    def event_name(self, line: bytes) -> str:
        return msgspec.json.decode(line, type=_Event).name
