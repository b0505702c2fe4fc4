# SPDX-License-Identifier: Apache-2.0
"""How sessions begin: made, loaded, resumed, forked, moved to another agent, and begun again."""

from typing import Any, Protocol

from agentd.acp import envelope, methods
from agentd.errors import AgentdError, AgentFailed, AgentFixed, AgentRefused
from agentd.worker import notices, translate
from agentd.worker.agents import Agents
from agentd.worker.catalog import Catalog
from agentd.worker.client import SENT, Client, Reply, Request
from agentd.worker.facts import Facts, Picker
from agentd.worker.greeting import can_load, can_session
from agentd.worker.pathmap import PathMap
from agentd.worker.primer import FRAMES, primer
from agentd.worker.router import Router
from agentd.worker.session import Session, rewritten
from agentd.worker.sessions import Place, Sessions, unknown

AUTH_REQUIRED = -32000


class House(Protocol):
    """What it takes to begin a session."""

    agents: Agents
    catalog: Catalog
    sessions: Sessions

    def now(self) -> float:
        """Unix time."""

    async def kept(self) -> None:
        """Returns when all that was said so far is on disk. Raises StoreFailed."""

    def admit_work(self, agent: str = "", session: str = "") -> None:
        """Raises why no work may begin now, for this agent, in this session; "" for any."""

    @property
    def paths(self) -> PathMap: ...

    def workdir(self, params: dict[str, Any]) -> str:
        """Where a session is put whose directory the container does not have; "" to refuse it."""

    async def alive(self, session: Session) -> Router:
        """The session's agent, started where it has ended. Raises why it cannot be."""

    async def close_native(self, router: Router, native: str) -> None:
        """Have an agent forget a session that has left it, where it can."""

    def picker(self, client: Client) -> Picker | None:
        """How a client picks agents, None for one that has named its own."""


