# SPDX-License-Identifier: Apache-2.0
"""`agentctl start NAME`: start a container's worker, also one that has failed too often.

--json: {container, state}; `state` is the container's, once that is done.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from typing import Any

from agentd.ctl.control import CONTAINER, Control
from agentd.ctl.control import run as with_manager
from agentd.errors import InProgress

MOST_SEC = 600.0
"""A worker may have many turns to wait for, or an engine that is slow; then it is systemd's to know."""
PAUSE_SEC = 0.5
"""Between two calls, where the first one does not wait as long as it may."""


def run(options: argparse.Namespace) -> int:
    return ordered(options, "StartContainer", "Starting")


def ordered(options: argparse.Namespace, member: str, doing: str) -> int:
    """Start or stop a container, and wait until it has happened. Returns the exit status.

    Raises InProgress where it goes on after all that time.
    """

    async def order(control: Control) -> str:
        await _until_done(control, member, options.container)
        path = await control.container(options.container)
        return str(await control.property(path, CONTAINER, "State"))

    with spinner(f"{doing} {options.container}"):
        state = with_manager(options, order)
    if options.json:
        print(json.dumps({"container": options.container, "state": state}))
    return 0


async def _until_done(control: Control, member: str, name: str) -> None:
    """A call returns before callers lose their patience, and calling again goes on waiting."""
    end = time.monotonic() + MOST_SEC
    while True:
        try:
            await control.manager(member, "s", name)
            return
        except InProgress:
            if time.monotonic() > end:
                raise
        await asyncio.sleep(PAUSE_SEC)


def spinner(text: str) -> contextlib.AbstractContextManager[Any]:
    """Something that turns, where a person waits at a terminal."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    from agentd.ctl.screen import console, plain

    return console(stderr=True).status(plain(text))
