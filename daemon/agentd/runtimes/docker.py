# SPDX-License-Identifier: Apache-2.0
"""Docker, through its own command line."""

import msgspec

from agentd.runtimes.engine import Engine


class _Actor(msgspec.Struct):
    attributes: dict[str, str] = msgspec.field(name="Attributes", default_factory=dict)


class _Event(msgspec.Struct):
    actor: _Actor = msgspec.field(name="Actor", default_factory=_Actor)


class Docker(Engine):
    name = "docker"
    event_kinds = ("create", "start", "die", "rename", "destroy")
    detach_keys = "ctrl-^,ctrl-],ctrl-^"  # none means ctrl-p,ctrl-q, and shells and editors need those

    def event_name(self, line: bytes) -> str:
        return msgspec.json.decode(line, type=_Event).actor.attributes.get("name", "")
