# SPDX-License-Identifier: Apache-2.0
"""What every unit test promises: to leave nothing behind. `loop.run` does the same for tasks."""

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def descriptors() -> dict[int, str]:
    """Open descriptors, and what each is of: an inode, so that a number used again does not hide a leak."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # the one of this very listing
    return found


def children() -> set[int]:
    """Processes of ours, those that have ended and were not waited for included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found.update(map(int, task.read_text(encoding="ascii").split()))
    return found


@pytest.fixture(autouse=True, scope="session")
def what_is_there_for_good() -> None:
    """Is left out when a test looks for what nobody holds any more: pytest's own is most of it by far."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every test ends with the descriptors and children it began with."""
    before, had = descriptors(), children()
    yield
    leaked = {fd: what for fd, what in descriptors().items() if before.get(fd) != what}
    assert not leaked, f"descriptors left behind: {leaked}"
    assert not children() - had, f"children left behind: {children() - had}"
