# SPDX-License-Identifier: Apache-2.0
"""The hub: all that is going on in one container, and what may begin there."""

import asyncio
import enum
import socket
from collections.abc import Callable, Iterator

from agentd import link
from agentd.acp import envelope, methods
from agentd.acp.stream import refuse
from agentd.config import Configuration, Limits, secrets
from agentd.errors import AgentdError, Draining, LimitReached
from agentd.log import Redactor
from agentd.runtimes import Command, runtime
from agentd.tasks import Tasks
from agentd.worker.agent import Agent, Place
from agentd.worker.client import Client
from agentd.worker.session import Session

SETTLE_SEC = 0.05
"""Changes within this time reach the manager as one: a busy worker does not keep it busy too."""


class Phase(enum.StrEnum):
    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"


class Hub:
    """Clients and agents of one container. `on_change` is called, seldom, when `snapshot` has changed."""

    def __init__(
        self, place: Place, configuration: Configuration, tasks: Tasks, on_change: Callable[[], None]
    ) -> None:
        self.place = place
        self.configuration = configuration
        self.phase = Phase.SERVING
        self.turn_changed = asyncio.Event()
        """Set whenever a turn may have ended; a drain clears it."""
        self._tasks = tasks
        self._on_change = on_change
        self._pending: asyncio.TimerHandle | None = None
        self._clients: dict[int, Client] = {}
        self._agents: dict[Agent, asyncio.Task[None]] = {}
        self._closed: AgentdError | None = None

    # What there is

    @property
    def limits(self) -> Limits:
        return self.configuration.limits

    @property
    def has_clients(self) -> bool:
        return bool(self._clients)

    @property
    def sessions(self) -> Iterator[Session]:
        return (session for client in self._clients.values() for session in client.sessions.values())

    @property
    def busy(self) -> list[Session]:
        """The sessions in which a turn runs."""
        return [session for session in self.sessions if session.busy]

    def snapshot(self) -> link.Snapshot:
        sessions = list(self.sessions)
        return link.Snapshot(
            state=self.phase,
            runtime=self.place.runtime.name,
            engine_id=self.place.container.id,
            clients=len(self._clients),
            turns=sum(session.busy for session in sessions),
            sessions=[session.info() for session in sessions],
            agents=[agent.info() for agent in self._agents],
        )

    def changed(self) -> None:
        self.turn_changed.set()
        if self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(SETTLE_SEC, self._report)

    def _report(self) -> None:
        self._pending = None
        self._on_change()

    # Clients

    async def accept(self, connect: link.Connect, sock: socket.socket) -> None:
        """Serve a connection the manager has handed over, or tell the client why not."""
        sock.setblocking(False)
        try:
            self._admit_client(connect.uid)
            name = self._agent_for(connect)
        except AgentdError as exc:
            await refuse(sock, connect.attach_id or envelope.first_id(connect.data), exc)
            return
        client = Client(connect.connection, connect.uid, name, self, self.place.log)
        self._clients[client.number] = client
        self.changed()
        if connect.attach_id:
            client.send(
                envelope.result(connect.attach_id, {"container": self.place.container.name, "agent": name})
            )
        await client.serve(sock, connect.data)

    def _agent_for(self, connect: link.Connect) -> str:
        name, _ = self.configuration.agent_of(self.place.container.name, connect.agent or None)
        return name

    def _admit_client(self, uid: int) -> None:
        if self._closed:
            raise self._closed
        if self.phase is not Phase.SERVING:
            raise Draining(
                f"{self.place.container.name} is being drained; try again later, or on another container"
            )
        if len(self._clients) >= self.limits.clients:
            raise LimitReached(f"{self.place.container.name} serves {self.limits.clients} clients already")
        if sum(client.uid == uid for client in self._clients.values()) >= self.limits.clients_per_uid:
            raise LimitReached(
                f"you have {self.limits.clients_per_uid} connections to this container already"
            )

    def left(self, client: Client) -> None:
        self._clients.pop(client.number, None)
        self.changed()

    # Agents

    def hire(self, client: Client) -> Agent:
        name, configured = self.configuration.agent_of(self.place.container.name, client.agent_name)
        entry = self.configuration.containers.get(self.place.container.name)
        command = Command(
            configured.command,
            configured.env,
            entry.user if entry else None,
            entry.workdir if entry else None,
        )
        agent = Agent(name, command, self.place, client)
        self._agents[agent] = self._tasks.start(self._live(agent), f"agent {name}")
        self.changed()
        return agent

    async def _live(self, agent: Agent) -> None:
        try:
            await agent.run()
        finally:
            self._agents.pop(agent, None)
            self.changed()

    def admit_work(self, method: str) -> None:
        if self._closed:
            raise self._closed
        if self.phase is not Phase.SERVING:
            raise Draining(
                f"{self.place.container.name} is being drained: running turns may end, none may begin"
            )
        if method in methods.CREATES_SESSION and self._sessions_made_or_asked() >= self.limits.sessions:
            raise LimitReached(
                f"{self.place.container.name} has {self.limits.sessions} sessions already; close one"
            )

    def _sessions_made_or_asked(self) -> int:
        return sum(1 for _ in self.sessions) + sum(agent.coming_sessions for agent in self._agents)

    # Orders

    def resume(self) -> None:
        """Work may begin again."""
        self.phase = Phase.SERVING
        self.changed()

    def reconfigure(self, configuration: Configuration) -> None:
        """What begins from now on goes by this; what runs is left alone."""
        self.configuration = configuration
        self.place = self.place._replace(
            runtime=runtime(self.place.runtime.name, configuration),
            limits=configuration.limits,
            redact=Redactor(secrets(configuration)),
        )

    # The end

    async def close(self, error: AgentdError) -> None:
        """End every client and agent; whoever waits for an answer gets this error."""
        self._closed = error
        for client in list(self._clients.values()):
            client.close(error)
        if self._agents:
            await asyncio.wait(self._agents.values())
        if self._pending is not None:
            self._pending.cancel()
