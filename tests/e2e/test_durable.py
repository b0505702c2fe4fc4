# SPDX-License-Identifier: Apache-2.0
"""What outlives workers, managers, the bus and the power: real systemd, real units, real containers."""

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from .dialogue import Dialogue
from .disk import DiskMachine, new_disk
from .machine import Machine
from .test_agentd import AGENTS, Editor, Host

CONFIGURATION = """\
default_agent = "scripted"
[agents.scripted]
command = [
  "python3", "/srv/agents/scripted.py", "--can", "load", "--can", "resume", "--memory", "/srv/memory"
]
"""
MOUNTS = ("--volume=/srv/agents:/srv/agents:ro", "--volume=/srv/memory:/srv/memory")
CHECK = """\
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("PRAGMA integrity_check").fetchall())
"""
TALK = """\
import socket, sys
talk = socket.socket(socket.AF_UNIX)
talk.settimeout(60)
talk.connect(sys.argv[1])
talk.sendall(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1}}\\n')
print(talk.makefile().readline())
"""
POLKIT_RULE = """\
polkit.addRule(function (action, subject) {
    var it = action.id === "org.agentd1.drain" && action.lookup("container") === "%s";
    return it && subject.user === "%s" ? polkit.Result.YES : polkit.Result.NOT_HANDLED;
});
"""
RESTARTS, EVERY_SEC = 10, 2.0


class Witness(Editor):
    """An editor that remembers all it was sent."""

    def __init__(self, dialogue: Dialogue) -> None:
        super().__init__(dialogue)
        self.seen: list[dict[str, Any]] = []

    def hear(self, timeout: float = 30) -> dict[str, Any]:
        self.seen.append(super().hear(timeout))
        return self.seen[-1]

    def hold(self) -> int:
        """A turn that is in its middle."""
        turn = self.prompt("say one", "hold", "say two")
        self.until_text("one")
        return turn

    def turn(self, *script: str) -> list[str]:
        """The texts of a turn that ends as it should."""
        answer, texts = self.answer(self.prompt(*script))
        assert answer["result"]["stopReason"] == "end_turn", answer
        return texts

    def load(self, session: str) -> list[dict[str, Any]]:
        """Enter a session; the updates that were shown of it."""
        self.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        self.session, before = session, len(self.seen)
        answer = self.call("session/load", {"sessionId": session, "cwd": "/srv/agents", "mcpServers": []})
        assert "result" in answer, answer
        return [frame["params"]["update"] for frame in self.seen[before:-1]]

    def gone(self) -> tuple[int, str]:
        """Wait for its agentctl to end by itself: exit status and stderr."""
        with pytest.raises(EOFError):
            self.hear(60)
        assert self.dialogue.process.stderr is not None
        said = self.dialogue.process.stderr.read().decode()
        return self.dialogue.process.wait(10), said


