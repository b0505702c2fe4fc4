# SPDX-License-Identifier: Apache-2.0
"""`agentctl top`: what containers and their sessions do, round after round.

On a terminal a screen that lives until q or Ctrl-C; elsewhere tables, one after the other, as `top -b` has
them; with --json a line a round:

{time, containers: [{name, state, clients, sessions, turns, frames_per_sec, memory_bytes, cpu_percent,
 received_per_sec, sent_per_sec}], totals: {containers: how many, and the other numbers summed up}}

`time` is Unix time in seconds; 100 % are one processor. What is not known is null, as all rates are in the
first round. A manager that goes away is waited for.
"""

import argparse
import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import msgspec

from agentd.bus import DISCONNECTED, NO_REPLY
from agentd.ctl.control import ABSENT, Control
from agentd.ctl.control import run as with_manager
from agentd.ctl.pager import is_screen
from agentd.ctl.text import as_json, complaint
from agentd.ctl.top.activity import Round, Sample, Status, compared, subject
from agentd.ctl.top.gauges import Gauges
from agentd.errors import AgentdError, ManagerUnreachable, ShuttingDown
from agentd.interface import BusError

SHORTEST_SEC = 0.1
"""Between two rounds: nobody sees more."""
RATE_SEC = 1.0
"""Rates are over no less: Status has workers and watcher asked for their counters no more often."""
SILENT_SEC = 3.0
"""After which it is said that there is no answer; it is waited for all the same."""


class Output(Protocol):
    """Whoever shows the rounds."""

    def show(self, sample: Sample, result: Round) -> None:
        """What has just been seen, and what it makes of it."""

    def complain(self, problem: str) -> None:
        """There is nothing newer, and why."""

    async def until_quit(self) -> None:
        """Return when the user has had enough."""

    def pause(self, seconds: float) -> bool:
        """Wait, outside of the loop; returns whether the user has had enough."""


def run(options: argparse.Namespace) -> int:
    with _output(options) as output:
        return Top(options, output).run()
    return 0  # Ctrl-C on a screen, where it is as good as q


def _output(options: argparse.Namespace) -> AbstractContextManager[Output]:
    if options.json:
        return nullcontext(Stream(_print_json))
    from agentd.ctl.top import live  # rich is for those who see something of it

    every = _delay(options)
    return live.Screen(every) if is_screen(os.environ) else nullcontext(Stream(live.tables(every)))


def _delay(options: argparse.Namespace) -> float:
    return max(SHORTEST_SEC, float(options.delay))


class Top:
    """Round after round, over as many connections to the manager as it takes."""

    def __init__(self, options: argparse.Namespace, output: Output) -> None:
        self._options = options
        self._delay = _delay(options)
        self._left: int | None = options.iterations or None
        self._output = output
        self._gauges = Gauges()
        self._samples: deque[Sample] = deque()
        """The last one, and those before it that a rate is made from."""

    def run(self) -> int:
        """Raises what keeps the first round from being; later ones wait until there is a manager again."""
        while True:
            try:
                with_manager(self._options, self._stay)
                return 0
            except AgentdError as exc:
                if not self._samples or not _is_loss(exc):
                    raise
                self._output.complain(f"waiting for the manager: {exc.message}")
            if self._output.pause(self._delay):
                return 0

    async def _stay(self, control: Control) -> None:
        """As long as there are rounds to be, and the user wants to see them."""
        work = {asyncio.ensure_future(each) for each in (self._go_on(control), self._output.until_quit())}
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in work:
                each.cancel()
            await asyncio.wait(work)

    async def _go_on(self, control: Control) -> None:
        while True:
            self._take(await self._look(control))
            if self._left is not None:
                self._left -= 1
                if self._left <= 0:
                    return
            await control.bus.until(asyncio.sleep(self._delay))

    async def _look(self, control: Control) -> Sample:
        asked = asyncio.ensure_future(control.manager("Status"))
        if not (await asyncio.wait({asked}, timeout=SILENT_SEC))[0]:
            self._output.complain(f"the manager has not answered for {SILENT_SEC:g} s")
        try:
            [text] = await asked
        finally:
            asked.cancel()
        status = msgspec.json.decode(text, type=Status)
        used = await asyncio.to_thread(self._gauges.read, map(subject, status.containers))
        names = (each.name for each in status.containers)
        return Sample(time.monotonic(), time.time(), status, dict(zip(names, used, strict=True)))

    def _take(self, sample: Sample) -> None:
        while len(self._samples) > 1 and sample.at - self._samples[1].at >= RATE_SEC:
            self._samples.popleft()
        before = self._samples[0] if self._samples else None
        self._samples.append(sample)
        self._output.show(sample, compared(before, sample))


def _is_loss(exc: AgentdError) -> bool:
    """Whether it says that the manager has gone, and so may come back."""
    if isinstance(exc, BusError):
        return exc.name in (DISCONNECTED, NO_REPLY) or exc.name.startswith(ABSENT)
    return isinstance(exc, ManagerUnreachable | ShuttingDown)


class Stream:
    """One round after the other on stdout, written by `write`."""

    def __init__(self, write: Callable[[Sample, Round], None]) -> None:
        self._write = write
        self._complained = False

    def show(self, sample: Sample, result: Round) -> None:
        self._complained = False
        self._write(sample, result)
        sys.stdout.flush()

    def complain(self, problem: str) -> None:
        """On stderr, once for as long as it lasts."""
        if not self._complained:
            self._complained = True
            print(complaint(problem), file=sys.stderr, flush=True)

    async def until_quit(self) -> None:
        await asyncio.get_running_loop().create_future()

    def pause(self, seconds: float) -> bool:
        time.sleep(seconds)
        return False


def _print_json(sample: Sample, result: Round) -> None:
    print(as_json(msgspec.to_builtins(result)))
