# SPDX-License-Identifier: Apache-2.0
"""The way out of the sandbox of a worker's unit, with a systemd-run that only starts what it is told to."""

import asyncio
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from agentd.process import Size, close_all
from agentd.runtimes import sandbox
from agentd.runtimes.sandbox import outside
from agentd.runtimes.start import Start, on_terminal, piped
from unit.loop import run

SYSTEMD_RUN = f"""\
#!{sys.executable} -IS
import os, sys, pathlib
told = pathlib.Path(__file__).with_name("told")
told.write_text("\\n".join([*sys.argv, *(f"{{key}}={{value}}" for key, value in os.environ.items())]))
argv = [word.replace("$$", "$") for word in sys.argv[sys.argv.index("--") + 1:]]
os.execve(argv[0], argv, {{"PATH": os.defpath}})
"""
SECRETS = {"PATH": os.environ["PATH"], "KEY": "hunter2\nand more"}
SIZE = Size(77, 33)


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As in the unit of a worker. The folder has what systemd-run was told."""
    monkeypatch.setattr(sandbox, "SANDBOXED", True)
    file = tmp_path / "systemd-run"
    file.write_text(SYSTEMD_RUN)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def read(descriptor: int) -> bytes:
    found = b""
    try:
        while piece := os.read(descriptor, 4096):
            found += piece
    except OSError:
        pass  # a terminal says so that nobody has its other end
    return found


def test_without_a_sandbox_it_is_started_as_it_is() -> None:
    start = Start(["podman", "exec"], SECRETS)
    assert outside(start, "box") is start


def test_systemd_starts_it_with_its_streams_and_its_environment(systemd: Path) -> None:
    start = outside(Start(["sh", "-c", 'printf %s "$KEY"; cat; exit 7'], SECRETS), "box")

    async def test() -> tuple[bytes, int]:
        child, pipes = piped(start)
        os.write(pipes.stdin, b", a frame")
        os.close(pipes.stdin)
        said = await asyncio.to_thread(read, pipes.stdout)
        close_all(pipes[1:])
        return said, await child.wait()

    assert run(test()) == (b"hunter2\nand more, a frame", 7)


def test_what_is_for_a_terminal_gets_it_as_its_own(systemd: Path) -> None:
    script = 'printf "%s|" "$KEY" "$(tty)" "$(stty size)"; : </dev/tty && exit 7'
    start = outside(Start(["sh", "-c", script], SECRETS), "box", terminal=True)

    async def test() -> tuple[bytes, int]:
        child, terminal = on_terminal(start, SIZE)
        os.set_blocking(terminal, True)
        said = await asyncio.to_thread(read, terminal)
        os.close(terminal)
        return said, await child.wait()

    said, status = run(test())
    key, terminal, size, _ = said.decode().replace("\r\n", "\n").split("|")
    assert (key, size, status) == ("hunter2\nand more", "33 77", 7)
    assert terminal.startswith("/dev/pts/")


def test_nobody_sees_a_value(systemd: Path) -> None:
    start = outside(Start([shutil.which("true") or "", "$KEY"], SECRETS), "box")

    async def test() -> int:
        child, pipes = piped(start)
        close_all(pipes)
        return await child.wait()

    assert run(test()) == 0
    told = (systemd / "told").read_text()
    assert "hunter2" not in told and "--slice=agentd.slice" in told
