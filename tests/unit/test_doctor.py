# SPDX-License-Identifier: Apache-2.0
"""`agentctl doctor`: what each check makes of what it sees, and that none of them can spoil the rest."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentd import __version__, config
from agentd.ctl import doctor
from agentd.ctl.doctor import bus_checks, findings
from agentd.ctl.doctor import local_checks as local
from agentd.ctl.doctor.bus_checks import UNITS, Unit
from agentd.ctl.doctor.findings import Finding, Health, aside, fine, looked, note, problem
from agentd.ctl.doctor.local_checks import Account, Place
from agentd.paths import Mode, Paths

from .loop import run

CHECKOUT = Path(__file__).parents[2]
ALICE = Account(1000, "alice", frozenset({"alice", "1000", "devs"}))


def paths(folder: Path, mode: Mode = Mode.EMBEDDED) -> Paths:
    return Paths(mode, str(folder), str(folder / "state"))


def problems(found: Iterable[Finding]) -> list[str]:
    return [each.what for each in found if each.state is Health.PROBLEM]


def states(found: Iterable[Finding]) -> list[str]:
    return [str(each.state) for each in found]


def parsed(folder: Path, text: str) -> config.Configuration:
    file = folder / "agentd.toml"
    file.write_text(text)
    return config.load([file]).configuration


# Checks cannot hang, nor fail

TOGETHER = """\
import asyncio, random, sys, threading, time
from agentd.ctl import doctor
from agentd.paths import Mode, Paths

def slowly(frame, event, argument):
    "msgspec looks at types in a module of Python's."
    if frame.f_code.co_filename.endswith("msgspec/_utils.py"):
        time.sleep(random.choice((0, 0.01)))

threading.settrace(slowly)
folder = sys.argv[1]
asyncio.run(doctor.examine(Paths(Mode.USER, folder, folder, config_bases=(f"{folder}/agentd.toml",))))
"""


def test_several_checks_may_be_the_first_to_read_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "agentd.toml").write_text('[agents.own]\ncommand = ["true"]\n[limits]\nclients = 3\n')
    done = subprocess.run([sys.executable, "-c", TOGETHER, tmp_path], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_check_that_fails_is_a_note() -> None:
    async def check() -> list[Finding]:
        raise RuntimeError("broken")

    assert run(looked("disk", check())) == [note("disk: cannot be found out: broken")]


def test_a_check_that_hangs_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "CHECK_SEC", 0.05)
    let_go = threading.Event()

    def check() -> list[Finding]:
        let_go.wait(10)
        return [fine("late")]

    [found] = run(looked("disk", aside(check)))
    let_go.set()
    assert found.state is Health.NOTE and "not found out within" in found.what


def test_what_blocks_keeps_nobody_waiting() -> None:
    seen: list[str] = []

    def slow() -> list[Finding]:
        for _ in range(1000):
            if seen:
                return [fine("slow")]
            threading.Event().wait(0.01)
        return []

    async def quick() -> list[Finding]:
        seen.append("quick")
        return []

    async def both() -> Any:
        return await asyncio.gather(looked("a", aside(slow)), looked("b", quick()))

    assert run(both()) == [[fine("slow")], []]


# Sockets


@pytest.fixture
def short(tmp_path: Path) -> Iterable[Path]:
    """A folder whose sockets' paths are short enough."""
    folder = Path(f"/tmp/agentd-doctor-{os.getpid()}")
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_no_front_door(tmp_path: Path) -> None:
    [found] = local.front_door(paths(tmp_path), running=True)
    assert found.state is Health.PROBLEM and found.advice == f"agentd serve --runtime-dir {tmp_path}"
    [found] = local.front_door(paths(tmp_path, Mode.USER), running=True)
    assert "agentd serve --user" in found.advice


