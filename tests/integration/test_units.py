# SPDX-License-Identifier: Apache-2.0
"""Unit jobs, against a systemd of ours on a private bus; the end-to-end ring has the real one. And what this
host's systemd-analyze says of the units.
"""

import asyncio
import os
import re
import shutil
import signal as signals
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentd.errors import AccessDenied, NotRunning, WorkerFailed
from agentd.interface import BusError, Interface, method, prop, signal
from agentd.paths import Mode
from agentd.systemd import units as module
from agentd.systemd.units import POLKIT_NAME, POLKIT_PATH, UnitJobs

BOX = "agentd@box.service"
UNIT_PATH = "/org/freedesktop/systemd1/unit/box"
PREFIX = "org.freedesktop.systemd1."


class Systemd(Interface, name="org.freedesktop.systemd1.Manager"):
    """Ends every job at once, before it tells its path; `refusal` is raised instead."""

    def __init__(self) -> None:
        super().__init__()
        self.result = "done"
        self.refusal: Exception | None = None
        self.called: list[tuple[str, ...]] = []
        self.finishes = True
        self.takes_orders = asyncio.Event()
        self.takes_orders.set()
        self._subscribed = False

    @method()
    async def subscribe(self) -> None:
        self.called.append(("Subscribe",))
        if self._subscribed:
            raise BusError(PREFIX + "AlreadySubscribed", "Client is already subscribed.")
        self._subscribed = True

    @method("ss", "o")
    async def start_unit(self, name: str, mode: str) -> str:
        return await self._job("StartUnit", name, mode)

    @method("ss", "o")
    async def stop_unit(self, name: str, mode: str) -> str:
        return await self._job("StopUnit", name, mode)

    @signal("uoss")
    def job_removed(self, id: int, job: str, unit: str, result: str) -> None: ...

    async def _job(self, *call: str) -> str:
        self.called.append(call)
        await self.takes_orders.wait()
        if self.refusal:
            raise self.refusal
        if self.finishes:
            self.job_removed(6, "/org/freedesktop/systemd1/job/6", "other.service", "failed")
            self.job_removed(7, "/org/freedesktop/systemd1/job/7", call[1], self.result)
        return "/org/freedesktop/systemd1/job/7"

    @method("u", "o", name="GetUnitByPID")
    async def get_unit_by_pid(self, pid: int) -> str:
        self.called.append(("GetUnitByPID",))
        if self.refusal:
            raise self.refusal
        return UNIT_PATH


class NewSystemd(Systemd, name="org.freedesktop.systemd1.Manager"):
    """253 and later."""

    @method("h", "osay", name="GetUnitByPIDFD")
    async def get_unit_by_pidfd(self, pidfd: int) -> tuple[str, str, bytes]:
        self.called.append(("GetUnitByPIDFD", pid_of(pidfd)))
        if self.refusal:
            raise self.refusal
        return UNIT_PATH, BOX, b"\0" * 16


class Peer(Interface, name="org.freedesktop.DBus.Peer"):
    """Of polkit, of which nobody here wants to know more than whether it is there."""

    @method()
    async def ping(self) -> None:
        pass


class Unit(Interface, name="org.freedesktop.systemd1.Unit"):
    @prop("s")
    def id(self) -> str:
        return BOX


class Service(Interface, name="org.freedesktop.systemd1.Service"):
    pid = os.getpid()

    @prop("u", name="MainPID")
    def main_pid(self) -> int:
        return self.pid


def pid_of(pidfd: int) -> str:
    with open(f"/proc/self/fdinfo/{pidfd}") as info:
        return next(line.split()[1] for line in info if line.startswith("Pid:"))


