# SPDX-License-Identifier: Apache-2.0

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentd import process
from agentd.errors import EngineFailed, EngineMissing
from unit.loop import run, settle

LONG = 60.0


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def stubborn(*, ready: int) -> list[str]:
    """A process that ignores SIGTERM, and says on a descriptor that it does."""
    return sh(f"trap '' TERM; echo up >/dev/fd/{ready}; while :; do read -r x; sleep 60 & wait; done")


# Short commands


def test_a_command_gives_its_status_and_both_outputs() -> None:
    output = run(process.run(sh("echo out; echo err >&2; exit 3"), deadline=LONG))
    assert output == (3, b"out\n", b"err\n")


def test_a_command_has_an_empty_stdin() -> None:
    assert run(process.run(["cat"], deadline=LONG)) == (0, b"", b"")


def test_a_command_that_was_killed_has_not_succeeded() -> None:
    assert run(process.run(sh("kill -KILL $$"), deadline=LONG)).status == -signal.SIGKILL


def test_much_output_on_both_streams_does_not_block() -> None:
    output = run(process.run(sh("head -c 1000000 /dev/zero >&2; head -c 1000000 /dev/zero"), deadline=LONG))
    assert (len(output.stdout), len(output.stderr)) == (1_000_000, 1_000_000)


def test_a_command_that_is_not_there_is_an_engine_that_is_missing() -> None:
    with pytest.raises(EngineMissing, match=r"^no-such-engine is not installed"):
        run(process.run(["no-such-engine", "ps"], deadline=LONG))


def test_a_command_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    (tmp_path / "podman").write_text("#!/bin/sh\n", encoding="ascii")
    with pytest.raises(EngineFailed, match="cannot be started: Permission denied"):
        run(process.run([str(tmp_path / "podman")], deadline=LONG))


def test_a_command_that_hangs_is_killed_at_its_deadline() -> None:
    with pytest.raises(EngineFailed, match=r"^sleep 60 gave no answer within 0.05 s$"):
        run(process.run(["sleep", "60"], deadline=0.05))


def test_what_a_command_has_started_dies_with_it_at_the_deadline() -> None:
    with pytest.raises(EngineFailed, match=r"^sh -c gave no answer within 0.05 s$"):
        run(process.run(sh("sleep 60 & sleep 60"), deadline=0.05))


def test_a_command_that_nobody_waits_for_any_more_is_killed() -> None:
    async def test() -> None:
        task = asyncio.ensure_future(process.run(["sleep", "60"], deadline=LONG))
        while not _own_children():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert (task.cancelled(), _own_children()) == (True, [])

    run(test())


def _own_children() -> list[str]:
    return [pid for each in Path("/proc/self/task").glob("*/children") for pid in each.read_text().split()]


# Environments


def test_an_engine_gets_our_environment_but_nothing_of_systemds(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "MAINPID", "AGENTD_LOG"]
    for name in [*hidden, "CREDENTIALS_DIRECTORY", "DOCKER_HOST"]:
        monkeypatch.setenv(name, "1")
    environment = process.engine_environment()
    assert environment["DOCKER_HOST"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
    assert not environment.keys() & {*hidden, "CREDENTIALS_DIRECTORY"}
    assert b"AGENTD_LOG" not in run(process.run(["env"], deadline=LONG)).stdout


def test_an_agent_gets_only_what_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "OPENAI_API_KEY", "NOTIFY_SOCKET", "PATHS"):
        monkeypatch.setenv(name, "1")
    for name in ("LANG", "LC_ALL", "TERM"):
        monkeypatch.setenv(name, "C")
    environment = process.agent_environment()
    assert environment["LANG"] == environment["LC_ALL"] == environment["TERM"] == "C"
    assert {name for name in environment if not name.startswith("LC_")} <= set(process.AGENT_VARIABLES)


# Children


def test_the_end_of_a_child_is_seen_by_all_who_wait() -> None:
    async def test() -> None:
        child = process.spawn(sh("exit 7"), env=os.environ)
        before = child.status
        first, second = await asyncio.gather(child.wait(), child.wait())
        assert (before, first, second, child.status, await child.wait()) == (None, 7, 7, 7, 7)

    run(test())


def test_who_gives_up_waiting_does_not_disturb_the_others() -> None:
    async def test() -> None:
        child = process.spawn(["sleep", "60"], env=os.environ)
        impatient, patient = asyncio.ensure_future(child.wait()), asyncio.ensure_future(child.wait())
        await settle()
        impatient.cancel()
        await settle()
        child.signal(signal.SIGKILL)
        assert await patient == -signal.SIGKILL

    run(test())


