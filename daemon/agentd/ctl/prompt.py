# SPDX-License-Identifier: Apache-2.0
"""`agentctl prompt NAME TEXT`: a client without an editor. One session, one turn, the answer on stdout."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from typing import Any, Protocol

import msgspec

from agentd import __version__
from agentd.acp import methods
from agentd.acp.peer import Params, Peer
from agentd.ctl.places import front_door
from agentd.ctl.text import printable
from agentd.errors import EX_DATAERR, AgentTimeout

HANDSHAKE_SEC = 180.0
"""For the agent to start and make a session; some start servers of their own first."""
LEFT = 130
"""Exit status after Ctrl-C, as shells have it."""


class Show(Protocol):
    """How a turn is shown."""

    def update(self, update: Params) -> None: ...

    def result(self, result: Params) -> None: ...


class Text:
    """The answer's text on stdout, what the agent does on stderr."""

    def update(self, update: Params) -> None:
        match update:
            case {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": str(text)}}:
                print(printable(text), end="", flush=True)
            case {"sessionUpdate": "tool_call", "title": str(title)}:
                print(f"· {printable(title, lines=False)}", file=sys.stderr, flush=True)

    def result(self, result: Params) -> None:
        print(flush=True)
        if (reason := result.get("stopReason")) != "end_turn":
            print(f"agentctl: the turn ended with: {printable(str(reason), lines=False)}", file=sys.stderr)


class Json:
    """Every update and the result, each a line: {"update": …} and {"result": …}."""

    def update(self, update: Params) -> None:
        self._print({"update": update})

    def result(self, result: Params) -> None:
        self._print({"result": result})

    def _print(self, value: object) -> None:
        print(msgspec.json.encode(value).decode(), flush=True)


class Turn:
    """One prompt, from the connection to the exit status."""

    def __init__(self, options: argparse.Namespace, text: str) -> None:
        self._options = options
        self._text = text
        self._show: Show = Json() if options.json else Text()
        self._session: str | None = None
        self._cancelled = False
        requests = {methods.REQUEST_PERMISSION: self._permission}
        self._peer = Peer(requests, self._notified, lambda: None)

    async def run(self) -> int:
        sock = front_door(self._options)
        await self._peer.over_socket(sock)
        turn = asyncio.ensure_future(self._turn())
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupted, turn)
        try:
            result = await turn
        except asyncio.CancelledError:
            return LEFT
        finally:
            await self._peer.close()
        self._show.result(result)
        if result.get("stopReason") == "cancelled":
            return LEFT
        return 0 if result.get("stopReason") == "end_turn" else EX_DATAERR

    async def _turn(self) -> Params:
        try:
            await self._open()
        except TimeoutError:
            raise AgentTimeout(f"the agent gave no session within {HANDSHAKE_SEC:g} s") from None
        prompt = {"sessionId": self._session, "prompt": [{"type": "text", "text": self._text}]}
        result = await self._peer.request(methods.SESSION_PROMPT, prompt)
        return result if isinstance(result, dict) else {}

    async def _open(self) -> None:
        attach = {"container": self._options.container, "agent": self._options.agent}
        await self._peer.request(methods.ATTACH, attach, deadline=HANDSHAKE_SEC)
        hello = {
            "protocolVersion": methods.PROTOCOL_VERSION,
            "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False},
            "clientInfo": {"name": "agentctl", "title": "agentctl prompt", "version": __version__},
        }
        await self._peer.request(methods.INITIALIZE, hello, deadline=HANDSHAKE_SEC)
        place: Params = {"cwd": self._options.cwd or os.getcwd(), "mcpServers": []}
        if not self._options.cwd:  # nobody has asked for this directory, so any will do
            place["_meta"] = {"agentd.unmapped_cwd": "workdir"}
        made = await self._peer.request(methods.SESSION_NEW, place, deadline=HANDSHAKE_SEC)
        self._session = made["sessionId"]

    def _notified(self, method: str, params: Params) -> None:
        if method == methods.SESSION_UPDATE:
            self._show.update(params.get("update") or {})

    def _interrupted(self, turn: "asyncio.Future[Params]") -> None:
        """Ctrl-C: end the turn as the protocol has it; a second one leaves."""
        if self._cancelled or self._session is None:
            turn.cancel()
            return
        self._cancelled = True
        self._peer.notify(methods.SESSION_CANCEL, {"sessionId": self._session})
        print("agentctl: cancelling; once more leaves at once", file=sys.stderr)

    # Permissions

    async def _permission(self, params: Params) -> Any:
        """Nobody to ask means no."""
        options = [each for each in params.get("options") or [] if isinstance(each, dict)]
        chosen = None if self._cancelled else await self._choose(params, options)
        if chosen is None:
            return {"outcome": {"outcome": "cancelled"}}
        return {"outcome": {"outcome": "selected", "optionId": chosen["optionId"]}}

    async def _choose(self, params: Params, options: list[Params]) -> Params | None:
        if self._options.permission:
            return of_kind(options, self._options.permission)
        try:
            return await asyncio.to_thread(ask, params.get("toolCall") or {}, options)
        except OSError:  # no terminal
            return of_kind(options, "reject")


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
        title = printable(str(tool_call.get("title") or "something"), lines=False)
        lines = [f"\nThe agent asks for permission: {title}"]
        lines += [
            f"  {n}) {printable(str(each.get('name')), lines=False)}" for n, each in enumerate(options, 1)
        ]
        terminal.write(("\n".join(lines) + "\nYour choice: ").encode())
        answer = terminal.readline().decode(errors="replace").strip()
    with contextlib.suppress(ValueError, IndexError):
        return options[int(answer) - 1] if int(answer) > 0 else None
    return None


def run(options: argparse.Namespace) -> int:
    text = sys.stdin.read() if options.text == "-" else options.text
    return asyncio.run(Turn(options, text).run())
