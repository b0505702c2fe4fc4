# SPDX-License-Identifier: Apache-2.0
"""How often a worker has failed lately, where no systemd counts: when to start it again, and when not to."""

from collections import deque

MOST, WITHIN_SEC = 5, 60.0
"""So many failures in that time, and nobody tries again by himself: as StartLimit in agentd@.service."""
FIRST_PAUSE = 0.5
"""Seconds between a failure and the next start; with every further failure it is twice as long."""


class Failures:
    """Of one worker. Times are seconds of the loop's clock."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=MOST)
        self.too_many = False
        """Stays so for good: there were MOST within WITHIN_SEC."""

    def add(self, now: float) -> None:
        self._forget_old(now)
        self._at.append(now)
        self.too_many = self.too_many or len(self._at) == MOST

    def pause(self, now: float) -> float:
        """Seconds to wait before the next start."""
        self._forget_old(now)
        if not self._at:
            return 0.0
        wanted = FIRST_PAUSE * float(2 ** (len(self._at) - 1))
        return max(0.0, self._at[-1] + wanted - now)

    def _forget_old(self, now: float) -> None:
        while self._at and now - self._at[0] > WITHIN_SEC:
            self._at.popleft()
