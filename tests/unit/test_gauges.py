# SPDX-License-Identifier: Apache-2.0
"""Gauges of hosts that are made of files, and of this one."""

import subprocess
import sys
from pathlib import Path

import pytest

from agentd.ctl.top.gauges import PAGE, TICKS, Gauges, Subject, Usage

UNIFIED = "cgroup2 cgroup2 rw"
NAMED = "cgroup cgroup rw,xattr,name=systemd"
BOX = Subject(name="box", id="0123abcd", unit="agentd@box.service", worker=10, leader=20)
WORKERS = "/agentd.slice/agentd@box.service"
CONTAINERS = "/machine.slice/libpod-0123abcd.scope"


class Host:
    """A /proc, and cgroups."""

    def __init__(self, folder: Path, **mounts: str) -> None:
        """`mounts`: names of folders, and what is mounted there."""
        self.folder = folder
        self.proc = folder / "proc"
        lines = [f"4 1 0:9 / {folder / name} rw - {what}" for name, what in mounts.items()]
        self._write(self.proc / "self" / "mountinfo", "\n".join(lines))

    def process(self, pid: int, parent: int = 1, *, ticks: int = 0, pages: int = 0, **groups: str) -> None:
        """`ticks`: of each of its four processor times. `groups`: where it is, by what is mounted there."""
        times = " ".join([str(ticks)] * 4)
        self._write(
            self.proc / str(pid) / "stat",
            f"{pid} (a ) b) S {parent} 1 1 0 -1 4194304 0 0 0 0 {times} 20 0 1 0 7",
        )
        self._write(self.proc / str(pid) / "statm", f"9999 {pages} 1 1 0 1 0")
        kinds = {"unified": "0::", "named": "1:name=systemd:", "memory": "4:memory:"}
        lines = [kinds[where] + path for where, path in groups.items()]
        self._write(self.proc / str(pid) / "cgroup", "\n".join(lines))
        for where, path in groups.items():
            members = self.folder / where / path.strip("/") / "cgroup.procs"
            before = members.read_text() if members.exists() else ""
            self._write(members, f"{before}{pid}\n")

    def group(self, path: str, *, usec: int | None = None, memory: int | None = None) -> None:
        folder = self.folder / "unified" / path.strip("/")
        if usec is not None:
            self._write(folder / "cpu.stat", f"usage_usec {usec}\nuser_usec 1\nsystem_usec 2\n")
        if memory is not None:
            self._write(folder / "memory.current", f"{memory}\n")

    def read(self, subject: Subject = BOX) -> Usage:
        return Gauges(self.proc).read([subject])[0]

    @staticmethod
    def _write(file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """With cgroups of version 2."""
    return Host(tmp_path, unified=UNIFIED)


def ticks(count: int) -> float:
    return count / TICKS


# By cgroup


def test_the_workers_cgroup_and_the_containers_are_added(host: Host) -> None:
    host.process(10, unified=WORKERS)
    host.process(20, unified=f"{CONTAINERS}/container/init.scope")
    host.group(WORKERS, usec=1_500_000, memory=1000)
    host.group(CONTAINERS, usec=3_000_000, memory=500)
    assert host.read() == Usage(4.5, 1500)


def test_agents_in_these_cgroups_do_not_count_twice(host: Host) -> None:
    host.process(10, unified=WORKERS)
    host.process(20, unified=CONTAINERS)
    host.process(30, 10, ticks=100, pages=7, unified=WORKERS)
    host.process(31, 1, ticks=100, pages=7, unified=f"{CONTAINERS}/container")
    host.group(WORKERS, usec=1_000_000, memory=1000)
    host.group(CONTAINERS, usec=2_000_000, memory=500)
    assert host.read(BOX._replace(agents=(30, 31))) == Usage(3.0, 1500)


def test_without_a_memory_controller_processes_say_it(host: Host) -> None:
    host.process(10, pages=3, unified=WORKERS)
    host.process(11, 10, pages=4, unified=f"{WORKERS}/below")
    host.group(WORKERS, usec=1_000_000)
    assert host.read(BOX._replace(leader=0)) == Usage(1.0, 7 * PAGE)


def test_with_version_1_processes_say_all(tmp_path: Path) -> None:
    host = Host(tmp_path, memory="cgroup cgroup rw,memory", named=NAMED)
    host.process(10, ticks=5, pages=3, memory="/elsewhere", named=WORKERS)
    host.process(11, 1, ticks=10, pages=4, named=WORKERS)
    assert host.read(BOX._replace(leader=0)) == Usage(ticks(60), 7 * PAGE)


def test_of_both_versions_the_second_is_asked(tmp_path: Path) -> None:
    host = Host(tmp_path, named=NAMED, unified=UNIFIED)
    host.process(10, ticks=5, pages=3, named=WORKERS, unified=WORKERS)
    host.group(WORKERS, usec=2_000_000, memory=11)
    assert host.read(BOX._replace(leader=0)) == Usage(2.0, 11)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("my-box", r"machine-my\x2dbox.scope"),
        ("box", "machine-box.scope"),
        ("my-box", r"systemd-nspawn@my\x2dbox.service"),
        ("my-box", "systemd-nspawn@my-box.service"),
    ],
)
def test_a_machine_has_the_unit_that_machined_made(host: Host, name: str, group: str) -> None:
    host.process(20, unified=f"/machine.slice/{group}/payload/init.scope")
    host.group(f"/machine.slice/{group}", usec=1_000_000, memory=1)
    machine = Subject(name=name, id=name, unit="", worker=0, leader=20)
    assert host.read(machine) == Usage(1.0, 1)


