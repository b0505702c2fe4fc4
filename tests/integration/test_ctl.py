# SPDX-License-Identifier: Apache-2.0
"""agentctl, as people, scripts and editors use it: what it prints where, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.acp_client import reason, texts
from support.editor import Editor
from support.embedded import Embedded, Start, eventually
from support.screen import Screen

ODD_NAMES = ["../here", "a b", 'a"b', "a\nb", "é", "\x1b[31m", "--", "x;y", "%s", "{}"]


@pytest.fixture
def agentd(start: Start) -> Embedded:
    """An agentd on a bus of its own."""
    return start(bus="private")


@pytest.fixture
def editor(agentd: Embedded) -> Iterator[Editor]:
    """An editor that has a session in `here`."""
    with agentd.attach("here") as editor:
        editor.initialize()
        yield editor


def started(agentd: Embedded, *arguments: str) -> "subprocess.Popen[str]":
    """agentctl, running, with its output to be read."""
    pipe = subprocess.PIPE
    command = agentd.agentctl_command(*arguments)
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=agentd.environment)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for the end of a command: status, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=30)
    return process.returncode, stdout, stderr


# attach


def test_attach_is_pure_acp_and_ends_with_its_input(editor: Editor) -> None:
    answer, said = editor.turn("say one", "stderr noise", "raw noise", "say two")
    assert (said, answer["result"]["stopReason"]) == (["one", "two"], "end_turn")
    editor.hang_up()
    assert editor.at_end()
    assert editor.end() == (0, "")


def test_attach_asks_the_editor_for_permission(editor: Editor) -> None:
    turn = editor.prompt("ask May I?")
    asked = editor.until("session/request_permission")
    editor.send({"id": asked["id"], "result": {"outcome": {"outcome": "selected", "optionId": "yes"}}})
    assert texts(editor.answer_to(turn)[1]) == ["permission: yes"]


def test_attach_delivers_what_the_turn_still_brings_when_its_input_ends(editor: Editor) -> None:
    turn = editor.prompt("say one", "updates 2000 1000", "say two")
    editor.until_text("one")
    editor.hang_up()
    answer, before = editor.answer_to(turn)
    assert (len(texts(before)), answer["result"]["stopReason"]) == (2001, "end_turn")
    assert editor.end() == (0, "")


def test_attach_passes_a_frame_of_64_mib(editor: Editor) -> None:
    frame = b'{"jsonrpc":"2.0","id":"big","method":"_echo","params":{"x":"%s"}}'
    editor.raw(frame % (b"x" * ((64 << 20) - len(frame) + 2)) + b"\n")
    answer = editor.line()
    assert len(answer) > (64 << 20) - 100
    assert answer.startswith(b'{"jsonrpc":') and b'"id":"big"' in answer[:100] + answer[-100:]


def test_attach_ends_when_nobody_reads_any_more(editor: Editor) -> None:
    editor.prompt("updates 100000 1000")
    editor.stop_reading()
    assert editor.end() == (0, "")


def test_attach_is_gone_with_its_editor_and_so_is_the_agent(agentd: Embedded) -> None:
    with agentd.attach("here") as editor:
        editor.initialize()
        assert agentd.agents()
    eventually(lambda: not agentd.agents(), "the agent has ended")


def test_attach_outlives_the_manager(agentd: Embedded, editor: Editor) -> None:
    agentd.kill()
    assert editor.turn("say fine")[1] == ["fine"]
    agentd.start()
    eventually(lambda: agentd.container()["clients"] == 1, "the worker has linked again")
    assert editor.turn("say fine")[1] == ["fine"]


def refused(agentd: Embedded, *arguments: str) -> int:
    """The exit status of an attach that fails: nothing on stdout, one line on stderr."""
    done = agentd.agentctl("attach", *arguments, stdin=subprocess.DEVNULL)
    assert done.stdout == ""
    assert done.stderr.startswith("agentctl: ") and done.stderr.count("\n") == 1
    assert done.stderr.strip().isprintable()
    return done.returncode


def test_attach_tells_refusals_apart_by_exit_status(agentd: Embedded) -> None:
    assert refused(agentd, "there") == 66
    assert refused(agentd, "here", "--agent", "nobody") == 66


@pytest.mark.parametrize("name", ODD_NAMES)
def test_attach_refuses_names_that_cannot_be(agentd: Embedded, name: str) -> None:
    assert refused(agentd, "--", name) in (64, 66)


def test_attach_while_draining_may_be_tried_again_later(agentd: Embedded) -> None:
    assert agentd.agentctl("drain", "here", "--wait").returncode == 0
    assert refused(agentd, "here") == 75


def test_attach_without_a_manager_is_refused(start: Start) -> None:
    agentd = start()
    assert agentd.stop() == 0
    assert refused(agentd, "here") == 69


def test_attach_takes_the_agent_that_is_named(start: Start) -> None:
    with start(limits='[agents.gone]\ncommand = ["/nowhere"]').attach("here", "--agent", "gone") as editor:
        answer = editor.call("initialize", {"protocolVersion": 1})
        assert answer["error"]["data"]["reason"] == "agent_missing"


# prompt


def test_prompt_streams_the_answer(agentd: Embedded) -> None:
    done = agentd.agentctl("prompt", "here", "say one, \nsay two")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one,two\n", "")


@pytest.mark.parametrize(("choice", "outcome"), [("allow", "yes"), ("reject", "no")])
def test_prompt_answers_questions_as_it_was_told(agentd: Embedded, choice: str, outcome: str) -> None:
    done = agentd.agentctl("prompt", "here", "ask May I?", "--permission", choice)
    assert (done.returncode, done.stdout) == (0, f"permission: {outcome}\n")


def test_prompt_rejects_where_there_is_nobody_to_ask(agentd: Embedded) -> None:
    done = agentd.agentctl("prompt", "here", "ask May I?", start_new_session=True)
    assert (done.returncode, done.stdout) == (0, "permission: no\n")


def test_prompt_prints_lines_of_json(agentd: Embedded) -> None:
    done = agentd.agentctl("prompt", "here", "say one\nsay two", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["update"]["content"]["text"] for line in lines[:-1]] == ["one", "two"]
    assert lines[-1]["result"]["stopReason"] == "end_turn"


def test_prompt_reads_standard_input(agentd: Embedded) -> None:
    done = agentd.agentctl("prompt", "here", "-", input="say from stdin ü\n")
    assert (done.returncode, done.stdout) == (0, "from stdin ü\n")


def test_prompt_passes_the_answer_to_a_program_as_it_is(agentd: Embedded) -> None:
    update = {"sessionUpdate": "tool_call", "toolCallId": "c", "title": "red \x1b[31m\nx"}
    said = "red \x1b[31m\x07\x9b text\r\n\u202e"
    chunk = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": said}}
    script = f"update {json.dumps(update)}\nupdate {json.dumps(chunk)}"
    done = subprocess.run(
        agentd.agentctl_command("prompt", "here", script),
        capture_output=True, env=agentd.environment, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.decode()) == (0, f"{said}\n")
    assert done.stderr == "· red \\x1b[31m\\nx\n".encode()


def test_prompt_is_told_that_a_terminal_of_another_host_shows_the_answer(agentd: Embedded) -> None:
    agentd.environment["AGENTCTL_SHOWN"] = "1"
    done = agentd.agentctl("prompt", "here", "say red \x1b[31m\x07 text")
    assert (done.returncode, done.stdout) == (0, "red \\x1b[31m\\x07 text\n")


def test_interrupt_cancels_the_turn(agentd: Embedded) -> None:
    command = started(agentd, "prompt", "here", "say started\ncancelled\nsay .\nsay stopped")
    assert command.stdout and command.stdout.read(7) == "started"
    command.send_signal(signal.SIGINT)
    status, said, _ = ended(command)
    assert (status, said) == (130, ".stopped\n")


def test_second_interrupt_leaves(start: Start) -> None:
    agentd = start("--ignore-cancel", bus="private", limits="cancel_sec = 2.0")
    command = started(agentd, "prompt", "here", "say started\nhold")
    assert command.stdout and command.stdout.read(7) == "started"
    command.send_signal(signal.SIGINT)
    assert command.stderr and "cancelling" in command.stderr.readline()
    command.send_signal(signal.SIGINT)
    assert ended(command)[0] == 130


def test_prompt_tells_failures_apart_by_exit_status(start: Start) -> None:
    agentd = start(bus="private", limits='[agents.gone]\ncommand = ["/nowhere"]')
    failures = {
        ("there", "say x"): 66,
        ("here", "say x", "--agent", "nobody"): 66,
        ("here", "say x", "--agent", "gone"): 69,
        ("here", "exit 3"): 69,
    }
    for arguments, status in failures.items():
        done = agentd.agentctl("prompt", *arguments)
        assert (done.returncode, done.stderr[:10], done.stderr.count("\n")) == (status, "agentctl: ", 1)


def test_prompt_says_when_the_worker_dies(agentd: Embedded) -> None:
    command = started(agentd, "prompt", "here", "say started\nhold")
    assert command.stdout and command.stdout.read(7) == "started"
    os.kill(agentd.workers()[0], signal.SIGKILL)
    status, _, said = ended(command)
    assert status == 69 and "connection was closed" in said


def test_prompt_while_draining_may_be_tried_again_later(agentd: Embedded) -> None:
    agentd.agentctl("drain", "--wait")
    assert agentd.agentctl("prompt", "here", "say x").returncode == 75


def test_prompt_whose_output_nobody_reads_ends(agentd: Embedded) -> None:
    command = started(agentd, "prompt", "here", "say started\nupdates 20000 100")
    assert command.stdout and command.stdout.read(7) == "started"
    command.stdout.close()
    assert command.stderr and "Traceback" not in command.stderr.read()
    command.wait(20)
    command.stderr.close()


# status and list


def test_status_shows_what_goes_on(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().prompt("say one", "hold")
        client.until_text("one")
        row = "here +host +serving +1 +1 +1 +scripted\n"
        eventually(lambda: matches(row, agentd.agentctl("status").stdout), row)
        client.notify("_release")


def matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


def test_status_as_json_has_every_part(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open()
        here = eventually(lambda: agentd.container()["agents"] and agentd.container())
        assert [each["id"] for each in here["sessions"]] == [client.session]
        agents = [(each["name"], each["state"], each["version"]) for each in here["agents"]]
        assert agents == [("scripted", "ready", "1")]
        assert here["worker_pid"] == agentd.workers()[0]
    status = agentd.status()
    assert agentd.process is not None
    assert (status["mode"], status["state"], status["pid"]) == ("embedded", "running", agentd.process.pid)


def test_status_shows_the_last_error_of_a_container(start: Start, tmp_path: Path) -> None:
    agentd = start(
        bus="private", limits=f'[containers.lost]\nruntime = "host"\ndirectory = "{tmp_path}/lost"'
    )
    with agentd.client() as client:
        client.attach("lost")
    assert agentd.container("lost")["state"] in ("stopped", "failed")
    assert agentd.agentctl("status").returncode == 0


def test_list_shows_containers_that_are_idle_too(agentd: Embedded) -> None:
    assert matches("here +host +idle +0 +0", eventually(lambda: host_listed(agentd)))
    [here] = json.loads(agentd.agentctl("list", "--json").stdout)
    assert (here["name"], here["state"], here["clients"], here["sessions"]) == ("here", "idle", 0, 0)


def host_listed(agentd: Embedded) -> str:
    """What `list` prints, once the watcher has said what runs."""
    text = agentd.agentctl("list").stdout
    return text if " host " in text else ""


def test_list_has_a_legend_on_a_terminal_only(agentd: Embedded) -> None:
    assert "listed" not in agentd.agentctl("list").stdout
    with Screen(agentd.agentctl_command("list"), agentd.environment) as screen:
        screen.until(b"\r\n1 container listed.\r\n")


def test_status_of_containers_ends_as_systemctl_does(agentd: Embedded) -> None:
    assert agentd.agentctl("status", "here").returncode == 3
    assert agentd.agentctl("status", "here", "nowhere").returncode == 4
    with agentd.client() as client:
        client.open()
        done = agentd.agentctl("status", "here")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("\N{BLACK CIRCLE} here - host container\n")
    assert f"\n   Main PID: {agentd.workers()[0]} (agentd " in done.stdout and client.session in done.stdout


# show


def properties(agentd: Embedded, *arguments: str) -> dict[str, str]:
    done = agentd.agentctl("show", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def test_show_has_the_properties_of_all_three(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open()
        eventually(lambda: agentd.container()["sessions"], "the manager has been told")
        manager, here = properties(agentd), properties(agentd, "here")
        session = properties(agentd, f"here#{client.session}")
    assert (manager["Mode"], manager["Draining"], manager["NSessions"]) == ("embedded", "no", "1")
    assert (here["Name"], here["State"], here["WorkerPID"]) == ("here", "serving", str(agentd.workers()[0]))
    assert here["Agents"].startswith("{ scripted ; ready ; ") and " 20" in here["ActiveSince"]
    assert (session["Id"], session["Container"], session["Drained"]) == (client.session, "here", "no")


def test_show_of_some_properties(agentd: Embedded) -> None:
    assert agentd.agentctl("show", "-p", "Mode,Draining", "--value").stdout == "embedded\nno\n"
    done = agentd.agentctl("show", "here", "-p", "NClients", "-p", "Drained", "--json")
    assert json.loads(done.stdout) == {"NClients": 0, "Drained": []}
    assert agentd.agentctl("show", "nowhere").returncode == 66
    assert agentd.agentctl("show", "here#nothing").returncode == 66


# check


def test_check_tells_what_a_manager_has_read_and_what_is_wrong_with_it(agentd: Embedded) -> None:
    file = str(agentd.config)
    good = {"valid": True, "files": [file], "problems": []}
    assert json.loads(agentd.agentctl("check", "--json").stdout) == good
    assert agentd.agentctl("check").stdout.startswith(f"# read: {file}\n")
    agentd.config.write_text("runtimes = []\nagnets = 3\n")
    done = agentd.agentctl("check", "--json")
    assert done.returncode == 78
    [problem] = json.loads(done.stdout)["problems"]
    assert file in problem and "agnets" in problem
    done = agentd.agentctl("check")
    assert (done.returncode, done.stdout) == (78, "") and problem in done.stderr


# drain and undrain


def test_drain_waits_for_turns_to_end_by_themselves(agentd: Embedded) -> None:
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        command = started(agentd, "drain", "here", "--timeout", "30", "--wait")
        assert command.stderr and command.stderr.readline() == "1 turn left\n"
        client.notify("_release")
        assert client.answer_to(turn)[0]["result"]["stopReason"] == "end_turn"
        status, _, said = ended(command)
        assert status == 0 and "every turn ended by itself" in said
        assert agentd.container()["state"] == "drained"


def test_drain_cuts_off_what_does_not_end_in_time(start: Start) -> None:
    agentd = start("--ignore-cancel", bus="private")
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        began = time.monotonic()
        done = agentd.agentctl("drain", "here", "--timeout", "0.5", "--wait")
        assert done.returncode == 75 and "cut off" in done.stderr
        assert time.monotonic() - began < 10
        assert client.answer_to(turn)[0]["result"] == {"stopReason": "cancelled"}
        assert agentd.container()["state"] == "drained"


def test_drain_lets_a_turn_that_heeds_the_cancel_end_itself(agentd: Embedded) -> None:
    with agentd.client() as client:
        turn = client.open().prompt("say one", "cancelled", "say two")
        client.until_text("one")
        assert agentd.agentctl("drain", "--timeout", "0.5", "--wait").returncode == 75
        answer, before = client.answer_to(turn)
        assert (texts(before), answer["result"]["stopReason"]) == (["two"], "cancelled")


def test_drain_of_nothing_is_done_at_once(agentd: Embedded) -> None:
    assert agentd.agentctl("drain", "--wait").returncode == 0
    assert agentd.status()["draining"] is True


def test_drain_without_wait_returns_at_once_and_can_be_undone(agentd: Embedded) -> None:
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        assert agentd.agentctl("drain", "here", "--timeout", "60").returncode == 0
        assert refused(agentd, "here") == 75
        assert agentd.agentctl("undrain", "here").returncode == 0
        client.notify("_release")
        assert "result" in client.answer_to(turn)[0]
        assert client.turn("say fine")[1] == ["fine"]
        assert agentd.container()["state"] == "serving"


def test_drain_that_is_undone_is_not_done(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().prompt("say one", "hold")
        client.until_text("one")
        command = started(agentd, "drain", "here", "--timeout", "60", "--wait")
        assert command.stderr and command.stderr.readline()
        assert agentd.agentctl("undrain", "here").returncode == 0
        assert ended(command)[0] == 75
        client.notify("_release")


def test_drain_whose_worker_dies_has_failed(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().prompt("say one", "hold")
        client.until_text("one")
        command = started(agentd, "drain", "here", "--timeout", "60", "--wait")
        assert command.stderr and command.stderr.readline()
        os.kill(agentd.workers()[0], signal.SIGKILL)
        assert ended(command)[0] == 69


def test_drain_of_all_refuses_every_new_connection_until_undrained(agentd: Embedded) -> None:
    assert agentd.agentctl("drain", "--wait").returncode == 0
    assert refused(agentd, "here") == 75
    assert agentd.agentctl("undrain").returncode == 0
    with agentd.client() as client:
        assert client.open().turn("say fine")[1] == ["fine"]


def test_drain_of_one_session_leaves_the_others_alone(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().turn("say one")
        drained, other = client.session, client.new_session()
        eventually(lambda: len(agentd.container()["sessions"]) == 2, "the manager has been told")
        done = agentd.agentctl("drain", f"here#{drained}", "--wait", "--json")
        job = json.loads(done.stdout)
        assert done.returncode == 0 and job.pop("deadline_usec") > time.time() * 1e6
        assert job == {
            "job": 1, "target": f"here#{drained}", "state": "done", "remaining": 0, "drained": [],
        }  # fmt: skip
        assert reason(client.answer_to(client.prompt("say two"))[0]) == "draining"
        client.session = other
        assert client.turn("say three")[1] == ["three"]
        done = agentd.agentctl("undrain", f"here#{drained}", "--json")
        assert json.loads(done.stdout) == {"target": f"here#{drained}", "undrained": True}


def test_drain_of_an_agent_is_not_one_of_the_container(agentd: Embedded) -> None:
    with agentd.client() as client:
        client.open().turn("say one")
        assert agentd.agentctl("drain", "here/scripted", "--wait").returncode == 0
        assert reason(client.answer_to(client.prompt("say two"))[0]) == "draining"
        here = agentd.container()
        assert (here["state"], here["drained"]) == ("serving", ["here/scripted"])


def test_interrupt_ends_the_waiting_and_not_the_drain(agentd: Embedded) -> None:
    with agentd.client() as client:
        turn = client.open().prompt("say one", "hold")
        client.until_text("one")
        command = started(agentd, "drain", "here", "--timeout", "60", "--wait")
        assert command.stderr and command.stderr.readline() == "1 turn left\n"
        command.send_signal(signal.SIGINT)
        status, _, said = ended(command)
        assert (status, said) == (
            130,
            "agentctl: the drain goes on, as job 1; to give it up: agentctl undrain here\n",
        )
        assert agentd.container()["state"] == "draining"
        client.notify("_release")
        client.answer_to(turn)


def test_drain_that_nobody_waits_for_as_json(agentd: Embedded) -> None:
    job = json.loads(agentd.agentctl("drain", "--json").stdout)
    assert job.keys() == {"job", "target", "state", "remaining", "drained", "deadline_usec"}
    assert (job["job"], job["target"]) == (1, "")


def test_wrong_orders_are_refused_with_their_reason(agentd: Embedded) -> None:
    wrong = {("drain", "there"): 66, ("undrain", "there"): 66, ("undrain", "here"): 64, ("undrain",): 64}
    for arguments, status in wrong.items():
        done = agentd.agentctl(*arguments)
        assert (done.returncode, done.stdout, done.stderr[:10]) == (status, "", "agentctl: ")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_timeout_that_is_no_time_is_refused(agentd: Embedded, seconds: str) -> None:
    assert agentd.agentctl("drain", f"--timeout={seconds}", "--wait").returncode in (2, 64)
    assert agentd.status()["draining"] is False


# reload


def test_reload_says_what_was_applied(agentd: Embedded) -> None:
    text = agentd.config.read_text()
    agentd.config.write_text(text.replace("[limits]", "[access]\nusers = ['0']\n[limits]\nsessions = 3"))
    done = agentd.agentctl("reload")
    assert (done.returncode, done.stdout) == (0, "applied: access, limits\n")
    assert agentd.agentctl("reload").stdout == "applied: nothing had changed\n"
    report = json.loads(agentd.agentctl("reload", "--json").stdout)
    assert report == {"applied": [], "needs_restart": [], "warnings": []}


def test_reload_of_a_broken_file_fails_with_the_reason(agentd: Embedded) -> None:
    agentd.config.write_text(agentd.config.read_text() + "\nagnets = 3\n")
    done = agentd.agentctl("reload")
    assert (done.returncode, done.stdout) == (78, "")
    assert str(agentd.config) in done.stderr and "agnets" in done.stderr


# On another host

SSH = """#!/bin/sh
printf '%s\\n' "$@" > {folder}/argv
while [ "$1" != -- ]; do shift; done
shift 2
program=$1
shift
[ "$program" = agentctl ] && exec sh -c "{agentctl} $*"
"""
"""Stands for ssh: notes its arguments, and has a shell of this host run what is left of them."""


@pytest.fixture
def elsewhere(agentd: Embedded) -> Embedded:
    """An agentd whose agentctl is what ssh finds on every host."""
    ssh = agentd.folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH.format(folder=agentd.folder, agentctl=" ".join(agentd.agentctl_command())))
    ssh.chmod(0o755)
    agentd.environment["PATH"] = f"{ssh.parent}:{os.environ['PATH']}"
    return agentd


def remotely(agentd: Embedded, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "agentd.ctl", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=agentd.environment, check=False
    )


def test_another_host_is_asked_through_ssh(elsewhere: Embedded) -> None:
    done = remotely(elsewhere, "-H", "ann@far:2222", "prompt", "here", 'say it\'s $HOME; "x"  y', "--json")
    assert (done.returncode, done.stderr) == (0, "")
    first = json.loads(done.stdout.splitlines()[0])
    assert first["update"]["content"]["text"] == 'it\'s $HOME; "x"  y'
    argv = (elsewhere.folder / "argv").read_text().splitlines()
    assert argv[:5] == ["-p", "2222", "--", "ann@far", "agentctl"]
    assert remotely(elsewhere, "show", "nowhere", "--host=far").returncode == 66


def test_an_editor_speaks_with_an_agent_of_another_host(elsewhere: Embedded) -> None:
    command = [sys.executable, "-m", "agentd.ctl", "-H", "far", "attach", "here"]
    with Editor(command, elsewhere.environment) as editor:
        editor.initialize()
        assert editor.turn("say one")[1] == ["one"]
        editor.hang_up()
        assert editor.end() == (0, "")


@pytest.mark.parametrize("host", ["-oProxyCommand=false", "ann@-x", "far:no"])
def test_what_is_no_host_is_never_given_to_ssh(elsewhere: Embedded, host: str) -> None:
    done = remotely(elsewhere, f"--host={host}", "list")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (64, "", 1)
    assert not (elsewhere.folder / "argv").exists()


def test_without_ssh_there_is_a_sentence(elsewhere: Embedded) -> None:
    elsewhere.environment["PATH"] = "/nowhere"
    done = remotely(elsewhere, "-H", "far", "list")
    assert done.returncode == 69 and "install openssh-client" in done.stderr


# Where there is no manager


@pytest.mark.parametrize(
    "verb", ["status", "list", "show", "drain", "undrain", "reload", "sessions", "check"]
)
def test_orders_without_a_manager_say_so(tmp_path: Path, verb: str) -> None:
    command = [sys.executable, "-m", "agentd.ctl", "--runtime-dir", str(tmp_path / "none"), verb]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("agentctl: no agentd answers") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["status"], ["attach", "here"], ["prompt", "here", "say x"]])
def test_nothing_anywhere_is_said_too(tmp_path: Path, arguments: list[str]) -> None:
    nowhere = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    buses = dict.fromkeys(
        ("DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS"), f"unix:path={tmp_path}/bus"
    )
    command = [sys.executable, "-m", "agentd.ctl", *arguments]
    environment = {**os.environ, **nowhere, **buses}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("agentctl: no agentd answers")


def test_status_of_a_manager_that_was_killed_says_so(agentd: Embedded) -> None:
    agentd.kill()
    eventually(lambda: agentd.agentctl("status").returncode == 69)
