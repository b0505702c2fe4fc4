# SPDX-License-Identifier: Apache-2.0
"""Log lines that know what they are about, and never a secret."""

import json
import logging
import re
import threading
from collections.abc import Iterable, MutableMapping
from typing import Any

HIDDEN = "[redacted]"


class Context(logging.LoggerAdapter[logging.Logger]):
    """A logger whose every record carries the fields it was made with: container, agent, session, client."""

    def process(self, msg: str, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs

    def about(self, **fields: str) -> "Context":
        """The same logger with more fields."""
        return Context(self.logger, {**(self.extra or {}), **fields})


def worth_hiding(values: Iterable[str]) -> list[str]:
    """Those that are secrets, longest first so that no part of one is left over.

    Values under six characters are no secrets worth it, and would black out half of every line.
    """
    return sorted({value for value in values if len(value) >= 6}, key=lambda value: (-len(value), value))


class Redactor:
    """Hides secrets, whole and line by line, plain and as JSON spells them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.longest = 0
        """Bytes of the longest secret: text is not to be cut closer than this to where it breaks off."""
        self._spelled: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self._adding = threading.Lock()
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Hide these from now on, and all that were known before. May be called in any thread."""
        parts = (part for secret in secrets for part in (secret, *map(str.strip, secret.split("\n"))))
        new = {spelling for part in worth_hiding(parts) for spelling in _spellings(part)}
        with self._adding:
            self._spelled |= new
            if ordered := worth_hiding(self._spelled):
                self.longest = max(len(each.encode()) for each in ordered)
                self._pattern = re.compile("|".join(map(re.escape, ordered)))

    def __call__(self, text: str) -> str:
        return self._pattern.sub(HIDDEN, text) if self._pattern else text


def _spellings(secret: str) -> set[str]:
    """A string as it is, and as JSON has it inside the quotes: programs differ about what is not ASCII."""
    return {secret, *(json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))}
