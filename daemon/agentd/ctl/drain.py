# SPDX-License-Identifier: Apache-2.0
"""`agentctl drain [NAME]`: order a drain, and with --wait watch it end."""

import argparse
import asyncio
import sys

from agentd.bus import Signal
from agentd.ctl.control import JOB, MANAGER, Control
from agentd.ctl.control import run as with_manager
from agentd.errors import EX_TEMPFAIL, EX_UNAVAILABLE
from agentd.interface import Variant

BAR = 30
RESULTS = {
    "done": (0, "drained: every turn ended by itself"),
    "timeout": (EX_TEMPFAIL, "drained: time was over, and turns were cut off"),
    "canceled": (EX_TEMPFAIL, "not drained: somebody gave the drain up"),
    "failed": (EX_UNAVAILABLE, "a worker ended before its turns did; see: agentctl status"),
}


def run(options: argparse.Namespace) -> int:
    settings = {"timeout_usec": Variant("t", int(options.timeout * 1e6))} if options.timeout else {}

    async def drain(control: Control) -> int:
        watch = Watch(control)
        [job] = await control.manager("Drain", "sa{sv}", options.target, settings)
        if not options.wait:
            print(f"draining as job {job.rpartition('/')[2]}; see: agentctl status")
            return 0
        return await watch.until_end(job)

    return with_manager(options, drain)


class Watch:
    """A job's way to its end. Made before the order, so that no signal is missed."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._news = asyncio.Event()
        self._at_first = 0
        for interface, member in ((JOB, "Progress"), (MANAGER, "JobRemoved")):
            control.bus.subscribe(self._heard, interface=interface, member=member, sender="org.agentd1")

    def _heard(self, signal: Signal) -> None:
        self._news.set()

    async def until_end(self, job: str) -> int:
        """Show the progress until the job has ended. Its own deadline bounds the wait."""
        while (state := await self._control.property(job, JOB, "State")) == "running":
            self._show(await self._control.property(job, JOB, "Remaining"))
            await self._control.bus.until(asyncio.ensure_future(self._news.wait()))
            self._news.clear()
        self._show(0)
        status, text = RESULTS[state]
        print(("\n" if sys.stderr.isatty() else "") + text, file=sys.stderr)
        return status

    def _show(self, remaining: int) -> None:
        self._at_first = max(self._at_first, remaining)
        if sys.stderr.isatty():
            done = BAR if not self._at_first else BAR * (self._at_first - remaining) // self._at_first
            print(
                f"\r[{'#' * done}{' ' * (BAR - done)}] {turns(remaining)} left ",
                end="",
                file=sys.stderr,
                flush=True,
            )
        else:
            print(f"{turns(remaining)} left", file=sys.stderr, flush=True)


def turns(count: int) -> str:
    return "1 turn" if count == 1 else f"{count} turns"
