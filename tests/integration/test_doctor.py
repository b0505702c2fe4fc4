# SPDX-License-Identifier: Apache-2.0
"""`agentctl doctor`, with agentds in several states, and against a bus, polkit and systemd of ours."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentd.ctl.doctor import bus_checks
from agentd.ctl.doctor.bus_checks import ACTIONS, UNITS
from agentd.ctl.doctor.findings import Finding
from agentd.interface import Interface, method, prop
from agentd.paths import Mode
from support.embedded import Embedded, Start, eventually


def examined(agentd: Embedded) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """The exit status, and the findings of each check, without the notes about packages."""
    done = agentd.agentctl("doctor", "--json")
    assert done.stderr == ""
    told = json.loads(done.stdout)
    found: dict[str, list[dict[str, str]]] = {}
    for each in told["findings"]:
        found.setdefault(each["check"], []).append(each)
    assert told["problems"] == sum(each["state"] == "problem" for each in told["findings"])
    return done.returncode, found


@pytest.fixture
def agentd(start: Start) -> Embedded:
    agentd = start(bus="private")
    eventually(lambda: agentd.status()["watcher"]["connected"], "the watcher is there")
    return agentd


def test_an_agentd_that_is_well(agentd: Embedded) -> None:
    status, found = examined(agentd)
    assert all(each["state"] == "ok" for one in found.values() for each in one), found
    done = agentd.agentctl("doctor")
    assert status == done.returncode == 0
    assert done.stdout.endswith("no problem found with the agentd of that directory\n")
    assert "✓ the manager, agentd" in done.stdout and "\x1b" not in done.stdout


def test_no_agentd_at_all(agentd: Embedded) -> None:
    agentd.stop()
    status, found = examined(agentd)
    assert (status, found["bus"][0]["state"]) == (1, "problem")
    assert found["bus"][0]["advice"] == f"agentd serve --runtime-dir {agentd.runtime_dir}"


def test_a_manager_that_hangs(agentd: Embedded) -> None:
    assert agentd.process
    agentd.process.send_signal(signal.SIGSTOP)
    try:
        status, found = examined(agentd)
    finally:
        agentd.process.send_signal(signal.SIGCONT)
    assert (status, found["manager"][0]["state"]) == (1, "problem")
    assert "does not answer" in found["manager"][0]["what"]


def test_a_configuration_that_went_wrong_meanwhile(agentd: Embedded) -> None:
    agentd.config.write_text("[limits]\nsesions = 1\n")
    status, found = examined(agentd)
    assert (status, found["configuration"][0]["state"]) == (1, "problem")
    assert "did you mean `sessions`" in found["configuration"][0]["what"]


def test_a_configuration_that_was_not_read_yet(agentd: Embedded) -> None:
    agentd.config.write_text(agentd.config.read_text() + "\n")
    status, found = examined(agentd)
    assert status == 0 and found["configuration"][0]["advice"] == "agentctl reload"


def test_a_drain_of_everything_is_no_problem_but_worth_a_note(agentd: Embedded) -> None:
    assert agentd.agentctl("drain", "--wait").returncode == 0
    status, found = examined(agentd)
    assert (status, found["manager"][0]["advice"]) == (0, "agentctl undrain")


def test_a_directory_that_others_may_write_to(agentd: Embedded) -> None:
    agentd.runtime_dir.chmod(0o777)
    status, found = examined(agentd)
    assert (status, found["directories"][0]["state"]) == (1, "problem")


def test_a_host_without_anything(tmp_path: Path) -> None:
    """No bus, no sockets, no login: it says so, and does not fail."""
    environment = {"PATH": os.defpath, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/none"}
    for mode, words in (("--system", "cannot connect"), ("--user", "XDG_RUNTIME_DIR")):
        command = [sys.executable, "-m", "agentd.ctl", mode, "doctor", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (1, "")
        found = json.loads(done.stdout)["findings"][0]
        assert found["state"] == "problem" and words in found["what"]


# The bus, polkit and systemd


class Polkit(Interface, name="org.freedesktop.PolicyKit1.Authority"):
    @method("s", "a(ssssssuuua{ss})")
    async def enumerate_actions(self, locale: str) -> list[Any]:
        return [(name, *[""] * 5, 0, 0, 0, {"k": "v"}) for name in (*ACTIONS, "org.example.more")]


class Systemd(Interface, name="org.freedesktop.systemd1.Manager"):
    @method("asas", "a(ss)")
    async def list_unit_files_by_patterns(self, states: list[str], patterns: list[str]) -> list[Any]:
        assert patterns == ["agentd*"]
        return [(f"/usr/lib/systemd/system/{name}", "enabled") for name in UNITS]

    @method("asas", "a(ssssssouso)")
    async def list_units_by_patterns(self, states: list[str], patterns: list[str]) -> list[Any]:
        names = [name for name in UNITS if "@" not in name]
        return [(name, "", "loaded", "active", "running", "", "/unit", 0, "", "/") for name in names]


class Unit(Interface, name="org.freedesktop.systemd1.Unit"):
    @prop("b")
    def need_daemon_reload(self) -> bool:
        return True


async def findings(peers: Any, check: Any, exports: dict[str, Interface], name: str) -> list[Finding]:
    async with peers.connected(2) as (there, here):
        for path, interface in exports.items():
            there.export(path, interface)
        if exports:
            await there.request_name(name)
        return [*await check(here)]


async def test_units_that_have_changed_on_disk(peers: Any) -> None:
    exports = {bus_checks.SYSTEMD_PATH: Systemd(), "/unit": Unit()}
    [found] = await findings(
        peers, lambda bus: bus_checks.units(bus, Mode.USER), exports, bus_checks.SYSTEMD
    )
    assert found.advice == "systemctl --user daemon-reload" and "agentd.slice" in found.what


async def test_no_systemd(peers: Any) -> None:
    [found] = await findings(peers, lambda bus: bus_checks.units(bus, Mode.SYSTEM), {}, "")
    assert found.state == "note" and "systemd does not answer" in found.what


async def test_polkit_that_knows_its_actions(
    peers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bus_checks, "SHARES", (str(tmp_path),))
    rule = tmp_path / bus_checks.RULES
    exports = {bus_checks.POLKIT_PATH: Polkit()}
    [found] = await findings(peers, bus_checks.polkit, exports, bus_checks.POLKIT)
    assert found.state == "problem" and "rule" in found.what
    rule.parent.mkdir(parents=True)
    rule.touch()
    [found] = await findings(peers, bus_checks.polkit, {bus_checks.POLKIT_PATH: Polkit()}, bus_checks.POLKIT)
    assert found.state == "ok"


async def test_no_polkit(peers: Any) -> None:
    [found] = await findings(peers, bus_checks.polkit, {}, "")
    assert found.state == "problem" and "polkit does not answer" in found.what


async def test_a_bus_that_has_never_heard_of_agentd(peers: Any) -> None:
    found = await findings(peers, bus_checks.activation, {}, "")
    assert found[-1].state == "problem" and "what to start" in found[-1].what
    async with peers.connected(1) as (here,):
        assert await bus_checks.is_running(here) is False
