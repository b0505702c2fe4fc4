# SPDX-License-Identifier: Apache-2.0
"""Which process is the limit: the share of a processor that each had while something was measured."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Busy:
    """Processor time of some processes, by role, over all the times it was entered."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids | {"client": os.getpid()}
        self._used = dict.fromkeys(self._pids, 0.0)
        self._wall = 0.0

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        before, began = self._seconds(), time.perf_counter()
        yield
        self._wall += time.perf_counter() - began
        for name, seconds in self._seconds().items():
            self._used[name] += seconds - before[name]

    def _seconds(self) -> dict[str, float]:
        return {name: _seconds(pid) for name, pid in self._pids.items()}

    def __str__(self) -> str:
        return ", ".join(f"{name} {used / self._wall:.0%}" for name, used in self._used.items())


def _seconds(pid: int) -> float:
    """Seconds of a processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
