# SPDX-License-Identifier: Apache-2.0
"""`agentctl attach NAME`: what an editor starts, to speak ACP with a container's agents on stdin and stdout.

Errors go to stderr, with an exit status, since editors take anything on stdout for ACP.
"""

from __future__ import annotations

from agentd.ctl.attach.door import Door

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    if options.login:
        from agentd.ctl import login

        return login.run_attached(options)
    door = Door(options)
    connection = door.first()
    from agentd.ctl.attach.bridge import Bridge

    return Bridge(door, connection).run()