class Box:
    """A container, and what agentd has of it."""

    def __init__(self, host: Host, name: str) -> None:
        self.host, self.name = host, name
        self.unit = f"agentd@{name}"
        self.path = f"/org/agentd1/container/{name}"
        self.state_directory = f"/var/lib/agentd/containers/{name}"

    def editor(self, user: str | None = None) -> Witness:
        command = ("agentctl", "attach", self.name)
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return Witness(Dialogue(self.host.machine.popen(*command, user=user, text=False, **pipes)))

    def attached(self) -> Witness:
        editor = self.editor()
        editor.open()
        return editor

    def show(self, name: str) -> str:
        return self.host.show(self.unit, name)

    def until(self, name: str, value: str, timeout: float = 20) -> None:
        what = f"{name} of {self.unit} to be {value}"
        self.host.machine.wait_for(lambda: self.show(name) == value, timeout, what)

    def kill(self) -> None:
        """Kill the worker, and it alone; return when the next one is up."""
        worker = self.show("MainPID")
        self.host.run("kill", "-KILL", worker)
        self.host.machine.wait_for(lambda: self.show("MainPID") not in (worker, "0"), 20, "another worker")
        self.until("ActiveState", "active")

    def agents(self) -> set[str]:
        """The agents' processes in the container."""
        found = self.host.run("podman", "exec", self.name, "pgrep", "-f", "scripted.py", check=False)
        return set(found.stdout.split())

    def state(self) -> str:
        return str(self.host.property(self.path, "Container", "State"))

    def sessions(self, user: str | None = None) -> list[dict[str, Any]]:
        listed = json.loads(self.host.run("agentctl", "sessions", self.name, "--json", user=user).stdout)
        return list(listed["sessions"])

    def history(self, session: str) -> str:
        return self.host.run("agentctl", "history", f"{self.name}#{session}").stdout

    def prompt(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.host.run("agentctl", "prompt", self.name, "say fine", *options, check=False)

    def is_whole(self) -> bool:
        """Whether its database is."""
        said = self.host.run("python3", "-c", CHECK, f"{self.state_directory}/sessions.db").stdout
        return said == "[('ok',)]\n"


Boxes = Callable[[], Box]


def prepare(machine: Machine) -> Host:
    """agentd on a machine, with an agent that knows its sessions again."""
    machine.copy(AGENTS, "/srv/agents")
    machine.run("mkdir", "-p", "/srv/memory")
    machine.write("/etc/agentd/agentd.toml", CONFIGURATION)
    host = Host(machine)
    host.machine.start_agentd()
    return host


def start_box(host: Host, name: str, *options: str, engine: str = "podman") -> Box:
    host.machine.start_container(name, *MOUNTS, *options, engine=engine)
    host.machine.wait_for(lambda: host.listed().get(name) == "idle", 20, f"the watcher to tell of {name}")
    return Box(host, name)


@pytest.fixture(scope="module")
def host(suite: str, staged: Path) -> Iterator[Host]:
    """One machine for most tests: each has a container of its own."""
    with Machine(suite, layers=[staged]) as machine:
        yield prepare(machine)


@pytest.fixture(scope="module")
def boxes(host: Host) -> Boxes:
    """Makes containers that were never there before."""
    numbers = itertools.count(1)
    return lambda: start_box(host, f"box{next(numbers)}")


@pytest.fixture
def box(boxes: Boxes) -> Iterator[Box]:
    box = boxes()
    yield box
    box.host.run("podman", "rm", "--force", "--time=0", box.name)


def notices(updates: list[dict[str, Any]]) -> list[str]:
    found = [update.get("_meta", {}).get("agentd.notice") for update in updates]
    return [each for each in found if each]


def spoken(updates: list[dict[str, Any]]) -> list[str]:
    """What the agent has said, without our own notices."""
    agents = [each for each in updates if each["sessionUpdate"] == "agent_message_chunk"]
    return [each["content"]["text"] for each in agents if not notices([each])]


# A worker that is killed


def test_the_turn_of_a_killed_worker_is_interrupted_and_the_session_goes_on(box: Box) -> None:
    with (editor := box.attached()).dialogue:
        assert editor.turn("say before") == ["before"]
        turn, before = editor.hold(), box.agents()
        shown = len(editor.seen)
        box.history(editor.session)  # which has all on disk that was said so far
        box.kill()
        answer, _ = editor.answer(turn)
        assert answer["error"]["data"]["reason"] == "interrupted"
        assert len(editor.seen) == shown + 1, editor.seen[shown:]
        assert not before & box.agents()
        assert editor.turn("say after") == ["after"]
    assert box.show("NRestarts") == "1"
    told = box.history(editor.session)
    for line in ("before\n", "one\n", "after\n", "interrupted: agentd's worker ended"):
        assert line in told
    with (later := box.editor()).dialogue:
        updates = later.load(editor.session)
        assert spoken(updates) == ["before", "one", "after"] and len(notices(updates)) == 1


def test_a_frozen_worker_is_as_good_as_a_killed_one(box: Box) -> None:
    drop_in = f"/run/systemd/system/{box.unit}.service.d/10-fast.conf"
    box.host.machine.write(drop_in, "[Service]\nWatchdogSec=2\n")
    box.host.run("systemctl", "daemon-reload")
    with (editor := box.attached()).dialogue:
        turn = editor.hold()
        box.host.run("systemctl", "kill", "--signal=STOP", box.unit)
        answer, _ = editor.answer(turn)
        assert answer["error"]["data"]["reason"] == "interrupted"
        assert editor.turn("say after") == ["after"]
    assert box.show("NRestarts") == "1"


# Restarts and stops


def test_an_editor_at_rest_does_not_notice_a_restart_of_the_worker(box: Box) -> None:
    with (editor := box.attached()).dialogue:
        before = box.show("MainPID")
        shown = len(editor.seen)
        box.host.run("systemctl", "restart", box.unit)
        assert editor.turn("say fine") == ["fine"]
        assert len(editor.seen) == shown + 2, editor.seen[shown:]
        assert box.show("MainPID") != before
        assert editor.dialogue.close() == 0


def test_a_turn_that_ends_within_the_drain_does_not_notice_a_restart(box: Box) -> None:
    with (editor := box.attached()).dialogue:
        turn = editor.hold()
        with box.host.machine.popen("systemctl", "restart", box.unit) as restart:
            box.until("StatusText", "draining")
            editor.release()
            answer, texts = editor.answer(turn)
            assert (answer["result"]["stopReason"], texts) == ("end_turn", ["two"])
            assert restart.wait(30) == 0
        assert editor.turn("say fine") == ["fine"]


def test_a_turn_that_ends_within_the_drain_does_not_notice_that_all_is_restarted(box: Box) -> None:
    """As an upgrade may do it: the sockets too, and with that of the link every worker."""
    everything = ("agentd-link.socket", "agentd.socket", "agentd.service", "agentd-watch.service")
    with (editor := box.attached()).dialogue:
        turn, before = editor.hold(), box.show("MainPID")
        with box.host.machine.popen("systemctl", "restart", *everything) as restart:
            box.until("StatusText", "draining")
            editor.release()
            answer, texts = editor.answer(turn)
            assert (answer["result"]["stopReason"], texts) == ("end_turn", ["two"])
            assert restart.wait(60) == 0
        assert editor.turn("say fine") == ["fine"]
        assert box.show("MainPID") != before


@pytest.fixture
def impatient(host: Host) -> Iterator[None]:
    with limited(host, "drain_sec = 1"):
        yield


def test_a_turn_that_outlives_the_drain_is_cancelled_and_the_session_goes_on(
    impatient: None, box: Box
) -> None:
    with (editor := box.attached()).dialogue:
        turn = editor.hold()
        box.host.run("systemctl", "restart", box.unit)
        answer, texts = editor.answer(turn)
        assert (answer["result"]["stopReason"], texts) == ("cancelled", [])
        assert editor.turn("say fine") == ["fine"]
    assert box.show("Result") == "success"


def test_a_stopped_worker_stays_stopped_until_somebody_new_comes(box: Box) -> None:
    with (editor := box.attached()).dialogue:
        box.host.run("systemctl", "stop", box.unit)
        status, said = editor.gone()
        assert (status, said.count("\n")) == (69, 1) and "was stopped" in said
        assert box.show("ActiveState") == "inactive"
    with (later := box.editor()).dialogue:
        later.load(editor.session)
        assert later.turn("say again") == ["again"]
    assert box.show("ActiveState") == "active"


# The manager, again and again


class Busy(threading.Thread):
    """Has turns until it is told to stop, and keeps what went wrong."""

    def __init__(self, turn: Callable[[], object]) -> None:
        super().__init__()
        self.turns = 0
        self.problem: Exception | None = None
        self._turn = turn
        self._enough = threading.Event()

    def run(self) -> None:
        try:
            while not self._enough.is_set():
                self._turn()
                self.turns += 1
        except Exception as exc:
            self.problem = exc

    def __enter__(self) -> "Busy":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join(60)
        assert (self.problem, self.is_alive()) == (None, False) and self.turns > 0


def counted(editor: Witness) -> None:
    assert editor.turn("count 100") == [str(number) for number in range(100)]


def newcomer(box: Box) -> None:
    with (editor := box.attached()).dialogue:
        counted(editor)
        assert editor.dialogue.close() == 0


def over_restarts(host: Host, editor: Witness) -> None:
    """Restart the manager at a steady pace, each time in the middle of this editor's turn."""
    start = time.monotonic()
    for number in range(RESTARTS):
        turn = editor.hold()
        host.run("systemctl", "restart", "agentd")
        editor.release()
        assert editor.answer(turn)[1] == ["two"]
        time.sleep(max(0.0, start + (number + 1) * EVERY_SEC - time.monotonic()))


def lasting(*boxes: Box) -> list[str]:
    """What must be the same after the manager was restarted: sockets and workers."""
    names = ("agentd.sock", "link.sock", *(f"containers/{box.name}.sock" for box in boxes))
    look = ("stat", "--format=%n %i %a %U", *(f"/run/agentd/{name}" for name in names))
    return [boxes[0].host.run(*look).stdout, *(box.show("MainPID") for box in boxes)]


def test_nobody_notices_ten_restarts_of_the_manager(boxes: Boxes) -> None:
    one, two = boxes(), boxes()
    with ExitStack() as stack:
        held, first, second = (each.attached() for each in (one, one, two))
        for editor in (held, first, second):
            stack.enter_context(editor.dialogue)
        before = lasting(one, two)
        for turn in (partial(counted, first), partial(counted, second), partial(newcomer, two)):
            stack.enter_context(Busy(turn))
        over_restarts(one.host, held)
    assert lasting(one, two) == before


def kill_manager(host: Host) -> None:
    """Return when there is another one."""
    before = host.show("agentd", "MainPID")
    host.run("systemctl", "kill", "--signal=KILL", "agentd")
    host.machine.wait_for(lambda: host.show("agentd", "MainPID") not in (before, "0"), 10, "another manager")


def test_a_manager_that_is_killed_again_and_again_comes_back(box: Box) -> None:
    with (editor := box.attached()).dialogue:
        for _ in range(8):
            kill_manager(box.host)
        assert box.prompt().stdout == "fine\n"
        assert editor.turn("say fine") == ["fine"]


# The bus


def test_a_turn_goes_on_over_the_end_of_the_bus(box: Box) -> None:
    host = box.host
    with (editor := box.attached()).dialogue:
        turn, worker = editor.hold(), box.show("MainPID")
        host.run("systemctl", "kill", "--signal=KILL", "dbus.service")
        editor.release()
        assert editor.answer(turn)[1] == ["two"]
        status = ("busctl", "call", "org.agentd1", "/org/agentd1", "org.agentd1.Manager", "Status")
        host.machine.wait_for(
            lambda: host.run(*status, check=False).returncode == 0, 30, "the manager's name"
        )
        assert editor.turn("say more") == ["more"]
        assert box.show("MainPID") == worker
    host.machine.wait_for(lambda: box.state() == "serving", 20)
    assert box.prompt().stdout == "fine\n"


# Drains


def test_a_drain_outlives_the_manager(box: Box) -> None:
    box.host.run("agentctl", "drain", box.name)
    box.host.run("systemctl", "restart", "agentd")
    with (editor := box.editor()).dialogue:
        status, said = editor.gone()
    assert status == 75 and "being drained" in said
    box.host.run("agentctl", "undrain", box.name)
    assert box.prompt().stdout == "fine\n"


def test_whoever_waits_for_a_drain_sees_its_end_over_a_restart(box: Box) -> None:
    with (editor := box.attached()).dialogue:
        turn = editor.hold()
        command = ("agentctl", "drain", "--wait", box.name)
        with box.host.machine.popen(*command, stderr=subprocess.PIPE) as drain:
            box.host.machine.wait_for(lambda: box.state() == "draining")
            box.host.run("systemctl", "restart", "agentd")
            editor.release()
            assert editor.answer(turn)[1] == ["two"]
            _, said = drain.communicate(timeout=30)
            assert (drain.returncode, "every turn ended by itself" in said) == (0, True), said
    box.host.run("agentctl", "undrain", box.name)


# What cannot start


@pytest.fixture
def damaged(box: Box) -> str:
    """The database of the box, which is none any more."""
    assert box.prompt().stdout == "fine\n"
    box.host.run("systemctl", "stop", box.unit)
    path = f"{box.state_directory}/sessions.db"
    box.host.machine.write(path, "this is no database, however you look at it " * 200)
    return path


def test_a_damaged_database_is_told_with_what_to_do(box: Box, damaged: str) -> None:
    said = box.host.run("python3", "-c", TALK, f"/run/agentd/containers/{box.name}.sock").stdout
    error = json.loads(said)["error"]
    assert error["data"]["reason"] == "store_corrupt" and f"{damaged} is damaged" in error["message"]
    assert (box.show("ActiveState"), box.show("NRestarts"), box.state()) == ("failed", "0", "failed")
    assert f"{box.name}: {error['message']}\n" in box.host.run("agentctl", "status").stdout
    assert box.prompt().returncode == 69


def test_a_damaged_database_that_was_moved_away_is_served_without(box: Box, damaged: str) -> None:
    box.prompt()
    box.until("ActiveState", "failed")
    box.host.run("mv", damaged, f"{damaged}.damaged")
    box.host.run("systemctl", "reset-failed", box.unit)
    assert box.prompt().stdout == "fine\n" and box.is_whole()


# The power


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with new_disk(tmp_path) as disk:
        yield disk


def cut_in_the_middle(machine: DiskMachine) -> str:
    """Cut the power in the middle of a turn, the second one of this session."""
    with (editor := start_box(prepare(machine), "box").attached()).dialogue:
        assert editor.turn("say before") == ["before"]
        editor.hold()
        is_stored = ("sh", "-c", 'grep --text --quiet \'"text": "one"\' /var/lib/agentd/containers/box/*')
        machine.wait_for(lambda: machine.run(*is_stored, check=False).returncode == 0, 10, "it to be stored")
        machine.cut_power()
    return editor.session


def test_a_session_goes_on_after_a_power_cut(suite: str, staged: Path, disk: Path) -> None:
    with DiskMachine(suite, disk, layers=[staged]) as machine:
        session = cut_in_the_middle(machine)
    with DiskMachine(suite, disk, layers=[staged]) as machine:
        box = Box(Host(machine), "box")
        box.host.run("podman", "start", "box")
        machine.wait_for(lambda: box.host.listed().get("box") == "idle", 20, "the watcher to tell of box")
        with (later := box.editor()).dialogue:
            updates = later.load(session)
            assert spoken(updates) == ["before", "one"] and len(notices(updates)) == 1
            assert later.turn("say after") == ["after"]
        assert [each["id"] for each in box.sessions()] == [session] and box.is_whole()


# Nothing to do


@contextmanager
def limited(host: Host, text: str) -> Iterator[None]:
    """The machine with other limits."""
    file = "/etc/agentd/agentd.toml.d/20-limits.toml"
    host.machine.write(file, f"[limits]\n{text}\n")
    host.run("systemctl", "reload", "agentd")
    yield
    host.run("rm", file)
    host.run("systemctl", "reload", "agentd")


@pytest.fixture
def hasty(host: Host) -> Iterator[None]:
    """Workers and agents that leave soon after their work."""
    with limited(host, "worker_idle_sec = 0.5\nagent_idle_sec = 0.5"):
        yield


def test_a_worker_with_nothing_to_do_leaves_and_the_next_connection_brings_it_back(
    hasty: None, box: Box
) -> None:
    with (editor := box.attached()).dialogue:
        assert editor.turn("say one") == ["one"]
    box.until("ActiveState", "inactive", 10)
    assert (box.show("Result"), box.state()) == ("success", "idle")
    with (later := box.editor()).dialogue:
        assert spoken(later.load(editor.session)) == ["one"]
        assert later.turn("say two") == ["two"]


# Who sees what


@pytest.fixture(scope="module")
def people(host: Host) -> tuple[str, str]:
    """Two accounts that may use all containers."""
    names = ("alice", "bob")
    for name in names:
        host.run("useradd", "--create-home", name)
    text = f"[access]\nusers = {json.dumps(names)}\n"
    host.machine.write("/etc/agentd/agentd.toml.d/10-people.toml", text)
    host.run("systemctl", "reload", "agentd")
    return names


def test_what_is_kept_is_closed_to_others(box: Box, people: tuple[str, str]) -> None:
    with box.attached().dialogue:
        pass
    modes = box.host.run("stat", "--format=%a %U", box.state_directory, f"{box.state_directory}/sessions.db")
    assert modes.stdout == "700 root\n600 root\n"
    for path in ("sessions.db", ""):
        refused = box.host.run("ls", f"{box.state_directory}/{path}", user=people[0], check=False)
        assert "Permission denied" in refused.stderr


def test_sessions_are_those_of_the_account(box: Box, people: tuple[str, str]) -> None:
    alice, bob = people
    with (editor := box.editor(alice)).dialogue:
        editor.open()
        editor.turn("say secret")
    assert [each["id"] for each in box.sessions(alice)] == [editor.session]
    assert box.sessions(bob) == []
    history = ("agentctl", "history", f"{box.name}#{editor.session}")
    assert "secret" in box.host.run(*history, user=alice).stdout
    refused = box.host.run(*history, user=bob, check=False)
    assert refused.returncode == 66 and "secret" not in refused.stdout + refused.stderr


def test_polkit_decides_what_other_accounts_may(box: Box, people: tuple[str, str]) -> None:
    alice, bob = people
    host, drain = box.host, ("agentctl", "drain", box.name)
    host.machine.write("/etc/polkit-1/rules.d/10-alice.rules", POLKIT_RULE % (box.name, alice))
    host.run("systemctl", "restart", "polkit")  # it does not always notice a new file on such a file system
    asked = lambda: host.run(*drain, user=alice, check=False).returncode == 0  # noqa: E731
    host.machine.wait_for(asked, 20, "polkit to have read its rules")
    assert box.state() == "drained"
    for user, command in ((alice, drain[:2]), (bob, drain)):
        refused = host.run(*command, user=user, check=False)
        assert refused.returncode == 77 and "polkit does not allow you" in refused.stderr
    host.run("agentctl", "undrain", box.name)


# After all that


def test_nothing_of_this_has_surprised_anybody(host: Host) -> None:
    entries = host.machine.journal("--unit=agentd*")
    assert entries and "Traceback" not in str(entries)
