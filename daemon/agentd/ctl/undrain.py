# SPDX-License-Identifier: Apache-2.0
"""`agentctl undrain [NAME]`: let turns begin again."""

import argparse

from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager


def run(options: argparse.Namespace) -> int:
    async def undrain(control: Control) -> int:
        await control.manager("Undrain", "s", options.target)
        return 0

    return with_manager(options, undrain)
