# SPDX-License-Identifier: Apache-2.0
"""agentctl agents, paths and login, before a front door that plays the worker; logins are real."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import AgentMissing, NotRunning
from support.embedded import eventually
from support.front_door import FrontDoor
from support.screen import Screen

LOGIN = {"id": "oauth", "name": "Log in", "terminal": True}
KEY = {"id": "key", "name": "API key", "terminal": False}
CLAUDE = {
    "name": "claude", "state": "needs-login", "version": "1.2", "title": "Claude",
    "reason": "nobody is logged in", "default": True, "login": [LOGIN, KEY],
}  # fmt: skip
CODEX = {"name": "codex", "state": "missing", "login": [], "reason": "", "default": False, "version": ""}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[FrontDoor]:
    with FrontDoor(tmp_path) as door:
        door.answers["_agentd/agents"] = {"agents": [CLAUDE, CODEX]}
        yield door
        eventually(lambda: not door.inside(), "logins have ended")


def command(door: FrontDoor, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "agentd.ctl", "--runtime-dir", str(door.folder), *arguments]


def agentctl(door: FrontDoor, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run agentctl to its end."""
    return subprocess.run(
        command(door, *arguments), capture_output=True, text=True, timeout=60, check=False, **options
    )


# agents


def test_agents_are_a_table_with_reasons_below(door: FrontDoor) -> None:
    done = agentctl(door, "agents", "box")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "NAME    STATE        VERSION  DEFAULT",
        "claude  needs-login  1.2      yes",
        "codex   missing      -        no",
        "claude: nobody is logged in",
    ]
    assert door.received[0]["params"] == {"container": "box"}


def test_agents_as_json_have_every_key(door: FrontDoor) -> None:
    [claude, codex] = json.loads(agentctl(door, "agents", "box", "--json").stdout)["agents"]
    assert claude == CLAUDE
    assert codex == {**CODEX, "title": ""}


def test_agents_names_are_made_harmless(door: FrontDoor) -> None:
    door.answers["_agentd/agents"] = {"agents": [{**CLAUDE, "version": "\x1b[31m", "reason": "\x07\nx"}]}
    for arguments in (("agents", "box"), ("agents", "box", "--json")):
        said = agentctl(door, *arguments).stdout
        assert all(line.isprintable() for line in said.splitlines())


def test_a_container_without_agents_says_so(door: FrontDoor) -> None:
    door.answers["_agentd/agents"] = {"agents": []}
    assert agentctl(door, "agents", "box").stdout == "box has no agents\n"


def failed(door: FrontDoor, *arguments: str) -> tuple[int, str]:
    """Exit status and message of an agentctl that fails with one line on stderr."""
    done = agentctl(door, *arguments, stdin=subprocess.DEVNULL)
    assert done.stdout == "" and done.stderr.startswith("agentctl: ") and done.stderr.count("\n") == 1
    return done.returncode, done.stderr.removeprefix("agentctl: ").strip()


@pytest.mark.parametrize(
    "answer", [{}, [], {"agents": [{"name": 7}]}, {"agents": [{**CODEX, "state": "odd"}]}]
)
def test_an_answer_that_is_none_is_an_error(door: FrontDoor, answer: object) -> None:
    door.answers["_agentd/agents"] = answer
    status, said = failed(door, "agents", "box")
    assert status == 69 and said.startswith("the worker answered _agentd/agents with something unexpected")


@pytest.mark.parametrize("verb", ["agents", "paths", "login"])
def test_a_refusal_is_told_in_its_own_words(door: FrontDoor, verb: str) -> None:
    door.answers["_agentd/attach"] = NotRunning("box does not run")
    more = ["claude"] if verb == "login" else []
    assert failed(door, verb, "box", *more) == (69, "box does not run")


# paths


def paths(door: FrontDoor, **answer: object) -> list[str]:
    """What `agentctl paths` prints for an answer."""
    door.answers["_agentd/paths"] = answer
    done = agentctl(door, "paths", "box")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


MAPPED = [{"host": "/home/a/src", "container": "/src"}, {"host": "/tmp", "container": "/tmp"}]


def test_paths_are_a_table(door: FrontDoor) -> None:
    assert paths(door, paths=MAPPED, everything=False, unmapped_cwd="refuse", workdir="/") == [
        "HOST         CONTAINER",
        "/home/a/src  /src",
        "/tmp         /tmp",
        "a session in any other directory is refused",
    ]


