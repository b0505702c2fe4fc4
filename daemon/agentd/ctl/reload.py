# SPDX-License-Identifier: Apache-2.0
"""`agentctl reload`: make the manager read its configuration again; also ExecReload= of agentd.service."""

import argparse

from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager


def run(options: argparse.Namespace) -> int:
    async def reload(control: Control) -> int:
        [report] = await control.manager("Reload")
        print("applied: " + (", ".join(report["applied"]) or "nothing had changed"))
        if report["needs_restart"]:
            print(f"effective after a restart of the workers: {', '.join(report['needs_restart'])}")
        return 0

    return with_manager(options, reload)
