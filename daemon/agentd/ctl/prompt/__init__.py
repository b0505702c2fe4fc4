# SPDX-License-Identifier: Apache-2.0
"""`agentctl prompt NAME TEXT`: a client without an editor. One session, one turn, the answer on stdout.

Exit statuses: 0 for a turn that ended by itself (`end_turn`), 65 for one that ended in another way, as with
`max_tokens` or `refusal`, 130 for one that was cancelled or left, else that of the error.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from agentd import __version__
from agentd.acp import methods
from agentd.acp.extensions import SharedPaths
from agentd.acp.peer import Params, Peer
from agentd.ctl.places import front_door
from agentd.ctl.remote import SHOWN
from agentd.ctl.text import as_json
from agentd.errors import EX_DATAERR, AgentTimeout, InvalidArgs, WorkerFailed
from agentd.printable import LINES, printable
from agentd.systemd.journal import is_journal

HANDSHAKE_SEC = 180.0
"""For the agent to start and make a session; some start servers of their own first."""
GRACE_SEC = 30.0
"""For a turn that was cancelled to end."""
LEFT = 130
"""Exit status after Ctrl-C, as shells have it."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGENT_OPTION = "agentd.agent"
"""Of a session whose agent agentd has chosen: the option that has its name."""


@dataclass(frozen=True)
class Order:
    """What is asked of whom.

    `agent`: "" for the default one. `cwd`: a directory of this host, "" for wherever the container's
    processes start. `anywhere`: whether another one will do where the container does not have it.
    `permission`: what is answered to every question, None to ask on the terminal.
    """

    container: str
    text: str
    agent: str = ""
    cwd: str = ""
    anywhere: bool = True
    permission: Literal["allow", "reject"] | None = None


class Show(Protocol):
    """How a turn is shown."""

    def update(self, update: Params) -> None: ...

    def result(self, result: Params) -> None: ...


class Text:
    """The answer's text on stdout, what the agent does on stderr. `exact`: the text is for a program."""

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact

    def update(self, update: Params) -> None:
        match update:
            case {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": str(text)}}:
                print(text if self._exact else printable(text, keep=LINES), end="", flush=True)
            case {"sessionUpdate": "tool_call", "title": str(title)}:
                print(f"· {printable(title)}", file=sys.stderr, flush=True)

    def result(self, result: Params) -> None:
        print(flush=True)


class Json:
    """Every update and the result, each a line: {"update": …} and {"result": …}."""

    def update(self, update: Params) -> None:
        self._print({"update": update})

    def result(self, result: Params) -> None:
        self._print({"result": result})

    def _print(self, value: object) -> None:
        print(as_json(value), flush=True)


class Turn:
    """One prompt, from the connection to its result. `session` and `agent` are "" until they are known."""

    def __init__(self, order: Order, show: Show) -> None:
        self.session = ""
        self.agent = order.agent
        self.late = False
        """Whether it was cancelled for taking too long."""
        self._order = order
        self._show = show
        self._cancelled = False
        self._peer = Peer({methods.REQUEST_PERMISSION: self._permission}, self._notified, lambda: None)

    async def run(self, sock: socket.socket, *, limit: float | None = None) -> Params | None:
        """The result, None where it was left before there was one.

        SIGINT, SIGTERM and the end of `limit` seconds cancel the turn, which has GRACE_SEC to end then; a
        second signal leaves at once. Raises the error that keeps the turn from its end.
        """
        await self._peer.over_socket(sock)
        turn = asyncio.ensure_future(self._turn())
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._interrupted, turn)
        timer = None if limit is None else loop.call_later(limit, self._take_too_long, turn)
        try:
            result = await turn
        except asyncio.CancelledError:
            return None
        finally:
            if timer is not None:
                timer.cancel()
            await self._peer.close()
        self._show.result(result)
        return result

    async def _turn(self) -> Params:
        try:
            await self._open()
        except TimeoutError:
            raise AgentTimeout(f"the agent gave no session within {HANDSHAKE_SEC:g} s") from None
        prompt = {"sessionId": self.session, "prompt": [{"type": "text", "text": self._order.text}]}
        result = await self._peer.request(methods.SESSION_PROMPT, prompt)
        return result if isinstance(result, dict) else {}

    async def _open(self) -> None:
        attach = {"container": self._order.container, "agent": self._order.agent}
        await self._peer.request(methods.ATTACH, attach, deadline=HANDSHAKE_SEC)
        hello = {
            "protocolVersion": methods.PROTOCOL_VERSION,
            "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False},
            "clientInfo": {"name": "agentctl", "title": "agentctl prompt", "version": __version__},
        }
        await self._peer.request(methods.INITIALIZE, hello, deadline=HANDSHAKE_SEC)
        place: Params = {"cwd": self._order.cwd or await self._workdir(), "mcpServers": []}
        if self._order.anywhere:
            place["_meta"] = {"agentd.unmapped_cwd": "workdir"}
        made = await self._peer.request(methods.SESSION_NEW, place, deadline=HANDSHAKE_SEC)
        self.session = made["sessionId"]
        self.agent = self.agent or agent_of(made)

    async def _workdir(self) -> str:
        """What makes a session of ours begin where the container's processes do."""
        told = await self._peer.request(methods.PATHS, {}, deadline=HANDSHAKE_SEC)
        try:
            shared = msgspec.convert(told, SharedPaths)
        except msgspec.ValidationError as exc:
            raise WorkerFailed(
                f"the worker told of its paths in a way that is not understood: {exc}"
            ) from None
        return shared.workdir if shared.everything else "/"

    def _notified(self, method: str, params: Params) -> None:
        if method == methods.SESSION_UPDATE:
            self._show.update(params.get("update") or {})

    # Ending it early

    def _interrupted(self, turn: "asyncio.Future[Params]") -> None:
        """Ctrl-C: end the turn as the protocol has it; a second one leaves."""
        if self._cancelled:
            turn.cancel()
            return
        self._cancel(turn)
        if self._cancelled:
            print("agentctl: cancelling; once more leaves at once", file=sys.stderr)

    def _take_too_long(self, turn: "asyncio.Future[Params]") -> None:
        if not self._cancelled:
            self.late = True
            self._cancel(turn)

    def _cancel(self, turn: "asyncio.Future[Params]") -> None:
        """Ask the agent to end the turn; leave where there is none yet, or when it does not end."""
        if not self.session:
            turn.cancel()
            return
        self._cancelled = True
        self._peer.notify(methods.SESSION_CANCEL, {"sessionId": self.session})
        asyncio.get_running_loop().call_later(GRACE_SEC, turn.cancel)

    # Permissions

    async def _permission(self, params: Params) -> Any:
        """Nobody to ask means no."""
        options = [each for each in params.get("options") or [] if isinstance(each, dict)]
        chosen = None if self._cancelled else await self._choose(params, options)
        if chosen is None:
            return {"outcome": {"outcome": "cancelled"}}
        return {"outcome": {"outcome": "selected", "optionId": chosen["optionId"]}}

    async def _choose(self, params: Params, options: list[Params]) -> Params | None:
        if self._order.permission:
            return of_kind(options, self._order.permission)
        try:
            return await asyncio.to_thread(ask, params.get("toolCall") or {}, options)
        except OSError:  # no terminal
            return of_kind(options, "reject")