def test_paths_say_where_other_sessions_work(door: FrontDoor) -> None:
    assert paths(door, paths=[], everything=False, unmapped_cwd="workdir", workdir="/work") == [
        "box shares no directory with this host",
        "a session in any other directory works in /work of the container",
    ]


def test_paths_of_a_host_container_are_a_sentence(door: FrontDoor) -> None:
    said = paths(door, paths=[], everything=True, unmapped_cwd="refuse", workdir="/")
    assert said == ["box sees all files of this host, under the same names"]


def test_paths_as_json(door: FrontDoor) -> None:
    answer = {"paths": MAPPED, "everything": False, "unmapped_cwd": "refuse", "workdir": "/"}
    door.answers["_agentd/paths"] = answer
    assert json.loads(agentctl(door, "paths", "box", "--json").stdout) == answer


# login: which one


def several(*logins: dict[str, object]) -> dict[str, object]:
    return {"agents": [{**CLAUDE, "login": list(logins)}]}


def test_the_only_login_in_a_terminal_is_taken(door: FrontDoor) -> None:
    door.answers["_agentd/login"] = {"exitStatus": 0}
    assert agentctl(door, "login", "box", "claude").returncode == 0
    asked = door.received[2]["params"]
    assert (asked["agent"], asked["method"]) == ("claude", "oauth")


def test_several_logins_are_listed(door: FrontDoor) -> None:
    door.answers["_agentd/agents"] = several(LOGIN, KEY, {"id": "device", "name": "", "terminal": True})
    said = "claude has several logins, name one: oauth (Log in), device"
    assert failed(door, "login", "box", "claude") == (64, said)


def test_an_agent_without_a_login_says_why(door: FrontDoor) -> None:
    door.answers["_agentd/agents"] = several(KEY)
    said = "claude offers no login in a terminal: nobody is logged in"
    assert failed(door, "login", "box", "claude") == (64, said)


def test_an_agent_that_is_not_there_cannot_log_in(door: FrontDoor) -> None:
    said = "the container has no agent goose; there are: claude, codex"
    assert failed(door, "login", "box", "goose") == (66, said)


def test_a_login_that_is_named_is_not_looked_up(door: FrontDoor) -> None:
    door.answers["_agentd/login"] = AgentMissing("box has no program claude")
    assert failed(door, "login", "box", "claude", "oauth") == (69, "box has no program claude")
    assert door.methods()[:2] == ["_agentd/attach", "_agentd/login"]


def test_attach_logs_in_where_an_editor_says_so(door: FrontDoor) -> None:
    door.answers["_agentd/login"] = {"exitStatus": 3}
    done = agentctl(door, "attach", "box", "--agent", "codex", "--login", "claude/a/b")
    asked = door.received[1]["params"]
    assert (done.returncode, asked["agent"], asked["method"]) == (3, "claude", "a/b")


@pytest.mark.parametrize("value", ["claude", "/oauth", "claude/"])
def test_attach_takes_agent_and_method_of_a_login(door: FrontDoor, value: str) -> None:
    said = "--login takes an agent and one of its methods: AGENT/METHOD"
    assert failed(door, "attach", "box", "--login", value) == (64, said)


def test_attach_itself_needs_no_event_loop() -> None:
    script = "import sys, agentd.ctl.attach; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# login: a person's terminal

UP = "print('up', flush=True)"
WAITS = f"import time; {UP}; time.sleep(60)"


def login(door: FrontDoor, script: str) -> Screen:
    """A login by that script, on a terminal."""
    door.login = [sys.executable, "-c", script]
    return Screen(command(door, "login", "box", "claude", "oauth"), {**os.environ, "TERM": "vt52"})


def test_a_login_asks_and_is_answered(door: FrontDoor) -> None:
    with login(door, "import getpass; print('got', getpass.getpass('code? ')); exit(7)") as screen:
        screen.until(b"code? ")
        assert not screen.is_as_it_was
        screen.type(b"abc\r")
        screen.until(b"got abc\r\n")
        assert (screen.end(), screen.is_as_it_was) == (7, True)


def test_a_login_has_the_terminals_size_and_kind(door: FrontDoor) -> None:
    script = "import os; print(*os.get_terminal_size(), os.environ['TERM'])"
    with login(door, script) as screen:
        screen.until(b"90 25 vt52\r\n")
        assert screen.end() == 0


def test_a_new_size_of_the_window_is_passed_on(door: FrontDoor) -> None:
    script = f"""
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
{UP}
signal.sigwait([signal.SIGWINCH])
print(*os.get_terminal_size())"""
    with login(door, script) as screen:
        screen.until(b"up")
        screen.resize(132, 43)
        screen.until(b"132 43\r\n")
        assert screen.end() == 0


