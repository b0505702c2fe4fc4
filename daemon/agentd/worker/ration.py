# SPDX-License-Identifier: Apache-2.0
"""How much of an agent's own words is logged: no agent may wash away what everybody else has logged."""

import asyncio

from agentd.log import Context
from agentd.systemd.events import Event

LOGGED_BYTES, LOGGED_SEC = 1 << 18, 10.0
"""At most so much in so long."""
RECORD_BYTES = 512
"""What the journal needs for a record besides its text."""


class Ration:
    """One agent's. What it has no room for is counted, and the count is logged once."""

    def __init__(self, log: Context) -> None:
        self._log = log
        self._room = LOGGED_BYTES
        self._until = 0.0
        self._left_out = 0

    def allows(self, line: bytes) -> bool:
        """Whether a line may be logged."""
        now = asyncio.get_running_loop().time()
        if now >= self._until:
            self.settle()
            self._until, self._room = now + LOGGED_SEC, LOGGED_BYTES
        self._room -= RECORD_BYTES + len(line)
        if self._room < 0:
            self._left_out += 1
        return self._room >= 0

    def settle(self) -> None:
        """Log how many lines were left out, if any."""
        if self._left_out:
            text = "%d more lines were not logged: the agent writes too many"
            self._log.warning(text, self._left_out, extra={"event": Event.AGENT_STDERR})
        self._left_out = 0
