# SPDX-License-Identifier: Apache-2.0
"""`agentctl undrain [TARGET]`: let turns begin again, in all, a container, one agent of it, or one session.

--json: {target, undrained}; `undrained` is true, since what could not be undone is an error.
"""

import argparse
import json

from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager


def run(options: argparse.Namespace) -> int:
    async def undrain(control: Control) -> None:
        await control.manager("Undrain", "s", options.target)

    with_manager(options, undrain)
    if options.json:
        print(json.dumps({"target": options.target, "undrained": True}))
    return 0
