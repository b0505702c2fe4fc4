# SPDX-License-Identifier: Apache-2.0
"""The hub: all that is going on in one container, and what may begin there."""

import asyncio
import contextlib
import enum
import itertools
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from agentd import link, runtimes
from agentd.acp import envelope, methods
from agentd.acp.extensions import SharedPath, SharedPaths
from agentd.acp.stream import refuse
from agentd.config import Agent, Configuration, Limits, secrets
from agentd.errors import (
    AgentdError,
    AgentFailed,
    Draining,
    NoSuchSession,
    TooManyClients,
    TooManySessions,
)
from agentd.runtimes import Command
from agentd.tasks import Tasks
from agentd.worker import aggregate
from agentd.worker.agent import Place, Recipe
from agentd.worker.catalog import Catalog, Found
from agentd.worker.client import Client, Handler, Request
from agentd.worker.desk import Desk
from agentd.worker.facts import Facts, Picker
from agentd.worker.front_terminal import FrontTerminal
from agentd.worker.hello import Hello
from agentd.worker.pathmap import PathMap
from agentd.worker.question import Decision
from agentd.worker.router import Router
from agentd.worker.session import Session

SETTLE_SEC = 0.05
"""Changes within this time reach the manager as one: a busy worker does not keep it busy too."""
CLOSE_SEC = 5.0
"""For an agent to forget a session that nobody wants any more."""


class Phase(enum.StrEnum):
    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"


