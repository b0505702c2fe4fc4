# SPDX-License-Identifier: Apache-2.0
"""Who may give orders over D-Bus: root and our own account at once, others when polkit says so."""

import os
from collections.abc import Callable
from enum import StrEnum

from agentd import advice
from agentd.bus import Bus
from agentd.errors import AccessDenied, AgentdError
from agentd.interface import FREEDESKTOP_ERROR, BusError, Caller, Variant, caller
from agentd.manager.access import Access, Peer
from agentd.manager.sessions import Session

POLKIT, POLKIT_PATH = "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority"
POLKIT_INTERFACE = "org.freedesktop.PolicyKit1.Authority"
ALLOW_INTERACTION = 1
DIALOGUE_SEC = 120.0
ANSWER_SEC = 20.0
"""Below the 25 s that callers wait; the bus may have to start polkit first."""


class Action(StrEnum):
    INSPECT = "org.agentd1.inspect"
    ATTACH = "org.agentd1.attach"
    DRAIN = "org.agentd1.drain"
    RELOAD = "org.agentd1.reload"
    MANAGE_CONTAINERS = "org.agentd1.manage-containers"
    MANAGE_SESSIONS = "org.agentd1.manage-sessions"


class Authority:
    """Checks the caller of the method that is running. `polkit`: whether there can be one."""

    def __init__(self, bus: Bus, access: Callable[[], Access], *, polkit: bool) -> None:
        """`access`: the rules in force for the containers' sockets."""
        self._bus = bus
        self._access = access
        self._polkit = polkit

    async def require(self, action: Action, *, container: str = "", verb: str = "") -> None:
        """Raises AccessDenied; anything unclear is a no."""
        who = caller()
        if is_trusted(who):
            return
        if not self._polkit:
            raise AccessDenied(f"only the account that runs this agentd may {action.rpartition('.')[2]} it")
        await self._ask_polkit(who, action, {"container": container, "verb": verb})

    async def require_look(self, container: str = "") -> None:
        """For whoever looks: who may use a container may see it, and for "" what goes on at all."""
        access, peer = self._access(), peer_of(caller())
        if not (access.may(peer, container) if container else access.may_any(peer)):
            await self.require(Action.INSPECT, container=container)

    async def require_use(self, container: str) -> None:
        """For whoever wants to be connected to a container."""
        if not self._access().may(peer_of(caller()), container):
            await self.require(Action.ATTACH, container=container, verb="attach")

    async def require_session(self, session: Session, action: Action, verb: str) -> None:
        """For whoever gives an order about a session: its owner needs nobody's leave."""
        if caller().uid != session.info.owner:
            await self.require(action, container=session.container.name, verb=verb)

    async def _ask_polkit(self, who: Caller, action: Action, details: dict[str, str]) -> None:
        subject = ["system-bus-name", {"name": Variant("s", who.sender)}]
        flags = ALLOW_INTERACTION if who.interactive else 0
        deadline = DIALOGUE_SEC if who.interactive else ANSWER_SEC
        try:
            [(allowed, challenge, _)] = await self._bus.call(
                POLKIT,
                POLKIT_PATH,
                POLKIT_INTERFACE,
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                *(subject, str(action), details, flags, ""),
                timeout=deadline,
            )
        except AgentdError as exc:
            text = f"polkit gave no answer on {action} ({exc.message}): {advice.POLKIT}; without it root may"
            raise AccessDenied(text) from None
        if challenge and not allowed and not who.interactive:
            raise BusError(
                FREEDESKTOP_ERROR + "InteractiveAuthorizationRequired",
                f"{action} needs a password: let busctl ask for it, or use sudo",
            )
        if not allowed:
            raise AccessDenied(f"polkit does not allow you {action}")


def is_trusted(who: Caller) -> bool:
    """root, and the account that agentd runs as."""
    return who.uid in (0, os.geteuid())


def peer_of(who: Caller) -> Peer:
    """A caller as the rules of access know peers."""
    return Peer(0, who.uid, who.groups)


def may_read_title(who: Caller, owner: int) -> bool:
    """Whether a caller, which may be everybody, is told what somebody's session is about."""
    return is_trusted(who) or who.uid == owner
