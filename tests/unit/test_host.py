# SPDX-License-Identifier: Apache-2.0

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import pytest

from agentd import proctree
from agentd.config import Configuration, Container
from agentd.errors import AgentMissing, NoSuchContainer, NotRunning
from agentd.runtimes import Command
from agentd.runtimes.host import Host
from unit.loop import run, settle


@pytest.fixture
def host(tmp_path: Path) -> Host:
    entries = {
        "here": Container(runtime="host", directory=str(tmp_path)),
        "nowhere": Container(runtime="host", directory=str(tmp_path / "gone")),
        "box": Container(runtime="podman"),
        "any": Container(),
    }
    return Host(Configuration(containers=entries))


def printed(host: Host, command: Command, name: str = "here") -> str:
    async def test() -> str:
        child, pipes = host.exec(await host.inspect(name), command)
        await child.wait()
        output = os.read(pipes.stdout, 10_000).decode()
        for each in pipes:
            os.close(each)
        return output

    return run(test())


def test_host_containers_are_listed_as_running_since_nobody_tells_when_a_directory_comes(host: Host) -> None:
    found = {each.name: each.running for each in run(host.containers())}
    assert found == {"here": True, "nowhere": True}


def test_a_host_container_runs_as_long_as_its_directory_is_there(host: Host) -> None:
    assert not run(host.inspect("nowhere")).running
    here = run(host.inspect("here"))
    assert (here.name, here.runtime, here.id, here.pid) == ("here", "host", "here", 0)


@pytest.mark.parametrize("name", ["box", "any", "stranger"])
def test_other_containers_are_not_the_hosts(host: Host, name: str) -> None:
    with pytest.raises(NoSuchContainer, match=name):
        run(host.inspect(name))


def test_an_agent_runs_in_the_directory(host: Host, tmp_path: Path) -> None:
    assert printed(host, Command(["pwd"], {})) == f"{tmp_path}\n"
    (tmp_path / "sub").mkdir()
    assert printed(host, Command(["pwd"], {}, workdir=str(tmp_path / "sub"))) == f"{tmp_path}/sub\n"


def test_an_agent_gets_little_of_our_environment_and_all_of_its_own(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    monkeypatch.setenv("LANG", "C")
    lines = printed(host, Command(["env"], {"TOKEN": "x", "LANG": "C.UTF-8"})).splitlines()
    assert {"TOKEN=x", "LANG=C.UTF-8", f"PATH={os.environ['PATH']}"} <= set(lines)
    assert not any(line.startswith("SSH_AUTH_SOCK") for line in lines)


@pytest.mark.parametrize("program", ["no-such-agent", "/etc/passwd", "/no/such/agent"])
def test_a_program_that_cannot_be_started_is_an_agent_that_is_missing(host: Host, program: str) -> None:
    with pytest.raises(AgentMissing, match=f"^{program} cannot be started on this host: "):
        printed(host, Command([program], {}))


def test_a_directory_that_has_gone_means_not_running(host: Host, tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match=r"the directory .*/gone of nowhere is not there"):
        printed(host, Command(["true"], {}), "nowhere")
    with pytest.raises(NotRunning, match="the directory /no/such of here"):
        printed(host, Command(["true"], {}, workdir="/no/such"))


def test_reaping_ends_what_is_marked_and_nothing_else(host: Host) -> None:
    async def test() -> None:
        here = await host.inspect("here")
        assert await host.reap(here, "mark-of-a-test", term=20, kill=20) == 0

    marked = subprocess.Popen(["sleep", "60"], env={proctree.MARKER: "mark-of-a-test/1"})
    other = subprocess.Popen(["sleep", "60"], env={proctree.MARKER: "mark-of-another"})
    run(test())
    assert (marked.wait(), other.poll()) == (-15, None)
    other.kill()
    other.wait()


def test_a_host_never_ends_and_tells_of_nothing(host: Host) -> None:
    async def test() -> None:
        here = await host.inspect("here")
        events = host.events(0)
        endless = [asyncio.ensure_future(each) for each in (host.wait(here), anext(events))]
        await settle()
        assert [task.done() for task in endless] == [False, False]
        for task in endless:
            task.cancel()
        await asyncio.wait(endless)

    run(test())


def test_a_server_on_this_host_is_connected_to(host: Host) -> None:
    async def test() -> None:
        with await host.connect(await host.inspect("here"), server.getsockname()[1]) as sock:
            assert sock.getpeername() == server.getsockname()

    with socket.create_server(("127.0.0.1", 0)) as server:
        run(test())