@pytest.fixture
def systemd() -> Systemd:
    return NewSystemd()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def jobs(peers: Any, systemd: Systemd, service: Service, bus: ModuleType) -> Callable[..., Any]:
    @asynccontextmanager
    async def jobs(mode: Mode = Mode.SYSTEM, *, polkit: bool = True) -> AsyncIterator[UnitJobs]:
        async with peers.connected(2) as (manager, ours):
            manager.export("/org/freedesktop/systemd1", systemd)
            manager.export(UNIT_PATH, Unit())
            manager.export(UNIT_PATH, service)
            await manager.request_name("org.freedesktop.systemd1")
            if polkit:
                manager.export(POLKIT_PATH, Peer())
                await manager.request_name(POLKIT_NAME)
            yield UnitJobs(ours, mode)

    return jobs


# Jobs


async def test_a_unit_is_started_and_stopped(jobs: Any, systemd: Systemd) -> None:
    async with jobs() as units:
        await units.start(BOX, 5)
        await units.stop(BOX, 5)
    jobs_asked = [("StartUnit", BOX, "replace"), ("StopUnit", BOX, "replace")]
    assert systemd.called == [("Subscribe",), *jobs_asked]


async def test_a_job_that_ends_later_is_waited_for(jobs: Any, systemd: Systemd) -> None:
    systemd.finishes = False
    async with jobs() as units:
        start = asyncio.create_task(units.start(BOX, 5))
        while len(systemd.called) < 2:
            await asyncio.sleep(0)
        systemd.job_removed(7, "/org/freedesktop/systemd1/job/7", BOX, "done")
        await start


