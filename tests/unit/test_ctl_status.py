# SPDX-License-Identifier: Apache-2.0
"""agentctl status and show, of canned states."""

import io
import json
import subprocess
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from rich.console import Console, RenderableType

from agentd.ctl import show, status
from agentd.ctl.status import card
from agentd.errors import InvalidArgs, NoSuchSession
from agentd.paths import Mode
from unit.loop import run

NOW = 1_748_959_331.0
USEC = int(NOW * 1e6)
SESSION = {
    "id": "s-1", "path": "/org/agentd1/session/box_1", "agent": "claude", "state": "idle", "title": "Tests",
    "owner": 0, "clients": 1, "queued": 0, "permissions": 0, "drained": False, "created_usec": USEC,
    "updated_usec": USEC,
}  # fmt: skip
BOX = {
    "name": "box", "runtime": "podman", "id": "3f2a91c4d5e6f708", "state": "serving",
    "unit": "agentd@box.service", "socket": "/run/agentd/containers/box.sock", "leader": 77,
    "worker_pid": 78, "worker_version": "0.1.0", "outdated": False, "active_since_usec": USEC - 65_000_000,
    "clients": 1, "turns": 0, "sessions_open": 1, "frames": 9, "drained": [], "last_error": "",
    "addresses": [], "network": None, "budget": None, "sessions": [SESSION],
    "agents": [{"name": "claude", "state": "ready", "pid": 79, "version": "1.2"}],
}  # fmt: skip
ALL = {
    "version": "0.1.0", "mode": "system", "state": "running", "pid": 7, "draining": False,
    "started_usec": USEC - 3_600_000_000, "configured_usec": USEC, "containers": [BOX], "jobs": [],
    "watcher": {"connected": True, "engines": {"podman": "", "docker": "no such socket"}},
}  # fmt: skip


def shown(what: Iterable[RenderableType]) -> str:
    output = io.StringIO()
    console = Console(file=output, width=1000, markup=False, highlight=False)
    for each in what:
        console.print(each, soft_wrap=True)
    return output.getvalue()


def overview(**changes: Any) -> str:
    return shown(status.overview({**ALL, **changes}, NOW))


def one(**changes: Any) -> str:
    return shown(card.card({**BOX, **changes}, "system", NOW))


# All of it


def test_the_overview_has_the_manager_and_its_containers() -> None:
    text = overview()
    assert text.startswith("● agentd 0.1.0 - coding agents in containers\n      State: running since ")
    assert "; 1h ago\n" in text and "    Watcher: follows docker (no such socket), podman\n" in text
    assert " Containers: 1 (1 with a worker); 1 client; 1 session; 0 turns\n" in text
    *_, header, row = text.splitlines()
    assert header.split() == ["NAME", "RUNTIME", "STATE", "CLIENTS", "SESSIONS", "TURNS", "AGENTS"]
    assert row.split(maxsplit=6) == ["box", "podman", "serving", "1", "1", "0", "claude"]


def test_the_overview_of_nothing_says_so() -> None:
    text = overview(containers=[], watcher={"connected": False, "engines": {}})
    assert "Watcher: not there" in text and text.endswith("\nNo containers.\n")


def test_trouble_is_told_below() -> None:
    failed = {**BOX, "state": "failed", "last_error": "it broke\x1b[2J"}
    job = {
        "id": 3,
        "kind": "drain",
        "target": "box/claude",
        "state": "running",
        "remaining": 1,
        "deadline_usec": USEC + 9_000_000,
    }
    text = overview(
        containers=[failed, {**BOX, "name": "old", "outdated": True, "worker_version": "0.0.9"}], jobs=[job]
    )
    assert text.splitlines()[-3:] == [
        "\N{MULTIPLICATION SIGN} box: it broke\\x1b[2J",
        "● old: older code 0.0.9: systemctl restart agentd@box, when it suits",
        "● job 3: drain of box/claude, running, 1 turn left, cut off in 9s",
    ]


def test_what_an_older_manager_does_not_tell_is_left_out() -> None:
    keys = (
        "name",
        "runtime",
        "state",
        "unit",
        "worker_pid",
        "worker_version",
        "clients",
        "turns",
        "last_error",
    )
    session = {key: SESSION[key] for key in ("id", "agent", "state", "queued")}
    box = {key: BOX[key] for key in (*keys, "agents")} | {"sessions": [session]}
    told = {key: ALL[key] for key in ("version", "mode", "state", "pid", "draining", "watcher", "jobs")}
    whole = status.whole({**told, "containers": [box]})
    assert "      State: running\n" in shown(status.overview(whole, NOW))
    assert shown(card.card(whole["containers"][0], "system", NOW)).endswith(
        "s-1      claude  idle   -          -\n"
    )


