# SPDX-License-Identifier: Apache-2.0
"""A client in a session: live, or still reading what was said before it came."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from agentd.store.records import Run
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
    """One reader of a transcript, from frame number `since` on, at its own pace until it has caught up.

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
        self._page: deque[Run] = deque()
        self._fetching = False
        self._ended = False
        self.live = False

    def relay(self, run: bytes) -> None:
        """A run that was just appended."""
        if self.live:
            self._reader.relay(run)

    def end(self) -> None:
        """The reader has left, or there is nothing more to read."""
        self._ended, self.live = True, False

    def pump(self) -> None:
        """Send what the reader takes now; to be called again when it is no longer slow."""
        while not (self.live or self._ended or self._fetching):
            self._tell_shown()
            if self._next >= self._transcript.end:
                self.live = True
                self._on_live()
            elif self._reader.slow:
                return
            else:
                self._read_on()

    def _read_on(self) -> None:
        if self._page:
            page = self._page.popleft()
            self._send(page.data, page.end)
        elif self._next >= self._transcript.start:
            run = self._transcript.run(self._next)
            self._send(run, self._next + run.count(b"\n"))
        elif self._next < self._transcript.first:
            self._fall_behind()
        else:
            self._fetching = True
            self._transcript.fetch(self._next, self._fetched)

    def _send(self, run: bytes, following: int) -> None:
        self._next = following
        self._reader.relay(run)

    def _fetched(self, runs: list[Run] | None) -> None:
        self._fetching = False
        if runs:
            self._page.extend(runs)
        elif runs is None:
            self._fall_behind()
        else:  # it was cleared meanwhile
            self._next = self._transcript.start
        self.pump()

    def _fall_behind(self) -> None:
        if not self._ended:
            self.end()
            self._reader.fell_behind()

    def _tell_shown(self) -> None:
        if self._on_shown is not None and self._next >= self._shown:
            on_shown, self._on_shown = self._on_shown, None
            on_shown()
