# SPDX-License-Identifier: Apache-2.0
"""A client in a session: live, or still reading what was said before it came."""

from collections.abc import Callable
from typing import Protocol

from agentd.worker.transcript import Transcript


class Reader(Protocol):
    """Whoever reads along."""

    @property
    def slow(self) -> bool:
        """Whether it has not yet read what it was sent last."""

    def relay(self, run: bytes) -> None: ...

    def fell_behind(self) -> None:
        """What it should read next is no longer there."""


class Attachment:
    """One reader of a transcript, from run number `since` on, at its own pace until it has caught up.

    `on_shown` is called once all that was there at first has been sent, `on_live` when it has caught up.
    """

    def __init__(
        self,
        reader: Reader,
        transcript: Transcript,
        since: int,
        *,
        on_shown: Callable[[], None] = lambda: None,
        on_live: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._transcript = transcript
        self._next = since
        self._shown = transcript.end
        self._on_shown: Callable[[], None] | None = on_shown
        self._on_live = on_live
        self.live = False

    def relay(self, run: bytes) -> None:
        """A run that was just appended."""
        if self.live:
            self._reader.relay(run)

    def pump(self) -> None:
        """Send what the reader takes now; to be called again when it is no longer slow."""
        while not self.live:
            self._tell_shown()
            if self._next == self._transcript.end:
                self.live = True
                self._on_live()
            elif self._reader.slow:
                return
            elif self._next < self._transcript.start:
                self._reader.fell_behind()
                return
            else:
                self._reader.relay(self._transcript.run(self._next))
                self._next += 1

    def _tell_shown(self) -> None:
        if self._on_shown is not None and self._next >= self._shown:
            on_shown, self._on_shown = self._on_shown, None
            on_shown()
