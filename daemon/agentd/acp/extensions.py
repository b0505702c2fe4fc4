# SPDX-License-Identifier: Apache-2.0
"""Parameters and results of agentd's own requests, as worker and agentctl exchange them.

Members that are not known are ignored: they are a newer agentd's.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Side = Annotated[int, Meta(ge=1, le=65_535)]
Term = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*\Z", max_length=64)]
Piece = Annotated[bytes, Meta(max_length=65_536)]
"""Base64 in JSON, at most 64 KiB decoded."""


class LoginMethod(msgspec.Struct, frozen=True, kw_only=True):
    """A way to log in to an agent; `terminal` says whether by a program in the container."""

    id: str
    name: str = ""
    terminal: bool = False


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """An agent of a container. `reason`: why it is not ready, in a sentence."""

    name: str
    state: Literal["ready", "needs-login", "missing", "failing", "unknown"]
    version: str = ""
    title: str = ""
    reason: str = ""
    default: bool = False
    login: list[LoginMethod] = []


class Agents(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `_agentd/agents`."""

    agents: list[AgentReport]


class SharedPath(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of the host, and where the container has it."""

    host: str
    container: str


class SharedPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `_agentd/paths`. `everything`: the container sees the host's files under the same names."""

    paths: list[SharedPath] = []
    everything: bool = False
    unmapped_cwd: Literal["refuse", "workdir"] = "refuse"
    workdir: str = ""


class LoginStart(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `_agentd/login`."""

    agent: str
    method: str
    columns: Side = 80
    rows: Side = 24
    term: Term = "dumb"


class LoginEnd(msgspec.Struct, frozen=True, kw_only=True, rename={"exit_status": "exitStatus"}):
    """Result of `_agentd/login`: the exit status of the program, 128 and more for one ended by a signal."""

    exit_status: int


class TerminalData(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `_agentd/terminal_output` and `_agentd/terminal_input`."""

    data: Piece


class TerminalSize(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `_agentd/terminal_resize`."""

    columns: Side
    rows: Side
