# SPDX-License-Identifier: Apache-2.0
"""`agentctl cancel SESSION`: cancel the turn that runs in a session, and the prompts that wait there.

--json: {container, session, state}; `state` is the session's afterwards: cancelling until its agent heeds
it, idle where nothing runs (any more).
"""

import argparse
import json
from typing import NamedTuple

from agentd.ctl.control import SESSION, Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.sessions import named
from agentd.errors import AmbiguousContainer, NoSuchSession


class Found(NamedTuple):
    """An open session, and where it is on the bus."""

    container: str
    id: str
    path: str


def run(options: argparse.Namespace) -> int:
    name, session_id = named(options)

    async def cancel(control: Control) -> dict[str, str]:
        session = await find(control, name, session_id)
        await control.call(session.path, SESSION, "Cancel")
        state = await control.property(session.path, SESSION, "State")
        return {"container": session.container, "session": session.id, "state": state}

    done = with_manager(options, cancel)
    if options.json:
        print(json.dumps(done))
    return 0


async def find(control: Control, name: str, session_id: str) -> Found:
    """The open session of that id, in that container or, for "", in any.

    Raises NoSuchContainer, NoSuchSession, or AmbiguousContainer where several have one.
    """
    [sessions] = await control.manager("ListSessions", "s", name)
    having = [
        Found(container, session_id, path)
        for id_, container, _, _, _, _, path in sessions
        if id_ == session_id and name in ("", container)
    ]
    if len(having) > 1:
        names = " and ".join(sorted(each.container for each in having))
        raise AmbiguousContainer(f"{names} have a session {session_id} each: name one as NAME#{session_id}")
    if not having:
        where = name or "any container"
        raise NoSuchSession(
            f"no session {session_id} is open in {where}; see: agentctl sessions {name}".strip()
        )
    return having[0]
