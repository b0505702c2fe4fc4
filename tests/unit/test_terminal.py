# SPDX-License-Identifier: Apache-2.0
"""Programs on terminals: what they are started with, and what an engine's program is told of it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd import process
from agentd.config import Configuration, Container
from agentd.errors import EngineMissing, NotRunning
from agentd.link import ContainerInfo
from agentd.process import Child, Size
from agentd.runtimes import Command
from agentd.runtimes.docker import Docker
from agentd.runtimes.engine import Engine
from agentd.runtimes.host import Host
from agentd.runtimes.podman import Podman
from unit.loop import run

SIZE = Size(100, 30)
BOX = ContainerInfo(name="box", runtime="podman", running=True, id="id-of-box")
DUMP = r"""#!/bin/sh
stty size
tr '\0' '\n' </proc/$$/cmdline
echo ---
tr '\0' '\n' </proc/$$/environ
"""
engines = pytest.mark.parametrize("engine", [Podman, Docker])


def printed(start: Callable[[], tuple[Child, int]]) -> str:
    """What a program writes on its terminal until it has ended."""

    async def test() -> str:
        child, terminal = start()
        try:
            await child.wait()
            return all_of(terminal)
        finally:
            os.close(terminal)

    return run(test())


def all_of(terminal: int) -> str:
    text = b""
    try:
        while data := os.read(terminal, 1 << 16):
            text += data
    except OSError:
        pass  # EIO, which is how a terminal says that there is nobody at its other end
    return text.decode().replace("\r\n", "\n")


def dumped(engine: type[Engine], command: Command) -> tuple[list[str], dict[str, str]]:
    """The lines of size and arguments, and the environment, that an engine's program gets."""
    lines, _, environment = printed(lambda: engine(Configuration()).terminal(BOX, command, SIZE)).partition(
        "---\n"
    )
    pairs = (line.partition("=") for line in environment.splitlines())
    return lines.splitlines(), {key: value for key, _, value in pairs}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs in the engines' places that print what they were started with."""
    for name in ("podman", "docker"):
        (tmp_path / name).write_text(DUMP, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_child_leads_a_session_whose_terminal_is_its_own() -> None:
    script = (
        "import os; print(os.getsid(0) == os.getpid() == os.tcgetpgrp(0), os.ttyname(0) != os.ctermid())"
    )
    argv = [sys.executable, "-c", script]
    text = printed(lambda: process.spawn_on_terminal(argv, env=os.environ, size=SIZE))
    assert text == "True True\n"


def test_the_child_is_the_program_itself() -> None:
    async def test() -> None:
        argv = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
        child, terminal = process.spawn_on_terminal(argv, env=os.environ, size=SIZE)
        os.set_blocking(terminal, True)
        assert os.read(terminal, 2) == b"up"
        child.signal(9)
        assert await child.wait() == -9
        os.close(terminal)

    run(test())


@pytest.mark.parametrize("program", ["no-such-program", "/etc/passwd", "./no-such-program"])
def test_a_program_that_cannot_run_leaves_no_terminal(program: str) -> None:
    async def test() -> None:
        with pytest.raises(OSError, match=program):
            process.spawn_on_terminal([program], env=os.environ, size=SIZE)

    run(test())


@engines
def test_an_engine_gets_a_terminal_of_the_clients_size(engine: type[Engine], fake: None) -> None:
    command = Command(["agent", "login"], {"A": "1"}, user="dev", workdir="/src")
    (size, _shell, _program, *arguments), _ = dumped(engine, command)
    keys = f"--detach-keys={engine.detach_keys}"
    options = ["--env", "A", "--user", "dev", "--workdir", "/src"]
    assert size == "30 100"
    assert arguments == ["exec", "--interactive", "--tty", keys, *options, "id-of-box", "agent", "login"]


@engines
def test_an_engine_gets_values_by_its_environment(engine: type[Engine], fake: None) -> None:
    lines, environment = dumped(
        engine, Command(["agent"], {"TERM": "vt52", "KEY": "hunter2", "HOME": "/in"})
    )
    assert "hunter2" not in " ".join(lines) and "HOME=/in" in lines
    assert (environment["TERM"], environment["KEY"]) == ("vt52", "hunter2")
    assert environment["HOME"] == os.environ["HOME"]


@engines
def test_a_terminal_without_an_engine(
    engine: type[Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineMissing, match=f"^{engine.name} is not installed"):
        printed(lambda: engine(Configuration()).terminal(BOX, Command(["agent"], {}), SIZE))


def test_a_terminal_in_a_directory_that_has_gone(tmp_path: Path) -> None:
    entry = Container(runtime="host", directory=str(tmp_path / "gone"))
    host = Host(Configuration(containers={"here": entry}))
    here = run(host.inspect("here"))
    with pytest.raises(NotRunning, match="gone of here is not there"):
        printed(lambda: host.terminal(here, Command(["true"], {}), SIZE))
