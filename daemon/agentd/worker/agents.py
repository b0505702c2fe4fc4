# SPDX-License-Identifier: Apache-2.0
"""The agents that run in a container: who shares which, how they start, and when they end."""

import asyncio
from collections import OrderedDict
from typing import Protocol

from agentd.config import Agent, Configuration, Limits
from agentd.errors import AgentdError, AgentExited, AgentFailed
from agentd.link import AgentInfo
from agentd.runtimes import Command
from agentd.tasks import Tasks
from agentd.worker.agent import Place, Recipe
from agentd.worker.catalog import Catalog
from agentd.worker.client import Client
from agentd.worker.drain import come_true
from agentd.worker.hello import NOBODY, Hello
from agentd.worker.idleness import idle
from agentd.worker.router import Router
from agentd.worker.sessions import Sessions

START_PAUSES = (0.5, 1.0)
"""Seconds before an agent that ended before it said hello is started again."""
CANCEL_SEC = 3.0
"""What turns have to end themselves in before their agent is stopped."""
REMEMBERED = 64
"""Accounts of which it is known what their clients can do."""


class House(Protocol):
    """What it takes to run agents."""

    place: Place
    configuration: Configuration
    catalog: Catalog
    tasks: Tasks
    sessions: Sessions
    turn_changed: asyncio.Event
    """Set whenever a turn may have ended; whoever waits for that clears it."""

    @property
    def limits(self) -> Limits: ...

    @property
    def closed(self) -> AgentdError | None:
        """Why nothing may begin any more."""

    def changed(self) -> None:
        """Something that Status shows is no longer as it was."""


