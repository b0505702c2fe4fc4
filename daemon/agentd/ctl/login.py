# SPDX-License-Identifier: Apache-2.0
"""`agentctl login NAME AGENT`: an agent's own login, in the container, on the caller's terminal."""

import argparse
import asyncio
import contextlib
import os
import signal
import termios
import threading
import tty
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import msgspec

from agentd.acp.extensions import (
    AgentReport,
    Agents,
    LoginEnd,
    LoginMethod,
    LoginStart,
    TerminalData,
    TerminalSize,
)
from agentd.acp.methods import LOGIN, TERMINAL_INPUT, TERMINAL_OUTPUT, TERMINAL_RESIZE
from agentd.acp.peer import Params
from agentd.ctl.agents import agents_of
from agentd.ctl.worker import Worker
from agentd.errors import InvalidArgs, NoSuchAgent, WorkerFailed
from agentd.printable import printable

LOGIN_SEC = 960.0
"""A minute more than the worker gives a login, so that its word comes first."""
CHUNK = 4096
END_OF_INPUT = b"\x04"
"""Ctrl-D: what a terminal has for the end of a pipe."""
STDIN, STDOUT, STDERR = 0, 1, 2
DEFAULT_SIZE = TerminalSize(columns=80, rows=24)


def run(options: argparse.Namespace) -> int:
    return log_in(options, options.agent, options.method)


def run_attached(options: argparse.Namespace) -> int:
    """For `agentctl attach NAME --login AGENT/METHOD`, which is how an editor starts a login."""
    agent, _, method = options.login.partition("/")
    if not (agent and method):
        raise InvalidArgs("--login takes an agent and one of its methods: AGENT/METHOD")
    return log_in(options, agent, method)


def log_in(options: argparse.Namespace, agent: str, method: str) -> int:
    """Run it to its end. `method` is "" for the only one there is. Returns the program's exit status."""
    login = Login(options)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, login.leave)
    return asyncio.run(login.run(agent, method))


class Login:
    """One login, from the connection to the exit status."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._worker = Worker(options, self._notified)
        self._showing = False
        self._problem: Exception | None = None
        self._answer: asyncio.Task[LoginEnd] | None = None
        self._taken = threading.Semaphore(0)

    async def run(self, agent: str, method: str) -> int:
        async with self._worker:
            chosen = method or only_method(await agents_of(self._worker), agent)
            with raw(STDIN):
                end = await self._talk(agent, chosen)
        return end.exit_status

    def leave(self, number: int, frame: FrameType | None) -> NoReturn:
        """On a signal: an exception ends also a write that waits, and lets everything be put back."""
        self._showing = False
        raise SystemExit(128 + number)

    async def _talk(self, agent: str, method: str) -> LoginEnd:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, self._resized)
        size = window()
        term = os.environ.get("TERM") or "dumb"
        start = LoginStart(agent=agent, method=method, columns=size.columns, rows=size.rows, term=term)
        self._showing = True
        self._answer = asyncio.ensure_future(self._worker.ask(LOGIN, start, LoginEnd, deadline=LOGIN_SEC))
        threading.Thread(target=self._read, args=(loop,), daemon=True).start()
        try:
            return await self._answer
        except asyncio.CancelledError:
            if self._problem is not None:
                raise self._problem from None
            raise
        finally:
            self._showing = False
            loop.remove_signal_handler(signal.SIGWINCH)

    # From the program

    def _notified(self, method: str, params: Params) -> None:
        if method != TERMINAL_OUTPUT or not self._showing:
            return
        try:
            show(msgspec.convert(params, TerminalData).data)
        except msgspec.ValidationError as exc:
            self._fail(WorkerFailed(f"the worker sent output in a form that is not known: {exc}"))
        except OSError as exc:
            self._fail(exc)  # nobody sees it any more

    def _fail(self, problem: Exception) -> None:
        assert self._answer is not None
        self._problem = problem
        self._showing = False
        self._answer.cancel()

    # To the program

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own, since reading waits for as long as nobody types."""
        try:
            while data := os.read(STDIN, CHUNK):
                loop.call_soon_threadsafe(self._type, data)
                self._taken.acquire()  # one piece at a time, however fast they come
            loop.call_soon_threadsafe(self._type, END_OF_INPUT)
        except OSError:
            pass  # the terminal has gone, and SIGHUP tells
        except RuntimeError:
            pass  # the loop has ended, and the login with it

    def _type(self, data: bytes) -> None:
        self._worker.tell(TERMINAL_INPUT, TerminalData(data=data))
        self._taken.release()

    def _resized(self) -> None:
        self._worker.tell(TERMINAL_RESIZE, window())


def only_method(found: Agents, agent: str) -> str:
    """The agent's only login in a terminal. Raises NoSuchAgent, or InvalidArgs that lists what there is."""
    one = next((each for each in found.agents if each.name == agent), None)
    if one is None:
        there = ", ".join(each.name for each in found.agents) or "none"
        raise NoSuchAgent(printable(f"the container has no agent {agent}; there are: {there}"))
    methods = [each for each in one.login if each.terminal]
    if len(methods) == 1:
        return methods[0].id
    raise InvalidArgs(printable(several(agent, methods) if methods else no_login(one)))


def several(agent: str, methods: list[LoginMethod]) -> str:
    choice = ", ".join(f"{each.id} ({each.name})" if each.name else each.id for each in methods)
    return f"{agent} has several logins, name one: {choice}"


def no_login(agent: AgentReport) -> str:
    return f"{agent.name} offers no login in a terminal" + (f": {agent.reason}" if agent.reason else "")


# The caller's terminal


@contextlib.contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Keys go to the program as they are typed, Ctrl-C too; put back at the end. A pipe is left alone."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)  # keeps what was typed ahead
        yield
    finally:
        with contextlib.suppress(termios.error):  # a terminal that has gone has nothing to be put back
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


def window() -> TerminalSize:
    """The size of the first of the standard streams that is a terminal."""
    for descriptor in (STDIN, STDOUT, STDERR):
        with contextlib.suppress(OSError):  # is none
            columns, rows = os.get_terminal_size(descriptor)
            if columns and rows:
                return TerminalSize(columns=columns, rows=rows)
    return DEFAULT_SIZE


def show(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(STDOUT, view) :]
