# SPDX-License-Identifier: Apache-2.0
"""What was said in a session: the last of it in memory, all of it in the store where that keeps it."""

from collections import OrderedDict
from collections.abc import Callable

from agentd.errors import AgentdError
from agentd.store.keeper import Keeper
from agentd.store.records import Run
from agentd.tasks import Tasks

TAIL_BYTES = 1 << 18
"""What stays in memory of frames that are on disk too."""
PAGE_BYTES = 1 << 20

Pages = Callable[[list[Run] | None], None]
"""Takes frames that were read, None where they cannot be."""


class Transcript:
    """Frames by number, in runs as they went out, each frame with its newline.

    What is in memory is bounded by `most` bytes; beyond that the oldest are forgotten, but not before they
    are in a store that keeps them.
    """

    def __init__(self, key: int, store: Keeper, most: int, tasks: Tasks) -> None:
        """`key`: the session's in the store."""
        self._key = key
        self._store = store
        self._most = min(most, TAIL_BYTES) if store.keeps_frames else most
        self._tasks = tasks
        self._runs: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0
        kept, self.end = store.span(key)
        self.first = kept if store.keeps_frames else self.end
        """The number of the first frame that can still be had."""

    def __len__(self) -> int:
        """Bytes in memory."""
        return self._size

    @property
    def start(self) -> int:
        """The number of the first frame in memory."""
        return next(iter(self._runs), self.end)

    def append(self, run: bytes) -> None:
        self._store.append(self._key, self.end, run)
        self._runs[self.end] = run
        self._size += len(run)
        self.end += run.count(b"\n")
        if self._size > self._most:
            self.trim()

    def trim(self) -> None:
        """Let go of what is too much."""
        written = self._store.written(self._key)
        while self._size > self._most and len(self._runs) > 1:
            numbers = iter(self._runs)
            seq, following = next(numbers), next(numbers)
            if following > written:
                return
            self._size -= len(self._runs.pop(seq))
        if not self._store.keeps_frames:
            self.first = self.start

    def run(self, number: int) -> bytes:
        """The frames in memory from this number on, up to the end of the run they came in."""
        if number in self._runs:
            return self._runs[number]
        seq = next(seq for seq, run in self._runs.items() if seq <= number < seq + run.count(b"\n"))
        return self._runs[seq].split(b"\n", number - seq)[-1]

    def fetch(self, number: int, deliver: Pages) -> None:
        """Have frames read that are no longer in memory, from this number on; they are delivered later."""
        self._tasks.start(self._fetch(number, deliver), f"read of session {self._key}")

    async def _fetch(self, number: int, deliver: Pages) -> None:
        try:
            deliver(await self._store.read(self._key, number, PAGE_BYTES))
        except AgentdError:
            deliver(None)
            raise

    async def last(self, count: int) -> list[bytes]:
        """The last frames, as many or fewer, without newlines. Raises StoreFailed."""
        number = max(self.first, self.end - count)
        frames: list[bytes] = []
        while number < self.start:
            page = await self._store.read(self._key, number, PAGE_BYTES)
            if not page:
                break
            for each in page:
                frames += each.data.split(b"\n")[:-1]
            number = page[-1].end
        if self.start <= number < self.end:
            for seq, run in self._runs.items():
                frames += run.split(b"\n")[max(0, number - seq) : -1]
        return frames[-count:]

    def close(self) -> None:
        """Nothing more is said: memory is not to wait until somebody notices that nobody needs it."""
        self._runs.clear()
        self._size = 0

    def clear(self) -> None:
        """Forget it all: what comes next is the beginning."""
        self._store.clear(self._key)
        self._runs.clear()
        self._size, self.first = 0, self.end
