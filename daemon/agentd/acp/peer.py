# SPDX-License-Identifier: Apache-2.0
"""A JSON-RPC peer for those who are a client themselves, and do not relay: whole messages in and out."""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from agentd.acp import envelope
from agentd.acp.framing import Torn
from agentd.acp.stream import FrameStream
from agentd.errors import (
    METHOD_NOT_FOUND,
    AgentdError,
    FrameTooLarge,
    Internal,
    MethodNotFound,
    WorkerFailed,
    revive,
)
from agentd.tasks import Tasks

FRAME_BYTES = 64 << 20
BUFFER_BYTES = 8 << 20

Params = dict[str, Any]
Handler = Callable[[Params], Awaitable[Any]]


class Peer:
    """One connection. `requests` answer the other side's requests, `notified` hears its notifications."""

    def __init__(
        self,
        requests: Mapping[str, Handler],
        notified: Callable[[str, Params], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._requests = requests
        self._notified = notified
        self._on_lost = on_lost
        self._stream = FrameStream(self, FRAME_BYTES, BUFFER_BYTES)
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks = Tasks()

    async def over_socket(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        await self._stream.over_socket(sock)

    # Speaking

    async def request(self, method: str, params: Params, *, deadline: float | None = None) -> Any:
        """The result. Raises the error of ours that the answer names, else Internal, or TimeoutError.

        Without a deadline the wait ends with the connection, as a turn's must.
        """
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._stream.send(envelope.request(number, method, params))
        try:
            async with asyncio.timeout(deadline):  # wait_for loses a cancellation that meets the answer
                return await answer
        finally:
            del self._waiting[number]

    def notify(self, method: str, params: Params) -> None:
        self._stream.send(envelope.notification(method, params))

    async def close(self) -> None:
        await self._tasks.close()
        self._stream.finish()

    # Listening (Sink)

    def received(self, block: bytes) -> None:
        for line in block.split(b"\n"):
            if line.strip():
                self._message(msgspec.json.decode(line, type=dict[str, Any]))

    def _message(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            self._answer(message)
        elif "id" in message:
            self._tasks.start(self._serve(message), f"request {message['method']}")
        else:
            self._notified(message["method"], message.get("params") or {})

    def _answer(self, message: dict[str, Any]) -> None:
        waiting = self._waiting.get(message.get("id", -1))
        if waiting is None or waiting.done():
            return
        if "error" in message:
            waiting.set_exception(error_of(message["error"]))
        else:
            waiting.set_result(message.get("result"))

    async def _serve(self, message: dict[str, Any]) -> None:
        raw_id = msgspec.json.encode(message["id"])
        handler = self._requests.get(message["method"])
        try:
            if handler is None:
                raise MethodNotFound(f"this client has no {message['method']}")
            frame = envelope.result(raw_id, await handler(message.get("params") or {}))
        except AgentdError as exc:
            frame = envelope.failure(raw_id, exc)
        self._stream.send(frame)

    def oversized(self, message: Torn) -> None:
        error = FrameTooLarge(f"agentd sent a message of more than {FRAME_BYTES} bytes")
        for waiting in self._waiting.values():
            if not waiting.done() and message.is_response:
                waiting.set_exception(error)

    def ended(self) -> None:
        self._stream.abort()

    def lost(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(WorkerFailed("the connection was closed before the answer came"))
        self._on_lost()

    def congested(self, full: bool) -> None:
        """What a client says is little; its buffer bounds nothing that matters."""


def error_of(error: Mapping[str, Any]) -> AgentdError:
    """The error an answer carries, as one of ours."""
    data = error.get("data")
    message = str(error.get("message", "no message"))
    if isinstance(data, dict) and isinstance(data.get("reason"), str):
        return revive(data["reason"], message)
    if error.get("code") == METHOD_NOT_FOUND:
        return MethodNotFound(message)
    return Internal(f"the agent answered with error {error.get('code')}: {message}")
