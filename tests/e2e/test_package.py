# SPDX-License-Identifier: Apache-2.0
"""The life of the Debian package: installed, tried, upgraded and removed in the middle of turns, purged."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.packages import build_docker

from . import package
from .machine import Machine
from .test_agentd import Host
from .test_durable import Box, prepare, start_box

HIGHER = "99.0"
SOURCE = Path(__file__).parents[2]
LISTED = Path(__file__).parent / "listed.py"

LEFT = {
    "/etc/passwd": "accounts stay, so that nobody else is ever given their numbers",
    "/etc/passwd-": "as before the account",
    "/etc/shadow": "an account",
    "/etc/shadow-": "as before the account",
    "/etc/group": "its group",
    "/etc/group-": "as before the group",
    "/etc/gshadow": "its group",
    "/etc/gshadow-": "as before the group",
    "/var/lib/dpkg": "what dpkg has done",
    "/var/lib/apt": "what apt has done",
    "/var/log": "logs",
    "/var/lib/systemd/timers": "when the system's own timers have run",
    "/var/lib/containers": "podman's",
}
"""What may be another than before, and why: a file, or all in a folder."""


@pytest.fixture
def bare(packaged: str) -> Iterator[Machine]:
    """A Debian on which agentd never was."""
    with Machine(packaged) as machine:
        yield machine


@pytest.fixture
def box(bare: Machine) -> Box:
    """A container that the package serves."""
    package.install(bare)
    return start_box(prepare(bare), "box")


def test_the_package_passes_its_own_smoke_test(bare: Machine) -> None:
    """As autopkgtest runs it, which has debian/ in the source."""
    package.install(bare)
    for folder in ("tests/agents", "packaging/deb"):
        bare.copy(SOURCE / folder, f"/opt/source/{folder.replace('packaging/deb', 'debian')}")
    control = bare.read("/opt/source/debian/tests/control")
    [name] = [line.removeprefix("Tests: ") for line in control.splitlines() if line.startswith("Tests: ")]
    said = bare.run("sh", "-c", f"cd /opt/source && debian/tests/{name}", timeout=120).stdout
    assert said.splitlines()[-1] == "== all is well"
    warnings = bare.journal("--priority=warning", "--unit=agentd*")
    assert [entry["MESSAGE"] for entry in warnings] == [], "nothing went wrong that was not seen"


def test_an_upgrade_leaves_a_turn_alone(box: Box) -> None:
    host, editor = box.host, box.attached()
    host.run("systemctl", "enable", "--now", "agentd-metrics.socket")
    stays = {box.unit: "MainPID"} | dict.fromkeys(
        ("agentd.socket", "agentd-link.socket", "agentd-metrics.socket"), "ActiveEnterTimestampMonotonic"
    )
    changes = dict.fromkeys(("agentd.service", "agentd-watch.service"), "MainPID")
    seen = lambda units: {unit: host.show(unit, name) for unit, name in units.items()}  # noqa: E731
    same, other = seen(stays), seen(changes)
    with editor.dialogue:
        turn = editor.hold()
        package.install(host.machine, HIGHER)
        assert host.run("agentctl", "--version").stdout.split()[-1] == HIGHER
        assert seen(stays) == same
        assert all(pid not in ("0", other[unit]) for unit, pid in seen(changes).items())
        editor.release()
        answer, texts = editor.answer(turn)
        assert (answer["result"]["stopReason"], texts) == ("end_turn", ["two"])
        assert editor.turn("say three") == ["three"]
        [told] = json.loads(host.run("agentctl", "status", "--json").stdout)["containers"]
        assert told["outdated"] and "systemctl restart agentd@box" in host.run("agentctl", "status").stdout
        host.run("systemctl", "restart", box.unit)
        assert editor.turn("say four") == ["four"], "the session goes on with the new code"
    [told] = json.loads(host.run("agentctl", "status", "--json").stdout)["containers"]
    assert not told["outdated"] and box.show("MainPID") != same[box.unit]


def test_an_engine_that_is_installed_later_is_followed(bare: Machine, tmp_path: Path) -> None:
    build_docker(tmp_path / "docker.deb")
    bare.copy(tmp_path, "/opt")
    package.install(bare)
    host = Host(bare)
    bare.wait_for(
        lambda: "not installed" in host.engines().get("docker", ""), 20, "the watcher to miss docker"
    )
    package.apt(bare, "install", "/opt/docker.deb")
    bare.wait_for(lambda: "no daemon" in host.engines().get("docker", ""), 20, "the watcher to ask docker")


def test_a_removal_lets_turns_end_and_a_purge_leaves_nothing(bare: Machine) -> None:
    before = listed(bare)
    package.install(bare)
    box = start_box(prepare(bare), "box")
    bare.write("/etc/agentd/prompts/nightly.toml", 'container = "box"\ntext = "say good night"\n')
    bare.run("systemctl", "enable", "--now", "agentd-prompt@nightly.timer", "agentd-metrics.socket")
    bare.run("systemctl", "enable", box.unit)
    editor = box.attached()
    with editor.dialogue:
        session, turn = editor.session, editor.prompt("say one", "tally T 0 40 50", "say two")
        editor.until_text("one")
        package.apt(bare, "remove", "agentd")
        answer, texts = editor.answer(turn)
        assert (answer["result"]["stopReason"], texts[-1]) == ("end_turn", "two")
    assert bare.run("systemctl", "list-units", "--no-legend", "agentd*").stdout == ""
    assert bare.run("pgrep", "--full", "agentd|scripted", check=False).stdout == ""
    assert bare.run("systemctl", "is-system-running").stdout == "running\n"

    package.install(bare)
    bare.wait_for(lambda: box.host.listed().get("box"), 20, "the watcher to tell of box")
    assert [each["id"] for each in box.sessions()] == [session], "what a removal has kept"

    package.apt(bare, "purge", "agentd", "agentctl")
    for theirs in ("/etc/agentd/agentd.toml", "/etc/agentd/prompts/nightly.toml"):
        bare.run("rm", "-f", theirs)  # an administrator's own stays
    bare.run("rmdir", "/etc/agentd/prompts", "/etc/agentd")
    bare.run("podman", "rm", "--force", "--time=0", "box")
    bare.run("rm", "-rf", "/srv/agents", "/srv/memory", "/opt")
    changed = {name for name, _ in listed(bare) ^ before}
    assert {name for name in changed if not kept(name)} == set()
    assert bare.run("systemctl", "list-unit-files", "--no-legend", "agentd*", check=False).stdout == ""
    assert "agentd" not in bare.run("journalctl", "--list-catalog").stdout
    assert bare.run("getent", "passwd", "agentd").stdout.startswith("agentd:")


def listed(machine: Machine) -> set[tuple[str, str]]:
    """All there is in the machine's own file system, each with what it is."""
    lines = machine.run("python3", "-c", LISTED.read_text(), timeout=120).stdout.splitlines()
    return {tuple(json.loads(line)) for line in lines}


def kept(name: str) -> bool:
    return any(name == each or name.startswith(f"{each}/") for each in LEFT)