class Agents:
    """One router for every agent process."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._routers: dict[Router, asyncio.Task[None]] = {}
        self._held = False
        self._hellos: OrderedDict[int, Hello] = OrderedDict()
        """What the client of each account has said that was here last."""
        self._frames = 0
        """Of those that have ended."""

    def __bool__(self) -> bool:
        return bool(self._routers)

    def info(self) -> list[AgentInfo]:
        return [router.agent.info() for router in self._routers]

    @property
    def frames(self) -> int:
        """Messages that went to and came from all of them, ever."""
        return self._frames + sum(router.agent.frames for router in self._routers)

    # Engaging

    def engage(
        self, name: str, uid: int, hello: Hello, *, by: Client | None = None, apart: bool = False
    ) -> Router:
        """An agent of that name for sessions of this account, shared or started. Raises NoSuchAgent.

        `apart`: one that nobody else gets, and that is started only once.
        """
        name, agent = self._agent(name)
        alone = apart or agent.isolation == "session"
        key = self._key(name, uid, hello, agent)
        for router in () if apart else self._routers:
            free = not alone or (router.is_unused and (by in router.bound or router.is_spare))
            if router.key == key and router.alive and not router.retired and free:
                return router
        return self._hire(name, object() if apart else key, hello, () if apart else START_PAUSES)

    def remember(self, uid: int, hello: Hello) -> None:
        """A client of this account has introduced itself."""
        self._hellos[uid] = hello
        self._hellos.move_to_end(uid)
        if len(self._hellos) > REMEMBERED:
            self._hellos.popitem(last=False)

    async def launch(self, name: str, uid: int) -> None:
        """Have an agent there for sessions of this account before the first one. Raises why it cannot be."""
        router = self.engage(name, uid, self._hellos.get(uid, NOBODY))
        router.ahead = True
        await router.greeted()

    def acquainted(self, name: str, uid: int, hello: Hello) -> Router | None:
        """An agent that has greeted such a client, where each session has its own: no need for one more."""
        name, agent = self._agent(name)
        if agent.isolation != "session":
            return None
        wanted = self._key(name, uid, hello, agent)
        alive = (each for each in self._routers if each.key == wanted and each.alive)
        return next((each for each in alive if each.has_greeted), None)

    def _agent(self, name: str) -> tuple[str, Agent]:
        return self._house.configuration.agent_of(self._container, name)

    @property
    def _container(self) -> str:
        return self._house.place.container.name

    def _key(self, name: str, uid: int, hello: Hello, agent: Agent) -> object:
        """What sessions must have in common to share an agent."""
        entry = self._house.configuration.containers.get(self._container)
        return name, uid, hello.fingerprint, agent, entry

    def _hire(self, name: str, key: object, hello: Hello, pauses: tuple[float, ...]) -> Router:
        house = self._house
        if house.closed:
            raise house.closed
        taken = house.sessions.is_taken
        router = Router(key, name, self.recipe(name), house.place, taken=taken, on_change=house.changed)
        router.agent.hold("store", self._held)
        work = self._live(router, hello, pauses)
        self._routers[router] = house.tasks.start(work, f"agent {name}")
        house.changed()
        return router

    def recipe(self, name: str) -> Recipe:
        agent = self._house.configuration.agent(name)
        entry = self._house.configuration.containers.get(self._container)
        command = Command(agent.command, {}, entry.user if entry else None, entry.workdir if entry else None)
        return Recipe(command, agent.env, agent.port, agent.frame_bytes)

    # Their lives

    async def _live(self, router: Router, hello: Hello, pauses: tuple[float, ...]) -> None:
        rest = self._house.tasks.start(self._rest(router), f"idleness of {router.agent.name}")
        try:
            for pause in (*pauses, None):
                running = self._house.tasks.start(router.agent.run(), f"run of {router.agent.name}")
                failure = await self._greet(router, hello, last=pause is None)
                await running
                self._frames, router.agent.frames = self._frames + router.agent.frames, 0
                if failure is None or pause is None or not await self._anew(router, failure, pause):
                    return
        finally:
            rest.cancel()
            router.over()
            del self._routers[router]
            self._house.changed()

    async def _greet(self, router: Router, hello: Hello, *, last: bool) -> AgentdError | None:
        """Have the agent say hello. Returns why it did not, where another try may be worth it."""
        agent = router.agent
        try:
            greeting = await router.introduce(hello.params)
        except AgentdError as exc:
            agent.give_up(exc)
            if isinstance(exc, AgentFailed | AgentExited) and not (last or agent.dismissed):
                return exc
            if not agent.dismissed:
                self._house.catalog.failed(agent.name, exc)
            router.fail(exc)
            return None
        self._house.catalog.greeted(agent.name, greeting)
        return None

    async def _anew(self, router: Router, failure: AgentdError, pause: float) -> bool:
        """After a pause, get ready for another try. Returns whether anybody still wants one."""
        router.agent.log.info("%s is started again in %g s", router.agent.name, pause)
        await asyncio.sleep(pause)
        if self._house.closed or not router.is_wanted:
            router.fail(self._house.closed or failure)
            return False
        router.begin_anew()
        router.agent.hold("store", self._held)
        return True

    async def _rest(self, router: Router) -> None:
        limit = self._house.limits.agent_idle_sec
        await idle(router, limit)
        router.agent.dismiss(AgentExited(f"it was idle for {limit:g} s"))

    async def ended(self, router: Router | None) -> None:
        """Wait for an agent that is about to end: it must not take leave of a session that has a new one."""
        if router is not None and not router.alive and router in self._routers:
            await asyncio.wait((self._routers[router],))

    # Stopping

    async def stop(self, name: str) -> None:
        """Cancel an agent's turns and end all its processes. Its sessions stay; their prompts start it anew.

        Raises NoSuchAgent where none runs and none could.
        """
        routers = [router for router in self._routers if router.agent.name == name]
        if not routers:
            self._agent(name)
            return
        busy = [room for router in routers for room in router.stop()]
        await come_true(self._house.turn_changed, lambda: not any(room.busy for room in busy), CANCEL_SEC)
        for router in routers:
            router.agent.dismiss(AgentExited(f"{name} was stopped; the next prompt starts it again"))
        if lives := [self._routers[router] for router in routers if router in self._routers]:
            await asyncio.wait(lives)

    # All of them

    def hold(self, held: bool) -> None:
        """Whether they have to wait for the disk."""
        self._held = held
        for router in self._routers:
            router.agent.hold("store", held)

    def dismiss(self, reason: AgentdError) -> None:
        for router in list(self._routers):
            router.agent.dismiss(reason)

    async def gone(self) -> None:
        if self._routers:
            await asyncio.wait(self._routers.values())
