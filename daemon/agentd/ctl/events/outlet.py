# SPDX-License-Identifier: Apache-2.0
"""Output that goes on while somebody reads: it never makes the loop wait, and knows when nobody does."""

import asyncio
import os
import select
from types import TracebackType
from typing import Self

PIECE = select.PIPE_BUF
"""A pipe that takes anything takes this many bytes at once."""


class Outlet:
    """A descriptor to write to, as a context manager. It stays open, and blocking, as others share it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waits = True
        self._errors = select.epoll()
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        try:
            self._errors.register(
                self._fd, 0
            )  # for what is told unasked: an error, or that all have hung up
        except PermissionError:
            self._waits = False  # a file, which is always ready
        self._loop.add_reader(self._errors.fileno(), self._gone.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._errors.fileno())
        self._errors.close()

    async def write(self, text: str) -> None:
        """Raises BrokenPipeError where nobody reads any more."""
        data = text.encode("utf-8", "replace")
        while data:
            if self._waits:
                await self._ready()
            data = data[os.write(self._fd, data[:PIECE]) :]

    async def wait_gone(self) -> None:
        """Return when nobody can read any more, which a file's reader always may."""
        await self._gone.wait()

    async def _ready(self) -> None:
        ready = asyncio.Event()
        self._loop.add_writer(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_writer(self._fd)
