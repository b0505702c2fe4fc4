# SPDX-License-Identifier: Apache-2.0
"""agentctl before managers that are slow, silent, or interrupted."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.ctl import control, start
from agentd.errors import InProgress, ManagerUnreachable
from support.private_bus import Daemon
from unit.loop import run

SILENT = """
import asyncio, sys
from agentd.bus import Bus, Interface, method, prop

class Silent(Interface, name="org.freedesktop.DBus.Peer"):
    @method()
    async def ping(self): await asyncio.sleep(60)

class Systemd(Interface, name="org.freedesktop.systemd1.Manager"):
    @method("s", "o")
    async def get_unit(self, name): return "/unit"

class Unit(Interface, name="org.freedesktop.systemd1.Unit"):
    @prop("s")
    def active_state(self): return sys.argv[2]

async def main():
    async with await Bus.connect(sys.argv[1]) as bus:
        bus.export("/org/agentd1", Silent())
        await bus.request_name("org.agentd1")
        if sys.argv[2]:
            bus.export("/org/freedesktop/systemd1", Systemd())
            bus.export("/unit", Unit())
            await bus.request_name("org.freedesktop.systemd1")
        print("ready", flush=True)
        await bus.wait_closed()

asyncio.run(main())
"""
"""Has the manager's name and answers nothing; and may be systemd, by which its unit is in such a state."""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.kill()


def refusal(daemon: Daemon, state: str, **where: Any) -> str:
    """What is said where the manager does not answer."""
    options = argparse.Namespace(**{"runtime_dir": None, "system": False, "user": False, **where})
    command = [sys.executable, "-c", SILENT, daemon.address, state]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as silent:
        assert silent.stdout and silent.stdout.readline() == b"ready\n"
        try:
            with pytest.raises(ManagerUnreachable) as refused:
                control.run(options, control.Control.status)
        finally:
            silent.kill()
    return refused.value.message


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("activating", "agentd.service is still starting, or fails each time it does"),
        ("active", "agentd.service runs, but hangs"),
        ("failed", "agentd.service is failed"),
        ("", "agentd.service is not there, or cannot start"),
    ],
)
def test_a_manager_that_is_silent_is_told_of_with_what_systemd_knows(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, state: str, said: str
) -> None:
    monkeypatch.setattr(control, "FIRST_SEC", 0.2)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", daemon.address)
    silent = "agentd has not answered for 0.2 s: "
    assert refusal(daemon, state, system=True) == f"{silent}{said}; see: systemctl status agentd.service"


def test_that_of_an_account_has_its_own_systemd(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(control, "FIRST_SEC", 0.2)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", daemon.address)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert refusal(daemon, "active", user=True).endswith("see: systemctl --user status agentd.service")


def test_one_that_was_started_by_hand_has_no_unit(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(control, "FIRST_SEC", 0.2)
    assert "it hangs" in refusal(daemon, "", runtime_dir=str(tmp_path))


# start and stop


class Slow:
    """A manager that needs some calls until it has done what was ordered."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.heard: list[tuple[str, str]] = []

    async def manager(self, member: str, signature: str, name: str) -> list[Any]:
        self.heard.append((member, name))
        if len(self.heard) < self.calls:
            raise InProgress("it goes on")
        return []

    async def container(self, name: str) -> str:
        return f"/{name}"

    async def property(self, path: str, interface: str, name: str) -> str:
        return f"{name} of {path}"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    slow = Slow(calls=3)
    monkeypatch.setattr(start, "PAUSE_SEC", 0.0)
    monkeypatch.setattr(start, "with_manager", lambda options, work: run(work(slow)))
    return slow


def test_what_goes_on_is_asked_for_until_it_is_done(slow: Slow, capfd: pytest.CaptureFixture[str]) -> None:
    assert start.run(argparse.Namespace(container="box", json=True)) == 0
    assert slow.heard == [("StartContainer", "box")] * 3
    assert json.loads(capfd.readouterr().out) == {"container": "box", "state": "State of /box"}


def test_it_is_asked_for_only_so_long(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "MOST_SEC", -1.0)
    with pytest.raises(InProgress):
        start.run(argparse.Namespace(container="box", json=False))
    assert len(slow.heard) == 1
