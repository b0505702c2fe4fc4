# SPDX-License-Identifier: Apache-2.0
"""The bridge between an editor's pipes and a container's worker, which outlives the worker.

Two threads that block, and no event loop: it is the fastest thing Python can do here, to start and to relay.
The main one reads what the worker sends, and when the connection breaks it sees to another one; the second
one reads the editor, and waits while there is no connection.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time

from agentd.acp import methods
from agentd.ctl.attach.door import Broken, Connection, Door, Lines, refusal
from agentd.ctl.attach.ledger import SIGN, Ledger, line_of, message_of
from agentd.errors import (
    AgentdError,
    ManagerUnreachable,
    ShuttingDown,
    TooManyConnections,
    WorkerFailed,
    revive,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GOODBYE = methods.LEAVING.encode()
UPDATE = b'{"jsonrpc":"2.0","method":"session/update","params":'
"""What begins so has no id of its own, whatever ids are told of in it."""
OURS = "agentctl:"
"""How the ids of our own requests begin."""
PATIENCE_SEC = 30.0
"""How long a manager or worker that is gone is waited for."""
FIRST_PAUSE_SEC, LAST_PAUSE_SEC = 0.05, 0.5
STEP_SEC = 60.0
MOST_BREAKS, BREAKS_SEC = 3, 60.0
"""So many breaks in that time, and nothing done in between: it would only go on like that."""


class Patience:
    """Pauses between attempts, longer and longer, until it has been long enough."""

    def __init__(self) -> None:
        self._end = time.monotonic() + PATIENCE_SEC
        self._pause = FIRST_PAUSE_SEC

    def wait(self) -> bool:
        """Pause. Returns False, at once, where there should be no other attempt."""
        if time.monotonic() + self._pause > self._end:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, LAST_PAUSE_SEC)
        return True


class Bridge:
    """One editor, on this process's stdin and stdout, and one connection at a time."""

    def __init__(self, door: Door, connection: Connection) -> None:
        self._door = door
        self._connection = connection
        self._client = connection.client
        self._told: AgentdError | None = None
        """Why the worker, or the manager, has gone; None where nobody has said so."""
        self._breaks: list[float] = []
        self._patience = Patience()
        self._answers: dict[str, dict[str, Any]] = {}
        self._state = threading.Condition()
        """Guards what follows. Nobody sends, writes or reads while holding it."""
        self._ledger = Ledger()
        self._open: Connection | None = None
        self._sending = False
        self._input_ended = False
        self._problem: Exception | None = None

    def run(self) -> int:
        """Pump both ways to the end. Returns the exit status. Raises AgentdError where it ends badly."""
        threading.Thread(target=self._feed, daemon=True).start()
        try:
            self._pump()
            while not self._is_over():
                if self._reconnect() and self._catches_up():
                    self._pump()
        except BrokenPipeError:
            pass  # the editor has gone, and there is nobody to tell
        return 0

    def _pump(self) -> None:
        """Both ways, until the connection is at its end."""
        self._go_on()
        read = self._connection.block
        while block := read():
            _write(self._sift(block) if SIGN in block or GOODBYE in block else block)
        self._patience = Patience()
        self._cut()

    def _go_on(self) -> None:
        """Let the editor be heard."""
        self._connection.allow(None)
        with self._state:
            self._check()
            self._open = self._connection
            if self._input_ended:
                self._open.finish()
            self._state.notify_all()

    def _is_over(self) -> bool:
        """Whether the editor has said all it wants and got all it waits for."""
        with self._state:
            self._check()
            return self._input_ended and not self._waits()

    def _waits(self) -> bool:
        """Whether there are answers that the editor should still get."""
        return bool(self._client and self._ledger.pending)

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem

    # From the editor, in a thread of its own

    def _feed(self) -> None:
        try:
            lines = Lines(_read)
            while block := lines.block():
                self._forward(block)
        except Exception as exc:
            self._give_up(exc)
            return
        with self._state:
            self._input_ended = True
            if self._open is not None:
                self._open.finish()
            elif not self._waits():
                self._door.abort()

    def _give_up(self, problem: Exception) -> None:
        """The main thread ends with it."""
        with self._state:
            self._problem = problem
            if self._open is not None:
                self._open.abort()

    def _forward(self, block: bytes) -> None:
        lines = block.split(b"\n")
        messages = [message_of(line) if SIGN in line else {} for line in lines]
        with self._state:
            self._state.wait_for(lambda: self._open is not None)  # or until the process ends
            connection = self._open
            assert connection is not None
            self._sending = True
            wanted = [self._ledger.sent(message) for message in messages]
        self._deliver(connection, _only(block, lines, wanted))

    def _deliver(self, connection: Connection, block: bytes) -> None:
        try:
            connection.send(block)
        except Broken:
            with self._state:  # what was asked in it is pending, and answered as what the worker lost
                if self._open is connection:
                    self._open = None
        finally:
            with self._state:
                self._sending = False
                self._state.notify_all()

    # From the worker

    def _sift(self, block: bytes) -> bytes:
        """Take note of what is in a block. Returns what of it is for the editor."""
        lines = block.split(b"\n")
        return _only(block, lines, [self._is_for_editor(line) for line in lines])

    def _is_for_editor(self, line: bytes) -> bool:
        if line.startswith(UPDATE) or (SIGN not in line and GOODBYE not in line):
            return True
        message = message_of(line)
        if message.get("method") == methods.LEAVING:
            self._connection.goodbye = goodbye(message)
            return False
        number = message.get("id")
        if isinstance(number, str) and number.startswith(OURS):
            self._answers[number] = message
            return False
        with self._state:
            if self._ledger.received(message) and self._open is not None:
                self._breaks.clear()
        return True

    # When the connection breaks

    def _cut(self) -> None:
        """Nothing more is sent until there is another connection. Raises what is final."""
        self._connection.abort()
        with self._state:
            self._open = None
            self._state.wait_for(lambda: not self._sending)  # it fails now, if it still waits
            self._ledger.broke()
        self._connection.close()
        self._told = self._connection.goodbye
        if not self._is_over():
            self._count_break()

    def _count_break(self) -> None:
        """Raises what makes it not worth while to go on."""
        if self._told is not None and not isinstance(self._told, ShuttingDown):
            raise self._told
        if not self._client:
            raise ManagerUnreachable("agentd has closed the connection")
        if self._told is not None:
            return  # somebody restarts it, which may go on for as long as it likes
        now = time.monotonic()
        self._breaks = [each for each in self._breaks if now - each < BREAKS_SEC] + [now]
        if len(self._breaks) >= MOST_BREAKS:
            raise WorkerFailed(
                f"the worker has ended {MOST_BREAKS} times within a minute; see: agentctl status"
            )

    def _reconnect(self) -> bool:
        """Try to get another connection; False, after a pause, where that failed. Raises what is final."""
        try:
            self._connection = self._door.again(start=self._connection.goodbye is None)
            return True
        except (ShuttingDown, ManagerUnreachable, TooManyConnections, WorkerFailed) as exc:
            problem = exc
        if isinstance(problem, ShuttingDown):
            self._told = problem
        if self._told is not None and not self._door.is_there:
            raise self._told
        if not self._patience.wait():
            raise problem
        return False

    def _catches_up(self) -> bool:
        """Make all as the editor believes it to be; False where it breaks again. Raises what is final."""
        try:
            self._catch_up()
            return True
        except Broken:
            self._cut()
            return False

    def _catch_up(self) -> None:
        """Raises Broken, or what is final."""
        numbers = itertools.count(1)
        self._answers.clear()
        lost = {"client": self._client, "pending": self._ledger.pending, "asked": self._ledger.asked}
        self._require(next(numbers), methods.RECOVER, lost)
        self._client = self._connection.client
        if self._is_over():
            return
        if self._ledger.greeting is not None:
            self._require(next(numbers), methods.INITIALIZE, self._ledger.greeting)
        for session, params in list(self._ledger.sessions.items()):
            answer = self._ask(next(numbers), methods.SESSION_RESUME, params)
            if "result" not in answer:
                self._forget(session, refusal(answer))
        _write(self._ledger.take_back())

    def _forget(self, session: str, problem: AgentdError) -> None:
        from agentd.printable import printable

        del self._ledger.sessions[session]
        _say(printable(f"session {session} cannot go on: {problem.message}"))

    def _require(self, number: int, method: str, params: object) -> None:
        answer = self._ask(number, method, params)
        if "result" not in answer:
            raise refusal(answer)

    def _ask(self, number: int, method: str, params: object) -> dict[str, Any]:
        """The answer to a request of ours; what else comes is passed on. Raises Broken or WorkerFailed."""
        own = f"{OURS}{number}"
        self._connection.allow(STEP_SEC)
        try:
            self._connection.send(line_of(id=own, method=method, params=params))
            while own not in self._answers:
                if not (block := self._connection.block()):
                    raise Broken
                _write(self._sift(block))
        except TimeoutError:
            raise WorkerFailed(f"the worker did not answer {method} within {STEP_SEC:g} s") from None
        return self._answers[own]


def goodbye(message: dict[str, Any]) -> AgentdError:
    """What a worker says when it leaves."""
    params = message.get("params")
    said = params if isinstance(params, dict) else {}
    return revive(str(said.get("reason")), str(said.get("message", "agentd has closed the connection")))


def _only(block: bytes, lines: list[bytes], wanted: list[bool]) -> bytes:
    """A block without those of its lines that are not wanted."""
    return block if all(wanted) else b"\n".join(itertools.compress(lines, wanted))


def _say(text: str) -> None:
    print(f"agentctl: {text}", file=sys.stderr, flush=True)


def _read(size: int) -> bytes:
    try:
        return os.read(0, size)
    except OSError as exc:
        _say(f"cannot read what the editor sends: {exc.strerror}")
        return b""


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
