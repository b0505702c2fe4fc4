# SPDX-License-Identifier: Apache-2.0
"""Finding and ending whole process trees, inside containers too.

Every agent is started with AGENTD_OWNER=<owner>/<instance> in its environment. Children inherit it, also
those that leave their parent, group or session; and /proc shows it for processes in containers. What clears
environment is found as a descendant of what did not. Signals go through pidfds that were checked after they
were opened, so a number that was used again is never hit.
"""

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

MARKER = "AGENTD_OWNER"
ENVIRONMENT_BYTES = 2 << 20
"""As much as a program is usually started with at most. Any process can claim terabytes for its own."""
KERNEL_THREAD = 0x00200000
"""PF_KTHREAD, in the flags of /proc/PID/stat."""
LOOKS, LOOK_AGAIN = 3, 0.001
"""How often to look at an environment that is empty, and the seconds between."""
RESCAN = 0.05
"""Seconds between two looks while a tree is being killed: it may fork as we look."""


def owner_of(state_dir: str, container: str) -> str:
    """The mark of one installation in one container: the same after a restart, and nobody else's."""
    return hashlib.sha256(f"{os.path.realpath(state_dir)}\0{container}".encode()).hexdigest()[:16]


def find(owner: str, *, pid_namespace: int | None = None) -> list[int]:
    """The processes marked `owner` or `owner/…`, and their descendants. Reads /proc: run it in a thread.

    `pid_namespace`, the inode of one, leaves out those that live in any other.
    """
    found, parents = set(), {}
    for pid in _pids():
        parents[pid] = _parent(pid)
        if _is_marked(pid, owner):
            found.add(pid)
    found |= {pid for pid in parents if any(up in found for up in _ancestors(pid, parents))}
    found.discard(os.getpid())
    return [pid for pid in found if pid_namespace is None or pid_namespace_of(pid) == pid_namespace]


def pid_namespace_of(pid: int) -> int | None:
    """The inode of a process's PID namespace; None where it has gone or may not be looked at."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def start_time(pid: int) -> float | None:
    """Seconds from boot to the start of a process; None where it has gone."""
    fields = _stat(pid)
    return float(fields[19]) / os.sysconf("SC_CLK_TCK") if fields else None


def processor_sec(owner: str) -> float:
    """Seconds of processors that a tree has used; of what has ended in it, nothing. Run it in a thread."""
    used = [_stat(pid) for pid in find(owner)]
    return sum(int(fields[11]) + int(fields[12]) for fields in used if fields) / os.sysconf("SC_CLK_TCK")


async def end(owner: str, *, term: float, kill: float, pid_namespace: int | None = None) -> list[int]:
    """End a tree: SIGTERM, SIGKILL after `term` seconds, at most `kill` more. Returns what is left."""
    await _signal_and_wait(owner, signal.SIGTERM, term, pid_namespace)
    deadline = asyncio.get_running_loop().time() + kill
    while True:
        left = await asyncio.to_thread(find, owner, pid_namespace=pid_namespace)
        if not left or asyncio.get_running_loop().time() > deadline:
            return left
        await _signal_and_wait(owner, signal.SIGKILL, RESCAN, pid_namespace)


async def _signal_and_wait(owner: str, number: int, patience: float, pid_namespace: int | None) -> None:
    found = await asyncio.to_thread(_find_with_births, owner, pid_namespace)
    with ExitStack() as stack:
        pidfds = [fd for pid, born in found if (fd := _open_checked(pid, born, stack)) is not None]
        for pidfd in pidfds:
            _send(pidfd, number)
        await _all_ended(pidfds, patience)


def _find_with_births(owner: str, pid_namespace: int | None) -> list[tuple[int, float | None]]:
    return [(pid, start_time(pid)) for pid in find(owner, pid_namespace=pid_namespace)]


def _open_checked(pid: int, born: float | None, stack: ExitStack) -> int | None:
    """A pidfd on the process that was found, None where it has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    stack.callback(os.close, pidfd)
    return pidfd if born is not None and start_time(pid) == born else None


def _send(pidfd: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        pass  # ended, or no longer ours to end: the next look tells


async def _all_ended(pidfds: list[int], patience: float) -> None:
    loop = asyncio.get_running_loop()
    waiting = {pidfd: loop.create_future() for pidfd in pidfds}
    for pidfd, ended in waiting.items():
        loop.add_reader(pidfd, _ended, loop, pidfd, ended)
    try:
        if waiting:
            await asyncio.wait(waiting.values(), timeout=patience)
    finally:
        for pidfd in waiting:
            loop.remove_reader(pidfd)


def _ended(loop: asyncio.AbstractEventLoop, pidfd: int, ended: "asyncio.Future[None]") -> None:
    loop.remove_reader(pidfd)
    if not ended.done():
        ended.set_result(None)


# /proc


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())


def _is_marked(pid: int, owner: str) -> bool:
    wanted = f"\0{MARKER}={owner}".encode()
    environment = b"\0" + _environment(pid) + b"\0"
    return wanted + b"\0" in environment or wanted + b"/" in environment


def _environment(pid: int) -> bytes:
    """b"" for a process that has none, has gone, or is another user's, and so not ours."""
    for _ in range(LOOKS):
        try:
            environment = _read_environment(pid)
        except OSError:
            return b""
        if environment or not _may_be_in_exec(pid):
            return environment
        time.sleep(LOOK_AGAIN)
    return b""


def _read_environment(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
        return file.read(ENVIRONMENT_BYTES)


def _may_be_in_exec(pid: int) -> bool:
    """In the middle of an exec there is no environment; zombies and the kernel's threads never have one."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in (b"Z", b"X") and not int(fields[6]) & KERNEL_THREAD


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on, so that field N of proc(5) is at N - 3; [] if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    seen = set()
    while (pid := parents.get(pid, 0)) and pid not in seen:
        seen.add(pid)
        yield pid
