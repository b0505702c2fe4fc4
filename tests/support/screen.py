# SPDX-License-Identifier: Apache-2.0
"""A terminal as a person has it: a command runs on it, keys are typed, and what it shows is read."""

import os
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from support.acp_client import DEADLINE


class Screen:
    """Runs a command on a terminal of its own, 90 columns by 25 rows."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self.shown = b""
        self._keys, self._terminal = os.openpty()
        self.resize(90, 25)
        self._settings = self.settings()
        leader = ["setsid", "--ctty", "--", *argv]
        streams = {"stdin": self._terminal, "stdout": self._terminal, "stderr": self._terminal}
        self.process = subprocess.Popen(leader, env=environment, **streams)  # type: ignore[call-overload]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        os.close(self._keys)
        os.close(self._terminal)

    def type(self, keys: bytes) -> None:
        os.write(self._keys, keys)

    def resize(self, columns: int, rows: int) -> None:
        termios.tcsetwinsize(self._keys, (rows, columns))

    def until(self, text: bytes) -> None:
        """Read on until that text has been shown."""
        end = time.monotonic() + DEADLINE
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} was not shown, but: {self.shown!r}"
            if select.select([self._keys], [], [], 0.1)[0]:
                self.shown += os.read(self._keys, 1 << 16)

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._terminal)

    @property
    def is_as_it_was(self) -> bool:
        """Whether the terminal's settings are those that it had in the beginning."""
        return self.settings() == self._settings

    def end(self) -> int:
        """Wait for the end of the command: its exit status."""
        return self.process.wait(DEADLINE)
