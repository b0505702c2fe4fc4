# SPDX-License-Identifier: Apache-2.0
"""Parameters and results of agentd's own requests, as worker and agentctl exchange them.

Members that are not known are ignored: they are a newer agentd's.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from agentd.errors import InvalidArgs

Side = Annotated[int, Meta(ge=1, le=65_535)]
Term = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*\Z", max_length=64)]
Piece = Annotated[bytes, Meta(max_length=65_536)]
"""Base64 in JSON, at most 64 KiB decoded."""

T = TypeVar("T")


def parsed(params: dict[str, Any], kind: type[T]) -> T:
    """Parameters that came from a client. Raises InvalidArgs."""
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as exc:
        raise InvalidArgs(str(exc)) from None


class Recover(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `_agentd/recover`; its result is empty.

    `client`: as the result of the earlier connection's `_agentd/attach` has it. `pending`: the ids of its
    requests that are unanswered. `asked`: the highest id of a request it was sent there.
    """

    client: Annotated[str, Meta(max_length=64)]
    pending: Annotated[list[int | float | str | None], Meta(max_length=2048)] = []
    asked: Annotated[int, Meta(ge=0, le=2**53)] = 0


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


class SessionReport(msgspec.Struct, frozen=True, kw_only=True):
    """A session of a container. Times are seconds of Unix time.

    `state`: that of one that is alive, or `kept`. `owner`: the uid. `title`: at most 256 characters of it,
    null where it has none. `prompted`: whether anything was ever said in it.
    """

    id: str
    agent: str
    state: str
    title: str | None = None
    cwd: str = ""
    owner: int
    created: float
    updated: float
    clients: int = 0
    queued: int = 0
    prompted: bool = False


class SessionList(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `_agentd/sessions`: the newest first, at most 1000; `more`: whether there are others."""

    sessions: list[SessionReport]
    more: bool = False


class HistoryWish(msgspec.Struct, frozen=True, kw_only=True, rename={"session_id": "sessionId"}):
    """Parameters of `_agentd/history`. `after`: the frame before those wanted, null for the beginning."""

    session_id: str
    after: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 500


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A frame of a transcript: the `update` of a session/update. `at`: null where nobody noted it."""

    seq: int
    at: float | None = None
    frame: Any = None


class TurnReport(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and what became of it. `ended`: 0 before the end; `outcome`: the stop reason, or why not."""

    number: int
    progress: str
    at: float
    ended: float = 0.0
    outcome: str = ""


class PermissionReport(msgspec.Struct, frozen=True, kw_only=True):
    """A request for permission in a turn. `at`: of the decision, or of the question while that is open.

    `outcome`: the id of the option that was chosen, "cancelled", or "" where nobody has decided; `choice`:
    that option's name. `title`: of what was asked for. Both are "" where they are not kept.
    """

    turn: int
    at: float
    title: str = ""
    progress: str
    outcome: str = ""
    choice: str = ""


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `_agentd/history`.

    `next`: the `after` of the next page, null where this is the last one. `turns` and `permissions` are all
    on the first page, the last 1000 of each. `first`, `end`: the numbers of the first frame that can still
    be had and of the one that comes next. `kept`: false where only what is in memory can be had.
    """

    agent: str
    entries: list[Entry]
    turns: list[TurnReport] = []
    permissions: list[PermissionReport] = []
    next: int | None = None
    first: int
    end: int
    kept: bool = True
