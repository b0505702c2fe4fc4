# SPDX-License-Identifier: Apache-2.0
"""What one agent process says, brought to the sessions and clients it is for."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

from msgspec import Raw

from agentd.acp import envelope, methods
from agentd.acp.envelope import Envelope
from agentd.errors import AgentdError, AgentExited, AgentFailed, ClientGone, LimitReached
from agentd.worker.agent import Agent, Place, Recipe
from agentd.worker.calls import Call
from agentd.worker.greeting import can_load, can_session

EARLY_BYTES = 16 << 20
"""What an agent may say of sessions that nobody has been told of yet."""
REMEMBERED = 1024
"""Names of sessions that an agent has no longer, or that nobody has heard of."""
SESSION_KEYS = ("sessionId", "senderSessionId", "recipientSessionId")


class Listener(Protocol):
    """A client, as an agent needs it."""

    number: int

    def relay(self, run: bytes) -> None: ...

    def cork(self) -> None: ...

    def uncork(self) -> None: ...

    def can(self, method: str) -> bool:
        """Whether it serves such requests of an agent's."""

    def ask(self, frame: bytes, call: Call) -> None: ...

    def withdraw(self, owner: object, raw_id: bytes, notice: bytes) -> bytes | None:
        """Tell it that the owner would like to take a request back, by this `$/cancel_request`."""

    def hold(self, reason: str, held: bool) -> None:
        """Stop or go on taking what it sends."""


class Room(Protocol):
    """A session, as its agent needs it."""

    id: str
    native: str

    @property
    def busy(self) -> bool: ...

    @property
    def clients(self) -> Collection[Listener]: ...

    def updated(self, block: bytes) -> None: ...

    def notified(self, block: bytes, method: str) -> None: ...

    def asked(self, frame: bytes, call: Call) -> None: ...

    def withdrawn(self, raw_id: bytes, notice: bytes) -> bool: ...

    def agent_left(self) -> None: ...

    def leave_agent(self) -> None: ...

    def cancel_turn(self) -> None: ...