def test_ctrl_c_goes_inside(door: FrontDoor) -> None:
    blocked = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])"
    script = f"{blocked}; print('up', flush=True); signal.sigwait([signal.SIGINT]); exit(5)"
    with login(door, script) as screen:
        screen.until(b"up")
        screen.type(b"\x03")
        assert (screen.end(), screen.is_as_it_was) == (5, True)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_ends_the_login_and_puts_the_terminal_back(
    door: FrontDoor, number: signal.Signals, status: int
) -> None:
    with login(door, WAITS) as screen:
        screen.until(b"up")
        screen.process.send_signal(number)
        assert (screen.end(), screen.is_as_it_was) == (status, True)
        eventually(lambda: not door.inside(), "the program has ended")


def test_a_connection_that_is_lost_puts_the_terminal_back(door: FrontDoor) -> None:
    with login(door, WAITS) as screen:
        screen.until(b"up")
        door.hang_up()
        screen.until(b"agentctl: the connection was closed before the answer came\r\n")
        assert (screen.end(), screen.is_as_it_was) == (69, True)


def test_a_login_that_is_refused_puts_the_terminal_back(door: FrontDoor) -> None:
    door.answers["_agentd/login"] = AgentMissing("box has no program claude")
    with Screen(command(door, "login", "box", "claude"), os.environ) as screen:
        screen.until(b"agentctl: box has no program claude\r\n")
        assert (screen.end(), screen.is_as_it_was) == (69, True)


# login: pipes


def piped(door: FrontDoor, script: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    door.login = [sys.executable, "-c", script]
    return agentctl(door, "login", "box", "claude", "oauth", **options)


def test_a_login_takes_its_input_from_a_pipe(door: FrontDoor) -> None:
    done = piped(door, "import os; print(input(), *os.get_terminal_size())", input="abc\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "abc 80 24"


def test_the_end_of_a_pipe_is_the_end_of_the_input(door: FrontDoor) -> None:
    done = piped(door, "import sys; print(len(sys.stdin.read()))", input="abc\nabc\n")
    assert (done.returncode, done.stdout.splitlines()[-1].split("\b")[-1].strip()) == (0, "8")


def test_a_file_is_as_good_as_a_pipe(door: FrontDoor) -> None:
    with open(os.devnull) as nothing:
        done = piped(door, "import sys; exit(3 + len(sys.stdin.read()))", stdin=nothing)
    assert done.returncode == 3


def test_much_output_comes_whole(door: FrontDoor) -> None:
    done = piped(door, "for n in range(50000): print(n)", stdin=subprocess.DEVNULL)
    lines = [line.strip("^D\b") for line in done.stdout.splitlines()]
    assert lines == [str(n) for n in range(50_000)]


def test_a_login_ends_when_nobody_reads_it_any_more(door: FrontDoor) -> None:
    door.login = [sys.executable, "-c", "while True: print('flood')"]
    argv = command(door, "login", "box", "claude", "oauth")
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"flood\r\n"
        process.stdout.close()
        assert (process.wait(30), process.stderr.read()) == (0, b"")


def test_a_signal_ends_a_login_whose_output_nobody_reads(door: FrontDoor) -> None:
    door.login = [sys.executable, "-c", "while True: print('flood')"]
    argv = command(door, "login", "box", "claude", "oauth")
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"flood\r\n"
        eventually(lambda: waits_in_a_write(process.pid), "it waits for a reader")
        process.terminate()
        assert (process.wait(30), process.stderr.read()) == (143, b"")


def waits_in_a_write(pid: int) -> bool:
    """Whether a process is in the middle of a write to its stdout."""
    return (Path("/proc") / str(pid) / "syscall").read_text().startswith("1 0x1 ")


def test_output_in_an_unknown_form_is_an_error(door: FrontDoor) -> None:
    door.login = [sys.executable, "-c", WAITS]
    door.spelled = lambda data: "not base64!"
    status, said = failed(door, "login", "box", "claude", "oauth")
    assert status == 69 and said.startswith("the worker sent output in a form that is not known")


def test_an_exit_status_that_is_none_is_an_error(door: FrontDoor) -> None:
    door.answers["_agentd/login"] = {"exitStatus": "seven"}
    status, said = failed(door, "login", "box", "claude", "oauth")
    assert status == 69 and "something unexpected" in said
