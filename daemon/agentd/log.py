# SPDX-License-Identifier: Apache-2.0
"""Log lines that know what they are about, and never a secret."""

import logging
import re
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


class Redactor:
    """Hides configured secrets, the longest first, so that one that contains another is hidden whole."""

    def __init__(self, secrets: Iterable[str]) -> None:
        ordered = sorted(secrets, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(each) for each in ordered)) if ordered else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub(HIDDEN, text) if self._pattern else text
