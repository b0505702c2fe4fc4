# SPDX-License-Identifier: Apache-2.0
"""What is open on an editor's connection: all it takes to go on over another one."""

from __future__ import annotations

import json

from agentd.acp import methods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIGN = b'"id"'
"""Is in every line with a request or an answer, and in few others."""
OPENING = frozenset(
    {methods.SESSION_NEW, methods.SESSION_LOAD, methods.SESSION_RESUME, methods.SESSION_FORK}
)
CLOSING = frozenset({methods.SESSION_CLOSE, methods.SESSION_DELETE})
NOTED = OPENING | CLOSING | {methods.INITIALIZE}
"""The requests whose params are kept until they are answered."""
PLACE = ("cwd", "mcpServers", "additionalDirectories")
"""What a session is resumed with, as far as it was opened with it."""


def message_of(line: bytes) -> dict[str, Any]:
    """The message in a line; {} for what is none, which is for others to judge."""
    try:
        message = json.loads(line.decode())
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def line_of(**members: object) -> bytes:
    """A message of ours as a line."""
    return json.dumps({"jsonrpc": "2.0", **members}).encode() + b"\n"


class Ledger:
    """The requests, questions and sessions of one editor. Ids are kept as JSON text: 1 is not "1"."""

    def __init__(self) -> None:
        self.greeting: dict[str, Any] | None = None
        """The params of the `initialize` that was answered."""
        self.sessions: dict[str, dict[str, Any]] = {}
        """The params to resume each open session with."""
        self.asked = 0
        """The highest id of a worker's question so far."""
        self._pending: dict[str, tuple[str, dict[str, Any]]] = {}
        self._questions: dict[str, None] = {}
        self._void: set[str] = set()
        self._withdrawn: list[str] = []

    @property
    def pending(self) -> list[Any]:
        """The ids of the editor's requests that are unanswered."""
        return [json.loads(known) for known in self._pending]

    # From the editor

    def sent(self, message: dict[str, Any]) -> bool:
        """The editor sends this. Returns False for an answer that nobody waits for any more."""
        if (known := _id_of(message)) is None:
            return True
        method = message.get("method")
        if isinstance(method, str):
            self._pending[known] = (method, _params(message) if method in NOTED else {})
            return True
        self._questions.pop(known, None)
        dropped = known in self._void
        self._void.discard(known)
        return not dropped

    # From the worker

    def received(self, message: dict[str, Any]) -> bool:
        """The worker sends this. Returns whether it answers one of the editor's requests."""
        if (known := _id_of(message)) is None:
            return False
        if "method" in message:
            self._question(known, message["id"])
            return False
        method, params = self._pending.pop(known, ("", {}))
        if "result" in message:
            self._succeeded(method, params, message["result"])
        return bool(method)

    def _question(self, known: str, number: object) -> None:
        self._questions[known] = None
        if isinstance(number, int):
            self.asked = max(self.asked, number)

    def _succeeded(self, method: str, params: dict[str, Any], result: object) -> None:
        if method == methods.INITIALIZE:
            self.greeting = params
        elif method in CLOSING:
            self.sessions.pop(str(params.get("sessionId")), None)
        elif method in OPENING:
            made = result if method in (methods.SESSION_NEW, methods.SESSION_FORK) else params
            session = made.get("sessionId") if isinstance(made, dict) else None
            if isinstance(session, str):
                place = {name: params[name] for name in PLACE if name in params}
                self.sessions[session] = {"sessionId": session, **place}

    # The connection has broken

    def broke(self) -> None:
        """Nobody waits for an answer to the worker's questions any more."""
        self._withdrawn += self._questions
        self._void.update(self._questions)
        self._questions.clear()

    def take_back(self) -> bytes:
        """Lines that tell the editor so, each once."""
        ids = [json.loads(known) for known in self._withdrawn]
        self._withdrawn.clear()
        return b"".join(line_of(method=methods.CANCEL_REQUEST, params={"requestId": each}) for each in ids)


def _id_of(message: dict[str, Any]) -> str | None:
    """The id of a request or an answer; None for what is neither, or has an id that cannot be one."""
    number = message.get("id", ())
    is_one = isinstance(number, str | int | float | None) and not isinstance(number, bool)
    return json.dumps(number) if is_one else None


def _params(message: dict[str, Any]) -> dict[str, Any]:
    params = message.get("params")
    return params if isinstance(params, dict) else {}
