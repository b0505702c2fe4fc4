# SPDX-License-Identifier: Apache-2.0
"""The hub as it is installed: agents, paths, secrets, logins and shared sessions of real containers."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.systemd.events import Event
from support.screen import Screen

from .machine import Machine
from .test_agentd import AGENTS, Editor, Host

SECRET = "hunter2-nobody-sees-this"
CONFIGURATION = """\
default_agent = "scripted"
[agents.scripted]
command = ["python3", "/srv/agents/scripted.py"]
[agents.keyed]
command = ["python3", "/srv/agents/scripted.py"]
env = { TOKEN = { credential = "token" } }
[agents.keyless]
command = ["python3", "/srv/agents/scripted.py"]
env = { TOKEN = { credential = "lost" } }
[agents.manual]
command = ["python3", "/srv/agents/manual.py", "--auth-terminal"]
[agents.absent]
command = ["no-such-agent"]
[permissions]
edit = "allow"
"""

# Traces everything: what is in no journal then is in none ever.
DROP_IN = """\
[Service]
LoadCredential=token:/etc/agentd/token
Environment=AGENTD_LOG=debug
"""

# The scripted agent, with a program behind the login that it offers. It holds signals back until it waits
# for one: Python would lose what comes between its prompt and its read.
MANUAL = """\
import os, signal, sys
if sys.argv[-1] != "login":
    os.execv(sys.executable, [sys.executable, "/srv/agents/scripted.py", *sys.argv[1:]])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print(os.isatty(0), *os.get_terminal_size(), os.environ["TERM"], os.environ["A"])
if code := input("code? "):
    sys.exit(int(code))
print("waiting", flush=True)
signal.sigwait([signal.SIGINT])
sys.exit(5)
"""

MOUNTS = ("--volume=/srv/agents:/srv/agents:ro", "--volume=/srv/src:/workspace")


class Hub(Host):
    """A machine with agentd and box, which has agents of every kind and calls /srv/src /workspace."""

    def start_box(self, name: str = "box", *options: str) -> None:
        self.machine.start_container(name, *MOUNTS, *options)
        self.machine.wait_for(
            lambda: self.listed().get(name) == "idle", 20, f"the watcher to tell of {name}"
        )

    def greeted(self, *options: str) -> Editor:
        """An editor that has not opened a session yet."""
        editor = self.editor(*options)
        editor.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        return editor

    def agents(self, container: str = "box") -> dict[str, dict[str, Any]]:
        found = json.loads(self.run("agentctl", "agents", container, "--json").stdout)["agents"]
        return {each["name"]: each for each in found}

    def clients(self) -> int:
        return int(self.property("/org/agentd1/container/box", "Container", "NClients"))


@pytest.fixture(scope="module")
def hub(suite: str, staged: Path) -> Iterator[Hub]:
    """One for all the tests here: each has connections and sessions of its own."""
    with Machine(suite, layers=[staged]) as machine:
        hub = Hub(machine)
        machine.copy(AGENTS, "/srv/agents")
        machine.write("/srv/agents/manual.py", MANUAL)
        hub.run("mkdir", "-p", "/srv/src/x")
        machine.write("/etc/agentd/agentd.toml", CONFIGURATION)
        machine.write("/etc/agentd/token", SECRET + "\n", mode=0o600)
        machine.write("/etc/systemd/system/agentd@.service.d/10-token.conf", DROP_IN)
        hub.run("systemctl", "daemon-reload")
        hub.machine.start_agentd()
        hub.start_box()
        yield hub


def made(editor: Editor, cwd: str) -> dict[str, Any]:
    """The answer to session/new there."""
    return editor.call("session/new", {"cwd": cwd, "mcpServers": []})


# Which agents there are


def test_agents_that_are_there_are_ready_and_one_that_is_not_is_missing(hub: Hub) -> None:
    agents = hub.agents()
    for name in ("scripted", "keyed", "manual"):
        assert (agents[name]["state"], agents[name]["version"]) == ("ready", "1")
    assert agents["absent"]["state"] == "missing"
    assert agents["absent"]["reason"] == "box has no program no-such-agent"
    assert [name for name, each in agents.items() if each["default"]] == ["scripted"]


def test_a_label_limits_the_agents(hub: Hub) -> None:
    hub.start_box("labelled", "--label=agentd.agents=scripted,absent")
    states = {name: each["state"] for name, each in hub.agents("labelled").items()}
    assert states == {"scripted": "ready", "absent": "missing"}


# Paths


def test_paths_are_those_of_the_mounts(hub: Hub) -> None:
    lines = hub.run("agentctl", "paths", "box").stdout.splitlines()
    assert ["/srv/src", "/workspace"] in [line.split() for line in lines]


def test_each_side_has_paths_of_its_own(hub: Hub) -> None:
    call = {"sessionUpdate": "tool_call", "toolCallId": "1", "title": "t"}
    update = {**call, "locations": [{"path": "/workspace/x/main.py"}]}
    editor = hub.greeted()
    with editor.dialogue:
        session = made(editor, "/srv/src/x")["result"]
        assert session["_cwd"] == "/workspace/x"
        editor.session = session["sessionId"]
        editor.prompt(f"update {json.dumps(update)}")
        assert tool_call(editor)["locations"] == [{"path": "/srv/src/x/main.py"}]


def tool_call(editor: Editor) -> dict[str, Any]:
    """The next one that is shown."""
    while (update := editor.hear().get("params", {}).get("update", {})).get("sessionUpdate") != "tool_call":
        pass
    assert isinstance(update, dict)
    return update


def test_a_directory_that_is_not_shared_is_refused_with_those_that_are(hub: Hub) -> None:
    editor = hub.greeted()
    with editor.dialogue:
        data = made(editor, "/etc")["error"]["data"]
    assert data["reason"] == "unmapped_path" and "/srv/src" in data["mapped"]


# Secrets


def test_a_credential_reaches_its_agent_and_nobody_else(hub: Hub) -> None:
    editor = hub.editor("--agent", "keyed").open()
    with editor.dialogue:
        told = editor.answer(editor.prompt("env TOKEN", f"stderr {SECRET}", "child"))[1]
        assert told[0] == f"TOKEN={SECRET}"
        lines = hub.run("sh", "-c", "cat /proc/[0-9]*/cmdline", check=False).stdout
        assert "--env\0TOKEN\0" in lines and SECRET not in lines
        stderr = f"MESSAGE_ID={Event.AGENT_STDERR}"
        hub.machine.wait_for(lambda: hub.machine.journal(stderr, "MESSAGE=[redacted]"))
    journal = hub.run("journalctl", "--all", "--output=export").stdout
    assert editor.session in journal and SECRET not in journal


def test_a_credential_that_is_missing_is_told_with_what_to_do(hub: Hub) -> None:
    editor = hub.editor("--agent", "keyless")
    with editor.dialogue:
        error = editor.call("initialize", {"protocolVersion": 1})["error"]
    assert error["data"]["reason"] == "credential_unavailable"
    assert "LoadCredential=lost:" in error["message"]
    keyless = hub.agents()["keyless"]
    assert keyless["state"] == "failing" and "LoadCredential=lost:" in keyless["reason"]


# Logins


@pytest.fixture
def login(hub: Hub) -> Iterator[Screen]:
    """The login of an agent on a terminal, when it has asked."""
    command = hub.machine.command("agentctl", "login", "box", "manual", env={"TERM": "vt52"})
    with Screen(command, os.environ) as screen:
        screen.until(b"code? ")
        yield screen
    hub.machine.wait_for(lambda: "manual.py" not in hub.agents_inside())


def test_a_login_has_the_terminal_and_its_status_is_that_of_agentctl(login: Screen) -> None:
    assert b"True 90 25 vt52 1\r\n" in login.shown
    login.type(b"7\r")
    assert (login.end(), login.is_as_it_was) == (7, True)


def test_an_interrupt_goes_to_the_login(login: Screen) -> None:
    login.type(b"\r")
    login.until(b"waiting")
    login.type(b"\x03")
    assert (login.end(), login.is_as_it_was) == (5, True)


# Together


def loaded(editor: Editor, session: str) -> list[str]:
    """Enter a session: the texts that were shown of it."""
    editor.session = session
    params = {"sessionId": session, "cwd": "/srv/agents", "mcpServers": []}
    answer, texts = editor.answer(editor.send("session/load", params))
    assert "result" in answer, answer
    return texts


def outcome(editor: Editor) -> str:
    """How somebody else's turn has ended, when it has."""
    while "agentd.turn" not in (meta := editor.hear()["params"]["update"].get("_meta") or {}):
        pass
    return str(meta["agentd.turn"]["outcome"])


