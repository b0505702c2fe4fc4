# SPDX-License-Identifier: Apache-2.0
"""A cgroup of the host for one machine: no two machines share one, and nothing in it outlives it."""

import errno
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .wait import wait_for

# nspawn looks up its place in the hierarchy of systemd: the second of these, on hosts with cgroup v1.
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
        """Kill what is left inside and remove the folders; TimeoutError after deadline seconds."""
        for folder in self.folders:
            _kill(folder)
        for folder in self.folders:
            wait_for(partial(_remove_tree, folder), deadline, f"the last process to leave {folder}")


def _kill(folder: Path) -> None:
    switch = folder / "cgroup.kill"
    if switch.exists():  # cgroup v2 only; its members are those of the named hierarchy too
        switch.write_text("1")


def _remove_tree(folder: Path) -> bool:
    """Whether the tree is gone: the kernel keeps a cgroup until it has buried its last process."""
    try:
        for path, _, _ in os.walk(folder, topdown=False):
            Path(path).rmdir()
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOENT):
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
