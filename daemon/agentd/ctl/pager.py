# SPDX-License-Identifier: Apache-2.0
"""Long output: through a pager where a person is at the terminal, straight to stdout otherwise."""

import asyncio
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Self, TextIO

LESS = ("less", "-FRX")
NONE = ("", "cat")
"""Values of $PAGER by which people say that they want none."""


class Pager:
    """Where output goes; made, and left, outside of the loop.

    The pager starts with the first of it, so that errors are seen without one. Leaving waits until the
    person has seen enough; one who quits the pager before the end has, too: the BrokenPipeError that the
    writer gets ends here.
    """

    def __init__(self, *, wanted: bool, environ: Mapping[str, str] = os.environ) -> None:
        self._commands = commands(environ) if wanted and is_screen(environ) else []
        self._process: subprocess.Popen[bytes] | None = None
        sys.stdout.flush()
        self._fd = sys.stdout.fileno()
        self._encoding = sys.stdout.encoding
        self._on_interrupt = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._process is None:
            return False
        os.close(self._fd)
        self._process.wait()
        signal.signal(signal.SIGINT, self._on_interrupt)
        return isinstance(error, BrokenPipeError)

    async def write(self, text: str) -> None:
        """Raises BrokenPipeError where nobody wants to see more."""
        self._begin(text)
        await asyncio.to_thread(self._put, text)  # a person reads slowly

    def put(self, text: str) -> None:
        """The same, outside of the loop."""
        self._begin(text)
        self._put(text)

    def _put(self, text: str) -> None:
        _write(self._fd, text.encode(self._encoding, "replace"))

    def _begin(self, text: str) -> None:
        while text and self._commands:
            self._start(self._commands.pop(0))

    def _start(self, command: list[str]) -> None:
        try:
            reading, writing = os.pipe()
            with open(reading, "rb") as stdin:
                self._process = subprocess.Popen(command, stdin=stdin, env={**os.environ, "LESSSECURE": "1"})
        except OSError:  # it is not there, or cannot run: the next one may
            os.close(writing)
            return
        self._commands.clear()
        self._fd = writing
        signal.signal(signal.SIGINT, _ignored)  # Ctrl-C is for the pager


def is_screen(environ: Mapping[str, str], stream: TextIO | None = None) -> bool:
    """Whether a stream, stdout if none is named, is a terminal that can do more than print."""
    return (stream or sys.stdout).isatty() and environ.get("TERM", "dumb") != "dumb"


def is_coloured(environ: Mapping[str, str], stream: TextIO | None = None) -> bool:
    return is_screen(environ, stream) and not environ.get("NO_COLOR")


def commands(environ: Mapping[str, str]) -> list[list[str]]:
    """The pagers to try, in order; none where the environment says so. As journalctl does it."""
    named = environ.get("SYSTEMD_PAGER", environ.get("PAGER"))
    if named is None:
        return [list(LESS)]
    if named.strip() in NONE:
        return []
    try:
        return [shlex.split(named), list(LESS)]
    except ValueError:  # quotes that do not match
        return [list(LESS)]


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _ignored(number: int, frame: FrameType | None) -> None:
    """A handler, and not SIG_IGN, which whatever is started from here would inherit."""