def test_a_session_outlives_an_editor_and_the_manager(hub: Hub) -> None:
    hub.machine.wait_for(lambda: hub.clients() == 0)
    script = ("say working", "hold", "say finished")
    first, second = hub.editor().open(), hub.greeted()
    with second.dialogue:
        with first.dialogue:
            first.prompt(*script)
            first.until_text("working")
            assert loaded(second, first.session) == ["\n".join(script), "working"]
            hub.machine.wait_for(lambda: hub.clients() == 2)
            hub.machine.signal(first.dialogue.process, signal.SIGKILL)
        hub.machine.wait_for(lambda: hub.clients() == 1, what="the first editor to leave")
        hub.run("systemctl", "restart", "agentd")
        second.release()
        second.until_text("finished")
        assert outcome(second) == "end_turn"
    third = hub.greeted()
    with third.dialogue:
        assert loaded(third, first.session) == ["\n".join(script), "working", "finished"]
        assert third.answer(third.prompt("say more"))[1] == ["more"]


# Permissions


def test_what_the_configuration_decides_is_in_the_journal(hub: Hub) -> None:
    editor = hub.editor().open()
    with editor.dialogue:
        assert editor.answer(editor.prompt("want edit"))[1] == ["permission: yes"]
    which = (f"MESSAGE_ID={Event.PERMISSION_DECIDED}", f"AGENTD_SESSION={editor.session}")
    [entry] = hub.machine.wait_for(lambda: hub.machine.journal(*which))
    assert entry["MESSAGE"] == "edit: allow, as configured"
    assert (entry["AGENTD_CONTAINER"], entry["_SYSTEMD_UNIT"]) == ("box", "agentd@box.service")