class Opening:
    """The ways in. Each handler answers its request itself, before anything else is said in the session."""

    def __init__(self, house: House) -> None:
        self._house = house

    # session/new

    async def new(self, request: Request) -> Reply:
        client = request.client
        if wanted := client.take_wanted():
            return await self._give(request, wanted)
        name = client.agent_name or self._house.catalog.default()
        self._house.admit_work(name)
        facts = self._facts(request, name)
        router = self._engage(facts, client.uid, by=client)
        client.bind(router)
        with self._house.sessions.place(client.uid) as place, router.opening():
            await self._enter(request, place, router, facts, await self._ask_new(router, facts, request))
        return SENT

    async def fork(self, request: Request) -> Reply:
        parent = await self._find(request)
        if parent is None:
            raise unknown(request.session_id)
        self._house.admit_work(parent.facts.agent)
        router, was = await self._house.alive(parent), parent.facts
        facts = Facts(was.agent, was.hello, _origin(request), was.picker, now=self._house.now())
        inside = self._inside(request.method, request.frame, facts, session_id=parent.native)
        with self._house.sessions.place(request.client.uid) as place, router.opening():
            answer = await request.put_to(router, inside)
            await self._enter(request, place, router, facts, answer)
        return SENT

    async def _give(self, request: Request, wanted: str) -> Reply:
        """The session that the connection was made for, in place of a new one."""
        client = request.client
        session = await self._house.sessions.find(client, wanted, _servers(request))
        if session is None:
            raise unknown(wanted)
        self._bring_servers(request, session)
        client.reply(envelope.result(request.raw_id, {"sessionId": session.id, **session.facts.loaded()}))
        client.enter(session, replay=True)
        return SENT

    async def _find(self, request: Request) -> Session | None:
        """The session it names, alive from now on. Raises NoSuchSession for somebody else's."""
        return await self._house.sessions.find(request.client, request.session_id, _origin(request))

    def _bring_servers(self, request: Request, session: Session) -> None:
        """They were not kept, and the agent that is started next has to be told of them."""
        if session.router is None:
            session.facts.params |= _servers(request)

    def _facts(self, request: Request, name: str) -> Facts:
        client = request.client
        picker = self._house.picker(client)
        return Facts(name, client.hello, _origin(request), picker, now=self._house.now())

    async def _ask_new(self, router: Router, facts: Facts, request: Request | None = None) -> bytes:
        """Have the agent make a session; what that tells of the agent is noted. Returns its answer."""
        await router.greeted()
        frame = request.frame if request else envelope.request(0, methods.SESSION_NEW, facts.params)
        inside = self._inside(methods.SESSION_NEW, frame, facts)
        try:
            if request is not None:
                return await request.put_to(router, inside)
            return await router.agent.pass_on(inside, methods.SESSION_NEW)
        except AgentRefused as exc:
            if code_of(exc) == AUTH_REQUIRED:
                self._house.catalog.refused(facts.agent, exc.message)
            raise

    async def _enter(
        self, request: Request, place: Place, router: Router, facts: Facts, answer: bytes
    ) -> None:
        """Once it is kept, answer the client and let it in, in one go: nothing can come between."""
        client = request.client
        result, native = _made(answer, facts.agent)
        before = envelope.encode(result)
        facts.learn(result)
        session = self._house.sessions.admit(place, native, facts)
        try:
            await self._house.kept()
        except AgentdError:
            self._house.sessions.discard(session)
            await self._house.close_native(router, native)
            raise
        session.settle_in(router, native)
        result["sessionId"] = session.id
        self._house.catalog.opened(facts.agent, facts.options)
        if client.gone:
            self._house.sessions.discard(session)
            return
        client.reply(_with_result(answer, result, before))
        client.enter(session, replay=False)
        router.release(native)

    # session/load and session/resume

    async def load(self, request: Request) -> Reply:
        """Of a session that is alive here: what was said is shown, and then it goes on."""
        session = await self._find(request)
        return await self._reopen(request) if session is None else self._join(request, session)

    def _join(self, request: Request, session: Session) -> Reply:
        self._bring_servers(request, session)

        def shown() -> None:
            request.client.reply(envelope.result(request.raw_id, session.facts.loaded()))

        request.client.enter(session, replay=request.method == methods.SESSION_LOAD, on_shown=shown)
        return SENT

    async def _reopen(self, request: Request) -> Reply:
        """One that we do not know may be the agent's from some other time."""
        client, name = request.client, request.client.agent_name or self._house.catalog.default()
        facts = self._facts(request, name)
        router = self._engage(facts, client.uid, by=client)
        with self._house.sessions.place(client.uid) as place, router.opening():
            can_reopen = await _can_reopen(router, request.method)
            if session := self._house.sessions.get(client, request.session_id):
                return self._join(request, session)  # somebody else was faster
            native = router.native(request.session_id)
            anothers = self._house.sessions.is_anothers(client, name, native)
            if not can_reopen or anothers or router.houses(native):
                raise unknown(request.session_id)
            session = self._house.sessions.admit(place, native, facts, public=request.session_id)
            await self._reopen_in(request, session, router)
        return SENT

    async def _reopen_in(self, request: Request, session: Session, router: Router) -> None:
        session.turns.set_out()
        session.prompted = True  # somewhere else
        session.settle_in(router, session.native)  # what else is asked of it goes to this agent too
        request.client.enter(session, replay=False)
        inside = self._inside(request.method, request.frame, session.facts, session_id=session.native)
        try:
            answer = await request.put_to(router, inside)
        except AgentdError:
            session.leave_agent()
            self._house.sessions.discard(session)
            raise
        result = envelope.result_of(answer)
        before = envelope.encode(result)
        if isinstance(result, dict):
            session.facts.learn(result)
        request.client.reply(_with_result(answer, result, before))
        session.revived(router, session.native)

    # Another agent

    async def move(self, session: Session, name: str) -> None:
        """Have another agent serve a session in which nothing was said. Raises AgentFixed, or Draining."""
        if name == session.facts.agent:
            return
        self._house.admit_work(name)
        if session.prompted or not session.is_idle:
            raise AgentFixed(
                f"this session has begun with {session.facts.agent} and stays with it: "
                f"make a new session for {name}"
            )
        was = session.facts
        facts = Facts(name, was.hello, was.params, was.picker, now=self._house.now())
        session.turns.set_out()
        try:
            router = self._engage(facts, session.owner)
            with router.opening():
                result, native = _made(await self._ask_new(router, facts), name)
                facts.learn(result)
                self._house.catalog.opened(name, facts.options)
                before, old = session.router, session.native
                session.move(facts)
                session.revived(router, native)
                router.release(native)
            if before is not None:
                await self._house.close_native(before, old)
        except AgentdError as exc:
            session.turns.not_revived(exc)
            raise

    # Beginning again

    async def revive(self, session: Session) -> None:
        """Start an agent for a session that has lost its own, and have it load the session if it can."""
        try:
            router = self._engage(session.facts, session.owner)
            chosen = session.facts.choices
            with router.opening():
                native = await self._recall(session, router)
                if session.facts.choices != chosen:
                    session.tell_choices()
                session.revived(router, native)
                router.release(native)
        except AgentdError as exc:
            session.turns.not_revived(exc)

    async def _recall(self, session: Session, router: Router) -> str:
        """The agent's name for the session, the same one where it still knows it."""
        for method in (methods.SESSION_LOAD, methods.SESSION_RESUME):
            if await _can_reopen(router, method) and not router.houses(session.native):
                try:
                    return await self._recall_by(method, session, router)
                except AgentRefused as exc:
                    session.log.warning("%s does not know the session any more: %s", router.agent.name, exc)
        result, native = _made(await self._ask_new(router, session.facts), session.facts.agent)
        session.facts.learn(result)
        if session.transcript.end:  # something was said
            session.primer = primer(await session.transcript.last(FRAMES))
            text = f"{router.agent.name} was started anew and remembers nothing"
            told = "; it will be told what was said last" if session.primer else ""
            session.say(notices.notice(text + told))
        return native

    async def _recall_by(self, method: str, session: Session, router: Router) -> str:
        frame = envelope.request(0, method, session.facts.params)
        inside = self._inside(method, frame, session.facts, session_id=session.native)
        if method == methods.SESSION_LOAD:  # until it answers, it says again what was said
            router.house(session.native, session)
            session.muted = True
        try:
            answer = await router.agent.pass_on(inside, method, on_answer=session.unmute)
        except AgentdError:
            router.left(session)
            raise
        finally:
            session.unmute()
        result = envelope.result_of(answer)
        if isinstance(result, dict):
            session.facts.learn(result)
        return session.native

    # Where

    def _engage(self, facts: Facts, uid: int, *, by: Client | None = None) -> Router:
        """An agent that is told of the client's own files only where the session's directory is shared."""
        cwd = facts.params.get("cwd")
        shared = not isinstance(cwd, str) or self._house.paths.inward(cwd) is not None
        hello = facts.hello if shared else facts.hello.without_host()
        return self._house.agents.engage(facts.agent, uid, hello, by=by)

    def _inside(self, method: str, frame: bytes, facts: Facts, *, session_id: str = "") -> bytes:
        """A request with the container's paths, and the agent's name of the session. Raises UnmappedPath."""

        def change(params: dict[str, Any]) -> bool:
            workdir = self._house.workdir(facts.params)
            moved = translate.to_agent(method, params, self._house.paths, workdir=workdir)
            renamed = bool(session_id) and params.get("sessionId") != session_id
            if renamed:
                params["sessionId"] = session_id
            return moved or renamed

        return rewritten(frame, change)


