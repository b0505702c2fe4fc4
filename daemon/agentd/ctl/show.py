# SPDX-License-Identifier: Apache-2.0
"""`agentctl show [NAME | NAME#SESSION]`: D-Bus properties of the manager, a container or a session.

Lines of Property=value, as `systemctl show` has them: yes and no, lists with blanks between their items,
structs as { a ; b }, points in time spelled out and empty for none. --json: an object of the properties,
with the values that busctl has: points in time in microseconds. -p chooses some; one that there is not is
left out, as systemctl does.
"""

import argparse
import json
from typing import Any

from agentd.ctl.cancel import find
from agentd.ctl.control import CONTAINER, MANAGER, ROOT, SESSION, Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.text import moment
from agentd.errors import InvalidArgs
from agentd.printable import printable

MOMENTS = ("Timestamp", "ActiveSince", "LastActivity")
"""How the names of properties end that are points in time."""


def run(options: argparse.Namespace) -> int:
    values = with_manager(options, lambda control: properties(control, options.target))
    wanted = [name for each in options.property for name in each.split(",")]
    shown = {name: value for name, value in values.items() if not wanted or name in wanted}
    if options.json:
        print(json.dumps(shown))
        return 0
    from agentd.ctl.screen import page

    lines = [("" if options.value else f"{name}=") + pretty(name, value) for name, value in shown.items()]
    page(options, *lines)
    return 0


async def properties(control: Control, target: str) -> dict[str, Any]:
    """Raises NoSuchContainer, NoSuchSession, or InvalidArgs for half of a name."""
    name, mark, session_id = target.partition("#")
    if mark and not (name and session_id):
        raise InvalidArgs(f"{target!r} names no session: it is written NAME#SESSION")
    if mark:
        return await control.properties((await find(control, name, session_id)).path, SESSION)
    if name:
        return await control.properties(await control.container(name), CONTAINER)
    return await control.properties(ROOT, MANAGER)


def pretty(name: str, value: Any) -> str:
    if name.endswith(MOMENTS):
        return moment(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        items = [_struct(each) if isinstance(each, list) else pretty("", each) for each in value]
        return _struct(value) if name in STRUCTS else " ".join(items)
    return printable(str(value))


STRUCTS = ("NetworkBytes",)
"""Properties that are one struct, which arrives like a list."""


def _struct(items: list[Any]) -> str:
    return f"{{ {' ; '.join(pretty('', each) for each in items)} }}"