@pytest.mark.parametrize(
    ("mode", "unit", "how"),
    [
        ("system", "agentd@box.service", "systemctl restart agentd@box"),
        ("user", "agentd@box.service", "systemctl --user restart agentd@box"),
        ("embedded", "", "agentctl stop box"),
    ],
)
def test_older_code_is_seen_with_what_to_do(mode: str, unit: str, how: str) -> None:
    old = {**BOX, "outdated": True, "worker_version": "0.0.1", "unit": unit}
    assert f"box: older code 0.0.1: {how}, when it suits\n" in overview(mode=mode, containers=[old])
    assert f"older than the manager: {how}, when it suits\n" in shown(card.card(old, mode, NOW))
    assert "older code" not in overview()


# One of them


def test_a_container_reads_like_a_unit() -> None:
    assert one().splitlines()[:4] == [
        "● box - podman container 3f2a91c4d5e6",
        "      State: serving since " + one().split("since ")[1].split(";")[0] + "; 1min 5s ago",
        "       Unit: agentd@box.service",
        "   Main PID: 78 (agentd 0.1.0)",
    ]
    assert "     Agents: claude 1.2 (ready, PID 79)\n" in one()
    assert one().splitlines()[-2:] == [
        "SESSION  AGENT   STATE  LAST USED  TITLE",
        "s-1      claude  idle   0s ago     Tests",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"network": {"received": 1_258_291, "sent": 0}, "addresses": ["10.88.0.3"]},
         "Network: 10.88.0.3; 1.2M in, 0B out"),
        ({"budget": {"last_minute": 3, "last_day": 40, "per_minute": 10, "per_day": 0}},
         "Budget: 3 of 10 turns in the last minute"),
        ({"drained": ["box/claude", "box#s-1"]}, "Drained: box/claude, box#s-1"),
        ({"state": "failed", "last_error": "it broke"}, "Last error: it broke"),
        ({"state": "failed", "last_error": "it broke"},
         "What to do: see the log: agentctl logs box; then try again: agentctl start box"),
        ({"outdated": True},
         "Main PID: 78 (agentd 0.1.0) older than the manager: systemctl restart agentd@box, when it suits"),
        ({"sessions": [{**SESSION, "state": "prompting", "queued": 2, "permissions": 1}]},
         "Sessions: 1 (1 prompting, 2 queued, 1 waiting for permission)"),
        ({"sessions_open": 5}, "and 4 sessions more; see: agentctl sessions box"),
        ({"runtime": "host", "id": "x"}, "● box - host container"),
        ({"runtime": "", "state": "stopped"}, "○ box - container that no engine has now"),
    ],
)  # fmt: skip
def test_what_is_known_of_a_container_is_told(changes: dict[str, Any], line: str) -> None:
    assert line in [each.strip() for each in one(**changes).splitlines()]


