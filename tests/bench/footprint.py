# SPDX-License-Identifier: Apache-2.0
"""`make bench`, second table: memory, start-up, idle minutes, and Status with many containers.

Exits with 1 where a goal is missed.
"""

import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.embedded import Embedded, eventually

AGENT = [sys.executable, str(Path(__file__).parents[1] / "agents" / "fast.py")]
HELLO = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":1}}\n'
WORKER_MIB_GOAL, ATTACH_MS_GOAL = 20.0, 60.0
STARTS = 15
IDLE_SEC, WATCHDOG_SEC = 60, 30


@contextlib.contextmanager
def agentd(containers: int, bus: str = "none", **environment: str) -> Iterator[Embedded]:
    """An agentd with that many containers, called here, c1, c2, …"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ", ".join(f"'{word}'" for word in AGENT)
        text = f'default_agent = "fast"\nruntimes = []\n[agents.fast]\ncommand = [{command}]\n'
        for label in ["here", *(f"c{number}" for number in range(1, containers))]:
            text += f'[containers.{label}]\nruntime = "host"\ndirectory = "{folder}"\n'
        daemon = Embedded(folder, text, bus=bus, **environment)
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.clean_up()


# Memory


def memory(pid: int) -> tuple[float, float]:
    """Private and proportional memory of a process, in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024, kib["Pss"] / 1024


# Start-up


def first_answer(command: list[str]) -> float:
    """Seconds from exec to the answer to initialize."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(HELLO)
        child.stdin.flush()
        assert b'"result"' in child.stdout.readline()
        taken = time.perf_counter() - began
        child.stdin.close()
    return taken


def starts(daemon: Embedded) -> tuple[float, float]:
    """Median milliseconds to the first answer: the agent alone, and through agentctl attach."""
    attach = [sys.executable, "-m", "agentd.ctl", "--runtime-dir", str(daemon.runtime_dir), "attach", "here"]
    pairs = [(first_answer(AGENT), first_answer(attach)) for _ in range(STARTS)]
    direct, attached = (1000 * statistics.median(each) for each in zip(*pairs, strict=True))
    return direct, attached


# Idleness


def switches(pid: int) -> int:
    """How often the threads of a process have gone to sleep: each wake-up ends in one more."""
    found = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        found += sum(
            map(int, re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.MULTILINE))
        )
    return found


def settled(pids: list[int]) -> bool:
    """Whether they have slept through half a second."""
    before = [switches(pid) for pid in pids]
    time.sleep(0.5)
    return before == [switches(pid) for pid in pids]


def idle_minute(daemon: Embedded) -> dict[str, int]:
    """Wake-ups of manager, worker and watcher in a minute with an idle session open."""
    assert daemon.process is not None
    watcher = next(pid for pid, text in daemon.processes().items() if " watch " in text)
    pids = {"manager": daemon.process.pid, "worker": daemon.workers()[0], "watcher": watcher}
    eventually(lambda: settled(list(pids.values())), "everything sleeps")
    before = {name: switches(pid) for name, pid in pids.items()}
    time.sleep(IDLE_SEC)
    return {name: switches(pid) - before[name] for name, pid in pids.items()}


# Status


def status_time(containers: int) -> float:
    """Median milliseconds of a Status() call, as busctl would make it, with that many containers."""
    with agentd(containers, bus="private") as daemon:
        command = [
            "dbus-send",
            f"--bus=unix:path={daemon.runtime_dir}/bus",
            "--print-reply",
            "--dest=org.agentd1",
        ]
        taken = []
        for member in ["org.freedesktop.DBus.Peer.Ping", "org.agentd1.Manager.Status"] * 9:
            began = time.perf_counter()
            subprocess.run([*command, "/org/agentd1", member], check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - began)
        return 1000 * (statistics.median(taken[1::2]) - statistics.median(taken[::2]))


def main() -> int:
    with agentd(1, WATCHDOG_USEC=str(WATCHDOG_SEC * 1_000_000)) as daemon, daemon.client() as client:
        client.open()
        manager, worker = memory(daemon.process.pid if daemon.process else 0), memory(daemon.workers()[0])
        direct, attached = starts(daemon)
        wakes = idle_minute(daemon)
    expected = {"manager": IDLE_SEC * 2 // WATCHDOG_SEC, "worker": 0, "watcher": 0}
    for name, (private, proportional) in (("manager", manager), ("worker", worker)):
        print(f"{name + ', private memory':38}{private:9.1f} MiB (proportional {proportional:.1f})")
    print(f"{'first answer of the agent alone':38}{direct:9.1f} ms")
    print(f"{'the same through agentctl attach':38}{attached:9.1f} ms ({attached - direct:+.1f})")
    for name, count in wakes.items():
        print(f"{f'wake-ups of the {name} in {IDLE_SEC} s':38}{count:9} (its watchdog's: {expected[name]})")
    for containers in (1, 100, 1000):
        print(f"{f'Status with {containers} containers':38}{status_time(containers):9.1f} ms over a Ping")
    # one late ping more or less falls into the minute
    quiet = all(count <= expected[name] + (1 if expected[name] else 0) for name, count in wakes.items())
    met = worker[0] < WORKER_MIB_GOAL and attached - direct <= ATTACH_MS_GOAL and quiet
    goals = (
        f"worker under {WORKER_MIB_GOAL:g} MiB, attach at most {ATTACH_MS_GOAL:g} ms more, no idle wake-ups"
    )
    print(f"goals: {goals}: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
