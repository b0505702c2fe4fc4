# SPDX-License-Identifier: Apache-2.0
"""The hub: all that is going on in one container, and what may begin there."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs

from agentd import link, runtimes
from agentd.acp import envelope, methods
from agentd.acp.extensions import SharedPath, SharedPaths
from agentd.acp.stream import refuse
from agentd.config import Configuration, Limits, Store, secrets
from agentd.errors import (
    AgentdError,
    AgentFailed,
    Draining,
    NoSuchSession,
    TooManyClients,
)
from agentd.store.keeper import Keeper, synced
from agentd.tasks import Tasks
from agentd.worker import aggregate
from agentd.worker.agent import Place
from agentd.worker.agents import Agents
from agentd.worker.budget import Budget
from agentd.worker.catalog import Catalog, Found
from agentd.worker.client import Client, Handler, Request
from agentd.worker.desk import Desk
from agentd.worker.drain import Report
from agentd.worker.drains import Drains, Phase
from agentd.worker.facts import Picker
from agentd.worker.fitting import AGENTS_BYTES, DRAINS_BYTES, TOLD_BYTES, encoded, fitting
from agentd.worker.front_terminal import FrontTerminal
from agentd.worker.history import History
from agentd.worker.pathmap import PathMap
from agentd.worker.question import Decision
from agentd.worker.recovery import Recovery
from agentd.worker.router import Router
from agentd.worker.session import Session
from agentd.worker.sessions import Sessions, Visitor

SETTLE_SEC = 0.05
"""Changes within this time reach the manager as one: a busy worker does not keep it busy too."""
CLOSE_SEC = 5.0
"""For an agent to forget a session that nobody wants any more."""


class Hub:
    """Clients, sessions and agents of one container.

    `on_change` is called when `snapshot` has changed, `on_drain` with what is to be reported of drains.
    """

    def __init__(
        self,
        place: Place,
        configuration: Configuration,
        state_dir: str,
        store: Keeper,
        tasks: Tasks,
        on_change: Callable[[], None],
        on_drain: Report,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`state_dir`: where the worker may keep what it knows of this container. `clock`: Unix time."""
        self.place = place
        self.configuration = configuration
        self.drains = Drains(self, on_drain)
        self.turn_changed = asyncio.Event()
        """Set whenever a turn may have ended; whoever waits for that clears it."""
        self.store = store
        self.tasks = tasks
        self.now = clock
        name = place.container.name
        self.budget = Budget(configuration.budget_of(name), name, clock)
        self._started = clock()
        self.sessions = Sessions(self, place.container.name, place.log)
        self.paths = _shared_paths(place, configuration)
        cache = os.path.join(state_dir, "agents.json")
        self.catalog = Catalog(
            configuration, place.runtime, place.container, self._probe, cache, tasks, place.log
        )
        self.agents = Agents(self)
        self.recovery = Recovery(self)
        history = History(self)
        own = {
            methods.PATHS: self._tell_paths,
            methods.LOGIN: self._log_in,
            methods.RECOVER: self.recovery.answer,
            methods.SESSIONS: history.sessions,
            methods.HISTORY: history.page,
        }
        self._desk = Desk(self, own)
        self._on_change = on_change
        self._pending: asyncio.TimerHandle | None = None
        self._clients: dict[int, Client] = {}
        self._revivals: dict[Session, asyncio.Task[None]] = {}
        self.closed: AgentdError | None = None
        """Why nothing may begin any more."""

    # What there is

    @property
    def limits(self) -> Limits:
        return self.configuration.limits

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return self._desk.handlers

    @property
    def is_needed(self) -> bool:
        """Whether somebody is here, or something goes on."""
        return bool(self._clients or self.sessions.busy)

    @property
    def is_quiet(self) -> bool:
        """Whether there is nobody, nothing going on, and no agent either."""
        return not (self.is_needed or self.agents)

    def snapshot(self) -> link.Snapshot:
        """All of it, but only as many sessions, those used last, as surely fit into a message."""
        known = self._without_sessions()
        newest = sorted(self.sessions.alive.values(), key=lambda session: session.last_used, reverse=True)
        infos = (session.info() for session in newest)
        return structs.replace(known, sessions=fitting(infos, TOLD_BYTES - len(encoded(known))))

    def _without_sessions(self) -> link.Snapshot:
        sessions = self.sessions.alive.values()
        return link.Snapshot(
            state=self.drains.phase,
            runtime=self.place.runtime.name,
            engine_id=self.place.container.id,
            clients=len(self._clients),
            turns=sum(session.busy for session in sessions),
            sessions_open=len(sessions),
            agents=fitting(self.agents.info(), AGENTS_BYTES),
            drain=self.drains.whole(),
            drains=fitting(self.drains.parts(), DRAINS_BYTES),
            problem=self.store.trouble.message if self.store.trouble else "",
            budget=self.budget.info(),
            frames=self.agents.frames,
            started_usec=int(self._started * 1e6),
        )

    def changed(self) -> None:
        self.turn_changed.set()
        if self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(SETTLE_SEC, self._report)

    def tell_now(self) -> None:
        """What has changed, if anything, is told before whatever is said next."""
        if self._pending is not None:
            self._pending.cancel()
            self._report()

    def _report(self) -> None:
        self._pending = None
        self._on_change()

    # Clients

    async def accept(self, connect: link.Connect, sock: socket.socket) -> None:
        """Serve a connection the manager has handed over, or tell the client why not."""
        sock.setblocking(False)
        try:
            self._admit_client(connect.uid)
            if connect.agent:
                self.configuration.agent_of(self.place.container.name, connect.agent)
        except AgentdError as exc:
            await refuse(sock, connect.attach_id or envelope.first_id(connect.data), exc)
            return
        client = Client(
            connect.connection,
            connect.uid,
            connect.agent,
            self,
            self.place.log,
            wanted=connect.session,
            comes_back=bool(connect.attach_id),
        )
        self._clients[client.number] = client
        self.changed()
        if connect.attach_id:
            name = self.place.container.name
            served = {"container": name, "agent": connect.agent or "agentd", "client": client.token}
            client.send(envelope.result(connect.attach_id, served))
        await client.serve(sock, connect.data)

    def _admit_client(self, uid: int) -> None:
        if self.closed:
            raise self.closed
        if self.drains.phase is not Phase.SERVING:
            raise Draining(
                f"{self.place.container.name} is being drained; try again later, or on another container"
            )
        if len(self._clients) >= self.limits.clients:
            raise TooManyClients(f"{self.place.container.name} serves {self.limits.clients} clients already")
        if sum(client.uid == uid for client in self._clients.values()) >= self.limits.clients_per_uid:
            raise TooManyClients(
                f"you have {self.limits.clients_per_uid} connections to this container already"
            )

    def cut_off(self, client: Client) -> None:
        self.recovery.cut_off(client.token)

    def left(self, client: Client) -> None:
        """Its turns go on. What it has opened and never used is of no use to anybody."""
        self._clients.pop(client.number, None)
        for session in client.sessions.values():
            if not (session.clients or session.prompted or self.closed):
                self.sessions.discard(session)
        for router in client.routers:
            router.bound.discard(client)
            router.settle()
        self.changed()

    # Agents

    async def _probe(self, name: str) -> Found:
        return await self._desk.probe(name, self._workdir())

    async def router_of(self, client: Client, session: Session | None) -> Router:
        if session is not None:
            return await self.alive(session)
        if client.current is None or not client.current.alive:
            name = client.agent_name or self.catalog.default()
            client.bind(self.agents.engage(name, client.uid, client.hello, by=client))
        assert client.current is not None
        return client.current

    async def alive(self, session: Session) -> Router:
        """The session's agent, started where it has ended. Raises why it cannot be."""
        if session.is_closed:
            raise NoSuchSession(f"session {session.id} was closed", sessionId=session.id)
        await self.agents.ended(session.router)
        if session.router is None or not session.router.agent.alive:
            if session not in self._revivals:
                session.resume()
            await asyncio.shield(self._revivals[session])
        if session.router is None:
            raise AgentFailed(f"{session.facts.agent} could not be started again; the journal says why")
        return session.router

    def revive(self, session: Session) -> None:
        task = self.tasks.start(self._revive(session), f"resumption of {session.id}")
        self._revivals[session] = task
        task.add_done_callback(lambda _: self._revival_ended(session, task))

    async def _revive(self, session: Session) -> None:
        await self.agents.ended(session.router)
        await self._desk.revive(session)

    def _revival_ended(self, session: Session, task: "asyncio.Task[None]") -> None:
        if self._revivals.get(session) is task:  # one that has failed may have begun the next
            del self._revivals[session]

    # Sessions

    @property
    def shares_sessions(self) -> bool:
        entry = self.configuration.containers.get(self.place.container.name)
        return entry is not None and entry.share_sessions

    @property
    def keeping(self) -> Store:
        return self.configuration.store

    async def kept(self) -> None:
        """Returns when all that was said so far is on disk. Raises StoreFailed."""
        await synced(self.store)

    async def close_native(self, router: Router, native: str) -> None:
        """Have an agent forget a session that has left it, where it can."""
        try:
            async with asyncio.timeout(CLOSE_SEC):
                if router.agent.alive and await router.can_session("close"):
                    await router.agent.ask(methods.SESSION_CLOSE, {"sessionId": native})
        except (TimeoutError, AgentdError) as exc:
            self.place.log.info("%s did not close a session: %s", router.agent.name, exc)

    def admit_work(self, agent: str = "", session: str = "") -> None:
        if self.closed:
            raise self.closed
        if self.store.trouble is not None:
            raise self.store.trouble
        if refusal := self.drains.refusal(agent, session):
            raise refusal

    def policy(self, kind: str) -> Decision:
        return self.configuration.permission(self.place.container.name, kind)

    @property
    def selects_models(self) -> bool:
        return self.configuration.selector == "agent:model"

    def picker(self, visitor: Visitor) -> Picker | None:
        return None if visitor.agent_name else self._pick

    def _pick(self, agent: str, own: list[Any]) -> list[Any]:
        """The options of an agent, and the choice among the container's agents."""
        if not self.selects_models:
            return [aggregate.agent_option(self.catalog.cards, agent), *own]
        model = aggregate.find_model(own)
        rest = [option for option in own if option is not model]
        return [aggregate.model_option(self.catalog.cards, agent, own), *rest]

    # Places

    def workdir(self, params: dict[str, Any]) -> str:
        entry = self.configuration.containers.get(self.place.container.name)
        meta = params.get("_meta")
        asked = meta.get("agentd.unmapped_cwd") if isinstance(meta, dict) else None
        allowed = asked or (entry.unmapped_cwd if entry else "refuse")
        return self._workdir() if allowed == "workdir" else ""

    def _workdir(self) -> str:
        """Where the container's processes start."""
        entry = self.configuration.containers.get(self.place.container.name)
        own = (entry.workdir or entry.directory) if entry else None
        return own or self.place.container.workdir or "/"

    async def _tell_paths(self, request: Request) -> Any:
        entry = self.configuration.containers.get(self.place.container.name)
        return SharedPaths(
            paths=[SharedPath(host=host, container=inside) for host, inside in self.paths.pairs],
            everything=self.paths.is_everything,
            unmapped_cwd=entry.unmapped_cwd if entry else "refuse",
            workdir=self._workdir(),
        )

    # Logging in

    async def _log_in(self, request: Request) -> Any:
        terminal = FrontTerminal(request, self.place, self.catalog, self.agents.recipe)
        return await terminal.run()

    # Settings

    def reconfigure(self, configuration: Configuration) -> None:
        """What begins from now on goes by this; what runs is left alone."""
        self.configuration = self.catalog.configuration = configuration
        self.budget.reconfigure(configuration.budget_of(self.place.container.name))
        self.place.redact.add(secrets(configuration))
        self.place = self.place._replace(
            runtime=runtimes.runtime(self.place.runtime.name, configuration), limits=configuration.limits
        )
        self.paths = _shared_paths(self.place, configuration)

    # The end

    async def close(self, error: AgentdError) -> None:
        """End every client, session and agent; whoever waits for an answer gets this error."""
        self.closed = error
        self.sessions.close()
        for session in list(self.sessions.alive.values()):
            session.close(error)
        self.agents.dismiss(error)
        await self._last_words()
        for client in list(self._clients.values()):
            client.close(error)
        await self.agents.gone()
        if self._pending is not None:
            self._pending.cancel()

    async def _last_words(self) -> None:
        """What turns have come to must be on disk before anybody hears of it."""
        try:
            async with asyncio.timeout(CLOSE_SEC):
                await self.kept()
        except (TimeoutError, AgentdError) as exc:
            self.place.log.error("what was said last may not be on disk: %s", exc)


def _shared_paths(place: Place, configuration: Configuration) -> PathMap:
    """What the configuration says comes before what the engine says."""
    if place.runtime.name == "host":
        return PathMap.everything()
    entry = configuration.containers.get(place.container.name)
    configured = list(entry.paths.items()) if entry else []
    return PathMap([*configured, *((mount.source, mount.target) for mount in place.container.mounts)])
