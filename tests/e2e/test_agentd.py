# SPDX-License-Identifier: Apache-2.0
"""agentd as an administrator and an editor meet it: real systemd, real bus, real containers."""

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any, Self

import acp
import pytest
from acp.schema import ClientCapabilities

from .dialogue import Dialogue
from .machine import CommandError, Machine

AGENTS = Path(__file__).parents[1] / "agents"
CONFIGURATION = """\
default_agent = "example"
[agents.example]
command = ["python3", "/opt/agent/agent.py"]
[agents.scripted]
command = ["python3", "/srv/agents/scripted.py"]
[agents.absent]
command = ["no-such-agent"]
"""
MANAGER = ("org.agentd1", "/org/agentd1", "org.agentd1.Manager")


class Editor:
    """An ACP client over `agentctl attach`, as an editor starts it."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.number = 0
        self.session = ""

    def send(self, method: str, params: dict[str, Any]) -> int:
        self.number += 1
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        self.dialogue.say(json.dumps(message))
        return self.number

    def answer(self, number: int) -> tuple[dict[str, Any], list[str]]:
        """The answer to a request, and the texts of the chunks before it."""
        texts = []
        while (frame := self.hear()).get("id") != number:
            texts += self._text(frame)
        return frame, texts

    def hear(self, timeout: float = 30) -> dict[str, Any]:
        frame = json.loads(self.dialogue.hear(timeout))
        assert isinstance(frame, dict)
        return frame

    def until_text(self, text: str) -> None:
        while self._text(self.hear()) != [text]:
            pass

    def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        return self.answer(self.send(method, params))[0]

    def open(self) -> "Editor":
        self.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        self.session = self.call("session/new", {"cwd": "/srv/agents", "mcpServers": []})["result"][
            "sessionId"
        ]
        return self

    def prompt(self, *script: str) -> int:
        text = {"type": "text", "text": "\n".join(script)}
        return self.send("session/prompt", {"sessionId": self.session, "prompt": [text]})

    def release(self) -> None:
        self.dialogue.say('{"jsonrpc":"2.0","method":"_release"}')

    def _text(self, frame: dict[str, Any]) -> list[str]:
        content = frame.get("params", {}).get("update", {}).get("content", {})
        return [content["text"]] if "text" in content else []


class Host:
    """A machine with agentd enabled and a container called box."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.run = machine.run

    def begin(self, configuration: str) -> Self:
        """Have agentd run, with this configuration, and box, and each know the other."""
        self.machine.copy(AGENTS, "/srv/agents")
        self.machine.write("/etc/agentd/agentd.toml", configuration)
        self.start_box()
        self.machine.start_agentd()
        self.machine.wait_for(lambda: "box" in self.listed(), 20, "the watcher to tell of box")
        return self

    def start_box(self, name: str = "box") -> None:
        self.machine.start_container(name, "--volume=/srv/agents:/srv/agents:ro")

    def editor(self, *options: str, container: str = "box") -> Editor:
        return Editor(self.machine.dialogue("agentctl", "attach", container, *options))

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def property(self, path: str, interface: str, name: str) -> Any:
        got = self.run(
            "busctl", "--json=short", "get-property", "org.agentd1", path, f"org.agentd1.{interface}", name
        )
        return json.loads(got.stdout)["data"]

    def state(self) -> str:
        """The state of box; "" while a manager that has just started does not know it."""
        try:
            return str(self.property("/org/agentd1/container/box", "Container", "State"))
        except CommandError:
            return ""

    def call(self, member: str, *arguments: str, user: str | None = None) -> Any:
        """busctl call on the Manager, as typed."""
        return self.run("busctl", "call", *MANAGER, member, *arguments, user=user).stdout.split()

    def listed(self) -> dict[str, str]:
        """Name and state of every container that agentctl lists."""
        listed = json.loads(self.run("agentctl", "list", "--json").stdout)
        return {each["name"]: each["state"] for each in listed}

    def engines(self) -> dict[str, str]:
        """What is wrong with each engine that the watcher has asked, "" where nothing is."""
        return dict(json.loads(self.run("agentctl", "status", "--json").stdout)["watcher"]["engines"])

    def agents_inside(self) -> str:
        """The agents' processes in box."""
        return self.run("podman", "exec", "box", "pgrep", "-af", "agent", check=False).stdout