def test_a_front_door_with_nobody_behind_it(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(short / "agentd.sock"))
        assert states(local.front_door(paths(short), running=False)) == ["ok"]
        assert "refused" in problems(local.front_door(paths(short), running=True))[0]
        sock.listen()
        assert states(local.front_door(paths(short), running=True)) == ["ok"]


def test_a_front_door_that_is_not_open_to_all(short: Path) -> None:
    door = short / "agentd.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(door))
        door.chmod(0o660)
        assert "mode 0660" in problems(local.front_door(paths(short, Mode.SYSTEM), running=False))[0]
        door.chmod(0o666)
        assert problems(local.front_door(paths(short, Mode.SYSTEM), running=False)) == []


def test_a_link_socket_that_is_open_to_others(short: Path) -> None:
    link = short / "link.sock"
    assert "workers cannot reach" in problems(local.link_socket(paths(short), running=True))[0]
    assert states(local.link_socket(paths(short), running=False)) == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(link))
        link.chmod(0o666)
        assert "mode 0666" in problems(local.link_socket(paths(short, Mode.SYSTEM), running=False))[0]


# Directories and disk


def test_directories_may_not_be_open_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert "mode 0777" in problems(local.directories(paths(tmp_path)))[0]
    tmp_path.chmod(0o700)
    assert states(local.directories(paths(tmp_path))) == ["ok"]


def test_what_everybody_has_to_get_at_may_not_be_closed(tmp_path: Path) -> None:
    owner = tmp_path.owner()
    tmp_path.chmod(0o750)
    assert local.amiss(Place(str(tmp_path), owner, 0o755)) == ""
    assert "mode 0750" in local.amiss(Place(str(tmp_path), owner, 0o755, public=True))
    assert "belongs to" in local.amiss(Place(str(tmp_path), "nobody", 0o755))
    assert "no directory" in local.amiss(Place(str(tmp_path / "x"), owner, 0o755))


def test_directories_are_those_that_are_installed() -> None:
    tmpfiles = (CHECKOUT / "packaging/agentd.tmpfiles").read_text()
    installed = set(re.findall(r"^d (\S+) (\d+) (\S+)", tmpfiles, re.M))
    expected = local.places(Paths(Mode.SYSTEM, "/run/agentd", "/var/lib/agentd"))
    assert {(each.path, f"{each.mode:04o}", each.owner) for each in expected} <= installed


@pytest.mark.parametrize(
    ("blocks", "files", "state", "words"),
    [
        (50, 50, "ok", "50%"),
        (4, 50, "problem", "only 4.0% of the disk"),
        (50, 1, "problem", "only 1.0% of the room for files"),
    ],
)
def test_a_disk_that_is_nearly_full(blocks: int, files: int, state: str, words: str) -> None:
    found = SimpleNamespace(f_bavail=blocks, f_blocks=100, f_favail=files, f_files=100)
    finding = local.free("/state", found)  # type: ignore[arg-type]
    assert (str(finding.state), words in finding.what) == (state, True)


def test_a_file_system_that_does_not_count() -> None:
    found = SimpleNamespace(f_bavail=0, f_blocks=0, f_favail=0, f_files=0)
    assert local.free("/state", found).state is Health.OK  # type: ignore[arg-type]


def test_a_state_directory_that_is_yet_to_be_made(tmp_path: Path) -> None:
    assert len([*local.disk(str(tmp_path / "a" / "b"))]) == 1


# Configuration


def test_a_wrong_configuration_says_where(tmp_path: Path) -> None:
    file = tmp_path / "agentd.toml"
    file.write_text("[limits]\nsesions = 3\n")
    found = local.configuration(paths(tmp_path), [str(file)], 0)
    assert found.state is Health.PROBLEM and f"{file}: limits.sesions" in found.what
    assert local.readable([str(file)]) is None


def test_a_configuration_that_is_newer_than_the_manager_knows(tmp_path: Path) -> None:
    file = tmp_path / "agentd.toml"
    file.touch()
    os.utime(file, (1000, 1000))
    assert local.configuration(paths(tmp_path), [str(file)], 1001 * 10**6).state is Health.OK
    found = local.configuration(paths(tmp_path), [str(file)], 999 * 10**6)
    assert (found.state, found.advice) == (Health.NOTE, "agentctl reload")