def agent_of(made: Params) -> str:
    """The agent of a session that was made without naming one; "" where that is not told."""
    for option in made.get("configOptions") or ():
        if isinstance(option, dict) and option.get("id") == AGENT_OPTION:
            return str(option.get("currentValue") or "")
    return ""


def of_kind(options: list[Params], wanted: str) -> Params | None:
    """The option that allows or rejects this once, else the one that does it always, else none."""
    for kind in (f"{wanted}_once", f"{wanted}_always"):
        for option in options:
            if option.get("kind") == kind:
                return option
    return None


def ask(tool_call: Params, options: list[Params]) -> Params | None:
    """Ask on the terminal, whatever stdin and stdout are. Raises OSError where there is none."""
    with open("/dev/tty", "r+b", buffering=0) as terminal:
        title = printable(str(tool_call.get("title") or "something"))
        lines = [f"\nThe agent asks for permission: {title}"]
        lines += [f"  {n}) {printable(str(each.get('name')))}" for n, each in enumerate(options, 1)]
        terminal.write(("\n".join(lines) + "\nYour choice: ").encode())
        answer = terminal.readline().decode(errors="replace").strip()
    with contextlib.suppress(ValueError, IndexError):
        return options[int(answer) - 1] if int(answer) > 0 else None
    return None


def status_of(result: Params | None) -> int:
    """The exit status for a turn that ended so."""
    if result is None or result.get("stopReason") == "cancelled":
        return LEFT
    return 0 if result.get("stopReason") == "end_turn" else EX_DATAERR


def show(options: argparse.Namespace) -> Show:
    return Json() if options.json else Text(exact=not _is_shown())


def _is_shown() -> bool:
    """Whether people see what goes to stdout: on a terminal, maybe another host's, or in the journal."""
    at_other_end = bool(os.environ.get(SHOWN))
    return at_other_end or sys.stdout.isatty() or is_journal(sys.stdout, os.environ)


def run(options: argparse.Namespace) -> int:
    if options.schedule:
        from agentd.ctl.prompt import scheduled  # brings the schema of the configuration with it

        return scheduled.run(options)
    result = asyncio.run(Turn(order(options), show(options)).run(front_door(options)))
    reason = (result or {}).get("stopReason")
    if result is not None and reason != "end_turn" and not options.json:
        print(f"agentctl: the turn ended with: {printable(str(reason))}", file=sys.stderr)
    return status_of(result)


def order(options: argparse.Namespace) -> Order:
    """Raises InvalidArgs."""
    if not (options.container and options.text):
        raise InvalidArgs("say which container is to be prompted, and with what: agentctl prompt NAME TEXT")
    return Order(
        container=options.container,
        text=sys.stdin.read() if options.text == "-" else options.text,
        agent=options.agent,
        cwd=options.cwd or os.getcwd(),
        anywhere=not options.cwd,  # nobody has asked for this directory, so any will do
        permission=options.permission,
    )
