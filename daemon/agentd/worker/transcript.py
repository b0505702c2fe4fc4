# SPDX-License-Identifier: Apache-2.0
"""What was said in a session, for clients that come later."""

from collections import deque


class Transcript:
    """Frames in runs, as they went out, each frame with its newline. Past the bound the oldest are lost."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._runs: deque[bytes] = deque()
        self._size = 0
        self.start = 0
        """The number of the first run that is still there."""

    def __len__(self) -> int:
        return self._size

    @property
    def end(self) -> int:
        """The number the next run will have."""
        return self.start + len(self._runs)

    def append(self, run: bytes) -> None:
        self._runs.append(run)
        self._size += len(run)
        while self._size > self._most and len(self._runs) > 1:
            self._size -= len(self._runs.popleft())
            self.start += 1

    def run(self, number: int) -> bytes:
        """A run that is still there."""
        return self._runs[number - self.start]

    def clear(self) -> None:
        """Forget it all: what comes next is the beginning."""
        self.start, self._size = self.end, 0
        self._runs.clear()
