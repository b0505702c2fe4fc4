# SPDX-License-Identifier: Apache-2.0
"""Memory and processor time of containers with their workers: by cgroup, else by process.

A cgroup counts as somebody's own where its path says so: the worker's has its unit in it, a container's the
id that its engine gave it, or the unit that machined did. Workers in embedded mode have none, nor have
containers whose engine makes none; the cgroup they are in is everybody's. So they are measured by their
processes: the tree of the worker, that of the container's first process, and those of its agents.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PARENT, UTIME, CSTIME = 1, 11, 14
"""Where things are in /proc/PID/stat, counted from the state on. Times: user's, system's, and children's."""
UNIFIED, NAMED = "", "name=systemd"
"""Controllers of the hierarchies that matter, as /proc/PID/cgroup has them: version 2, systemd's of 1."""


class Subject(NamedTuple):
    """A container, and who works for it. `unit`: of its worker, "" for none; processes are 0 for none."""

    name: str
    id: str
    unit: str
    worker: int
    leader: int
    agents: tuple[int, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """What there is in the name of the container's own cgroup."""
        if self.id != self.name:
            return (self.id,)
        escaped = self.name.replace("-", r"\x2d")
        return tuple(
            f"{kind}{each}." for kind in ("machine-", "systemd-nspawn@") for each in (escaped, self.name)
        )


class Usage(NamedTuple):
    """Seconds of processors so far, and bytes in memory; None where nothing can be read.

    The memory is the cgroup's, with its cache of files; or that of processes, where what they share counts
    for each of them.
    """

    cpu_sec: float | None = None
    memory: int | None = None


class Gauges:
    """Of this host. `proc` is where /proc is."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._roots = _hierarchies(proc)

    def read(self, subjects: Iterable[Subject]) -> list[Usage]:
        """Of each, in this order. Reads many small files: not for the loop."""
        processes = Processes(self._proc)
        return [self._usage(each, processes) for each in subjects]

    def _usage(self, subject: Subject, processes: "Processes") -> Usage:
        homes = (self._own(subject.worker, (subject.unit,)), self._own(subject.leader, subject.marks))
        groups = {each for each in homes if each is not None}
        inside = {pid for group in groups for pid in members(group)}
        roots = {pid for pid in (subject.worker, subject.leader, *subject.agents) if pid} - inside
        parts = [_of_group(each, processes) for each in groups]
        parts.append(processes.sum(processes.tree(roots) - inside))
        return _sum(parts)

    def _own(self, pid: int, marks: Iterable[str]) -> Path | None:
        """The outermost cgroup around a process with one of these in its name."""
        for root, path in self._places(pid):
            for group in reversed([path, *path.parents]):
                if any(mark and mark in group.name for mark in marks):
                    return root / group.relative_to("/")
        return None

    def _places(self, pid: int) -> Iterator[tuple[Path, Path]]:
        """Hierarchies, by where they are mounted, and a process's cgroup in each."""
        lines = _text(self._proc / str(pid) / "cgroup").splitlines() if pid else []
        paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
        for controllers, root in self._roots.items():
            path = paths.get(controllers, "..")
            if ".." not in path:  # else it is not below what this namespace can see
                yield root, Path(path)


class Processes:
    """All there are at one moment: each is looked at when somebody wants to know, and once."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._stat = cache(self._read_stat)

    def tree(self, roots: Collection[int]) -> set[int]:
        """Processes and all that descend from them."""
        found: set[int] = set()
        ahead = list(roots)
        while ahead:
            if (pid := ahead.pop()) not in found:
                found.add(pid)
                ahead += self._children[pid]
        return found

    def sum(self, pids: Collection[int]) -> Usage:
        there = [pid for pid in pids if self._stat(pid)]
        if not there:
            return Usage()
        return Usage(sum(map(self._ticks, there)) / TICKS, sum(map(self._memory, there)))

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        found = defaultdict(list)
        for name in os.listdir(self._proc):
            if name.isdecimal() and (fields := self._stat(int(name))):
                found[int(fields[PARENT])].append(int(name))
        return found

    def _ticks(self, pid: int) -> int:
        """Its own, and its ended children's: so the sum over a tree does not go back when one ends."""
        return sum(map(int, self._stat(pid)[UTIME : CSTIME + 1]))

    def _memory(self, pid: int) -> int:
        fields = _text(self._proc / str(pid) / "statm").split()
        return int(fields[1]) * PAGE if fields else 0

    def _read_stat(self, pid: int) -> list[str]:
        """The fields after the name, which may have anything in it; [] for one that has ended."""
        return _text(self._proc / str(pid) / "stat").rpartition(")")[2].split()


def _of_group(group: Path, processes: Processes) -> Usage:
    """What the kernel keeps of a cgroup, and where it does not, what its processes say."""
    usec = dict(line.split(" ", 1) for line in _text(group / "cpu.stat").splitlines()).get("usage_usec")
    memory = _text(group / "memory.current").strip()
    if usec and memory:
        return Usage(int(usec) / 1e6, int(memory))
    summed = processes.sum(set(members(group)))
    return Usage(int(usec) / 1e6 if usec else summed.cpu_sec, int(memory) if memory else summed.memory)


def members(group: Path) -> Iterator[int]:
    """The processes in a cgroup and in those below it."""
    for folder, _, _ in os.walk(group):
        yield from map(int, _text(Path(folder, "cgroup.procs")).split())


def _hierarchies(proc: Path) -> dict[str, Path]:
    """Where they are mounted, by their controllers; the better one first."""
    found = {}
    for line in _text(proc / "self" / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            found[UNIFIED] = Path(before.split(" ")[4])
        elif kind == "cgroup" and NAMED in options.split(","):
            found[NAMED] = Path(before.split(" ")[4])
    return dict(sorted(found.items()))


def _sum(parts: Sequence[Usage]) -> Usage:
    """Of those that are known."""
    cpu = [each.cpu_sec for each in parts if each.cpu_sec is not None]
    memory = [each.memory for each in parts if each.memory is not None]
    return Usage(sum(cpu) if cpu else None, sum(memory) if memory else None)


def _text(file: Path) -> str:
    """ "" for what is not there, has ended meanwhile, or may not be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
