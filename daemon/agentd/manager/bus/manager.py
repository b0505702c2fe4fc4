# SPDX-License-Identifier: Apache-2.0
"""org.agentd1.Manager."""

from typing import Any

from agentd import __version__
from agentd.errors import InvalidArgs
from agentd.interface import Interface, Variant, method, prop, signal
from agentd.manager import status
from agentd.manager.bus import paths
from agentd.manager.bus.authority import Action, Authority
from agentd.manager.manager import Manager

COUNTS = ("State", "Draining", "NContainers", "NClients", "NSessions", "NTurns", "ConfigTimestamp")


def drain_timeout(options: dict[str, Any], default: float) -> float:
    """Seconds, from the options of a Drain. Raises InvalidArgs for options there are not."""
    unknown = options.keys() - {"timeout_usec"}
    if unknown:
        raise InvalidArgs(f"Drain has no option {sorted(unknown)[0]}; it has timeout_usec")
    usec = options.get("timeout_usec", int(default * 1e6))
    if not isinstance(usec, int):
        raise InvalidArgs("timeout_usec is a number of microseconds, of type t")
    return usec / 1e6


class ManagerFace(Interface, name="org.agentd1.Manager"):
    def __init__(self, manager: Manager, authority: Authority) -> None:
        super().__init__()
        self._manager = manager
        self._authority = authority

    # Methods

    @method("sa{sv}", "o", names=("job",))
    async def drain(self, target: str, options: dict[str, Any]) -> str:
        await self._authority.require(Action.DRAIN, container=target, verb="drain")
        timeout = drain_timeout(options, self._manager.configuration.limits.drain_sec)
        job = self._manager.jobs.drain(target, timeout)
        await self._manager.jobs.kept()
        return paths.of_job(job.id)

    @method("s")
    async def undrain(self, target: str) -> None:
        await self._authority.require(Action.DRAIN, container=target, verb="undrain")
        self._manager.jobs.undrain(target)
        await self._manager.jobs.kept()

    @method("", "a{sv}", names=("report",))
    async def reload(self) -> dict[str, Any]:
        await self._authority.require(Action.RELOAD)
        self.reloading(True)
        try:
            return {key: Variant("as", value) for key, value in self._manager.reload().items()}
        finally:
            self.reloading(False)

    @method("", "s", names=("json",))
    async def status(self) -> str:
        await self._authority.require(Action.INSPECT)
        return status.as_json(self._manager.status())

    @method("", "a(sssuuo)", names=("containers",))
    async def list_containers(self) -> list[tuple[str, str, str, int, int, str]]:
        await self._authority.require(Action.INSPECT)
        return [
            (
                each.name,
                each.runtime,
                each.state,
                each.snapshot.clients,
                len(each.snapshot.sessions),
                paths.of_container(each.name),
            )
            for each in self._manager.registry
        ]

    @method("s", "o", names=("container",))
    async def get_container(self, name: str) -> str:
        await self._authority.require(Action.INSPECT, container=name)
        return paths.of_container(self._manager.registry.get(name).name)

    # Signals

    @signal("so")
    def container_new(self, name: str, container: str) -> None: ...

    @signal("so")
    def container_removed(self, name: str, container: str) -> None: ...

    @signal("uo")
    def job_new(self, id: int, job: str) -> None: ...

    @signal("uoss")
    def job_removed(self, id: int, job: str, target: str, result: str) -> None: ...

    @signal("b")
    def reloading(self, active: bool) -> None: ...

    # Properties

    @prop("s", emits="const")
    def version(self) -> str:
        return __version__

    @prop("s", emits="const")
    def mode(self) -> str:
        return self._manager.paths.mode

    @prop("s")
    def state(self) -> str:
        return self._manager.state

    @prop("b")
    def draining(self) -> bool:
        return self._manager.jobs.all_drained

    @prop("u", name="NContainers")
    def containers(self) -> int:
        return len(self._manager.registry)

    @prop("u", name="NClients")
    def clients(self) -> int:
        return self._manager.clients

    @prop("u", name="NSessions")
    def sessions(self) -> int:
        return self._manager.sessions

    @prop("u", name="NTurns")
    def turns(self) -> int:
        return self._manager.turns

    @prop("t", emits="const")
    def start_timestamp(self) -> int:
        return self._manager.started_usec

    @prop("t")
    def config_timestamp(self) -> int:
        return self._manager.configured_usec

    @prop("as", emits="false")
    def config_files(self) -> list[str]:
        return [str(file) for file in self._manager.loaded.files]
