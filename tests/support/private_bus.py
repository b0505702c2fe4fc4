# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: a private D-Bus for a test, agentd on it with either library, and coroutine tests."""

import asyncio
import functools
import importlib.util
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""
DEADLINE = 30.0


class Daemon:
    """A dbus-daemon that can be made to stop reading, or to die."""

    def __init__(self, directory: Path) -> None:
        configuration = directory / "bus.conf"
        configuration.write_text(CONFIGURATION.format(path=directory / "bus"))
        command = [
            "dbus-daemon",
            "--nofork",
            "--nopidfile",
            f"--config-file={configuration}",
            "--print-address",
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout
        self.address = self.process.stdout.readline().strip()
        self.process.stdout.close()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.kill()
    assert not Path(f"/proc/{daemon.process.pid}").exists()


@functools.cache
def load_bus(library: str) -> ModuleType:
    """agentd.bus as it is where `library` is the one that is found."""
    spec = importlib.util.find_spec("agentd.bus")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("dbus_fast", "dbus_fast.aio") if library != "dbus_fast" else ():
            patch.setitem(sys.modules, name, None)
        spec.loader.exec_module(module)
    assert library == module.LIBRARY, f"{library} is not installed"
    return module


@pytest.fixture(params=["dbus_fast", "dbus_next"])
def bus(request: pytest.FixtureRequest) -> ModuleType:
    return load_bus(request.param)


class Peers:
    """Connections to one private bus."""

    def __init__(self, bus: ModuleType, daemon: Daemon) -> None:
        self._bus = bus
        self._daemon = daemon

    @asynccontextmanager
    async def connected(self, count: int) -> AsyncIterator[list[Any]]:
        connections = [await self._bus.Bus.connect(self._daemon.address) for _ in range(count)]
        try:
            yield connections
        finally:
            self._daemon.resume()
            for connection in connections:
                await connection.close()


@pytest.fixture
def peers(bus: ModuleType, daemon: Daemon) -> Peers:
    return Peers(bus, daemon)


def _count_descriptors() -> int:
    return sum(1 for _ in os.scandir("/proc/self/fd"))


@pytest.fixture
def open_descriptors() -> Callable[[], int]:
    return _count_descriptors


async def _bounded(test: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(DEADLINE):
        await test
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, "tasks are left behind"


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test within a deadline; it fails if it leaves a task or a descriptor behind."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    before = _count_descriptors()
    asyncio.run(_bounded(pyfuncitem.obj(**arguments)))
    assert _count_descriptors() == before, "descriptors are left behind"
    return True
