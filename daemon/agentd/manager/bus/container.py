# SPDX-License-Identifier: Apache-2.0
"""org.agentd1.Container."""

from typing import Any

from agentd.interface import Interface, method, prop
from agentd.manager.bus import paths
from agentd.manager.bus.authority import Action, Authority
from agentd.manager.bus.manager import drain_timeout
from agentd.manager.container import Container
from agentd.manager.manager import Manager

CHANGING = (
    "Runtime",
    "Id",
    "State",
    "LastError",
    "WorkerPID",
    "WorkerVersion",
    "Agents",
    "NClients",
    "NSessions",
    "NTurns",
)


class ContainerFace(Interface, name="org.agentd1.Container"):
    def __init__(self, container: Container, manager: Manager, authority: Authority) -> None:
        super().__init__()
        self._container = container
        self._manager = manager
        self._authority = authority

    # Methods

    @method("a{sv}", "o", names=("job",))
    async def drain(self, options: dict[str, Any]) -> str:
        await self._require(Action.DRAIN, "drain")
        timeout = drain_timeout(options, self._manager.configuration.limits.drain_sec)
        job = self._manager.jobs.drain(self._container.name, timeout)
        await self._manager.jobs.kept()
        return paths.of_job(job.id)

    @method()
    async def undrain(self) -> None:
        await self._require(Action.DRAIN, "undrain")
        self._manager.jobs.undrain(self._container.name)
        await self._manager.jobs.kept()

    @method()
    async def start(self) -> None:
        await self._require(Action.MANAGE_CONTAINERS, "start")
        await self._manager.registry.start_worker(self._container)

    @method()
    async def stop(self) -> None:
        await self._require(Action.MANAGE_CONTAINERS, "stop")
        patience = self._manager.configuration.limits.drain_sec
        await self._manager.registry.stop_worker(self._container, patience)

    async def _require(self, action: Action, verb: str) -> None:
        await self._authority.require(action, container=self._container.name, verb=verb)

    # Properties

    @prop("s", emits="const")
    def name(self) -> str:
        return self._container.name

    @prop("s")
    def runtime(self) -> str:
        return self._container.runtime or self._container.snapshot.runtime

    @prop("s")
    def id(self) -> str:
        return self._container.info.id if self._container.info else self._container.snapshot.engine_id

    @prop("s")
    def state(self) -> str:
        return self._container.state

    @prop("s")
    def last_error(self) -> str:
        return self._container.last_error

    @prop("s", emits="const")
    def unit(self) -> str:
        return self._manager.registry.unit(self._container)

    @prop("s", emits="const")
    def socket(self) -> str:
        return self._manager.paths.container_socket(self._container.name)

    @prop("u", name="WorkerPID")
    def worker_pid(self) -> int:
        return self._container.worker.pid if self._container.worker else 0

    @prop("s")
    def worker_version(self) -> str:
        return self._container.worker.code if self._container.worker else ""

    @prop("a(ssus)")
    def agents(self) -> list[tuple[str, str, int, str]]:
        return [(each.name, each.state, each.pid, each.version) for each in self._container.snapshot.agents]

    @prop("u", name="NClients")
    def clients(self) -> int:
        return self._container.snapshot.clients

    @prop("u", name="NSessions")
    def sessions(self) -> int:
        return len(self._container.snapshot.sessions)

    @prop("u", name="NTurns")
    def turns(self) -> int:
        return self._container.snapshot.turns