def test_a_configuration_that_is_not_for_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    (tmp_path / "agentd.toml").touch()
    found = local.configuration(paths(tmp_path), [str(tmp_path / "agentd.toml")], 0)
    assert found.state is Health.NOTE and "may not read" in found.what


# Engines and packages


def test_engines_that_nobody_needs_are_not_looked_for(tmp_path: Path) -> None:
    host = '[containers.here]\nruntime = "host"\ndirectory = "/"\n'
    assert local.needed_engines(parsed(tmp_path, host)) == []
    assert local.needed_engines(parsed(tmp_path, "")) == ["podman", "docker"]
    named = 'runtimes = []\n[containers.box]\nruntime = "machined"\n'
    assert local.needed_engines(parsed(tmp_path, named)) == ["machined"]


@pytest.mark.parametrize(
    ("followed", "installed", "expected"),
    [
        ({"podman": "", "docker": "gone"}, ["podman"], ["ok", "note"]),
        ({"podman": "it hangs"}, ["podman", "docker"], ["problem", "ok"]),
        ({}, ["docker", "podman"], ["ok", "ok"]),
        ({}, [], ["problem"]),
    ],
)
def test_engines(followed: dict[str, str], installed: list[str], expected: list[str]) -> None:
    assert states(local.engines(["podman", "docker"], followed, installed)) == expected


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        (Mode.SYSTEM, "systemctl restart agentd-watch"),
        (Mode.USER, "systemctl --user restart agentd-watch"),
        (Mode.EMBEDDED, "restart agentd"),
    ],
)
def test_an_engine_that_came_after_the_watcher_needs_another_one(mode: Mode, how: str) -> None:
    [found] = local.engines(["podman"], {"podman": "podman is not installed"}, ["podman"], mode)
    assert found.advice.endswith(f": {how}")


def test_a_package_that_is_missing_says_what_that_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(local.packages()) == ["ok"]
    monkeypatch.setitem(local.PACKAGES, "no_such_package", "it costs nothing")
    [found] = local.packages()
    assert found.what.endswith("no_such_package is not installed: it costs nothing")


@pytest.mark.parametrize("library", ["dbus_fast", "dbus_next"])
def test_a_library_that_is_there_and_not_used_says_what_that_costs(library: str) -> None:
    found = [*local.packages(library)]
    if library == "dbus_fast":
        assert states(found) == ["ok"]
    else:
        assert states(found) == ["note"]
        assert "dbus_fast is older than 5" in found[0].what and "slower" in found[0].what
        assert found[0].advice == "install dbus-fast 5 or later"


# The caller


@pytest.mark.parametrize(
    ("text", "who", "state", "words"),
    [
        ("", ALICE, "note", "alice may use no container"),
        ("", Account(0, "root", frozenset()), "ok", "every"),
        ("", Account(7, "bob", frozenset({"agentd"})), "ok", "every"),
        ('[access]\nusers = ["alice"]', ALICE, "ok", "every"),
        ('[access]\nusers = ["1000"]', ALICE, "ok", "every"),
        ('[containers.box]\ngroups = ["devs"]\n[containers.x]', ALICE, "ok", "alice may use box"),
    ],
)
def test_who_may_use_what(tmp_path: Path, text: str, who: Account, state: str, words: str) -> None:
    found = local.account(paths(tmp_path, Mode.SYSTEM), who, parsed(tmp_path, text))
    assert (str(found.state), words in found.what) == (state, True), found


def test_an_agentd_of_somebody_else(tmp_path: Path) -> None:
    found = local.account(paths(tmp_path), Account(os.geteuid() + 1, "x", frozenset()), None)
    assert found.state is Health.PROBLEM and tmp_path.owner() in found.what