def _origin(request: Request) -> dict[str, Any]:
    """What another agent would have to be told to make the same session."""
    return {name: value for name, value in request.params.items() if name != "sessionId"}


def _servers(request: Request) -> dict[str, Any]:
    """The MCP servers that it names, if it does."""
    return {name: value for name, value in request.params.items() if name == "mcpServers"}


async def _can_reopen(router: Router, method: str) -> bool:
    """Whether an agent can load, or resume, a session of another process."""
    greeting = await router.greeted()
    return can_session(greeting, "resume") if method == methods.SESSION_RESUME else can_load(greeting)


def code_of(error: AgentRefused) -> object:
    refused = envelope.value(envelope.members(error.answer).get("error", envelope.NULL))
    return refused.get("code") if isinstance(refused, dict) else None


def _with_result(answer: bytes, result: Any, before: bytes) -> bytes:
    """The answer with this result; the same bytes where it is as it was before."""
    return answer if envelope.encode(result) == before else envelope.with_member(answer, "result", result)


def _made(answer: bytes, agent: str) -> tuple[dict[str, Any], str]:
    """The result of session/new or fork, and the agent's name for the session."""
    result = envelope.result_of(answer)
    match result:
        case {"sessionId": str(native)}:
            return result, native
    raise AgentFailed(f"{agent} answered without a sessionId", agent=agent)