def test_stopping_takes_sigterm_where_that_is_enough() -> None:
    async def test() -> None:
        child = process.spawn(["sleep", "60"], env=os.environ)
        await child.stop(term=LONG, kill=LONG)
        assert child.status == -signal.SIGTERM

    run(test())


def test_stopping_takes_sigkill_where_it_must() -> None:
    async def test() -> None:
        read, write = os.pipe()
        child = process.spawn(stubborn(ready=write), env=os.environ, pass_fds=[write])
        os.close(write)
        assert os.read(read, 10) == b"up\n"
        os.close(read)
        await child.stop(term=0.05, kill=LONG)
        assert child.status == -signal.SIGKILL

    run(test())


def test_what_has_ended_can_be_signalled_and_stopped_without_harm() -> None:
    async def test() -> None:
        child = process.spawn(["true"], env=os.environ)
        await child.wait()
        child.signal(signal.SIGKILL)
        await child.stop(term=LONG, kill=LONG)
        assert child.status == 0

    run(test())


def test_a_child_has_its_own_session_directory_and_environment(tmp_path: Path) -> None:
    async def test() -> None:
        child, pipes = process.spawn_piped(
            sh("ps -o sid= -p $$; pwd; env"), env={"A": "b"}, cwd=str(tmp_path)
        )
        await child.wait()
        sid, where, *environment = os.read(pipes.stdout, 10_000).decode().split("\n")
        assert int(sid or child.pid) == child.pid
        assert where == str(tmp_path)
        assert "A=b" in environment
        assert not any(each.startswith("PATH=") for each in environment)
        process.close_all(pipes)

    run(test())


def test_a_child_inherits_the_descriptors_it_is_given_and_no_other() -> None:
    async def test() -> None:
        given, other = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(other, True)
        read, write = os.pipe()
        child = process.spawn(["ls", "/proc/self/fd"], env=os.environ, pass_fds=[given], stdout=write)
        await child.wait()
        for each in (given, other, write):
            os.close(each)
        names = {int(name) for name in os.read(read, 10_000).split()}
        os.close(read)
        assert given in names
        assert other not in names

    run(test())


def test_the_three_streams_of_a_child_are_pipes() -> None:
    async def test() -> None:
        child, pipes = process.spawn_piped(sh("cat; echo err >&2"), env=os.environ)
        os.write(pipes.stdin, b"through")
        os.close(pipes.stdin)
        assert await child.wait() == 0
        assert (os.read(pipes.stdout, 100), os.read(pipes.stderr, 100)) == (b"through", b"err\n")
        assert (os.read(pipes.stdout, 100), os.read(pipes.stderr, 100)) == (b"", b"")
        process.close_all((pipes.stdout, pipes.stderr))

    run(test())


@pytest.mark.parametrize("argv", [["no-such-agent"], ["/etc/passwd"]])
def test_a_program_that_cannot_run_leaves_no_pipes(argv: list[str]) -> None:
    async def test() -> None:
        with pytest.raises(OSError, match=argv[0]):
            process.spawn_piped(argv, env=os.environ)

    run(test())


@pytest.mark.parametrize("free", range(1, 8))
def test_pipes_that_cannot_all_be_had_are_closed_again(free: int) -> None:
    async def test() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = {int(name) for name in os.listdir("/proc/self/fd")}  # and the one of this very listing
        room = [number for number in range(len(used) + free) if number not in used]
        resource.setrlimit(resource.RLIMIT_NOFILE, (room[free - 1], hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                process.spawn_piped(["true"], env=os.environ)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(test())


PARENT = """
import os, signal, subprocess, sys
from agentd.process import dies_with_us
argv = dies_with_us(["sh", "-c", "echo up; exec sleep 60"])
child = subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=[{fd}])
print(child.stdout.readline(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_dies_with_us_does() -> None:
    read, write = os.pipe()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", PARENT.format(fd=write)]
    parent = subprocess.run(argv, pass_fds=[write], capture_output=True, env=environment)
    os.close(write)
    assert (parent.returncode, parent.stdout) == (-signal.SIGKILL, b"b'up\\n'\n")
    assert os.read(read, 1) == b""  # its child held the other end, and is no more
    os.close(read)
