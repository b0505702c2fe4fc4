# SPDX-License-Identifier: Apache-2.0
"""`agentctl reload`: make the manager read its configuration again; also ExecReload= of agentd.service.

--json: {applied: [KEY], needs_restart: [KEY], warnings: [SENTENCE]}. A configuration that is invalid is an
error: the old one stays in force, and the exit status is 78.
"""

import argparse
import json
import sys
from typing import Any

from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager
from agentd.printable import printable


def run(options: argparse.Namespace) -> int:
    report = with_manager(options, _reload)
    if options.json:
        print(json.dumps(report))
        return 0
    print("applied: " + (_list(report["applied"]) or "nothing had changed"))
    if report["needs_restart"]:
        print(f"effective after a restart of the workers: {_list(report['needs_restart'])}")
    for warning in report["warnings"]:
        print(f"agentctl: warning: {printable(warning)}", file=sys.stderr)
    return 0


def _list(keys: list[str]) -> str:
    return printable(", ".join(keys))


async def _reload(control: Control) -> dict[str, Any]:
    [report] = await control.manager("Reload")
    return {key: list(report.get(key, [])) for key in ("applied", "needs_restart", "warnings")}
