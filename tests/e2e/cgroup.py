# SPDX-License-Identifier: Apache-2.0
"""A cgroup of the host for one machine, so that two machines never share theirs and one write kills everything in it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

# nspawn looks up its place in the hierarchy of systemd, which is the second of these on hosts with cgroup v1.
HIERARCHIES = ("", "name=systemd")


class Cgroup:
    """Empty folders in the hierarchies that nspawn uses, below the ones this process is in."""

    def __init__(self, name: str) -> None:
        self.folders = [folder / name for folder in _own_folders()]
        for folder in self.folders:
            folder.mkdir()

    def admission(self) -> list[str]:
        """The files that a process writes 0 to in order to enter."""
        return [str(folder / "cgroup.procs") for folder in self.folders]

    def remove(self, deadline: float = 10.0) -> None:
        """Kill what is left inside and remove the folders; OSError when that takes longer than deadline seconds."""
        end = time.monotonic() + deadline
        for folder in self.folders:
            _kill(folder)
            while not _remove_tree(folder, last=time.monotonic() > end):
                time.sleep(0.02)


def _kill(folder: Path) -> None:
    switch = folder / "cgroup.kill"
    if switch.exists():  # cgroup v2 only; its members are those of the named hierarchy too
        switch.write_text("1")


def _remove_tree(folder: Path, last: bool) -> bool:
    """Whether the tree is gone: a cgroup can't be removed before the kernel has buried its last process."""
    try:
        for path, _, _ in os.walk(folder, topdown=False):
            Path(path).rmdir()
    except FileNotFoundError:
        return False  # a scope was removed while it was walked: look again
    except OSError:
        if last:
            raise
        return False
    return True


def _own_folders() -> Iterator[Path]:
    mounts = dict(_mounts())
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in HIERARCHIES and controllers in mounts:
            yield mounts[controllers] / path.lstrip("/")


def _mounts() -> Iterator[tuple[str, Path]]:
    """The hierarchies that are mounted, and where."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        fstype, _, options = kind.split(" ", 2)
        if fstype == "cgroup2":
            yield "", Path(place.split()[4])
        elif fstype == "cgroup" and "name=systemd" in options.split(","):
            yield "name=systemd", Path(place.split()[4])
