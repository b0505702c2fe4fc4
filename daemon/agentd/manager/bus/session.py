# SPDX-License-Identifier: Apache-2.0
"""org.agentd1.Session."""

from typing import Any

from agentd import link
from agentd.interface import Interface, caller, method, prop
from agentd.manager.bus import drains
from agentd.manager.bus.authority import Action, Authority, may_read_title
from agentd.manager.manager import Manager
from agentd.manager.sessions import Session

CHANGING = (
    "Agent", "State", "Drained", "Clients", "Queued", "PendingPermissions", "LastActivity"
)  # fmt: skip

PermissionOption = tuple[str, str, str]
Permission = tuple[str, str, str, int, list[PermissionOption]]


class SessionFace(Interface, name="org.agentd1.Session"):
    def __init__(self, session: Session, manager: Manager, authority: Authority) -> None:
        super().__init__()
        self._session = session
        self._manager = manager
        self._authority = authority
        self._title = session.info.title

    def refreshed(self) -> None:
        """The session is not as it was."""
        self.changed(*CHANGING)
        if self._title != self._session.info.title:
            self._title = self._session.info.title
            self.changed("Title")

    # Methods

    @method()
    async def cancel(self) -> None:
        await self._require("cancel")
        await self._order(lambda number: link.CancelTurn(number=number, session=self._session.id))

    @method()
    async def close(self) -> None:
        await self._require("close")
        await self._order(lambda number: link.CloseSession(number=number, session=self._session.id))

    @method("a{sv}", "o", names=("job",))
    async def drain(self, options: dict[str, Any]) -> str:
        return await drains.drain(self._manager, self._authority, self._target, options)

    @method()
    async def undrain(self) -> None:
        await drains.undrain(self._manager, self._authority, self._target)

    @method("", "a(sssta(sss))", names=("permissions",))
    async def list_permissions(self) -> list[Permission]:
        await self._require("list-permissions")
        answer = await self._manager.links.orders.give(
            self._session.container,
            lambda number: link.ListPermissions(number=number, session=self._session.id),
        )
        return [_permission(each) for each in answer.permissions]

    @method("ss")
    async def resolve_permission(self, id: str, option: str) -> None:
        await self._require("resolve-permission")
        uid = caller().uid
        await self._order(
            lambda number: link.ResolvePermission(
                number=number, session=self._session.id, permission=id, option=option, uid=uid
            )
        )

    async def _require(self, verb: str) -> None:
        await self._authority.require_session(self._session, Action.MANAGE_SESSIONS, verb)

    async def _order(self, order: link.MakeOrder) -> None:
        await self._manager.links.orders.give(self._session.container, order)

    @property
    def _target(self) -> str:
        return f"{self._session.container.name}#{self._session.id}"

    # Properties

    @prop("s", emits="const")
    def id(self) -> str:
        return self._session.id

    @prop("s", emits="const")
    def container(self) -> str:
        return self._session.container.name

    @prop("u", emits="const")
    def owner(self) -> int:
        return self._session.info.owner

    @prop("t", emits="const")
    def created_timestamp(self) -> int:
        return self._session.info.created_usec

    @prop("s", emits="invalidates")
    def title(self) -> str:
        info = self._session.info
        return info.title if may_read_title(caller(), info.owner) else ""

    @prop("s")
    def agent(self) -> str:
        return self._session.info.agent

    @prop("s")
    def state(self) -> str:
        return self._session.info.state

    @prop("b")
    def drained(self) -> bool:
        return self._manager.is_drained(self._session)

    @prop("u")
    def clients(self) -> int:
        return self._session.info.clients

    @prop("u")
    def queued(self) -> int:
        return self._session.info.queued

    @prop("u")
    def pending_permissions(self) -> int:
        return self._session.info.permissions

    @prop("t")
    def last_activity(self) -> int:
        return self._session.info.updated_usec


def _permission(info: link.PermissionInfo) -> Permission:
    options = [(each.id, each.name, each.kind) for each in info.options]
    return info.id, info.title, info.kind, info.asked_usec, options