def test_what_is_not_known_is_left_out() -> None:
    text = one(unit="", leader=0, worker_pid=0, active_since_usec=0, agents=[], sessions=[], sessions_open=0)
    labels = [line.partition(":")[0].strip() for line in text.splitlines()[1:]]
    assert labels == ["State", "Clients", "Sessions", "Turns"]


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({}, 0), ({"state": "draining"}, 0), ({"state": "drained"}, 0), ({"state": "starting"}, 0),
        ({"state": "idle", "worker_pid": 0}, 3), ({"state": "failed"}, 3),
        ({"state": "drained", "worker_pid": 0}, 3),
    ],
)  # fmt: skip
def test_the_exit_status_is_that_of_systemctl(changes: dict[str, Any], number: int) -> None:
    assert status.exit_status({**BOX, **changes}) == number


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of `agentctl status` with these arguments."""
    from agentd.ctl.options import parse

    monkeypatch.setattr(status, "with_manager", lambda options, work: ALL)
    return status.run(parse(["status", "-n", "0", *arguments]))


def test_containers_are_shown_in_the_order_named_and_missing_ones_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert asked(monkeypatch, "nowhere", "box", "box") == 4
    out, err = capfd.readouterr()
    assert out.count("● box - ") == 1
    assert err == "agentctl: no container is called nowhere; see: agentctl list\n"


def test_json_has_the_containers_that_were_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert asked(monkeypatch, "box", "--json") == 0
    assert json.loads(capfd.readouterr().out) == {"containers": [BOX]}
    assert asked(monkeypatch, "--json") == 0
    assert json.loads(capfd.readouterr().out) == ALL


# Its log


def journal(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> str:
    def ran(command: list[str], **options: Any) -> Any:
        assert command[:4] == ["journalctl", "--no-pager", "--output=short", "--lines=7"]
        assert "AGENTD_CONTAINER=box" in command and options["timeout"] > 0
        return answer()

    monkeypatch.setattr(subprocess, "run", ran)
    return shown(card.log("box", Mode.SYSTEM, 7))


def done(stdout: bytes, stderr: bytes = b"") -> Callable[[], Any]:
    return lambda: subprocess.CompletedProcess([], 0, stdout, stderr)


def test_the_last_lines_of_the_log_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    text = journal(monkeypatch, done(b"-- Boot x --\nJun 03 h agentd[1]: serving box\n\xff\x1b[2J\n"))
    assert text == "\nJun 03 h agentd[1]: serving box\n\ufffd\\x1b[2J\n"


def test_an_entry_of_the_log_cannot_look_like_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """journalctl indents what follows a line break, but knows of one kind of them only."""
    entry = "Jun 03 h agentd[1]: one\u2028-- x\u2028Jun 03 h systemd[1]: two\x0bJun 03 h kernel: three\n"
    text = journal(monkeypatch, done(entry.encode()))
    assert text.splitlines()[1:] == [
        r"Jun 03 h agentd[1]: one\u2028-- x\u2028Jun 03 h systemd[1]: two\x0bJun 03 h kernel: three"
    ]


def no_program() -> Any:
    raise FileNotFoundError(2, "No such file or directory")


def no_answer() -> Any:
    raise subprocess.TimeoutExpired("journalctl", 5)


HINT = b"Hint: You are currently not seeing messages from other users.\n      Users in groups 'adm' can.\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (no_program, "the log cannot be read: journalctl: No such file or directory"),
        (no_answer, "the log was not read: journalctl did not end within 5 s"),
        (done(b"-- No entries --\n"), "nothing is logged"),
        (done(b"-- No entries --\n", b"No journal files were found.\n"),
         "the log cannot be read: No journal files were found."),
        (done(b"-- No entries --\n", HINT),
         "the log cannot be read: You are currently not seeing messages from other users."),
    ],
)  # fmt: skip
def test_why_there_is_no_log_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any], reason: str
) -> None:
    assert journal(monkeypatch, answer) == f"\n{reason}\n"


def test_embedded_mode_has_no_journal() -> None:
    assert shown(card.log("box", Mode.EMBEDDED, 7)).startswith("\nno journal: ")
    assert shown(card.log("box", Mode.EMBEDDED, 0)) == ""


# show


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("State", "running\x1b", r"running\x1b"), ("Draining", False, "no"), ("NClients", 3, "3"),
        ("ConfigFiles", ["/a", "/b"], "/a /b"), ("Drained", [], ""), ("StartTimestamp", 0, ""),
        ("Agents", [["claude", "ready", 9, ""], ["codex", "exited", 0, "1"]],
         "{ claude ; ready ; 9 ;  } { codex ; exited ; 0 ; 1 }"),
        ("NetworkBytes", [1, 2], "{ 1 ; 2 }"),
    ],
)  # fmt: skip
def test_properties_are_written_as_systemctl_writes_them(name: str, value: Any, text: str) -> None:
    assert show.pretty(name, value) == text


def test_points_in_time_are_spelled_out() -> None:
    assert all(
        " 20" in show.pretty(name, USEC) for name in ("StartTimestamp", "ActiveSince", "LastActivity")
    )


class FakeControl:
    """A manager with a session of the same id in two containers."""

    async def manager(self, member: str, signature: str = "", *args: object) -> list[Any]:
        assert (member, signature) == ("ListSessions", "s")
        rows = [["s-1", name, "claude", "idle", "", 0, f"/{name}"] for name in ("box", "den")]
        return [[row for row in rows if args[0] in ("", row[1])]]

    async def container(self, name: str) -> str:
        return f"/container/{name}"

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        return {"at": path, "of": interface}


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("", ("/org/agentd1", "org.agentd1.Manager")),
        ("box", ("/container/box", "org.agentd1.Container")),
        ("den#s-1", ("/den", "org.agentd1.Session")),
    ],
)
def test_a_target_is_one_of_three(target: str, found: tuple[str, str]) -> None:
    values = run(show.properties(FakeControl(), target))  # type: ignore[arg-type]
    assert tuple(values.values()) == found


@pytest.mark.parametrize(
    ("target", "error"), [("#s-1", InvalidArgs), ("box#", InvalidArgs), ("box#s-2", NoSuchSession)]
)
def test_half_a_name_is_none(target: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(show.properties(FakeControl(), target))  # type: ignore[arg-type]


def test_only_the_properties_that_are_wanted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from agentd.ctl.options import parse

    monkeypatch.setattr(show, "with_manager", lambda options, work: {"A": 1, "B": True, "C": ["x"]})
    said = {}
    for arguments in ("", "-p A,C -p No", "-p B --value", "-p B --json"):
        assert show.run(parse(["show", *arguments.split()])) == 0
        said[arguments] = capfd.readouterr().out
    assert list(said.values()) == ["A=1\nB=yes\nC=x\n", "A=1\nC=x\n", "yes\n", '{"B": true}\n']
