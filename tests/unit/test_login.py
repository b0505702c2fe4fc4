# SPDX-License-Identifier: Apache-2.0

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agentd import proctree
from agentd.config import Configuration, Container, Limits
from agentd.errors import AgentExited, AgentMissing, AgentTimeout, LimitReached
from agentd.log import Context, Redactor
from agentd.runtimes import Command
from agentd.runtimes.host import Host
from agentd.worker.agent import Place
from agentd.worker.login import INPUT_BYTES, LOGIN_SEC, OUTPUT_BYTES, Login
from unit.loop import Changes, run, skip

OWNER = f"login-test-{os.getpid()}"
UP = "print('up', flush=True)"
RAW = "import sys, time, tty; tty.setraw(0); " + UP
LONG = "import time; time.sleep(60)"
STUBBORN = f"""
import signal, time
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
{UP}
while True:
    time.sleep(60)
"""

FILLS_ITS_TERMINAL = f"""
import os
{UP}
input()
os.set_blocking(1, False)
try:
    while True:
        os.write(1, b"x" * 1000)
except BlockingIOError:
    open("full", "w").close()
os.set_blocking(1, True)
print()
print("end")
"""


class Seen(Changes):
    """What a login has put out."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.longest = 0

    def output(self, data: bytes) -> None:
        self.data += data
        self.longest = max(self.longest, len(data))
        self.changed()

    async def until_text(self, text: bytes) -> None:
        await self.until(lambda: text in self.data)


Talk = Callable[[Login, Seen], Awaitable[None]]


async def silent(login: Login, seen: Seen) -> None:
    """Say nothing."""


def made(folder: Path, seen: Seen) -> Login:
    host = Host(Configuration(containers={"here": Container(runtime="host", directory=str(folder))}))
    limits = Limits(agent_stop_sec=0.2, agent_kill_sec=5.0)
    log = Context(logging.getLogger("test"), {})
    info = run(host.inspect("here"))
    return Login(Place(host, info, OWNER, limits, Redactor([]), log), seen.output)


def ran(folder: Path, script: str, talk: Talk = silent, **environment: str) -> tuple[int, bytes]:
    """Run a script as a login, talk to it, and return its status and all it wrote."""

    async def test() -> tuple[int, bytes]:
        running = asyncio.ensure_future(login.run(command, 100, 30))
        try:
            await talk(login, seen)
        finally:
            await asyncio.wait((running,))
        assert await asyncio.to_thread(proctree.find, OWNER) == []
        assert seen.longest <= OUTPUT_BYTES
        return running.result(), seen.data

    seen = Seen()
    command = Command([sys.executable, "-c", script], environment)
    login = made(folder, seen)
    return run(test())


# What the program has


def test_the_program_has_a_terminal_that_controls_it(tmp_path: Path) -> None:
    script = "import os; print(os.isatty(0), os.getsid(0) == os.getpid(), open('/dev/tty').isatty())"
    assert ran(tmp_path, script) == (0, b"True True True\r\n")


def test_the_size_and_the_environment_are_the_clients(tmp_path: Path) -> None:
    script = "import os; print(*os.get_terminal_size(), os.environ['TERM'])"
    assert ran(tmp_path, script, TERM="vt52") == (0, b"100 30 vt52\r\n")


@pytest.mark.parametrize(("script", "status"), [("exit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_exit_status_is_as_shells_have_it(tmp_path: Path, script: str, status: int) -> None:
    assert ran(tmp_path, script) == (status, b"")


@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program", "./no-such-program"])
def test_a_program_that_is_not_there_is_missing(tmp_path: Path, program: str) -> None:
    command = Command([program], {})
    login = made(tmp_path, Seen())
    with pytest.raises(AgentMissing, match=f"^{program} cannot be started on this host: No such file"):
        run(login.run(command, 80, 24))


# Talking to it


def test_the_program_asks_and_is_answered(tmp_path: Path) -> None:
    async def talk(login: Login, seen: Seen) -> None:
        await seen.until_text(b"code? ")
        login.input(b"abc\n")

    status, said = ran(tmp_path, "print('got', input('code? '))", talk)
    assert (status, said) == (0, b"code? abc\r\ngot abc\r\n")


def test_ctrl_c_interrupts_the_program(tmp_path: Path) -> None:
    async def talk(login: Login, seen: Seen) -> None:
        await seen.until_text(b"up")
        login.input(b"\x03")

    script = f"try:\n {UP}; {LONG}\nexcept KeyboardInterrupt: exit(5)"
    assert ran(tmp_path, script, talk)[0] == 5


def test_a_new_size_is_told(tmp_path: Path) -> None:
    async def talk(login: Login, seen: Seen) -> None:
        await seen.until_text(b"up")
        login.resize(132, 43)

    script = f"""
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
{UP}
signal.sigwait([signal.SIGWINCH])
print(*os.get_terminal_size())"""
    assert ran(tmp_path, script, talk) == (0, b"up\r\n132 43\r\n")


def test_input_and_sizes_for_a_program_that_has_ended_are_dropped(tmp_path: Path) -> None:
    async def test() -> int:
        status = await login.run(command, 80, 24)
        login.input(b"x" * (INPUT_BYTES + 1))
        login.resize(1, 1)
        login.hold(True)
        login.close()
        return status

    command = Command(["true"], {})
    login = made(tmp_path, Seen())
    assert run(test()) == 0


def test_what_comes_before_the_program_has_started_is_for_it(tmp_path: Path) -> None:
    command = Command(["sh", "-c", "read line; stty size; exit $line"], {})
    login = made(tmp_path, seen := Seen())
    login.input(b"7\n")
    login.resize(132, 43)
    assert run(login.run(command, 80, 24)) == 7
    assert seen.data.endswith(b"43 132\r\n")


def test_input_waits_for_a_program_that_reads_late(tmp_path: Path) -> None:
    async def talk(login: Login, seen: Seen) -> None:
        await seen.until_text(b"up")
        login.input(b"x" * INPUT_BYTES)

    script = f"{RAW}; n = 0\nwhile n < {INPUT_BYTES}: n += len(sys.stdin.buffer.read1(1000))\nprint(n)"
    assert ran(tmp_path, script, talk) == (0, b"up\n%d\n" % INPUT_BYTES)


def test_input_that_is_left_unread_ends_the_login(tmp_path: Path) -> None:
    async def talk(login: Login, seen: Seen) -> None:
        await seen.until_text(b"up")
        for _ in range(3):
            login.input(b"x" * (INPUT_BYTES // 2))

    with pytest.raises(LimitReached, match="left 65536 bytes of input unread"):
        ran(tmp_path, f"{RAW}; time.sleep(60)", talk)


# Output


def test_much_output_comes_whole_and_in_order(tmp_path: Path) -> None:
    status, said = ran(tmp_path, "for n in range(100000): print(n)")
    assert status == 0
    assert said.split() == [b"%d" % n for n in range(100_000)]


def test_a_client_that_is_behind_holds_the_program_up(tmp_path: Path) -> None:
    async def talk(login: Login, seen: Seen) -> None:
        await seen.until_text(b"up")
        login.hold(True)
        login.input(b"\n")
        held = seen.data
        while not (tmp_path / "full").exists():
            await asyncio.sleep(0)
        assert seen.data == held
        login.hold(False)

    status, said = ran(tmp_path, FILLS_ITS_TERMINAL, talk)
    assert (status, said.endswith(b"x\r\nend\r\n")) == (0, True)


def test_the_last_words_come_also_to_a_client_that_is_behind(tmp_path: Path) -> None:
    async def talk(login: Login, seen: Seen) -> None:
        login.hold(True)

    assert ran(tmp_path, "print('x' * 1000)", talk) == (0, b"x" * 1000 + b"\r\n")


# Its end


def test_closing_ends_a_program_that_ignores_every_signal_it_can(tmp_path: Path) -> None:
    async def talk(login: Login, seen: Seen) -> None:
        await seen.until_text(b"up")
        login.close()

    with pytest.raises(AgentExited, match="ended before its program had"):
        ran(tmp_path, STUBBORN, talk)


def test_closing_ends_a_program_that_floods_a_client_that_is_behind(tmp_path: Path) -> None:
    async def talk(login: Login, seen: Seen) -> None:
        await seen.until_text(b"flood")
        login.hold(True)
        login.close()
        login.hold(True)

    with pytest.raises(AgentExited):
        ran(tmp_path, "while True: print('flood')", talk)


def test_what_a_program_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); input()"

    async def talk(login: Login, seen: Seen) -> None:
        await seen.until_text(b"up")
        login.input(b"\n")

    assert ran(tmp_path, script, talk) == (0, b"up\r\n\r\n")


def test_a_login_is_over_at_its_deadline(tmp_path: Path) -> None:
    async def talk(login: Login, seen: Seen) -> None:
        await seen.until_text(b"up")
        await skip(LOGIN_SEC + 1)

    with pytest.raises(AgentTimeout, match="took longer than 900 s"):
        ran(tmp_path, f"{UP}; {LONG}", talk)


def test_one_that_is_closed_before_it_runs_is_not_started(tmp_path: Path) -> None:
    command = Command(["touch", "started"], {})
    login = made(tmp_path, Seen())
    login.close()
    with pytest.raises(AgentExited):
        run(login.run(command, 80, 24))
    assert not (tmp_path / "started").exists()


def test_a_login_that_is_cancelled_hangs_up(tmp_path: Path) -> None:
    async def test() -> None:
        running = asyncio.ensure_future(login.run(command, 80, 24))
        await seen.until_text(b"up")
        running.cancel()
        await asyncio.wait((running,))
        assert running.cancelled()
        while await asyncio.to_thread(proctree.find, OWNER):
            await asyncio.sleep(0)

    seen = Seen()
    command = Command([sys.executable, "-c", f"{UP}; {LONG}"], {})
    login = made(tmp_path, seen)
    run(test())