def test_the_login_of_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LINGER", str(tmp_path))
    assert states(local.login(ALICE, podman=False)) == ["note"]
    (tmp_path / "alice").touch()
    assert states(local.login(ALICE, podman=False)) == ["ok"]


@pytest.mark.parametrize(
    ("ids", "state"), [("alice:1:2\n", "ok"), ("1000:1:2\n", "ok"), ("alicia:1:2\n", "note"), ("", "note")]
)
def test_ids_for_rootless_containers(tmp_path: Path, ids: str, state: str) -> None:
    (tmp_path / "subuid").write_text(ids)
    assert str(local.subordinate(ALICE, tmp_path / "subuid").state) == state
    assert local.subordinate(ALICE, tmp_path / "subuid", tmp_path / "none").state is Health.NOTE


# What the manager says


def manager(**properties: Any) -> list[Finding]:
    told = {"Version": __version__, "State": "running", "Mode": "system", **properties}
    return [*bus_checks.manager(told, "systemctl")]


def test_a_manager_of_another_version_or_in_another_state() -> None:
    assert states(manager()) == ["ok"]
    [older, _] = manager(Version="0.0.1")
    assert older.state is Health.NOTE and "0.0.1" in older.what and "restart agentd.service" in older.advice
    [draining] = manager(State="draining")
    assert draining.advice == "agentctl undrain"
    assert states(manager(State="stopping")) == ["note"]


def box(**more: Any) -> dict[str, Any]:
    plain = {"name": "box", "state": "serving", "last_error": "", "outdated": False}
    return {**plain, "worker_version": "0.1", "unit": "agentd@box.service", **more}


def test_containers_in_trouble() -> None:
    [found] = bus_checks.containers({"containers": [box(state="failed", last_error="no agent")]})
    assert found.state is Health.PROBLEM and "no agent" in found.what and "agentctl logs box" in found.advice
    [found] = bus_checks.containers({"containers": [box(outdated=True)]})
    assert found.state is Health.NOTE and "systemctl restart agentd@box" in found.advice
    assert states(bus_checks.containers({"containers": [box()]})) == ["ok"]


def test_a_watcher_that_is_not_there() -> None:
    away, here = ({"watcher": {"connected": connected}} for connected in (False, True))
    assert states(bus_checks.watcher(away, Mode.SYSTEM)) == ["problem"]
    assert states(bus_checks.watcher(here, Mode.SYSTEM)) == []


# The system bus, polkit and systemd


def test_what_the_bus_does_not_know() -> None:
    assert states(bus_checks.judge_activation(True, policy=True)) == ["ok"]
    assert "bus policy" in problems(bus_checks.judge_activation(True, policy=False))[0]
    assert "what to start" in problems(bus_checks.judge_activation(False, policy=True))[0]


def test_what_polkit_does_not_know() -> None:
    known = {*bus_checks.ACTIONS, "org.example.other"}
    assert states(bus_checks.judge_polkit(known, [False, True])) == ["ok"]
    assert states(bus_checks.judge_polkit(known, [None, False])) == ["note"]
    assert "agentd.rules" in problems(bus_checks.judge_polkit(known, [False]))[0]
    [missing] = problems(bus_checks.judge_polkit(known - {"org.agentd1.drain"}, [True]))
    assert "org.agentd1.drain" in missing


def test_actions_and_units_are_those_that_are_installed() -> None:
    policy = (CHECKOUT / "dbus/org.agentd1.policy").read_text()
    assert set(re.findall(r'<action id="([^"]+)"', policy)) == bus_checks.ACTIONS
    assert {*UNITS} <= {file.name for file in (CHECKOUT / "units").iterdir()}


FILES = dict.fromkeys(UNITS, "static") | {"agentd.service": "enabled"}
LOADED = {name: Unit("loaded", "active") for name in UNITS if "@" not in name}


