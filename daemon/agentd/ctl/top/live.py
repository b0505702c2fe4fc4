# SPDX-License-Identifier: Apache-2.0
"""Where the rounds of `agentctl top` are seen: a screen, or tables. Imported late: rich is slow."""

import asyncio
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType, TracebackType
from typing import NoReturn, Self

from rich.live import Live

from agentd.ctl import screen
from agentd.ctl.top.activity import Round, Sample, busiest
from agentd.ctl.top.dashboard import Trends, View, pages
from agentd.ctl.top.sparkline import Trend

DEADLY = (signal.SIGTERM, signal.SIGHUP)


def tables(every: float) -> Callable[[Sample, Round], None]:
    """Prints each round below the last one."""
    console = screen.console()

    def write(sample: Sample, result: Round) -> None:
        for each in pages(View(sample.status, result, busiest(sample.status), {}, every)):
            console.print(each)

    return write


class Memory:
    """What the last minutes were like, of the containers that there are."""

    def __init__(self) -> None:
        self._trends: dict[str, Trends] = {}

    def view(self, sample: Sample, result: Round, every: float) -> View:
        """A round, and what came before it."""
        names = (each.name for each in result.containers)
        self._trends = {name: self._trends.get(name) or Trends(Trend(), Trend()) for name in names}
        for each in result.containers:
            trends = self._trends[each.name]
            for trend, value in ((trends.frames, each.frames_per_sec), (trends.cpu, each.cpu_percent)):
                if value is not None:
                    trend.add(sample.at, value)
        return View(sample.status, result, busiest(sample.status), self._trends, every)


class Screen:
    """The whole terminal, from the first round on. It is as it was when this ends, however that happens."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._memory = Memory()
        self._view: View | None = None
        self._live: Live | None = None
        self._taken = ExitStack()
        """What has to be given back."""
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._taken.close()
        return isinstance(error, KeyboardInterrupt) and self._view is not None

    # Showing

    def show(self, sample: Sample, result: Round) -> None:
        self._view = self._memory.view(sample, result, self._every)
        self._draw()

    def complain(self, problem: str) -> None:
        if self._view is not None:
            self._view = replace(self._view, problem=problem)
            self._draw()

    def _draw(self) -> None:
        if self._view is None:
            return
        if self._live is None:
            self._live = self._take_terminal()
        self._live.update(self._view, refresh=True)

    def _take_terminal(self) -> Live:
        live = Live(
            console=screen.console(),
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._taken.enter_context(_orderly_end())
        if self._keys is not None:
            self._taken.enter_context(_keys_at_once(self._keys))
        return self._taken.enter_context(live)

    # Keys, and whatever else comes from outside

    async def until_quit(self) -> None:
        loop = asyncio.get_running_loop()
        quit: asyncio.Future[None] = loop.create_future()
        loop.add_signal_handler(signal.SIGWINCH, self._draw)
        loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        if self._keys is not None:
            loop.add_reader(self._keys, self._typed, self._keys, quit)
        try:
            await quit
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
            loop.remove_signal_handler(signal.SIGTSTP)
            if self._keys is not None:
                loop.remove_reader(self._keys)

    def pause(self, seconds: float) -> bool:
        keys = [] if self._keys is None else [self._keys]
        ready, _, _ = select.select(keys, [], [], seconds)
        return any(_is_quit(each) for each in ready)

    def _typed(self, keys: int, quit: "asyncio.Future[None]") -> None:
        if _is_quit(keys) and not quit.done():
            quit.set_result(None)

    def _suspend(self) -> None:
        """Ctrl-Z: the shell gets its terminal, and we take it again when we go on."""
        self._taken.close()
        self._live = None
        os.kill(os.getpid(), signal.SIGSTOP)
        self._draw()


def _is_quit(keys: int) -> bool:
    try:
        typed = os.read(keys, 64)
    except OSError:  # the terminal has gone
        return True
    return not typed or b"q" in typed.lower()


@contextmanager
def _keys_at_once(keys: int) -> Iterator[None]:
    """Keys are not shown, and read without waiting for the end of a line."""
    before = termios.tcgetattr(keys)
    try:
        tty.setcbreak(keys)
        yield
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


@contextmanager
def _orderly_end() -> Iterator[None]:
    """A signal that ends us does it in the way of an exception, so that the terminal is given back."""
    before = {each: signal.signal(each, _end) for each in DEADLY}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