@pytest.fixture
def host(fresh: Machine) -> Host:
    return Host(fresh).begin(CONFIGURATION)


def attached(host: Host, *options: str) -> Editor:
    return host.editor(*options).open()


# Starting, and a turn


def test_systemctl_starts_a_worker(host: Host) -> None:
    host.run("systemctl", "start", "agentd@box")
    assert host.show("agentd@box", "ActiveState") == "active"
    assert host.state() == "serving"
    pid = host.property("/org/agentd1/container/box", "Container", "WorkerPID")
    assert str(pid) == host.show("agentd@box", "MainPID")
    assert host.run("systemctl", "--failed", "--quiet").stdout == ""


class Recorder(acp.Client):
    """The SDK's own kind of client; keeps what the agent says."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.texts.append(update.content.text)


async def sdk_turns(command: list[str], between: Any) -> tuple[list[str], list[str]]:
    """Two turns of the SDK's client with the SDK's agent, and what happens between them."""
    recorder = Recorder()
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None and process.stdout is not None
    connection = acp.connect_to_agent(recorder, process.stdin, process.stdout)
    await connection.initialize(
        protocol_version=acp.PROTOCOL_VERSION, client_capabilities=ClientCapabilities()
    )
    session = await connection.new_session(cwd="/srv/agents", mcp_servers=[])
    reasons = []
    for text in ("first", "second"):
        done = await connection.prompt(session_id=session.session_id, prompt=[acp.text_block(text)])
        reasons.append(done.stop_reason)
        await asyncio.to_thread(between)
    await connection.close()
    process.stdin.close()
    await process.wait()
    return recorder.texts, reasons


def test_sdk_talks_to_sdk_over_a_restart_of_the_manager(host: Host) -> None:
    """A turn, the same turn after `systemctl restart agentd` while connected, and nothing dropped."""
    command = host.machine.command("agentctl", "attach", "box")
    before = host.show("agentd", "MainPID")
    restart = lambda: host.run("systemctl", "restart", "agentd")  # noqa: E731
    texts, reasons = asyncio.run(sdk_turns(command, restart))
    assert texts == ["Client sent:", "first", "Client sent:", "second"]
    assert reasons == ["end_turn", "end_turn"]
    assert host.show("agentd", "MainPID") != before
    host.machine.wait_for(lambda: host.state() == "serving")


def test_prompt_from_a_script(host: Host) -> None:
    assert host.run("agentctl", "prompt", "box", "hello").stdout == "Client sent:hello\n"


def test_connections_wait_in_the_socket_while_the_manager_restarts(host: Host) -> None:
    for _ in range(3):
        with host.machine.popen("systemctl", "restart", "agentd") as restart:
            with attached(host).dialogue:
                pass
            assert restart.wait(20) == 0


def test_socket_of_the_container_outlives_the_manager(host: Host) -> None:
    path = "/run/agentd/containers/box.sock"
    host.machine.wait_for(lambda: host.run("test", "-S", path, check=False).returncode == 0)
    inode = host.run("stat", "--format=%i", path).stdout
    host.run("systemctl", "restart", "agentd")
    assert host.run("stat", "--format=%i %a", path).stdout == inode.replace("\n", " 666\n")
    talk = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r}); " + (
        's.sendall(b\'{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":1}}\\n\'); '
        "print(s.makefile().readline())"
    )
    assert json.loads(host.run("python3", "-c", talk).stdout)["id"] == 7


# Draining


def test_drain_lets_the_turn_end_and_refuses_the_next(host: Host) -> None:
    editor = attached(host, "--agent", "scripted")
    with editor.dialogue:
        turn = editor.prompt("say working", "hold", "say finished")
        editor.until_text("working")
        kind, job = host.call("Drain", "sa{sv}", "box", "0")
        path = job.strip('"')
        assert (kind, path) == ("o", "/org/agentd1/job/1")
        host.machine.wait_for(lambda: host.state() == "draining")
        refused, _ = editor.answer(editor.prompt("say never"))
        assert refused["error"]["data"]["reason"] == "draining"
        assert host.property(path, "Job", "Remaining") == 1
        editor.release()
        answer, texts = editor.answer(turn)
        assert answer["result"]["stopReason"] == "end_turn" and texts == ["finished"]
        host.machine.wait_for(lambda: host.property(path, "Job", "State") == "done")
        assert host.property(path, "Job", "Drained") == [editor.session]
        host.call("Undrain", "s", "box")
        assert editor.answer(editor.prompt("say again"))[1] == ["again"]


def test_stop_of_the_unit_drains_first(host: Host) -> None:
    editor = attached(host, "--agent", "scripted")
    with editor.dialogue:
        turn = editor.prompt("say working", "hold", "say finished")
        editor.until_text("working")
        with host.machine.popen("systemctl", "stop", "agentd@box") as stop:
            host.machine.wait_for(lambda: host.show("agentd@box", "StatusText") == "draining")
            editor.release()
            answer, texts = editor.answer(turn)
            assert answer["result"]["stopReason"] == "end_turn" and texts == ["finished"]
            assert stop.wait(30) == 0
    assert host.show("agentd@box", "Result") == "success"
    assert host.agents_inside() == ""


# Reloading


def test_reload_with_a_broken_file_fails_and_changes_nothing(host: Host) -> None:
    host.machine.write("/etc/agentd/agentd.toml.d/10-bad.toml", "[limits]\nsesions = 3\n")
    before = host.property("/org/agentd1", "Manager", "ConfigTimestamp")
    failed = host.run("systemctl", "reload", "agentd", check=False)
    assert failed.returncode != 0
    said = " ".join(str(entry["MESSAGE"]) for entry in host.machine.journal("--unit=agentd.service"))
    assert "limits.sesions" in said and "did you mean `sessions`" in said
    assert host.property("/org/agentd1", "Manager", "ConfigTimestamp") == before
    assert host.show("agentd", "ActiveState") == "active"
    assert "Client sent:" in host.run("agentctl", "prompt", "box", "still here").stdout


def test_reload_applies_what_changed(host: Host) -> None:
    denied = host.run("agentctl", "prompt", "box", "hello", user="nobody", check=False)
    assert denied.returncode == 77 and "may not use box" in denied.stderr
    host.machine.write("/etc/agentd/agentd.toml.d/10-nobody.toml", '[access]\nusers = ["nobody"]\n')
    host.run("systemctl", "reload", "agentd")
    assert host.show("agentd", "ActiveState") == "active"
    assert "Client sent:" in host.run("agentctl", "prompt", "box", "hello", user="nobody").stdout


# Ends of containers, managers and workers


def test_unit_ends_with_its_container_and_the_client_is_told(host: Host) -> None:
    editor = attached(host, "--agent", "scripted")
    with editor.dialogue:
        turn = editor.prompt("say working", "hold")
        editor.until_text("working")
        host.run("podman", "stop", "--time=5", "box")
        host.machine.wait_for(lambda: host.show("agentd@box", "ActiveState") == "inactive")
        answer, _ = editor.answer(turn)
        assert answer["error"]["data"]["reason"] in ("not_running", "agent_exited")
        with pytest.raises(EOFError):
            editor.hear()
    assert host.show("agentd@box", "Result") == "success"
    host.machine.wait_for(lambda: host.state() == "stopped")


def test_watchdog_restarts_a_stopped_manager_and_the_session_goes_on(host: Host) -> None:
    host.machine.write("/etc/systemd/system/agentd.service.d/10-fast.conf", "[Service]\nWatchdogSec=2\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "agentd")
    editor = attached(host, "--agent", "scripted")
    with editor.dialogue:
        manager = host.show("agentd", "MainPID")
        turn = editor.prompt("say working", "hold", "say finished")
        editor.until_text("working")
        host.run("kill", "-STOP", manager)
        host.machine.wait_for(lambda: host.show("agentd", "MainPID") not in (manager, "0"), 20)
        editor.release()
        assert editor.answer(turn)[1] == ["finished"]
        assert editor.answer(editor.prompt("say more"))[1] == ["more"]
        host.machine.wait_for(lambda: host.state() == "serving")
    assert "Watchdog timeout" in str(host.machine.journal("--unit=agentd.service"))


def test_killed_worker_leaves_no_agent_once_the_next_is_up(host: Host) -> None:
    editor = attached(host, "--agent", "scripted")
    with editor.dialogue:
        editor.answer(editor.prompt("child"))
        worker = host.show("agentd@box", "MainPID")
        before = host.agents_inside()
        assert "scripted.py" in before
        host.run("kill", "-KILL", worker)
        host.machine.wait_for(lambda: host.show("agentd@box", "MainPID") not in (worker, "0"), 20)
        host.machine.wait_for(lambda: host.show("agentd@box", "ActiveState") == "active", 20)
        assert not set(before.splitlines()) & set(host.agents_inside().splitlines())
        assert host.run("podman", "exec", "box", "pgrep", "-f", "sleep 1000", check=False).stdout == ""
    with attached(host, "--agent", "scripted").dialogue:
        host.machine.wait_for(lambda: host.agents_inside().count("scripted.py") == 1, 20)


# The journal


def test_journal_has_the_fields(host: Host) -> None:
    editor = attached(host, "--agent", "scripted")
    with editor.dialogue:
        editor.answer(editor.prompt("stderr a complaint"))
        entries = host.machine.journal("AGENTD_CONTAINER=box")
        complaint = next(entry for entry in entries if entry["MESSAGE"] == "a complaint")
        assert complaint["AGENTD_AGENT"] == "scripted" and len(complaint["MESSAGE_ID"]) == 32
        assert complaint["_SYSTEMD_UNIT"] == "agentd@box.service"
        assert any(entry.get("AGENTD_SESSION") == editor.session for entry in entries)
        assert any("AGENTD_CLIENT" in entry for entry in entries)


# Who may


def test_stranger_may_not_drain_and_root_may(host: Host) -> None:
    with pytest.raises(CommandError, match=r"authentication|[Aa]ccess|password"):
        host.call("Drain", "sa{sv}", "box", "0", user="nobody")
    assert host.property("/org/agentd1", "Manager", "Draining") is False
    host.call("Drain", "sa{sv}", "box", "0")


def test_manager_may_start_workers_and_nothing_else(host: Host) -> None:
    host.run("systemctl", "start", "agentd@box", user="agentd")
    refused = host.run("systemctl", "stop", "dbus.socket", user="agentd", check=False)
    assert refused.returncode != 0 and host.show("dbus.socket", "ActiveState") == "active"
    status = Path(f"/proc/{host.show('agentd', 'MainPID')}/status")
    assert "CapEff:\t0000000000000000" in host.machine.read(str(status))


IMPOSTOR = """\
import msgspec
from agentd import link
sock = link.connect("/run/agentd/link.sock")
sock.setblocking(True)
sock.send(msgspec.msgpack.encode(link.Hello(version=1, pid=1, code="x", container="box")))
print(msgspec.msgpack.decode(sock.recv(99999)))
"""


def test_link_takes_only_the_unit_it_claims_to_be(host: Host) -> None:
    """root in a shell is not agentd@box.service, whatever it says."""
    answer = host.run("python3", "-c", IMPOSTOR).stdout
    assert "Refused" in answer and "access_denied" in answer


# Bad input


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nowhere",), 66, "no container called nowhere"),
        (("box", "--agent", "absent"), 69, "no program no-such-agent"),
        (("box", "--agent", "nobody"), 66, "no agent is called nobody"),
        (("stopped",), 69, "not running"),
        (("whale",), 69, "docker is not installed"),
    ],
)
def test_refusals_are_clear(host: Host, arguments: tuple[str, ...], status: int, words: str) -> None:
    host.machine.write("/etc/agentd/agentd.toml.d/10-whale.toml", '[containers.whale]\nruntime = "docker"\n')
    host.run("systemctl", "reload", "agentd")
    host.start_box("stopped")
    host.run("podman", "stop", "--time=0", "stopped")
    host.machine.wait_for(lambda: host.listed().get("stopped") == "stopped")
    refused = host.run("agentctl", "prompt", *arguments, "hello", check=False)
    assert (refused.returncode, words in refused.stderr) == (status, True), refused.stderr
    assert "Client sent:" in host.run("agentctl", "prompt", "box", "still here").stdout


PROGRAMS = """\
[containers.astray]
workdir = "/nowhere"
[agents.text]
command = ["/etc/passwd"]
[agents.shell]
command = ["sh", "-c", "no-such-program"]
"""


def test_a_program_that_is_there_is_not_said_to_be_missing(host: Host) -> None:
    host.machine.write("/etc/agentd/agentd.toml.d/10-programs.toml", PROGRAMS)
    host.run("systemctl", "reload", "agentd")
    host.start_box("astray")
    for box, agent, words in (
        ("box", "text", "exit status 126): Error: "),
        ("box", "shell", "exit status 127"),
        ("astray", "example", "/nowhere"),
    ):
        refused = host.run("agentctl", "prompt", box, "--agent", agent, "hello", check=False).stderr
        assert words in refused and "no program" not in refused, refused


def test_manager_and_watcher_restart_together_without_a_complaint(host: Host) -> None:
    """The old watcher has linked with the new manager, and has ended before it was looked at."""
    for _ in range(5):
        host.run("systemctl", "restart", "agentd.service", "agentd-watch.service")
        host.machine.wait_for(lambda: host.listed().get("box") == "idle", 20, "the watcher to be back")
        time.sleep(2)  # more often, and systemd would not start it again
    complaints = [
        entry["MESSAGE"]
        for entry in host.machine.journal("--unit=agentd.service", "--priority=warning")
        if "the watcher has gone" not in entry["MESSAGE"]
    ]
    assert complaints == []


def test_opt_in_is_by_label_or_by_administrator(host: Host) -> None:
    host.machine.start_container("shy", "--volume=/srv/agents:/srv/agents:ro", label_enable=False)
    refused = host.run("agentctl", "prompt", "shy", "hello", check=False)
    assert refused.returncode == 66
    host.run("systemctl", "start", "agentd@shy")
    assert "Client sent:" in host.run("agentctl", "prompt", "shy", "hello").stdout


def test_watcher_follows_containers(host: Host) -> None:
    def listed() -> dict[str, str]:
        return {
            each["name"]: each["state"] for each in json.loads(host.run("agentctl", "list", "--json").stdout)
        }

    host.machine.wait_for(lambda: host.listed() == {"box": "idle"})
    host.start_box("other")
    host.machine.wait_for(lambda: host.listed() == {"box": "idle", "other": "idle"})
    host.run("podman", "rm", "--force", "--time=0", "other")
    host.machine.wait_for(lambda: host.listed() == {"box": "idle"})
    host.run("systemctl", "stop", "agentd-watch")
    status = ("agentctl", "status", "--json")
    host.machine.wait_for(lambda: not json.loads(host.run(*status).stdout)["watcher"]["connected"])


def test_interrupt_cancels_the_turn(host: Host) -> None:
    command = ("agentctl", "prompt", "box", "--agent", "scripted", "say working\ncancelled")
    with host.machine.popen(*command, bufsize=0, text=False) as turn:
        assert turn.stdout is not None and turn.stdout.read(7) == b"working"
        host.machine.signal(turn, signal.SIGINT)
        assert turn.wait(20) == 130
