# SPDX-License-Identifier: Apache-2.0
"""`agentctl stop NAME`: drain a container's worker and stop it."""

import argparse

from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager


def run(options: argparse.Namespace) -> int:
    async def stop(control: Control) -> int:
        await control.container(options.container, "Stop")
        return 0

    return with_manager(options, stop)