class Router:
    """One agent process with the sessions it serves and the clients that are bound to it.

    `key` says who may share it. A retired agent takes no new sessions, and ends when its last turn has.
    """

    def __init__(
        self,
        key: object,
        name: str,
        recipe: Recipe,
        place: Place,
        *,
        taken: Callable[[str], bool],
        on_change: Callable[[], None],
    ) -> None:
        """`taken`: whether a session of that public id exists in the container.

        `on_change`: called when the agent's state has become another.
        """
        self.key = key
        self.agent = Agent(name, recipe, place, self)
        self._recipe, self._place = recipe, place
        self._starting = True
        self._greeting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.bound: set[Listener] = set()
        self.retired = False
        self._rooms: dict[str, Room] = {}
        self._openings = 0
        self._early: dict[str, list[tuple[bytes, Envelope]]] = {}
        self._early_bytes = 0
        self._foreign: dict[str, str] = {}
        self._gone: dict[str, None] = {}
        """Sessions that have left: what is still said of them is for nobody."""
        self.renames = False
        """Whether any of its sessions has, or had, another name outside."""
        self._held: set[int] = set()
        self._taken = taken
        self._on_change = on_change
        self._joined = 0.0
        self.ahead = False
        """Whether it was started before its first session, and waits for that: as long as any may idle."""

    # Who is here

    @property
    def audience(self) -> set[Listener]:
        """Everybody who has to do with this agent."""
        return self.bound.union(*(room.clients for room in self._rooms.values()))

    @property
    def rooms(self) -> Collection[Room]:
        return self._rooms.values()

    @property
    def is_unused(self) -> bool:
        return not (self._rooms or self._openings)

    @property
    def is_spare(self) -> bool:
        """Whether it waits for its first session, and nobody has a claim to it."""
        return self.ahead and not self.bound

    def houses(self, native: str) -> bool:
        return native in self._rooms

    def house(self, native: str, room: Room) -> None:
        """A session of that name is served by this agent from now on."""
        self._rooms[native] = room
        self.ahead = False
        self._gone.pop(native, None)
        self.renames |= native != room.id

    def left(self, room: Room) -> None:
        """A session is no longer served here."""
        if self._rooms.get(room.native) is room:
            del self._rooms[room.native]
            self._gone[room.native] = None
            if len(self._gone) > REMEMBERED:
                del self._gone[next(iter(self._gone))]
        self.settle()

    def joined(self) -> None:
        """There is a client more. A slow one no longer sets the pace once it is not alone."""
        self._joined = asyncio.get_running_loop().time()
        if len(self.audience) > 1:
            for number in self._held:
                self.agent.hold(f"client {number}", False)
            self._held.clear()

    def settle(self) -> None:
        """Somebody has left: end an agent that nobody needs."""
        if not self.agent.alive or self._openings or any(room.busy for room in self.rooms):
            return
        if not self.is_wanted:
            self.agent.dismiss(AgentExited("nobody needs it any more"))

    # Idleness (Idler)

    @property
    def quiet_sec(self) -> float:
        return asyncio.get_running_loop().time() - max(self.agent.active, self._joined)

    @property
    def may_rest(self) -> bool:
        """No turn runs, and whoever is here finds the session again in the next process."""
        if self._openings or any(room.busy for room in self.rooms):
            return False
        return not self.audience or not self.rooms or self._reopens

    @property
    def _reopens(self) -> bool:
        """Whether the agent can go on with the sessions of another process."""
        greeting = self._greeting.result() if self.has_greeted else None
        return can_load(greeting) or can_session(greeting, "resume")

    async def processor_sec(self) -> float:
        return await self.agent.processor_sec()

    def hold(self, client: Listener, held: bool) -> bool:
        """Have the agent wait for a slow client, if that harms nobody else. Returns whether it does."""
        alone = self.audience <= {client}
        if alone or not held:
            (self._held.add if held else self._held.discard)(client.number)
            self.agent.hold(f"client {client.number}", held)
        return alone

    # The beginning

    @property
    def alive(self) -> bool:
        """Whether the agent is there, or is about to be."""
        return self._starting or self.agent.alive

    @property
    def is_wanted(self) -> bool:
        return bool(self._openings or self.bound or self._rooms or self.ahead) and not self.retired

    def begin_anew(self) -> None:
        """Its process has ended before it was of any use; the next one is another."""
        self.agent = Agent(self.agent.name, self._recipe, self._place, self)

    async def introduce(self, params: dict[str, Any]) -> dict[str, Any]:
        """Introduce a client; nothing else is said until the agent has answered. Raises why it has not."""
        greeting = await self.agent.introduce(params)
        if not isinstance(greeting, dict):
            raise AgentFailed(f"{self.agent.name} answered initialize with something else")
        self._starting = False
        self._greeting.set_result(greeting)
        return greeting

    def fail(self, error: AgentdError) -> None:
        """The agent cannot be started."""
        self._starting = False
        if not self._greeting.done():
            self._greeting.set_exception(error)
            self._greeting.exception()  # seen, even where nobody waits for it

    def over(self) -> None:
        """No process of it will run any more."""
        self.fail(AgentExited(f"{self.agent.name} has ended"))

    @property
    def has_greeted(self) -> bool:
        return self._greeting.done() and self._greeting.exception() is None

    async def greeted(self) -> dict[str, Any]:
        """The agent's answer to initialize. Raises why there is none."""
        return await asyncio.shield(self._greeting)

    async def can_session(self, name: str) -> bool:
        """Whether the agent says that it can do this with sessions."""
        return can_session(await self.greeted(), name)

    # Sessions on their way

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """While this lasts, what the agent says of sessions not known here is kept for `release`."""
        self._openings += 1
        try:
            yield
        finally:
            self._openings -= 1
            if not self._openings:
                for native in list(self._early):
                    self.release(native)
            self.settle()

    def release(self, native: str) -> None:
        """Deliver what was kept for a session."""
        for frame, message in self._early.pop(native, ()):
            self._early_bytes -= len(frame)
            if message.is_request:
                self.asked(frame, message)
            else:
                self._run(frame, message)

    def _keep(self, native: str, frame: bytes, message: Envelope) -> None:
        self._early_bytes += len(frame)
        if self._early_bytes > EARLY_BYTES:
            self.agent.give_up(
                LimitReached(f"{self.agent.name} said more than {EARLY_BYTES} bytes before it was asked")
            )
        self._early.setdefault(native, []).append((frame, message))

    # From the agent (Audience)

    def relay(self, block: bytes, messages: Sequence[Envelope]) -> None:
        first = messages[0]
        session, method = first.session, first.method
        if len(messages) == 1 or all(m.method == method and m.session == session for m in messages):
            self._run(block, first)
            return
        audience = self.audience
        for client in audience:
            client.cork()
        lines = zip(block.split(b"\n"), messages, strict=False)  # split ends with an empty piece
        for _, run in itertools.groupby(lines, key=lambda each: _kind(each[1])):
            together = list(run)
            self._run(b"".join(line + b"\n" for line, _ in together), together[0][1])
        for client in audience:
            client.uncork()

    def _run(self, block: bytes, message: Envelope) -> None:
        """Notifications of one kind, all for the same session."""
        native = message.session
        room = self._rooms.get(native) if native is not None else None
        if room is None:
            self._at_large(block, message)
        elif message.method == methods.SESSION_UPDATE:
            room.updated(block)
        else:
            for line in block.split(b"\n")[:-1]:
                room.notified(line + b"\n", str(message.method))

    def _at_large(self, block: bytes, message: Envelope) -> None:
        """For no session, or for one that is not known: everybody who deals with the agent may see it."""
        native = message.session
        if native is not None and self._openings:
            self._keep(native, block, message)
            return
        if native in self._gone:
            return
        if native is not None and self.public(native) != native:
            block = b"".join(self._renamed(line, native) + b"\n" for line in block.split(b"\n")[:-1])
        for client in self.audience:
            client.relay(block)

    def asked(self, frame: bytes, message: Envelope) -> None:
        call = Call(self.agent, message.raw_id, str(message.method), message.session, self.agent)
        native = message.session
        room = self._rooms.get(native) if native is not None else None
        if room is not None:
            room.asked(frame, call)
        elif native is not None and self._openings:
            self._keep(native, frame, message)
        elif native in self._gone:
            self.agent.fail(call, ClientGone("the session was closed"))
        else:
            self._ask_somebody(frame, message, call)

    def _ask_somebody(self, frame: bytes, message: Envelope, call: Call) -> None:
        about = self.agent.call(message.params.raw_request_id) if message.params else None
        try:
            for client in self.audience:
                if about is not None and about.owner is client:
                    client.ask(envelope.with_param(frame, "requestId", about.raw_id), call)
                    return
            able = sorted(self.audience, key=lambda client: (not client.can(call.method), client.number))
            if not able:
                raise ClientGone("no client is there to answer this")
            able[0].ask(self._renamed(frame, message.session), call)
        except AgentdError as exc:
            self.agent.fail(call, exc)

    def withdrawn(self, frame: bytes, message: Envelope) -> None:
        raw_id = message.params.raw_request_id if message.params else b""
        if not any(room.withdrawn(raw_id, frame) for room in list(self.rooms)):
            for client in self.audience:
                client.withdraw(self.agent, raw_id, frame)

    def hung(self, call: Call, error: AgentdError) -> None:
        """Ended, unless others have turns in it: then only this call is given up, and the rest later."""
        if any(room.busy for room in self.rooms):
            self.agent.abandon(call.asker, error)
            self.retire()
        else:
            self.agent.give_up(error)

    def give_up_on(self, room: Room, error: AgentdError) -> None:
        """It does not do what it must in this session; other sessions must not notice."""
        if any(other.busy for other in self.rooms if other is not room):
            self.retired = True
            room.leave_agent()
            self.agent.abandon(room, error)
        else:
            self.agent.give_up(error)

    def stop(self) -> list[Room]:
        """Take no new sessions, and cancel the turns: returns those they run in. Ends when they have."""
        self.retired = True
        busy = [room for room in self.rooms if room.busy]
        for room in busy:
            room.cancel_turn()
        return busy

    def retire(self) -> None:
        self.retired = True
        self.settle()

    def congested(self, full: bool) -> None:
        for client in self.audience:
            client.hold(f"agent {self.agent.instance}", full)

    def changed(self) -> None:
        self._on_change()

    def exited(self, error: AgentdError) -> None:
        self.congested(False)
        rooms, self._rooms = list(self.rooms), {}
        for room in rooms:
            room.agent_left()

    # Names

    def public(self, native: str) -> str:
        """What a session is called outside; one nobody knows must not be taken for one that exists."""
        room = self._rooms.get(native)
        if room is not None:
            return room.id
        if native not in self._foreign and self._taken(native) and len(self._foreign) < REMEMBERED:
            self._foreign[native] = f"{native}@{self.agent.instance}"
            self.renames = True
        return self._foreign.get(native, native)

    def native(self, public: str) -> str:
        """The agent's own name for a session that it alone knows."""
        return next((native for native, name in self._foreign.items() if name == public), public)

    def make_public(self, named: Any) -> bool:
        """Put our names of sessions into an object that names some. Returns whether any is another."""
        changed = False
        for key in SESSION_KEYS if isinstance(named, dict) else ():
            if isinstance(named.get(key), str):
                native, named[key] = named[key], self.public(named[key])
                changed |= native != named[key]
        return changed

    def to_public(self, frame: bytes) -> bytes:
        """An answer, whose error may name a session."""
        if not self.renames or b'"error"' not in frame:
            return frame
        fields = envelope.members(frame)
        error = envelope.value(fields.get("error", envelope.NULL))
        if not isinstance(error, dict) or not self.make_public(error.get("data")):
            return frame
        fields["error"] = Raw(envelope.encode(error))
        return envelope.encode(fields)

    def _renamed(self, frame: bytes, native: str | None) -> bytes:
        if native is None or (public := self.public(native)) == native:
            return frame
        return envelope.with_param(frame, "sessionId", envelope.encode(public))


def _kind(message: Envelope) -> tuple[str | None, object]:
    return message.session, message.method