async def test_an_order_may_take_longer_than_a_question(
    jobs: Any, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd has polkit started first, and that may be slow."""
    systemd.takes_orders.clear()
    async with jobs() as units:
        await units._subscribe()
        monkeypatch.setattr(module, "CALL_TIMEOUT", 0.01)
        start = asyncio.create_task(units.start(BOX, 20))
        await asyncio.sleep(0.1)
        systemd.takes_orders.set()
        await start


async def test_an_order_that_systemd_never_takes_has_a_deadline(
    jobs: Any, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ORDER_TIMEOUT", 0.05)
    systemd.takes_orders.clear()
    async with jobs() as units:
        with pytest.raises(WorkerFailed, match=r"did not answer StartUnit in 0\.05 s"):
            await units.start(BOX, 20)


async def test_who_is_subscribed_already_may_go_on(jobs: Any, systemd: Systemd) -> None:
    async with jobs() as units:
        await UnitJobs(units.bus).start(BOX, 5)
        await units.start(BOX, 5)
    assert systemd.called.count(("Subscribe",)) == 2


@pytest.mark.parametrize(
    ("mode", "result", "words"),
    [
        (Mode.SYSTEM, "failed", f"it failed; see: journalctl -u {BOX}$"),
        (Mode.USER, "failed", f"it failed; see: journalctl --user -u {BOX}$"),
        (Mode.SYSTEM, "dependency", "needs"),
        (Mode.SYSTEM, "assert", "assert"),
    ],
)
async def test_a_job_that_fails_says_where_to_look(
    jobs: Any, systemd: Systemd, mode: Mode, result: str, words: str
) -> None:
    systemd.result = result
    async with jobs(mode) as units:
        with pytest.raises(WorkerFailed, match=rf"^{BOX} did not start: .*{words}"):
            await units.start(BOX, 5)


async def test_a_job_has_a_deadline(jobs: Any, systemd: Systemd) -> None:
    systemd.finishes = False
    async with jobs() as units:
        with pytest.raises(WorkerFailed, match=r"did not stop within 0.05 s; see: journalctl"):
            await units.stop(BOX, 0.05)


DENIED = AccessDenied("Permission denied")
INTERACTIVE = BusError("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", "x")
NOT_FOUND = BusError(PREFIX + "NoSuchUnit", "Unit agentd@box.service not found.")
MASKED = BusError(PREFIX + "UnitMasked", "Unit agentd@box.service is masked.")
POLKIT_MASKED = BusError(PREFIX + "UnitMasked", "Unit polkit.service is masked.")


@pytest.mark.parametrize(
    ("mode", "refusal", "words"),
    [
        (
            Mode.SYSTEM,
            DENIED,
            f"^polkit .* agentd.rules, .*doctor; .* root: systemctl start {BOX}$",
        ),
        (Mode.SYSTEM, INTERACTIVE, f"^polkit .*: systemctl start {BOX}$"),
        (
            Mode.USER,
            DENIED,
            f"^systemd .*: Permission denied; by hand: systemctl --user start {BOX}$",
        ),
        (Mode.SYSTEM, NOT_FOUND, "install agentd@.service, then run systemctl daemon-reload"),
        (Mode.USER, NOT_FOUND, "install agentd@.service, then run systemctl --user daemon-reload"),
        (Mode.SYSTEM, MASKED, f"^systemd could not start {BOX}: .* is masked"),
    ],
)
async def test_a_refusal_says_what_to_do(
    jobs: Any, systemd: Systemd, mode: Mode, refusal: Exception, words: str
) -> None:
    systemd.refusal = refusal
    async with jobs(mode) as units:
        with pytest.raises(WorkerFailed, match=words):
            await units.start(BOX, 5)


@pytest.mark.parametrize("refusal", [DENIED, POLKIT_MASKED])
async def test_that_polkit_is_not_there_is_said_whatever_systemd_says(
    jobs: Any, systemd: Systemd, refusal: Exception
) -> None:
    systemd.refusal = refusal
    async with jobs(polkit=False) as units:
        for act, verb in ((units.start, "start"), (units.stop, "stop")):
            with pytest.raises(WorkerFailed, match=r"^systemd asks polkit .* does not answer \(") as failed:
                await act(BOX, 5)
            assert POLKIT_NAME in failed.value.message  # why it does not
            assert "apt install polkitd" in failed.value.message and "dnf install" in failed.value.message
            assert failed.value.message.endswith(f"as root: systemctl {verb} {BOX}")


async def test_nobody_asks_polkit_about_the_units_of_an_account(jobs: Any, systemd: Systemd) -> None:
    systemd.refusal = MASKED
    async with jobs(Mode.USER, polkit=False) as units:
        with pytest.raises(WorkerFailed, match=f"^systemd could not start {BOX}: .* is masked"):
            await units.start(BOX, 5)


async def test_what_is_not_there_has_stopped(jobs: Any, systemd: Systemd) -> None:
    systemd.refusal = BusError(PREFIX + "NoSuchUnit", "Unit agentd@box.service not loaded.")
    async with jobs() as units:
        await units.stop(BOX, 5)
    assert systemd.called[-1] == ("StopUnit", BOX, "replace")


async def test_a_lost_bus_ends_the_wait(jobs: Any, systemd: Systemd, daemon: Any) -> None:
    systemd.finishes = False
    async with jobs() as units:
        start = asyncio.create_task(units.start(BOX, 25))
        while len(systemd.called) < 2:
            await asyncio.sleep(0)
        daemon.kill()
        with pytest.raises(WorkerFailed, match="the connection to the D-Bus is lost"):
            await start


async def test_systemd_is_not_there(peers: Any) -> None:
    async with peers.connected(1) as (ours,):
        with pytest.raises(WorkerFailed, match=f"could not start {BOX}: .*org.freedesktop.systemd1"):
            await UnitJobs(ours, Mode.USER).start(BOX, 5)


# Processes


async def test_the_unit_of_a_process(jobs: Any, systemd: Systemd) -> None:
    pidfd = os.pidfd_open(os.getpid())
    async with jobs() as units:
        assert await units.unit_of(os.getpid(), pidfd) == BOX
    assert systemd.called == [("GetUnitByPIDFD", str(os.getpid()))]
    os.close(pidfd)


async def test_without_a_pidfd_the_pid_has_to_do(jobs: Any, systemd: Systemd) -> None:
    async with jobs() as units:
        assert await units.unit_of(os.getpid()) == BOX
    assert systemd.called == [("GetUnitByPID",)]


async def test_who_is_not_the_main_process_of_a_unit_is_nobody(jobs: Any, service: Service) -> None:
    service.pid = 1
    pidfd = os.pidfd_open(os.getpid())
    async with jobs() as units:
        assert await units.unit_of(os.getpid(), pidfd) == await units.unit_of(os.getpid()) == ""
    os.close(pidfd)


async def test_a_process_of_no_unit(jobs: Any, systemd: Systemd) -> None:
    systemd.refusal = BusError(PREFIX + "NoUnitForPID", "PID 1 does not belong to any loaded unit.")
    pidfd = os.pidfd_open(os.getpid())
    async with jobs() as units:
        assert await units.unit_of(os.getpid(), pidfd) == await units.unit_of(os.getpid()) == ""
    os.close(pidfd)


async def test_a_process_that_has_ended_is_no_stranger(jobs: Any, systemd: Systemd) -> None:
    """What systemd says of it depends on how far its end has come."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(process.pid)
    process.wait()
    said = (
        BusError("System.Error.ESRCH", "Failed to get PID from PIDFD: No such process"),
        BusError(PREFIX + "NoUnitForPID", "PID does not belong to any loaded unit."),
    )
    async with jobs() as units:
        for systemd.refusal in said:
            for known in (pidfd, None):
                with pytest.raises(NotRunning, match=f"process {process.pid} has ended"):
                    await units.unit_of(process.pid, known)
    os.close(pidfd)


class TestOldSystemd:
    """Before 253."""

    @pytest.fixture
    def systemd(self) -> Systemd:
        return Systemd()

    async def test_it_is_asked_for_the_pid(self, jobs: Any, systemd: Systemd) -> None:
        pidfd = os.pidfd_open(os.getpid())
        async with jobs() as units:
            assert await units.unit_of(os.getpid(), pidfd) == BOX
        assert systemd.called == [("GetUnitByPID",)]
        os.close(pidfd)

    async def test_it_may_have_answered_for_another_process(self, jobs: Any, service: Service) -> None:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        service.pid = process.pid
        pidfd = os.pidfd_open(process.pid)
        signals.pidfd_send_signal(pidfd, signals.SIGKILL)
        process.communicate()
        async with jobs() as units:
            with pytest.raises(NotRunning, match=f"process {process.pid} has ended"):
                await units.unit_of(process.pid, pidfd)
        os.close(pidfd)


# The files


UNITS = Path(__file__).parents[2] / "units"


def verified(folder: Path, manager: str) -> subprocess.CompletedProcess[str]:
    """What systemd-analyze makes of the units of a folder, for the system's manager or a user's."""
    environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(folder)}
    files = [str(file) for file in sorted(folder.glob("agentd*"))]
    command = ["systemd-analyze", manager, "verify", "--man=no", *files]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize(("folder", "manager"), [(UNITS, "--system"), (UNITS / "user", "--user")])
def test_units_verify_without_a_word(tmp_path: Path, folder: Path, manager: str) -> None:
    for file in folder.glob("agentd*"):  # programs that any host has: agentd is not installed
        text = re.sub(r"^(Exec\w+=)\S+", r"\1/bin/true", file.read_text(), flags=re.M)
        (tmp_path / file.name).write_text(text)
    done = verified(tmp_path, manager)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (tmp_path / "agentd.service").write_text("[Service]\nExecStart=/bin/true\nNoSuchSetting=yes\n")
    assert "NoSuchSetting" in verified(tmp_path, manager).stderr


def test_a_user_has_the_units_that_the_system_has() -> None:
    """Workers and the watcher are told by their units' names, whichever systemd runs them."""
    theirs = {file.name for file in (UNITS / "user").iterdir()}
    of_the_system = {file.name for file in UNITS.iterdir() if file.is_file()}
    assert of_the_system - theirs == {"agentd-metrics.socket", "agentd-metrics@.service"}
    assert theirs <= of_the_system
