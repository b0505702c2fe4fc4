# SPDX-License-Identifier: Apache-2.0
"""`agentctl drain [TARGET]`: order a drain, and with --wait watch it end.

--json: {job, target, state, remaining, drained, deadline_usec}, when it has been ordered or, with --wait,
has ended; `state` is running, done, timeout, canceled or failed, `drained` has the ids of sessions. Ctrl-C
ends the waiting, not the drain.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

from agentd.bus import Signal
from agentd.ctl.control import JOB, MANAGER, Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.text import count
from agentd.errors import EX_TEMPFAIL, EX_UNAVAILABLE
from agentd.interface import Variant

LEFT = 130
"""Exit status after Ctrl-C, as shells have it."""
RESULTS = {
    "done": (0, "drained: every turn ended by itself"),
    "timeout": (EX_TEMPFAIL, "drained: time was over, and turns were cut off"),
    "canceled": (EX_TEMPFAIL, "not drained: somebody gave the drain up"),
    "failed": (EX_UNAVAILABLE, "a worker ended before its turns did; see: agentctl status"),
}


def run(options: argparse.Namespace) -> int:
    drain = Drain(options)
    try:
        job = with_manager(options, drain.run)
    except KeyboardInterrupt:
        if drain.number:
            text = f"the drain goes on, as job {drain.number}; {_way_back(options.target)}"
            print(f"agentctl: {text}", file=sys.stderr)
        return LEFT
    if options.json:
        print(json.dumps(job))
    if not options.wait:
        if not options.json:
            print(f"draining as job {job['job']}; see: agentctl status")
        return 0
    status, text = RESULTS[job["state"]]
    print(text, file=sys.stderr)
    return status


def _way_back(target: str) -> str:
    return f"to give it up: agentctl undrain {target}".rstrip()


class Drain:
    """One drain, from the order to the end of its job."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.number = 0
        """Of the job, once there is one."""
        self._options = options
        self._news = asyncio.Event()

    async def run(self, control: Control) -> dict[str, Any]:
        """Order it and, where that is wanted, wait for its end. Returns the job as --json has it."""
        for interface, member in ((JOB, "Progress"), (MANAGER, "JobRemoved")):
            control.bus.subscribe(self._heard, interface=interface, member=member, sender="org.agentd1")
        timeout = self._options.timeout
        settings = {"timeout_usec": Variant("t", int(timeout * 1e6))} if timeout else {}
        [path] = await control.manager("Drain", "sa{sv}", self._options.target, settings)
        self.number = int(path.rpartition("/")[2])
        return await (self._watch(control, path) if self._options.wait else _look(control, path))

    def _heard(self, signal: Signal) -> None:
        self._news.set()

    async def _watch(self, control: Control, path: str) -> dict[str, Any]:
        """Show the progress until the job has ended. Its own deadline bounds the wait."""
        job = await _look(control, path)
        with progress(self._options.target or "everything", job) as show:
            while job["state"] == "running":
                show.remaining(job["remaining"])
                await control.bus.until(asyncio.ensure_future(self._news.wait()))
                self._news.clear()
                job = await _look(control, path)
            show.ended(job)
        return job


async def _look(control: Control, path: str) -> dict[str, Any]:
    job = await control.properties(path, JOB)
    return {
        "job": job["Id"],
        "target": job["Target"],
        "state": job["State"],
        "remaining": job["Remaining"],
        "drained": list(job["Drained"]),
        "deadline_usec": job["Deadline"],
    }


# Progress


class Progress(Protocol):
    """How a person, or a log, sees it go on."""

    def remaining(self, turns: int) -> None: ...

    def ended(self, job: dict[str, Any]) -> None: ...


class Lines:
    """A line each time, for logs."""

    def remaining(self, turns: int) -> None:
        print(f"{count(turns, 'turn')} left", file=sys.stderr, flush=True)

    def ended(self, job: dict[str, Any]) -> None:
        self.remaining(job["remaining"])


@contextlib.contextmanager
def progress(target: str, job: dict[str, Any]) -> Iterator[Progress]:
    """A bar on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from agentd.ctl.drain.bar import Bar

    with Bar(target, job["deadline_usec"] / 1e6 - time.time()) as bar:
        yield bar
