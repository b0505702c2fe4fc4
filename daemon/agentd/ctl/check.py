# SPDX-License-Identifier: Apache-2.0
"""`agentctl check`: the configuration that would be used, with its sources, or what is wrong with it.

The files are those that a manager of that mode would read; of one that was started by hand, those that it
has read. --json: {valid, files, problems}; `problems` are sentences. Exit status 78 where there are any.
"""

import argparse
import json

from agentd import check, config
from agentd.ctl.control import MANAGER, ROOT, Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.meant import place
from agentd.errors import EX_CONFIG, ConfigurationInvalid
from agentd.paths import Mode, Paths


def run(options: argparse.Namespace) -> int:
    paths = place(options)
    if options.json:
        return _as_json(paths, _files(options, paths))
    from agentd.ctl.screen import page

    page(options, "\n".join(check.report(_load(paths, _files(options, paths)))))
    return 0


def _files(options: argparse.Namespace, paths: Paths) -> list[str]:
    """Raises ConfigurationInvalid, or ManagerUnreachable in embedded mode."""
    if paths.mode is not Mode.EMBEDDED:
        return list(paths.config_files)

    async def ask(control: Control) -> list[str]:
        return list(await control.property(ROOT, MANAGER, "ConfigFiles"))

    return with_manager(options, ask)


def _load(paths: Paths, files: list[str]) -> config.Loaded:
    """Raises ConfigurationInvalid."""
    loaded = config.load(files)
    check.check_sockets(paths, loaded.configuration)
    return loaded


def _as_json(paths: Paths, files: list[str]) -> int:
    problems: list[str] = []
    try:
        _load(paths, files)
    except ConfigurationInvalid as exc:
        problems = exc.message.splitlines()
    print(json.dumps({"valid": not problems, "files": files, "problems": problems}))
    return EX_CONFIG if problems else 0
