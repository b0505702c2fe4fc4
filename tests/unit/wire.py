# SPDX-License-Identifier: Apache-2.0
"""Workers as the manager sees them, without processes: a link that notes what is sent."""

import asyncio

from agentd import link
from agentd.manager.container import Container, WorkerEnd


class Wire:
    """A worker's link that ends when a test says so."""

    def __init__(self) -> None:
        self.sent: list[link.AnyMessage] = []
        self.gone = asyncio.Event()

    def send(self, message: link.AnyMessage, descriptor: int | None = None) -> None:
        self.sent.append(message)

    async def wait_closed(self) -> None:
        await self.gone.wait()

    def close(self) -> None:
        self.gone.set()


def served(
    name: str = "box", *sessions: link.SessionInfo, version: int = link.VERSION
) -> tuple[Container, Wire]:
    """A container whose worker has these sessions."""
    container, wire = Container(name), Wire()
    snapshot = link.Snapshot(state="serving", sessions=list(sessions))
    hello = link.Hello(version=version, pid=5, code="0", container=name, snapshot=snapshot)
    container.attach(WorkerEnd(wire, hello))  # type: ignore[arg-type]
    return container, wire
