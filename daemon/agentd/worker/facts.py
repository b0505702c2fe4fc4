# SPDX-License-Identifier: Apache-2.0
"""What a session is, apart from what is said in it: enough to list it, and to begin it again."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from agentd.acp import envelope
from agentd.worker.hello import Hello

TITLE = 80
"""Characters of a title that is made of the first prompt."""

KEPT = ("sessionId", "modes", "configOptions")
SAID_ANEW = ("mcpServers", "_meta")

Picker = Callable[[str, list[Any]], list[Any]]
"""Adds the choice of agents to the options of one agent."""


class Facts:
    """`hello` and `params` (those of session/new, as the client sent them) are what its agent was told."""

    def __init__(
        self, agent: str, hello: Hello, params: dict[str, Any], picker: Picker | None = None, *, now: float
    ) -> None:
        """`now`: Unix time."""
        self.agent = agent
        self.hello = hello
        self.params = params
        self.picker = picker
        self.modes: Any = None
        self.options: list[Any] | None = None
        """The agent's own, without ours."""
        self.rest: dict[str, Any] = {}
        """What else it has answered, which somebody else may understand."""
        self.title: str | None = None
        self.fresh = False
        """Whether something is known by now that was not when it was kept last."""
        self.updated = now
        """When it was last used, in Unix time."""

    def learn(self, result: dict[str, Any]) -> None:
        """Take the answer to session/new, load or resume, and add our option to it."""
        self.modes = result.get("modes", self.modes)
        self.rest |= {name: value for name, value in result.items() if name not in KEPT}
        self.take_options(result)

    def take_options(self, told: dict[str, Any]) -> None:
        """Options in an answer or an update: kept as they are, passed on with ours."""
        options = told.get("configOptions")
        self.options = list(options) if isinstance(options, list) else self.options
        self.fresh = True
        if self.picker is not None:
            told["configOptions"] = self.picker(self.agent, self.options or [])

    def shown_options(self) -> list[Any] | None:
        """What a client is to choose from."""
        return self.options if self.picker is None else self.picker(self.agent, self.options or [])

    def notice(self, update: Any) -> bool:
        """An update of the agent's. Returns whether something was added to it."""
        match update:
            case {"sessionUpdate": "config_option_update"}:
                self.take_options(update)
                return self.picker is not None
            case {"sessionUpdate": "current_mode_update", "currentModeId": str(mode)}:
                self.enter(mode)
            case {"sessionUpdate": "session_info_update", "title": str(title)}:
                self.title, self.fresh = title, True
        return False

    def enter(self, mode: str) -> None:
        if isinstance(self.modes, dict):
            self.modes["currentModeId"] = mode
            self.fresh = True

    # On disk

    def kept(self) -> bytes:
        """What `restore` needs. Whoever loads the session names its MCP servers anew: they know secrets."""
        self.fresh = False
        params = {name: value for name, value in self.params.items() if name not in SAID_ANEW}
        return envelope.encode(
            {"params": params, "modes": self.modes, "options": self.options, "rest": self.rest}
        )

    def restore(self, kept: bytes) -> None:
        """Take what an earlier worker has kept; what the client says now is newer."""
        match envelope.value(kept):
            case {"params": dict(params), "modes": modes, "options": options, "rest": dict(rest)}:
                self.params = {**params, **self.params}
                self.modes, self.rest = modes, rest
                self.options = options if isinstance(options, list) else None

    @property
    def cwd(self) -> str:
        """The session's directory as its client calls it, "" where it said none."""
        cwd = self.params.get("cwd")
        return cwd if isinstance(cwd, str) else ""

    @property
    def choices(self) -> tuple[str | None, list[Any] | None]:
        """The mode and the options that hold, to compare: not the objects themselves."""
        mode = self.modes.get("currentModeId") if isinstance(self.modes, dict) else None
        return mode, copy.deepcopy(self.options)

    def entitle(self, prompt: bytes, now: float) -> None:
        """A prompt has come: it names a session that has no name yet."""
        self.updated = now
        if self.title is None:
            self.title = _first_words(prompt)

    def loaded(self) -> dict[str, Any]:
        """The answer to session/load or session/resume of a session that is alive."""
        answer = dict(self.rest)
        if self.modes is not None:
            answer["modes"] = self.modes
        if (options := self.shown_options()) is not None:
            answer["configOptions"] = options
        return answer

    def listed(self, session_id: str) -> dict[str, Any]:
        """Its entry in session/list."""
        updated = datetime.fromtimestamp(self.updated, UTC).isoformat(timespec="seconds")
        entry = {"sessionId": session_id, "cwd": self.params.get("cwd"), "updatedAt": updated}
        if directories := self.params.get("additionalDirectories"):
            entry["additionalDirectories"] = directories
        if self.title is not None:
            entry["title"] = self.title
        return entry | {"_meta": {"agentd.agent": self.agent}}


def _first_words(prompt: bytes) -> str | None:
    for block in envelope.prompt_blocks(prompt):
        text = envelope.text(envelope.members(block).get("text"))
        if text and text.strip():
            return text.strip().splitlines()[0][:TITLE]
    return None
