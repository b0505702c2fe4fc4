# SPDX-License-Identifier: Apache-2.0
"""A dialogue in lines with a live process, in which every wait has a deadline."""

import os
import selectors
import subprocess
import time
from types import TracebackType
from typing import IO, Self

TURN = 10.0


class Dialogue:
    """Say a line, hear a line. On leaving, the process sees the end of its input and has TURN seconds."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._heard = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.process:
            try:
                self.close()
            finally:
                self.process.kill()

    @property
    def _input(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def say(self, line: str) -> None:
        self._input.write(line.encode() + b"\n")
        self._input.flush()

    def hear(self, timeout: float = TURN) -> str:
        """The next line, without its end; EOFError when the process has said its last."""
        end = time.monotonic() + timeout
        while b"\n" not in self._heard:
            self._heard += self._read(end - time.monotonic())
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def _read(self, timeout: float) -> bytes:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(max(timeout, 0)):
                raise TimeoutError(f"no line within the deadline; heard so far: {self._heard!r}")
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            raise EOFError(f"the process closed its output after {self._heard!r}")
        return data

    def close(self, timeout: float = TURN) -> int:
        """End the input, wait for the process, return its exit status."""
        self._input.close()
        return self.process.wait(timeout)
