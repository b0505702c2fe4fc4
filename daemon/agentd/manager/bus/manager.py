# SPDX-License-Identifier: Apache-2.0
"""org.agentd1.Manager."""

from collections.abc import Callable
from typing import Any

from agentd import __version__
from agentd.errors import InvalidArgs
from agentd.interface import Interface, Repeated, Variant, caller, method, prop, signal
from agentd.manager.bus import drains, paths
from agentd.manager.bus.authority import Action, Authority, is_trusted, may_read_title, peer_of
from agentd.manager.handshake import Opening
from agentd.manager.manager import Manager
from agentd.manager.sessions import Session
from agentd.manager.status import as_json

COUNTS = ("State", "Draining", "NContainers", "NClients", "NSessions", "NTurns", "ConfigTimestamp")

MOST_ANSWERS = 16
"""Accounts that ask, times what they ask: beyond that, all are made anew."""


class ManagerFace(Interface, name="org.agentd1.Manager"):
    def __init__(self, manager: Manager, authority: Authority) -> None:
        super().__init__()
        self._manager = manager
        self._authority = authority
        self._answers: dict[tuple[str, int], Repeated] = {}
        """What may be said again until something changes, by method and the account that asks."""

    def refreshed(self) -> None:
        """Something is not as it was."""
        self._answers.clear()
        self.changed(*COUNTS)

    def _repeated(self, what: str, make: Callable[[], Any]) -> Any:
        """The answer for the caller, made once for all who ask before anything changes."""
        who = caller()
        key = what, 0 if is_trusted(who) else who.uid
        if key not in self._answers:
            if len(self._answers) >= MOST_ANSWERS:
                self._answers.clear()
            self._answers[key] = Repeated(make())
        return self._answers[key]

    # Methods

    @method("sa{sv}", "o", names=("job",))
    async def drain(self, target: str, options: dict[str, Any]) -> str:
        return await drains.drain(self._manager, self._authority, target, options)

    @method("s")
    async def undrain(self, target: str) -> None:
        await drains.undrain(self._manager, self._authority, target)

    @method("", "a{sv}", names=("report",))
    async def reload(self) -> dict[str, Any]:
        await self._authority.require(Action.RELOAD)
        self.reloading(True)
        try:
            report = await self._manager.reload()
            return {key: Variant("as", value) for key, value in report.items()}
        finally:
            self.reloading(False)

    @method("", "s", names=("json",))
    async def status(self) -> Any:
        await self._authority.require_look()
        await self._manager.refresh()
        return self._repeated("Status", self._status)

    def _status(self) -> str:
        who = caller()
        return as_json(self._manager.status(lambda owner: may_read_title(who, owner), paths.of_session))

    @method("", "a(sssuuo)", names=("containers",))
    async def list_containers(self) -> Any:
        await self._authority.require_look()
        return self._repeated("ListContainers", self._list_containers)

    def _list_containers(self) -> list[tuple[str, str, str, int, int, str]]:
        return [
            (
                each.name,
                each.runtime,
                each.state,
                each.snapshot.clients,
                each.sessions_open,
                paths.of_container(each.name),
            )
            for each in self._manager.registry
        ]

    @method("s", "o", names=("container",))
    async def get_container(self, name: str) -> str:
        await self._authority.require_look(name)
        return paths.of_container(self._manager.registry.get(name).name)

    @method("s", "a(sssssto)", names=("sessions",))
    async def list_sessions(self, container: str) -> list[tuple[str, str, str, str, str, int, str]]:
        await self._authority.require_look(container)
        sessions = self._manager.sessions
        if container:
            return [_listed(each) for each in sessions.of(self._manager.registry.get(container).name)]
        return [_listed(each) for each in sessions]

    @method("s")
    async def start_container(self, name: str) -> None:
        await self._authority.require(Action.MANAGE_CONTAINERS, container=name, verb="start")
        await self._manager.start(self._manager.registry.get(name))

    @method("s")
    async def stop_container(self, name: str) -> None:
        await self._authority.require(Action.MANAGE_CONTAINERS, container=name, verb="stop")
        await self._manager.stop(self._manager.registry.get(name))

    @method("sa{sv}", "h", names=("connection",))
    async def open_container(self, name: str, options: dict[str, Any]) -> int:
        wish = _wish(options)
        who = peer_of(caller())
        access = self._manager.door.access
        container = await self._manager.registry.find(name, lambda each: access.may(who, each))
        await self._authority.require_use(container.name)
        opening = Opening(container.name, wish.get("agent", ""), b"", b"", session=wish.get("session", ""))
        return (await self._manager.door.open(who, opening)).detach()

    # Signals

    @signal("so")
    def container_new(self, name: str, container: str) -> None: ...

    @signal("so")
    def container_removed(self, name: str, container: str) -> None: ...

    @signal("sso")
    def session_new(self, container: str, id: str, session: str) -> None: ...

    @signal("sso")
    def session_removed(self, container: str, id: str, session: str) -> None: ...

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
        return self._manager.sessions_open

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


def _listed(session: Session) -> tuple[str, str, str, str, str, int, str]:
    info = session.info
    title = info.title if may_read_title(caller(), info.owner) else ""
    return (
        info.id,
        session.container.name,
        info.agent,
        info.state,
        title,
        info.updated_usec,
        paths.of_session(session),
    )


def _wish(options: dict[str, Any]) -> dict[str, str]:
    """The options of OpenContainer. Raises InvalidArgs."""
    for name, value in options.items():
        if name not in ("agent", "session") or not isinstance(value, str):
            raise InvalidArgs(f"OpenContainer takes agent and session, both strings, and not {name}")
    return options
