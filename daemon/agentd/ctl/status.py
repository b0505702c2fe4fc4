# SPDX-License-Identifier: Apache-2.0
"""`agentctl status`: the manager, its containers, and what goes on in them."""

import argparse
import json
from typing import Any

from agentd.ctl.control import Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.text import printable, table

HEADER = ("CONTAINER", "RUNTIME", "STATE", "CLIENTS", "SESSIONS", "TURNS", "WORKER", "AGENTS")


def run(options: argparse.Namespace) -> int:
    async def show(control: Control) -> int:
        [text] = await control.manager("Status")
        print(text if options.json else pretty(json.loads(text)))
        return 0

    return with_manager(options, show)


def pretty(status: dict[str, Any]) -> str:
    lines = [
        f"agentd {status['version']} ({status['mode']}), {status['state']}, process {status['pid']}",
        f"watcher: {_watcher(status['watcher'])}",
        "",
        table(HEADER, [_row(each) for each in status["containers"]])
        if status["containers"]
        else "no containers",
    ]
    lines += [
        f"{each['name']}: {printable(each['last_error'])}"
        for each in status["containers"]
        if each["last_error"]
    ]
    lines += [_older(each) for each in status["containers"] if each.get("outdated")]
    lines += [_job(job) for job in status["jobs"]]
    return "\n".join(lines)


def _watcher(watcher: dict[str, Any]) -> str:
    if not watcher["connected"]:
        return "not there; containers are shown as they were last known"
    engines = [
        f"{name} ({problem})" if problem else name for name, problem in sorted(watcher["engines"].items())
    ]
    return "follows " + (", ".join(engines) or "nothing yet")


def _row(container: dict[str, Any]) -> tuple[object, ...]:
    agents = ", ".join(f"{agent['name']} ({agent['state']})" for agent in container["agents"])
    return (
        container["name"],
        container["runtime"] or "-",
        container["state"],
        container["clients"],
        len(container["sessions"]),
        container["turns"],
        container["worker_pid"] or "-",
        agents or "-",
    )


def _older(container: dict[str, Any]) -> str:
    unit = container["unit"].removesuffix(".service")
    how = f"systemctl restart {unit}" if unit else f"agentctl stop {container['name']}"
    return f"{container['name']}: older code {container['worker_version']}: {how}, when it suits"


def _job(job: dict[str, Any]) -> str:
    target = job["target"] or "everything"
    return f"job {job['id']}: drain of {target}, {job['state']}, {job['remaining']} turns left"
