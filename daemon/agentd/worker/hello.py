# SPDX-License-Identifier: Apache-2.0
"""What a client said of itself in initialize, and what its agents are told of that."""

import copy
from typing import Any

import msgspec

from agentd import __version__
from agentd.acp import methods

HOST_ONLY = ("fs", "terminal")
"""Capabilities by which a client acts on its own file system."""


class Hello:
    """The params of a client's initialize. Two clients that can do the same may share an agent."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._params = params
        declared = params.get("clientCapabilities")
        self.capabilities: dict[str, Any] = declared if isinstance(declared, dict) else {}

    def without_host(self) -> "Hello":
        """The same client for sessions in directories that it does not share with the container."""
        params = copy.copy(self._params)
        params["clientCapabilities"] = {k: v for k, v in self.capabilities.items() if k not in HOST_ONLY}
        return Hello(params)

    @property
    def fingerprint(self) -> bytes:
        """The same for two that can do the same: who says no of files is as who does not speak of them."""
        can = {k: v for k, v in self.capabilities.items() if k not in HOST_ONLY or _says_yes(v)}
        return msgspec.json.encode(can, order="deterministic")

    @property
    def logs_in_by_terminal(self) -> bool:
        auth = self.capabilities.get("auth")
        return isinstance(auth, dict) and auth.get("terminal") is True

    def can(self, method: str) -> bool:
        """Whether the client serves a request of the agent's; one nobody has heard of may be tried."""
        match method.split("/"):
            case ["fs", "read_text_file"]:
                return self._has("fs", "readTextFile")
            case ["fs", "write_text_file"]:
                return self._has("fs", "writeTextFile")
            case ["terminal", _]:
                return self.capabilities.get("terminal") is True
            case ["elicitation", _]:
                return isinstance(self.capabilities.get("elicitation"), dict)
        return True

    def _has(self, table: str, name: str) -> bool:
        inner = self.capabilities.get(table)
        return isinstance(inner, dict) and inner.get(name) is True

    @property
    def params(self) -> dict[str, Any]:
        """What an agent is told, in the one version of the protocol that is spoken here."""
        return {**self._params, "protocolVersion": methods.PROTOCOL_VERSION}


def _says_yes(declared: object) -> bool:
    return any(declared.values()) if isinstance(declared, dict) else bool(declared)


US = {"name": "agentd", "title": "agentd", "version": __version__}
NOBODY = Hello({"clientCapabilities": {}, "clientInfo": US})
"""For clients that never introduced themselves."""
PROBE = Hello({"clientCapabilities": {"auth": {"terminal": True}}, "clientInfo": US})
"""For agentd's own questions, which want to know of every way to log in."""
