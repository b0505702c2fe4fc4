# SPDX-License-Identifier: Apache-2.0
"""agentd as an account's own service: systemctl --user, the session bus, rootless containers."""

import json
from collections.abc import Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest

from .machine import Machine
from .test_agentd import AGENTS, Editor

CONFIGURATION = """\
default_agent = "scripted"
[agents.scripted]
command = ["python3", "/srv/agents/scripted.py"]
[containers.here]
runtime = "host"
directory = "{home}"
"""
PROMPT = 'container = "here"\ntext = "say on-time"\n'

CONNECT = """\
import socket, sys
socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(sys.argv[1])
"""


class Account:
    """Somebody with an agentd of their own, and a container called here, which is their home."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        machine.add_user(name)
        self.uid = machine.run("id", "--user", name).stdout.strip()
        self.home, self.runtime = f"/home/{name}", f"/run/user/{self.uid}"
        self.write(".config/agentd/agentd.toml", CONFIGURATION.format(home=self.home))
        self.systemctl("enable", "--now", "agentd.socket")

    def run(self, *argv: str, **options: Any) -> CompletedProcess[str]:
        return self.machine.run(*argv, user=self.name, **options)

    def write(self, path: str, text: str) -> None:
        place = f"{self.home}/{path}"
        self.run("mkdir", "--parents", place.rpartition("/")[0])
        self.run("dd", "status=none", f"of={place}", input=text)

    def systemctl(self, *argv: str) -> str:
        return self.run("systemctl", "--user", *argv).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def agentctl(self, *argv: str, **options: Any) -> CompletedProcess[str]:
        return self.run("agentctl", "--user", *argv, **options)

    def json(self, *argv: str, **options: Any) -> Any:
        return json.loads(self.agentctl(*argv, "--json", **options).stdout)

    def prompt(self, text: str, container: str = "here") -> str:
        return self.agentctl("prompt", container, text).stdout.rstrip("\n")

    def states(self) -> dict[str, str]:
        return {each["name"]: each["state"] for each in self.json("list")}

    def editor(self) -> Editor:
        return Editor(self.machine.dialogue("agentctl", "--user", "attach", "here", user=self.name)).open()


@pytest.fixture
def alice(fresh: Machine) -> Iterator[Account]:
    fresh.copy(AGENTS, "/srv/agents")
    yield Account(fresh, "alice")


def test_a_turn_outlives_the_manager_and_the_end_is_an_end(alice: Account) -> None:
    assert alice.prompt("say hello") == "hello"  # nothing ran before
    assert alice.states() == {"here": "serving"}
    editor = alice.editor()
    with editor.dialogue:
        turn = editor.prompt("say working", "hold", "say finished")
        editor.until_text("working")
        before = alice.show("agentd.service", "MainPID")
        alice.systemctl("restart", "agentd.service")
        assert alice.show("agentd.service", "MainPID") not in ("0", before)
        alice.machine.wait_for(lambda: alice.states() == {"here": "serving"}, 20, "the worker to be back")
        alice.agentctl("drain", "here")
        editor.release()
        assert editor.answer(turn)[1] == ["finished"]
        alice.machine.wait_for(lambda: alice.states() == {"here": "drained"}, 20, "the drain")
        alice.agentctl("undrain", "here")
        assert editor.answer(editor.prompt("say again"))[1] == ["again"]
    assert alice.json("status")["mode"] == "user"
    alice.agentctl("stop", "here")
    assert alice.show("agentd@here.service", "ActiveState") == "inactive"
    alice.systemctl("disable", "--now", "agentd.socket", "agentd-link.socket", "agentd.service")
    assert alice.run("pgrep", "-u", alice.uid, "-f", "agentd|scripted", check=False).stdout == ""


def test_doctor_knows_of_lingering_and_of_the_units(alice: Account) -> None:
    alice.prompt("say hello")
    wrong = [each for each in alice.json("doctor")["findings"] if each["state"] != "ok" and each["advice"]]
    assert wrong == []
    alice.machine.run("rm", "/var/lib/systemd/linger/alice")
    logins = [each for each in alice.json("doctor")["findings"] if each["check"] == "login"]
    assert (logins[0]["state"], "enable-linger alice" in logins[0]["advice"]) == ("note", True), logins
    alice.machine.run("usermod", "--append", "--groups", "systemd-journal", "alice")
    alice.machine.run("journalctl", "--sync")
    assert "serving here" in alice.agentctl("logs", "here", "--no-pager").stdout


def test_what_is_said_to_help_is_for_the_systemd_of_the_account(alice: Account) -> None:
    drop_in = ".config/systemd/user/agentd@.service.d/10-broken.conf"
    alice.write(drop_in, "[Service]\nExecStart=\nExecStart=false\nRestart=no\n")
    alice.systemctl("daemon-reload")
    assert "see: journalctl --user -u agentd@here.service" in said(alice, "prompt", "here", "hello")
    alice.machine.wait_for(
        lambda: "fails again and again" in said(alice, "prompt", "here", "hello"), 20, "it to be given up"
    )
    alice.run("rm", f"{alice.home}/{drop_in}")
    alice.systemctl("daemon-reload")
    assert "systemctl --user reset-failed agentd@here.service, and" in said(alice, "prompt", "here", "hello")
    alice.systemctl("reset-failed", "agentd@here.service")
    assert alice.prompt("say hello") == "hello"
    alice.systemctl("disable", "--now", "agentd.socket", "agentd-link.socket", "agentd.service")
    assert "Start one: systemctl --user enable --now agentd.socket, or" in said(alice, "attach", "here")
    alice.systemctl("enable", "--now", "agentd.socket")
    assert alice.prompt("say hello") == "hello"


def said(account: Account, *argv: str) -> str:
    """What a command that fails says of it."""
    done = account.agentctl(*argv, check=False)
    assert done.returncode != 0, done
    return done.stderr


def test_rootless_containers(alice: Account) -> None:
    alice.machine.import_image("alice")
    alice.machine.start_container("box", "--volume=/srv/agents:/srv/agents:ro", user="alice")
    alice.machine.wait_for(lambda: alice.states().get("box") == "idle", 20, "the watcher to tell of box")
    assert alice.prompt("say inside", "box") == "inside"
    assert alice.prompt("env container", "box") == "container=podman"


def test_a_prompt_runs_as_scheduled(alice: Account) -> None:
    alice.write(".config/agentd/prompts/hello.toml", PROMPT)
    alice.systemctl("start", "agentd-prompt@hello.service")
    alice.machine.run("journalctl", "--sync")
    said = [
        entry["MESSAGE"] for entry in alice.machine.journal("_SYSTEMD_USER_UNIT=agentd-prompt@hello.service")
    ]
    assert "on-time" in said, said


def test_two_accounts_cannot_see_each_other(alice: Account) -> None:
    bob = Account(alice.machine, "bob")
    for each in (alice, bob):
        assert each.prompt(f"say I-am-{each.name}") == f"I-am-{each.name}"
    session = alice.json("sessions", "here")["sessions"][0]["id"]
    assert session not in bob.agentctl("sessions", "here", "--json").stdout
    for name in ("agentd.sock", "link.sock", "containers/here.sock"):
        refused(bob, "python3", "-c", CONNECT, f"{alice.runtime}/agentd/{name}")
    refused(bob, "agentctl", "--runtime-dir", f"{alice.runtime}/agentd", "list")
    refused(bob, "ls", f"{alice.home}/.local/state/agentd")
    for unit in ("agentd.service", "agentd@here.service"):
        pid = alice.show(unit, "MainPID")
        refused(bob, "cat", f"/proc/{pid}/environ")
        refused(bob, "ls", f"/proc/{pid}/fd/")
        refused(bob, "kill", pid)
    refused(bob, "busctl", f"--address=unix:path={alice.runtime}/bus", "list")
    owner = bob.run("busctl", "--user", "status", "org.agentd1").stdout
    assert f"PID={bob.show('agentd.service', 'MainPID')}\n" in owner
    names = bob.run("busctl", "--system", "--json=short", "list", "--acquired").stdout
    assert {each["user"] for each in json.loads(names) if each["name"] == "org.agentd1"} <= {"agentd"}


def refused(who: Account, *argv: str) -> None:
    """Neither done, nor unknown: not allowed."""
    done = who.run(*argv, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert any(word in said.lower() for word in ("permission denied", "not permitted", "may not")), said
