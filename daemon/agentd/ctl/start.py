# SPDX-License-Identifier: Apache-2.0
"""`agentctl start NAME`: start a container's worker, also one that has failed too often."""

import argparse

from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager


def run(options: argparse.Namespace) -> int:
    async def start(control: Control) -> int:
        await control.container(options.container, "Start")
        return 0

    return with_manager(options, start)