def judged(files: dict[str, str], loaded: dict[str, Unit], mode: Mode = Mode.SYSTEM) -> list[Finding]:
    return [*bus_checks.judge_units({**FILES, **files}, {**LOADED, **loaded}, mode)]


@pytest.mark.parametrize(
    ("files", "loaded", "state", "words"),
    [
        ({}, {}, "ok", "installed, loaded and enabled"),
        ({"agentd.service": "disabled"}, {}, "note", "does not start with the system"),
        ({"agentd.slice": "masked"}, {}, "problem", "agentd.slice is masked"),
        ({}, {"agentd.socket": Unit("loaded", "inactive")}, "problem", "agentd.socket is inactive"),
        ({}, {"agentd-watch.service": Unit("loaded", "inactive")}, "problem", "agentd-watch.service"),
        ({}, {"agentd.service": Unit("loaded", "active", stale=True)}, "note", "changed on disk"),
        ({}, {"agentd.service": Unit("bad-setting", "inactive")}, "problem", "bad-setting"),
        ({}, {"agentd@box.service": Unit("loaded", "failed")}, "problem", "agentd@box.service has failed"),
    ],
)
def test_units(files: dict[str, str], loaded: dict[str, Unit], state: str, words: str) -> None:
    [found] = judged(files, loaded)
    assert (str(found.state), words in found.what) == (state, True), found
    assert bool(found.advice) == (state != "ok")


@pytest.mark.parametrize(("mode", "options"), [(Mode.SYSTEM, ""), (Mode.USER, "--user ")])
def test_a_unit_that_cannot_be_loaded_is_to_be_verified(mode: Mode, options: str) -> None:
    [found] = judged({}, {"agentd@box.service": Unit("bad-setting", "inactive")}, mode)
    assert found.advice == f"systemd-analyze {options}verify agentd@box.service"


def test_many_failed_units_are_not_all_named() -> None:
    failed = {f"agentd@{number}.service": Unit("loaded", "failed") for number in range(100)}
    found = judged({}, failed)
    assert len(found) == bus_checks.TOLD_MAX + 1 and "90 more" in found[-1].what


def test_units_that_are_not_installed() -> None:
    assert "agentd.slice" in problems(bus_checks.judge_units({}, {}, Mode.SYSTEM))[0]
    assert states(bus_checks.judge_units({}, {}, Mode.USER)) == ["note"]


def test_an_account_that_has_not_asked_for_its_agentd() -> None:
    disabled = dict.fromkeys(UNITS, "disabled")
    quiet = {name: Unit("loaded", "inactive") for name in LOADED}
    [found] = judged(disabled, quiet, Mode.USER)
    assert found == note(
        "agentd is no service of this account yet", "systemctl --user enable --now agentd.socket"
    )
    [found] = judged(disabled, {}, Mode.USER)
    assert found.advice == "systemctl --user enable agentd.socket" and "log in" in found.what
    assert states(judged({**disabled, "agentd.socket": "enabled"}, {}, Mode.USER)) == ["ok"]


# Telling

FOUND = {
    "bus": [fine("well")],
    "disk": [problem("full\nto the \x1b[2Jbrim", "make room"), note("so-so")],
}


def test_lines_have_a_mark_and_say_what_to_do() -> None:
    told = [*doctor.lines(Mode.SYSTEM, FOUND, 1)]
    assert [(span.start, span.end, span.style) for span in told[0].spans] == [(0, 1, "green")]
    shown = [line.plain for line in told]
    assert shown[:4] == ["✓ well", "✗ full", r"  to the \x1b[2Jbrim", "  → make room"]
    assert shown[4] == "! so-so" and shown[-1].startswith("1 problem ")


def test_json_has_stable_keys() -> None:
    told = json.loads(doctor.as_json(Mode.EMBEDDED, FOUND, 1))
    assert (told["place"], told["problems"]) == ("embedded", 1)
    assert told["findings"][0] == {"check": "bus", "state": "ok", "what": "well", "advice": ""}
