# SPDX-License-Identifier: Apache-2.0
"""A container's worker, as agentctl reaches it: through the front door, for what only it knows."""

import argparse
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from agentd.acp import methods
from agentd.acp.peer import Params, Peer
from agentd.ctl.places import front_door
from agentd.errors import ManagerUnreachable, WorkerFailed

ATTACH_SEC = 120.0
"""A worker may have to be started, and its container's engine may be slow."""

T = TypeVar("T")


def ignored(method: str, params: Params) -> None:
    """For those who asked for nothing that brings notifications."""


class Worker:
    """A connection to the worker of the container that the options name, for as long as it is entered."""

    def __init__(
        self, options: argparse.Namespace, notified: Callable[[str, Params], None] = ignored
    ) -> None:
        self._options = options
        self._peer = Peer({}, notified, lambda: None)

    async def __aenter__(self) -> Self:
        """Raises ManagerUnreachable, AccessDenied, or what the manager says against it."""
        await self._peer.over_socket(front_door(self._options))
        try:
            await self._peer.request(
                methods.ATTACH, {"container": self._options.container}, deadline=ATTACH_SEC
            )
        except BaseException as exc:
            await self._peer.close()
            if isinstance(exc, TimeoutError):
                raise ManagerUnreachable(f"agentd did not answer within {ATTACH_SEC:g} s") from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._peer.close()

    async def ask(self, method: str, params: object, answer: type[T], *, deadline: float) -> T:
        """The answer to a request. Raises the worker's error, or WorkerFailed where none of use comes."""
        try:
            result: Any = await self._peer.request(method, msgspec.to_builtins(params), deadline=deadline)
            return msgspec.convert(result, answer)
        except TimeoutError:
            raise WorkerFailed(f"the worker did not answer {method} within {deadline:g} s") from None
        except msgspec.ValidationError as exc:
            raise WorkerFailed(f"the worker answered {method} with something unexpected: {exc}") from None

    def tell(self, method: str, params: object) -> None:
        self._peer.notify(method, msgspec.to_builtins(params))
