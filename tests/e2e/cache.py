# SPDX-License-Identifier: Apache-2.0
"""The cache: folders that are dear to make and never change, under names that say what is in them."""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .wait import wait_for

BUILD_DEADLINE = 1800.0

# What no run has asked for in this time, in seconds, was made by a recipe that has changed since.
FORGET_AFTER = 14 * 86400.0


def folder() -> Path:
    place = os.environ.get("AGENTD_TEST_CACHE") or "~/.cache/agentd-tests"
    return Path(place).expanduser().absolute()


def subfolder(name: str) -> Path:
    place = folder() / name
    place.mkdir(parents=True, exist_ok=True)
    return place


def key(recipe: str) -> str:
    """A short name for the text that decides what a build comes out as."""
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path, deadline: float = BUILD_DEADLINE) -> Iterator[None]:
    """Hold the lock file against other test runs; TimeoutError when they keep it for deadline seconds."""
    with path.open("w") as file:
        wait_for(lambda: _try_lock(file.fileno()), deadline, f"another test run to let go of {path}")
        yield


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def cached(name: str, build: Callable[[Path], None], shelf: str = "roots") -> Path:
    """The folder of that name, filled by `build` if it is not there: complete or absent, never half made.

    One at a time is made for each shelf: what is on one may share downloads, or be dear to make. A build may
    take from other shelves.
    """
    place = subfolder(shelf) / name
    with locked(place.parent.with_suffix(".lock")):
        if not place.exists():
            _build(place, build)
        os.utime(place)
        _forget(place.parent)
    return place


def _build(place: Path, build: Callable[[Path], None]) -> None:
    partial = place.with_name(f"{place.name}.partial")
    # Left by a build that was killed: it mounts only in a namespace of its own, so this is plain files.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    build(partial)
    partial.rename(place)


def _forget(shelf: Path) -> None:
    for place in shelf.iterdir():
        if time.time() - place.stat().st_mtime > FORGET_AFTER:
            shutil.rmtree(place)