class Hub:
    """Clients, sessions and agents of one container. `on_change` is called when `snapshot` has changed."""

    def __init__(
        self,
        place: Place,
        configuration: Configuration,
        state_dir: str,
        tasks: Tasks,
        on_change: Callable[[], None],
    ) -> None:
        """`state_dir`: where the worker may keep what it knows of this container."""
        self.place = place
        self.configuration = configuration
        self.phase = Phase.SERVING
        self.turn_changed = asyncio.Event()
        """Set whenever a turn may have ended; a drain clears it."""
        self.sessions: dict[str, Session] = {}
        self.paths = _shared_paths(place, configuration)
        cache = os.path.join(state_dir, "agents.json")
        self.catalog = Catalog(
            configuration, place.runtime, place.container, self._probe, cache, tasks, place.log
        )
        own = {methods.PATHS: self._tell_paths, methods.LOGIN: self._log_in}
        self._desk = Desk(self, own)
        self._tasks = tasks
        self._on_change = on_change
        self._pending: asyncio.TimerHandle | None = None
        self._clients: dict[int, Client] = {}
        self._routers: dict[Router, asyncio.Task[None]] = {}
        self._revivals: dict[Session, asyncio.Task[None]] = {}
        self._minted = itertools.count(1)
        self._coming = 0
        """Sessions that were asked for and are not there yet."""
        self._closed: AgentdError | None = None

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
        return bool(self._clients or self.busy)

    @property
    def busy(self) -> list[Session]:
        """The sessions in which a turn runs."""
        return [session for session in self.sessions.values() if session.busy]

    def snapshot(self) -> link.Snapshot:
        sessions = self.sessions.values()
        return link.Snapshot(
            state=self.phase,
            runtime=self.place.runtime.name,
            engine_id=self.place.container.id,
            clients=len(self._clients),
            turns=sum(session.busy for session in sessions),
            sessions=[session.info() for session in sessions],
            agents=[router.agent.info() for router in self._routers],
        )

    def changed(self) -> None:
        self.turn_changed.set()
        if self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(SETTLE_SEC, self._report)

    def _report(self) -> None:
        self._pending = None
        self._on_change()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        return self._tasks.start(work, name)

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
        client = Client(connect.connection, connect.uid, connect.agent, self, self.place.log)
        self._clients[client.number] = client
        self.changed()
        if connect.attach_id:
            served = {"container": self.place.container.name, "agent": connect.agent or "agentd"}
            client.send(envelope.result(connect.attach_id, served))
        await client.serve(sock, connect.data)

    def _admit_client(self, uid: int) -> None:
        if self._closed:
            raise self._closed
        if self.phase is not Phase.SERVING:
            raise Draining(
                f"{self.place.container.name} is being drained; try again later, or on another container"
            )
        if len(self._clients) >= self.limits.clients:
            raise TooManyClients(f"{self.place.container.name} serves {self.limits.clients} clients already")
        if sum(client.uid == uid for client in self._clients.values()) >= self.limits.clients_per_uid:
            raise TooManyClients(
                f"you have {self.limits.clients_per_uid} connections to this container already"
            )

    def left(self, client: Client) -> None:
        """Its turns go on. What it has opened and never used is of no use to anybody."""
        self._clients.pop(client.number, None)
        for session in client.sessions.values():
            if not session.clients and not session.prompted:
                self._tasks.start(self.drop(session), f"close of session {session.id}")
        for router in client.routers:
            router.bound.discard(client)
            router.settle()
        self.changed()

    # Agents

    def engage(
        self, name: str, uid: int, hello: Hello, *, by: Client | None = None, apart: bool = False
    ) -> Router:
        """An agent of that name for sessions of this account, shared or started. Raises NoSuchAgent.

        `apart`: one that nobody else gets.
        """
        name, agent = self.configuration.agent_of(self.place.container.name, name)
        alone = apart or agent.isolation == "session"
        key = self._key(name, uid, hello, agent)
        for router in () if apart else self._routers:
            free = router.is_unused and by in router.bound if alone else True
            if router.key == key and router.agent.alive and not router.retired and free:
                return router
        return self._hire(name, object() if apart else key, hello)

    def acquainted(self, name: str, uid: int, hello: Hello) -> Router | None:
        """An agent that has greeted such a client, where each session has its own: no need for one more."""
        name, agent = self.configuration.agent_of(self.place.container.name, name)
        if agent.isolation != "session":
            return None
        wanted = self._key(name, uid, hello, agent)
        alive = (each for each in self._routers if each.key == wanted and each.agent.alive)
        return next((each for each in alive if each.has_greeted), None)

    def _key(self, name: str, uid: int, hello: Hello, agent: Agent) -> object:
        """What sessions must have in common to share an agent."""
        entry = self.configuration.containers.get(self.place.container.name)
        return name, uid, hello.fingerprint, agent, entry

    def _hire(self, name: str, key: object, hello: Hello) -> Router:
        if self._closed:
            raise self._closed
        router = Router(
            key,
            name,
            self._recipe(name),
            self.place,
            taken=self.is_taken,
            idle_sec=self.limits.agent_idle_sec,
        )
        self._routers[router] = self._tasks.start(self._live(router), f"agent {name}")
        self._tasks.start(self._greet(router, hello), f"greeting of {name}")
        self.changed()
        return router

    def _recipe(self, name: str) -> Recipe:
        agent = self.configuration.agent(name)
        entry = self.configuration.containers.get(self.place.container.name)
        command = Command(agent.command, {}, entry.user if entry else None, entry.workdir if entry else None)
        return Recipe(command, agent.env, agent.port, agent.frame_bytes)

    async def _live(self, router: Router) -> None:
        try:
            await router.agent.run()
        finally:
            self._routers.pop(router, None)
            self.changed()

    async def _greet(self, router: Router, hello: Hello) -> None:
        name = router.agent.name
        try:
            self.catalog.greeted(name, await router.greet(hello.params))
        except AgentdError as exc:
            if not router.agent.dismissed:
                self.catalog.failed(name, exc)
            router.agent.give_up(exc)

    async def _probe(self, name: str) -> Found:
        return await self._desk.probe(name, self._workdir())

    async def router_of(self, client: Client, session: Session | None) -> Router:
        if session is not None:
            return await self.alive(session)
        if client.current is None or not client.current.agent.alive:
            name = client.agent_name or self.catalog.default()
            client.bind(self.engage(name, client.uid, client.hello, by=client))
        assert client.current is not None
        return client.current

    async def alive(self, session: Session) -> Router:
        """The session's agent, started where it has ended. Raises why it cannot be."""
        if session.is_closed:
            raise NoSuchSession(f"session {session.id} was closed", sessionId=session.id)
        await self._let_end(session.router)
        if session.router is None or not session.router.agent.alive:
            if session not in self._revivals:
                session.resume()
            await asyncio.shield(self._revivals[session])
        if session.router is None:
            raise AgentFailed(f"{session.facts.agent} could not be started again; the journal says why")
        return session.router

    def revive(self, session: Session) -> None:
        task = self._tasks.start(self._revive(session), f"resumption of {session.id}")
        self._revivals[session] = task
        task.add_done_callback(lambda _: self._revival_ended(session, task))

    async def _revive(self, session: Session) -> None:
        await self._let_end(session.router)
        await self._desk.revive(session)

    def _revival_ended(self, session: Session, task: "asyncio.Task[None]") -> None:
        if self._revivals.get(session) is task:  # one that has failed may have begun the next
            del self._revivals[session]

    async def _let_end(self, router: Router | None) -> None:
        """Wait for an agent that is about to end: it must not take leave of a session that has a new one."""
        if router is not None and not router.agent.alive and router in self._routers:
            await asyncio.wait((self._routers[router],))

    # Sessions

    @contextlib.contextmanager
    def place_for_session(self) -> Iterator[None]:
        """Where there are too many, the one that nobody has used for longest has to go."""
        if len(self.sessions) + self._coming >= self.limits.sessions:
            self._evict()
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    def _evict(self) -> None:
        idle = [each for each in self.sessions.values() if each.is_idle and not each.clients]
        if not idle:
            raise TooManySessions(
                f"{self.place.container.name} has {self.limits.sessions} sessions already; close one"
            )
        oldest = min(idle, key=lambda session: session.last_used)
        self.forget(oldest)
        self._tasks.start(self.drop(oldest), f"close of session {oldest.id}")

    def is_taken(self, session_id: str) -> bool:
        return session_id in self.sessions

    def admit(self, native: str, facts: Facts, uid: int, *, public: str = "") -> Session:
        public = public or (native if native not in self.sessions else self._mint(native))
        session = self.sessions[public] = Session(public, facts, uid, self, self.place.log)
        session.native = native
        self.changed()
        return session

    def _mint(self, native: str) -> str:
        return next(each for number in self._minted if (each := f"{native}~{number}") not in self.sessions)

    def visible(self, client: Client, session_id: str) -> Session | None:
        session = self.sessions.get(session_id)
        if session is not None and not self._may_see(client, session):
            raise NoSuchSession(f"no session {session_id} is known here", sessionId=session_id)
        return session

    def visible_sessions(self, client: Client) -> list[Session]:
        return [session for session in self.sessions.values() if self._may_see(client, session)]

    def _may_see(self, client: Client, session: Session) -> bool:
        entry = self.configuration.containers.get(self.place.container.name)
        return session.owner == client.uid or (entry is not None and entry.share_sessions)

    def forget(self, session: Session) -> None:
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
        self.changed()

    async def drop(self, session: Session) -> None:
        """Close a session that is no longer of use to anybody."""
        self.forget(session)
        router = session.router
        session.close(NoSuchSession("the session was closed", sessionId=session.id))
        if router is not None:
            await self.close_native(router, session.native)

    async def close_native(self, router: Router, native: str) -> None:
        """Have an agent forget a session that has left it, where it can."""
        try:
            async with asyncio.timeout(CLOSE_SEC):
                if router.agent.alive and await router.can_session("close"):
                    await router.agent.ask(methods.SESSION_CLOSE, {"sessionId": native})
        except (TimeoutError, AgentdError) as exc:
            self.place.log.info("%s did not close a session: %s", router.agent.name, exc)

    def admit_work(self, method: str) -> None:
        if self._closed:
            raise self._closed
        if self.phase is not Phase.SERVING:
            raise Draining(
                f"{self.place.container.name} is being drained: running turns may end, none may begin"
            )

    def policy(self, kind: str) -> Decision:
        return self.configuration.permission(self.place.container.name, kind)

    @property
    def selects_models(self) -> bool:
        return self.configuration.selector == "agent:model"

    def picker(self, client: Client) -> Picker | None:
        return None if client.agent_name else self._pick

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
        terminal = FrontTerminal(request, self.place, self.catalog, self._recipe)
        return await terminal.run()

    # Orders

    def resume(self) -> None:
        """Work may begin again."""
        self.phase = Phase.SERVING
        self.changed()

    def reconfigure(self, configuration: Configuration) -> None:
        """What begins from now on goes by this; what runs is left alone."""
        self.configuration = self.catalog.configuration = configuration
        self.place.redact.add(secrets(configuration))
        self.place = self.place._replace(
            runtime=runtimes.runtime(self.place.runtime.name, configuration), limits=configuration.limits
        )
        self.paths = _shared_paths(self.place, configuration)

    # The end

    async def close(self, error: AgentdError) -> None:
        """End every client, session and agent; whoever waits for an answer gets this error."""
        self._closed = error
        for session in list(self.sessions.values()):
            session.close(error)
        for router in list(self._routers):
            router.agent.dismiss(error)
        for client in list(self._clients.values()):
            client.close(error)
        if self._routers:
            await asyncio.wait(self._routers.values())
        if self._pending is not None:
            self._pending.cancel()


def _shared_paths(place: Place, configuration: Configuration) -> PathMap:
    """What the configuration says comes before what the engine says."""
    if place.runtime.name == "host":
        return PathMap.everything()
    entry = configuration.containers.get(place.container.name)
    configured = list(entry.paths.items()) if entry else []
    return PathMap([*configured, *((mount.source, mount.target) for mount in place.container.mounts)])
