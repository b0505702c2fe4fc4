# SPDX-License-Identifier: Apache-2.0
"""Who may give orders over D-Bus: root and our own account at once, others when polkit says so."""

import os
from enum import StrEnum

from agentd.bus import Bus
from agentd.errors import AccessDenied, AgentdError
from agentd.interface import FREEDESKTOP_ERROR, BusError, Variant, caller

POLKIT, POLKIT_PATH = "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority"
POLKIT_INTERFACE = "org.freedesktop.PolicyKit1.Authority"
ALLOW_INTERACTION = 1
DIALOGUE_SEC = 120.0
ANSWER_SEC = 10.0


class Action(StrEnum):
    INSPECT = "org.agentd1.inspect"
    DRAIN = "org.agentd1.drain"
    RELOAD = "org.agentd1.reload"
    MANAGE_CONTAINERS = "org.agentd1.manage-containers"


class Authority:
    """Checks the caller of the method that is running. `polkit`: whether there can be one."""

    def __init__(self, bus: Bus, *, polkit: bool) -> None:
        self._bus = bus
        self._polkit = polkit

    async def require(self, action: Action, *, container: str = "", verb: str = "") -> None:
        """Raises AccessDenied; anything unclear is a no."""
        uid = await self._bus.sender_uid(caller().sender)
        if uid in (0, os.geteuid()):
            return
        if not self._polkit:
            raise AccessDenied(f"only the account that runs this agentd may {action.rpartition('.')[2]} it")
        await self._ask_polkit(action, {"container": container, "verb": verb})

    async def _ask_polkit(self, action: Action, details: dict[str, str]) -> None:
        who = caller()
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
            raise AccessDenied(f"polkit gave no answer on {action}: {exc.message}") from None
        if challenge and not allowed and not who.interactive:
            raise BusError(
                FREEDESKTOP_ERROR + "InteractiveAuthorizationRequired",
                f"{action} needs a password: let busctl ask for it, or use sudo",
            )
        if not allowed:
            raise AccessDenied(f"polkit does not allow you {action}")
