# SPDX-License-Identifier: Apache-2.0
"""Stands for systemd on a private bus: starts agentd's units as its own children, and knows whose is which.

Run as `python -m support.systemd BUS ARGUMENT…` with the arguments that every agentd process is given.
It says "ready" on stdout, and ends with its children when its stdin does.
"""

import asyncio
import os
import subprocess
import sys

from agentd.bus import Bus
from agentd.interface import BusError, Interface, method, prop, signal

PATH = "/org/freedesktop/systemd1"
WATCHER = "agentd-watch.service"


class Service(Interface, name="org.freedesktop.systemd1.Service"):
    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid

    @prop("u", name="MainPID")
    def main_pid(self) -> int:
        return self._pid


class Systemd(Interface, name="org.freedesktop.systemd1.Manager"):
    """`arguments`: those of every process."""

    def __init__(self, bus: Bus, arguments: list[str]) -> None:
        super().__init__()
        self._bus = bus
        self._arguments = arguments
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._jobs = 0

    @method()
    async def subscribe(self) -> None:
        pass

    @method("ss", "o")
    async def start_unit(self, name: str, mode: str) -> str:
        self.start(name)
        return self._job(name)

    @method("ss", "o")
    async def stop_unit(self, name: str, mode: str) -> str:
        await asyncio.to_thread(self._stop, name)
        return self._job(name)

    @signal("uoss")
    def job_removed(self, id: int, job: str, unit: str, result: str) -> None: ...

    @method("h", "osay", name="GetUnitByPIDFD")
    async def get_unit_by_pidfd(self, pidfd: int) -> tuple[str, str, bytes]:
        with open(f"/proc/self/fdinfo/{pidfd}") as info:
            pid = next(int(line.split()[1]) for line in info if line.startswith("Pid:"))
        for name, process in self._processes.items():
            if process.pid == pid:
                return f"{PATH}/unit/_{pid}", name, b"\0" * 16
        raise BusError("org.freedesktop.systemd1.NoUnitForPID", f"{pid} is of no unit")

    def _job(self, unit: str) -> str:
        self._jobs += 1
        path = f"{PATH}/job/{self._jobs}"
        self.job_removed(self._jobs, path, unit, "done")
        return path

    def start(self, unit: str) -> None:
        name = unit.removeprefix("agentd@").removesuffix(".service")
        verb = ["watch"] if unit == WATCHER else ["worker"]
        rest = [] if unit == WATCHER else [name]
        command = [sys.executable, "-m", "agentd", *verb, *self._arguments, *rest]
        process = self._processes[unit] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2)
        self._bus.export(f"{PATH}/unit/_{process.pid}", Service(process.pid))

    def _stop(self, unit: str) -> None:
        if process := self._processes.pop(unit, None):
            process.terminate()
            process.wait(30)

    def stop_all(self) -> None:
        for unit in list(self._processes):
            self._stop(unit)


async def main(address: str, arguments: list[str]) -> None:
    bus = await Bus.connect(address)
    systemd = Systemd(bus, arguments)
    bus.export(PATH, systemd)
    await bus.request_name("org.freedesktop.systemd1")
    systemd.start(WATCHER)
    print("ready", flush=True)
    await asyncio.to_thread(os.read, 0, 1)
    await asyncio.to_thread(systemd.stop_all)
    await bus.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
