# SPDX-License-Identifier: Apache-2.0
"""org.agentd1.Container."""

from typing import Any

from agentd import link
from agentd.errors import Draining
from agentd.interface import Interface, caller, method, prop
from agentd.manager.bus import drains
from agentd.manager.bus.authority import Action, Authority
from agentd.manager.container import Container
from agentd.manager.manager import Manager

CHANGING = (
    "Runtime", "Id", "Leader", "State", "LastError", "WorkerPID", "WorkerVersion", "ActiveSince", "Agents",
    "NClients", "NSessions", "NTurns", "Drained",
)  # fmt: skip


class ContainerFace(Interface, name="org.agentd1.Container"):
    def __init__(self, container: Container, manager: Manager, authority: Authority) -> None:
        super().__init__()
        self._container = container
        self._manager = manager
        self._authority = authority

    # Methods

    @method("a{sv}", "o", names=("job",))
    async def drain(self, options: dict[str, Any]) -> str:
        return await drains.drain(self._manager, self._authority, self._container.name, options)

    @method()
    async def undrain(self) -> None:
        await drains.undrain(self._manager, self._authority, self._container.name)

    @method()
    async def start(self) -> None:
        await self._require("start")
        await self._manager.start(self._container)

    @method()
    async def stop(self) -> None:
        await self._require("stop")
        await self._manager.stop(self._container)

    @method("s")
    async def stop_agent(self, agent: str) -> None:
        await self._require("stop-agent")
        await self._order(lambda number: link.StopAgent(number=number, agent=agent))

    @method("s")
    async def launch_agent(self, agent: str) -> None:
        await self._require("launch-agent")
        if self._manager.jobs.is_drained(self._container.name, agent, ""):
            raise Draining(f"{agent} of {self._container.name} is being drained: no work may begin there")
        uid = caller().uid
        await self._order(lambda number: link.LaunchAgent(number=number, agent=agent, uid=uid))

    async def _require(self, verb: str) -> None:
        await self._authority.require(Action.MANAGE_CONTAINERS, container=self._container.name, verb=verb)

    async def _order(self, order: link.MakeOrder) -> None:
        await self._manager.links.orders.give(self._container, order)

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

    @prop("u")
    def leader(self) -> int:
        return self._container.info.pid if self._container.info else 0

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

    @prop("t")
    def active_since(self) -> int:
        return self._container.snapshot.started_usec

    @prop("a(ssus)")
    def agents(self) -> list[tuple[str, str, int, str]]:
        return [(each.name, each.state, each.pid, each.version) for each in self._container.snapshot.agents]

    @prop("u", name="NClients")
    def clients(self) -> int:
        return self._container.snapshot.clients

    @prop("u", name="NSessions")
    def sessions(self) -> int:
        return self._container.sessions_open

    @prop("u", name="NTurns")
    def turns(self) -> int:
        return self._container.snapshot.turns

    @prop("as")
    def drained(self) -> list[str]:
        return self._manager.jobs.drained_of(self._container.name)

    @prop("as", emits="false")
    def addresses(self) -> list[str]:
        return self._container.measured.addresses if self._container.measured else []

    @prop("(tt)", emits="false")
    def network_bytes(self) -> tuple[int, int]:
        measured = self._container.measured
        return (measured.received, measured.sent) if measured else (0, 0)

    @prop("t", emits="false")
    def frames(self) -> int:
        return self._container.snapshot.frames
