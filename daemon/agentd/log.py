# SPDX-License-Identifier: Apache-2.0
"""Log lines that know what they are about, and never a secret."""

import json
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
    """Hides secrets, plain and as JSON spells them; the longest first, so that none is left in part."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spelled = {each for secret in secrets if secret for each in (secret, json.dumps(secret)[1:-1])}
        ordered = sorted(spelled, key=len, reverse=True)
        self.longest = max((len(each.encode()) for each in spelled), default=0)
        """Bytes of the longest secret: text is not to be cut closer than this to where it breaks off."""
        self._pattern = re.compile("|".join(re.escape(each) for each in ordered)) if ordered else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub(HIDDEN, text) if self._pattern else text
