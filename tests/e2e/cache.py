# SPDX-License-Identifier: Apache-2.0
"""The cache: folders that are dear to make and never change once made, each under a name that says what is in it."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BUILD_DEADLINE = 1800.0


def folder() -> Path:
    place = os.environ.get("AGENTD_TEST_CACHE") or "~/.cache/agentd-tests"
    return Path(place).expanduser().absolute()


def subfolder(name: str) -> Path:
    place = folder() / name
    place.mkdir(parents=True, exist_ok=True)
    return place


def key(*recipe: object) -> str:
    """A short name for everything that decides what a build comes out as."""
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path, deadline: float = BUILD_DEADLINE) -> Iterator[None]:
    """Hold the lock file against other test runs; TimeoutError when they keep it for longer than deadline seconds."""
    end = time.monotonic() + deadline
    with path.open("w") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() > end:
                raise TimeoutError(f"another test run has held {path} for {deadline:.0f} s")
            time.sleep(0.2)
        yield


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The folder of that name, filled by `build` if it is not there yet: complete or absent, never half made."""
    place = subfolder("roots") / name
    if place.exists():
        return place
    with locked(place.with_name(f"{name}.lock")):
        if not place.exists():
            _build(place, build)
    return place


def _build(place: Path, build: Callable[[Path], None]) -> None:
    partial = place.with_name(f"{place.name}.partial")
    if partial.exists():  # a build was killed: it mounts only in a namespace of its own, so this is plain files
        shutil.rmtree(partial)
    partial.mkdir()
    build(partial)
    partial.rename(place)