# By process


def test_a_cgroup_that_is_everybodys_is_not_its_own(host: Host) -> None:
    host.process(10, ticks=1, pages=1, unified="/user.slice/session-1.scope")
    host.process(11, 10, ticks=2, pages=2, unified="/user.slice/session-1.scope")
    host.process(12, 11, ticks=3, pages=3, unified="/user.slice/session-1.scope")
    host.process(99, 1, ticks=100, pages=100, unified="/user.slice/session-1.scope")
    host.group("/user.slice/session-1.scope", usec=9_000_000, memory=9000)
    assert host.read(BOX._replace(unit="", leader=0)) == Usage(ticks(24), 6 * PAGE)


def test_agents_that_nobody_else_descends_from_count_once_each(host: Host) -> None:
    host.process(10, ticks=1, pages=1, unified="/")
    host.process(20, ticks=1, pages=1, unified="/")
    host.process(30, 10, ticks=1, pages=1, unified="/")
    host.process(31, 1, ticks=1, pages=1, unified="/")
    host.process(32, 31, ticks=1, pages=1, unified="/")
    assert host.read(BOX._replace(agents=(30, 31))) == Usage(ticks(20), 5 * PAGE)


def test_a_container_without_a_cgroup_and_a_worker_with_one(host: Host) -> None:
    host.process(10, unified=WORKERS)
    host.process(20, ticks=1, pages=1, unified="/")
    host.group(WORKERS, usec=1_000_000, memory=5)
    assert host.read() == Usage(1 + ticks(4), 5 + PAGE)


def test_a_cgroup_out_of_sight_is_none(host: Host) -> None:
    host.process(10, ticks=1, pages=2, unified=f"/../..{WORKERS}")
    assert host.read(BOX._replace(leader=0)) == Usage(ticks(4), 2 * PAGE)


@pytest.mark.parametrize("pid", [0, 77])
def test_where_there_is_nobody_nothing_is_known(host: Host, pid: int) -> None:
    assert host.read(BOX._replace(worker=pid, leader=pid)) == Usage(None, None)


# This host


def test_a_process_of_this_host_and_its_child() -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    wait = "print(flush=True); input()"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', '''{burn}'''])\n{wait}"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", parent], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        subject = Subject(name="here", id="here", unit="", worker=process.pid, leader=0)
        [usage] = Gauges().read([subject])
        process.communicate(b"\n")
    assert usage.cpu_sec is not None and 0.3 <= usage.cpu_sec < 10
    assert usage.memory is not None and 1 << 20 < usage.memory < 1 << 28
