# SPDX-License-Identifier: Apache-2.0
"""The requests that the hub answers itself, except those that begin a session."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

from agentd.acp import envelope, methods
from agentd.acp.extensions import AgentReport, Agents, LoginMethod
from agentd.errors import AgentdError, AgentRefused, InvalidArgs, NoSuchAgent, NoSuchSession
from agentd.worker import aggregate
from agentd.worker.catalog import Card, Found
from agentd.worker.client import Client, Handler, Request
from agentd.worker.drains import Drains
from agentd.worker.hello import PROBE, Hello
from agentd.worker.listing import Listing
from agentd.worker.opening import AUTH_REQUIRED, Opening, code_of
from agentd.worker.opening import House as OpeningHouse
from agentd.worker.router import Router
from agentd.worker.session import Session
from agentd.worker.sessions import unknown


class House(OpeningHouse, Protocol):
    """What it takes to answer for all of a container's agents."""

    drains: Drains

    @property
    def selects_models(self) -> bool:
        """Whether clients pick agents by their models."""

    async def router_of(self, client: Client, session: Session | None) -> Router: ...


class Desk:
    """`handlers`: what to do about each of these requests."""

    def __init__(self, house: House, others: Mapping[str, Handler]) -> None:
        self._house = house
        self._opening = Opening(house)
        self.revive = self._opening.revive
        self.handlers: dict[str, Handler] = {
            methods.INITIALIZE: self._initialize,
            methods.SESSION_NEW: self._opening.new,
            methods.SESSION_LOAD: self._opening.load,
            methods.SESSION_RESUME: self._opening.load,
            methods.SESSION_FORK: self._opening.fork,
            methods.SESSION_LIST: Listing(house).answer,
            methods.SESSION_CLOSE: self._close,
            methods.SESSION_DELETE: self._delete,
            methods.SESSION_SET_MODE: self._set_mode,
            methods.SESSION_SET_CONFIG_OPTION: self._set_option,
            methods.AUTHENTICATE: self._authenticate,
            methods.AGENTS: self._agents,
            **others,
        }

    # initialize

    async def _initialize(self, request: Request) -> Any:
        client = request.client
        client.hello = Hello(request.params)
        self._house.agents.remember(client.uid, client.hello)
        if client.agent_name:
            return await self._transparent(client)
        await self._house.catalog.look()
        return await self._aggregated(client)

    async def _transparent(self, client: Client) -> dict[str, Any]:
        """The agent's own answer, with what the hub adds."""
        greeting = dict(await self._greeting(client, client.agent_name))
        greeting["agentCapabilities"] = aggregate.with_hubs_own(greeting.get("agentCapabilities"))
        card = Card(client.agent_name, greeting=greeting)
        if aggregate.declared_methods(greeting):
            greeting["authMethods"] = aggregate.auth_methods(card, client.hello, prefix=False)
        return greeting

    async def _greeting(self, client: Client, name: str) -> dict[str, Any]:
        """What an agent answers; one that is drained is not started where its answer is known."""
        router = self._house.agents.acquainted(name, client.uid, client.hello)
        known = self._house.catalog.card(name).greeting
        if router is None and known is not None and self._house.drains.refusal(name) is not None:
            return known
        return await (router or self._engaged(client, name)).greeted()

    async def _aggregated(self, client: Client) -> dict[str, Any]:
        catalog = self._house.catalog
        first = catalog.default() if catalog.cards else ""
        probes = catalog.probe(name for name in self._startable() if name != first)
        await asyncio.gather(probes, self._warm_up(client, first))
        return aggregate.greeting(catalog.cards, client.hello)

    async def _warm_up(self, client: Client, name: str) -> None:
        """Start the agent that the client will most likely want; if it fails, its card says why."""
        if name and self._house.drains.refusal(name) is None:
            with contextlib.suppress(AgentdError):
                await self._engaged(client, name).greeted()

    def _startable(self) -> list[str]:
        """The agents that are there and not drained."""
        names = [card.name for card in self._house.catalog.cards]
        return [name for name in names if self._house.drains.refusal(name) is None]

    def _engaged(self, client: Client, name: str) -> Router:
        router = self._house.agents.engage(name, client.uid, client.hello, by=client)
        client.bind(router)
        return router

    # Sessions

    async def _close(self, request: Request) -> Any:
        """End a session for everybody in it, and have its agent do what it can do about it."""
        sessions = self._house.sessions
        session = sessions.get(request.client, request.session_id)
        if session is not None:
            return await self._end(request, session)
        if sessions.kept(request.client, request.session_id):
            return {}  # nobody is in it
        return await self._pass_on(request)

    async def _delete(self, request: Request) -> Any:
        """Forget it, here and where its agent keeps it."""
        session = await self._house.sessions.find(request.client, request.session_id, {})
        if session is None:
            return await self._pass_on(request)
        if session.router is None and self._house.catalog.card(session.facts.agent).can_session("delete"):
            with contextlib.suppress(AgentdError):  # who cannot be started cannot be asked
                await self._house.alive(session)
        result = await self._end(request, session)
        self._house.sessions.discard(session)
        await self._house.kept()
        return result

    async def _end(self, request: Request, session: Session) -> Any:
        result: Any = {}
        name = request.method.partition("/")[2]
        router = session.router
        if router is not None and router.agent.alive and await router.can_session(name):
            result = await self._ask(request, session)
        self._house.sessions.end(session)
        return result

    async def _pass_on(self, request: Request) -> Any:
        router = await self._house.router_of(request.client, None)
        if self._house.sessions.is_anothers(request.client, router.agent.name, request.session_id):
            raise unknown(request.session_id)
        if not await router.can_session(request.method.partition("/")[2]):
            if request.method == methods.SESSION_DELETE:
                return {}  # there is nothing left to delete
            raise unknown(request.session_id)
        return await request.put_to(router)

    async def _ask(self, request: Request, session: Session) -> bytes:
        """The answer of the session's agent to what the client has asked."""
        router = await self._house.alive(session)
        return await request.put_to(router, session.to_agent(request.frame, request.method))

    def _open_session(self, request: Request) -> Session:
        session = request.client.sessions.get(request.session_id)
        if session is None:
            raise NoSuchSession(
                f"no session {request.session_id} is open here: make one, or load it",
                sessionId=request.session_id,
            )
        return session

    async def _set_mode(self, request: Request) -> Any:
        session = self._open_session(request)
        answer = await self._ask(request, session)
        mode = request.params.get("modeId")
        if isinstance(mode, str):
            session.facts.enter(mode)
            session.say({"sessionUpdate": "current_mode_update", "currentModeId": mode}, but=request.client)
        return answer

    async def _set_option(self, request: Request) -> Any:
        session = self._open_session(request)
        option, value = request.params.get("configId"), request.params.get("value")
        if session.facts.picker is not None and isinstance(value, str):
            if option == aggregate.AGENT_OPTION:
                return await self._pick_agent(request, session, value)
            if option == aggregate.MODEL_OPTION and self._house.selects_models:
                return await self._pick_model(request, session, value)
        return self._with_options(request, session, await self._ask(request, session))

    def _with_options(self, request: Request, session: Session, answer: bytes) -> bytes:
        """The answer with the complete list of options, of which everybody else hears too."""
        result = envelope.result_of(answer)
        if not isinstance(result, dict):
            return answer
        session.facts.take_options(result)
        if (options := session.facts.shown_options()) is not None:
            session.say(
                {"sessionUpdate": "config_option_update", "configOptions": options}, but=request.client
            )
        return answer if session.facts.picker is None else envelope.with_member(answer, "result", result)

    async def _pick_agent(self, request: Request, session: Session, name: str) -> Any:
        if name not in [card.name for card in self._house.catalog.cards]:
            there = [card.name for card in self._house.catalog.cards]
            raise NoSuchAgent(f"there is no agent {name} here; there are: {', '.join(there)}", agents=there)
        await self._opening.move(session, name)
        return self._with_options(request, session, _options(request, session))

    async def _pick_model(self, request: Request, session: Session, value: str) -> Any:
        name, model = aggregate.split(value)
        await self._pick_agent(request, session, name)
        own = aggregate.find_model(session.facts.options or [])
        if not model or own is None or own.get("currentValue") == model:
            return self._with_options(request, session, _options(request, session))
        chosen = {**request.params, "sessionId": session.native, "configId": own.get("id"), "value": model}
        router = await self._house.alive(session)
        answer = await request.put_to(router, envelope.with_member(request.frame, "params", chosen))
        return self._with_options(request, session, answer)

    # Logging in

    async def _authenticate(self, request: Request) -> Any:
        """For an agent that is named in the method, where the connection has named none."""
        client, method = request.client, request.params.get("methodId")
        if client.agent_name:
            return await request.put_to(await self._house.router_of(client, None))
        if not isinstance(method, str):
            raise InvalidArgs("authenticate needs a methodId, which is a string")
        name, _, its = method.partition("/")
        frame = envelope.with_param(request.frame, "methodId", envelope.encode(its))
        return await request.put_to(self._engaged(client, name), frame)

    # What there is

    async def _agents(self, request: Request) -> Any:
        catalog = self._house.catalog
        await catalog.look(anew=True)
        await catalog.probe(self._startable(), anew=True)
        preferred = catalog.default() if catalog.cards else ""
        return Agents(agents=[_report(card, card.name == preferred) for card in catalog.everything])

    async def probe(self, name: str, cwd: str) -> Found:
        """Start an agent only to see what it can do. Raises why it cannot be started."""
        router = self._house.agents.engage(name, 0, PROBE, by=None, apart=True)
        try:
            with router.opening():
                greeting = await router.greeted()
                try:
                    result = await router.agent.ask(methods.SESSION_NEW, {"cwd": cwd, "mcpServers": []})
                except AgentRefused as exc:
                    if code_of(exc) != AUTH_REQUIRED:
                        raise
                    return Found(greeting, None, exc.message)
                options = result.get("configOptions") if isinstance(result, dict) else None
                return Found(greeting, options if isinstance(options, list) else [], "")
        finally:
            router.retire()


def _options(request: Request, session: Session) -> bytes:
    """A session's own options as an agent would answer them."""
    return envelope.result(request.raw_id, {"configOptions": session.facts.options or []})


def _report(card: Card, is_default: bool) -> AgentReport:
    login = [
        LoginMethod(
            id=str(each.get("id")), name=str(each.get("name") or ""), terminal=each.get("type") == "terminal"
        )
        for each in aggregate.declared_methods(card.greeting)
    ]
    return AgentReport(
        name=card.name,
        state=card.state.value,
        version=card.version,
        title=card.title,
        reason=card.reason,
        default=is_default,
        login=login,
    )
