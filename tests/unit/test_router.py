# SPDX-License-Identifier: Apache-2.0

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from agentd.acp import envelope
from agentd.config import Limits
from agentd.errors import AgentdError, AgentExited, AgentTimeout, LimitReached
from agentd.link import ContainerInfo
from agentd.log import Context, Redactor
from agentd.runtimes import Command
from agentd.worker.agent import Place, Recipe
from agentd.worker.calls import Call
from agentd.worker.router import EARLY_BYTES, Router
from unit.loop import run, settle, skip


class Agent:
    """Notes what its router does with it."""

    name, instance, alive = "claude", "4711", True

    def __init__(self) -> None:
        self.active = 0.0
        self.ends: list[AgentdError] = []
        self.failed: list[tuple[Call, AgentdError]] = []
        self.abandoned: list[object] = []
        self.holds: list[tuple[str, bool]] = []
        self.calls: dict[bytes, Call] = {}
        self.greeting: Any = {}

    async def introduce(self, params: object) -> object:
        return self.greeting

    def dismiss(self, error: AgentdError) -> None:
        self.ends.append(error)

    give_up = dismiss

    def fail(self, call: Call, error: AgentdError) -> None:
        self.failed.append((call, error))

    def abandon(self, asker: object, error: AgentdError) -> None:
        self.abandoned.append(asker)

    def call(self, raw_id: bytes) -> Call | None:
        return self.calls.get(raw_id)

    def hold(self, reason: str, held: bool) -> None:
        self.holds.append((reason, held))


class Client:
    def __init__(self, number: int = 1, *able: str) -> None:
        self.number, self.able = number, able
        self.heard: list[Any] = []
        self.asked: list[Any] = []
        self.withdrawn: list[bytes] = []
        self.held: list[tuple[str, bool]] = []

    def relay(self, run: bytes) -> None:
        self.heard += [json.loads(line) for line in run.splitlines()]

    def can(self, method: str) -> bool:
        return method in self.able

    def ask(self, frame: bytes, call: Call) -> None:
        self.asked.append(json.loads(frame))

    def cork(self) -> None:
        self.corked = True

    def uncork(self) -> None:
        assert self.corked
        self.corked = False

    def withdraw(self, owner: object, raw_id: bytes, notice: bytes) -> None:
        self.withdrawn.append(raw_id)

    def hold(self, reason: str, held: bool) -> None:
        self.held.append((reason, held))


class Room:
    """A session: notes what it is told, and in which pieces."""

    def __init__(self, router: Router, public: str, native: str, *clients: Client) -> None:
        self.id, self.native, self.router = public, native, router
        self.clients = list(clients)
        self.busy = False
        self.heard: list[Any] = []
        self.takes: tuple[bytes, ...] = ()
        self.left = False
        router.house(native, self)  # type: ignore[arg-type]

    def updated(self, block: bytes) -> None:
        self.heard.append([json.loads(line)["params"]["n"] for line in block.splitlines()])

    def notified(self, block: bytes, method: str) -> None:
        self.heard.append(method)

    def asked(self, frame: bytes, call: Call) -> None:
        self.heard.append(call.raw_id)

    def withdrawn(self, raw_id: bytes, notice: bytes) -> bool:
        return raw_id in self.takes

    def agent_left(self) -> None:
        self.left = True

    def leave_agent(self) -> None:
        self.router.left(self)  # type: ignore[arg-type]


class Stage:
    """A router, whose agent a test speaks for."""

    def __init__(self, *taken: str) -> None:
        log = Context(logging.getLogger("test"), {})
        info = ContainerInfo(name="box", runtime="host", running=True)
        place = Place(None, info, "owner", Limits(), Redactor([]), log)  # type: ignore[arg-type]
        recipe = Recipe(Command(("claude",), {}), {})
        self.router = Router(
            "key", "claude", recipe, place, taken=taken.__contains__, on_change=lambda: None
        )
        self.agent = self.router.agent = Agent()  # type: ignore[assignment]

    def room(self, public: str, native: str | None = None, *clients: Client) -> Room:
        return Room(self.router, public, native or public, *clients)

    def bound(self, client: Client) -> Client:
        self.router.bound.add(client)
        return client

    def say(self, *messages: dict[str, Any]) -> None:
        """Notifications, in one block."""
        block = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
        self.router.relay(block, [envelope.decode(line) for line in block.splitlines()])

    def ask(self, method: str, **params: Any) -> None:
        frame = json.dumps({"id": 7, "method": method, "params": params}).encode()
        self.router.asked(frame, envelope.decode(frame))


def staged(test: Callable[[Stage], None], *taken: str) -> None:
    async def inside() -> None:
        stage = Stage(*taken)
        test(stage)
        stage.router.exited(AgentExited("the test is over"))

    run(inside())


def update(session: str, number: int) -> dict[str, Any]:
    return {"method": "session/update", "params": {"sessionId": session, "n": number}}


def other(session: str | None = None, method: str = "_other") -> dict[str, Any]:
    return {"method": method, "params": {"sessionId": session} if session else {}}


# What agents say


def test_updates_reach_their_session_in_the_pieces_they_came_in() -> None:
    def test(stage: Stage) -> None:
        one, two = stage.room("1"), stage.room("2")
        stage.say(update("1", 1), update("1", 2))
        stage.say(update("1", 3), update("2", 4), update("2", 5), other("2"), update("1", 6))
        assert one.heard == [[1, 2], [3], [6]]
        assert two.heard == [[4, 5], "_other"]

    staged(test)


def test_what_names_no_session_is_for_everybody_once() -> None:
    def test(stage: Stage) -> None:
        both, inside, bound = Client(), Client(2), Client(3)
        stage.room("1", "1", both, inside)
        stage.bound(both)
        stage.bound(bound)
        stage.say(other(method="_auth/status_update"))
        assert [len(client.heard) for client in (both, inside, bound)] == [1, 1, 1]

    staged(test)


def test_a_session_nobody_knows_is_for_everybody_but_not_under_somebody_elses_name() -> None:
    def test(stage: Stage) -> None:
        client = stage.bound(Client())
        stage.say(update("child", 1), update("0", 2))
        named = [message["params"] for message in client.heard]
        assert named == [{"sessionId": "child", "n": 1}, {"sessionId": "0@4711", "n": 2}]

    staged(test, "0")


# What they say too early


def test_what_is_said_of_a_session_on_its_way_is_kept_for_it() -> None:
    def test(stage: Stage) -> None:
        client = stage.bound(Client())
        with stage.router.opening():
            stage.say(update("1", 1), update("1", 2))
            stage.ask("session/request_permission", sessionId="1")
            room = stage.room("1")
            assert room.heard == []
            stage.router.release("1")
            stage.router.release("1")
            assert room.heard == [[1, 2], b"7"]
        assert client.heard == client.asked == []

    staged(test)


def test_what_nobody_claims_is_for_everybody_once_nothing_is_on_its_way() -> None:
    def test(stage: Stage) -> None:
        client = stage.bound(Client())
        with stage.router.opening():
            with stage.router.opening():
                stage.say(update("1", 1))
            assert client.heard == []
        assert client.heard == [update("1", 1)]

    staged(test)


def test_there_is_a_bound_to_what_is_kept() -> None:
    def test(stage: Stage) -> None:
        with stage.router.opening():
            long = {"method": "session/update", "params": {"sessionId": "1", "x": "x" * EARLY_BYTES}}
            stage.say(long)
            (error,) = stage.agent.ends
            assert isinstance(error, LimitReached)
            stage.router.bound.clear()

    staged(test)


# What they ask


def test_a_request_of_a_session_is_the_sessions() -> None:
    def test(stage: Stage) -> None:
        room = stage.room("1")
        stage.ask("fs/read_text_file", sessionId="1")
        assert room.heard == [b"7"]

    staged(test)


def test_another_request_goes_to_the_first_who_can() -> None:
    def test(stage: Stage) -> None:
        clients = [stage.bound(Client(number, *able)) for number, able in [(1, ()), (3, "e"), (2, "e")]]
        stage.ask("e")
        assert [len(client.asked) for client in clients] == [0, 0, 1]
        stage.ask("nobody/can")
        assert [len(client.asked) for client in clients] == [1, 0, 1]

    staged(test)


def test_a_request_about_a_request_goes_to_whose_it_is_under_its_own_id() -> None:
    def test(stage: Stage) -> None:
        one, two = stage.bound(Client(1, "elicitation/create")), stage.bound(Client(2))
        stage.agent.calls[b"5"] = Call(stage.agent, b'"mine"', "session/new", owner=two)
        stage.ask("elicitation/create", requestId=5)
        assert (one.asked, two.asked[0]["params"]) == ([], {"requestId": "mine"})

    staged(test)


def test_with_nobody_there_a_request_fails() -> None:
    def test(stage: Stage) -> None:
        stage.ask("elicitation/create")
        ((call, error),) = stage.agent.failed
        assert (call.raw_id, error.reason) == (b"7", "client_gone")

    staged(test)


def test_what_is_withdrawn_is_looked_for_in_sessions_and_then_at_clients() -> None:
    def test(stage: Stage) -> None:
        client = stage.bound(Client())
        stage.room("1").takes = (b"5",)
        for number in (5, 6):
            frame = b'{"method":"$/cancel_request","params":{"requestId":%d}}' % number
            stage.router.withdrawn(frame, envelope.decode(frame))
        assert client.withdrawn == [b"6"]

    staged(test)


# Names


def test_names_are_put_in_their_places() -> None:
    def test(stage: Stage) -> None:
        stage.room("0~1", "0")
        named = {"sessionId": "0", "senderSessionId": "1", "recipientSessionId": 5, "text": "0"}
        assert stage.router.make_public(named)
        assert named == {**named, "sessionId": "0~1", "senderSessionId": "1@4711"}
        assert stage.router.renames
        assert not stage.router.make_public({"sessionId": "else"})

    staged(test, "0", "1")


def test_an_error_names_the_session_as_clients_know_it() -> None:
    def test(stage: Stage) -> None:
        stage.room("0~1", "0")
        frame = b'{"id":1,"error":{"code":-32002,"message":"gone","data":{"sessionId":"0"}}}'
        assert json.loads(stage.router.to_public(frame))["error"]["data"] == {"sessionId": "0~1"}
        plain = b'{"id":1,"result":{"sessionId":"0"}}'
        assert stage.router.to_public(plain) == plain

    staged(test)


# How long it lives


def test_an_agent_without_sessions_ends_with_its_last_client() -> None:
    def test(stage: Stage) -> None:
        client = stage.bound(Client())
        stage.router.settle()
        assert stage.agent.ends == []
        stage.router.bound.discard(client)
        stage.router.settle()
        assert len(stage.agent.ends) == 1

    staged(test)


LOADS = {"agentCapabilities": {"loadSession": True}}
RESUMES = {"agentCapabilities": {"sessionCapabilities": {"resume": {}}}}


@pytest.mark.parametrize(
    ("greeting", "clients", "busy", "may"),
    [
        ({}, 0, False, True),
        ({}, 0, True, False),
        ({}, 1, False, False),
        (LOADS, 1, False, True),
        (LOADS, 1, True, False),
        (RESUMES, 1, False, True),
    ],
)
def test_an_agent_may_rest_that_nobody_would_miss(
    greeting: Any, clients: int, busy: bool, may: bool
) -> None:
    async def test() -> None:
        stage = Stage()
        stage.agent.greeting = greeting
        await stage.router.introduce({})
        stage.room("1", "1", *(Client(number) for number in range(clients))).busy = busy
        assert stage.router.may_rest is may

    run(test())


def test_what_is_said_and_who_comes_is_activity() -> None:
    async def test() -> None:
        stage = Stage()
        stage.agent.active = asyncio.get_running_loop().time()
        await skip(100)
        assert round(stage.router.quiet_sec) == 100
        stage.router.joined()
        await skip(10)
        assert round(stage.router.quiet_sec) == 10

    run(test())


def test_a_retired_one_ends_with_its_last_turn() -> None:
    def test(stage: Stage) -> None:
        room = stage.room("1", "1", Client())
        room.busy = True
        stage.router.retire()
        assert stage.agent.ends == []
        room.busy = False
        stage.router.settle()
        assert len(stage.agent.ends) == 1

    staged(test)


def test_a_session_that_has_been_replaced_does_not_take_the_other_along() -> None:
    def test(stage: Stage) -> None:
        old = stage.room("1", "0")
        new = stage.room("2", "0")
        old.leave_agent()
        stage.say(update("0", 1))
        assert (old.heard, new.heard) == ([], [[1]])

    staged(test)


def test_its_end_is_told_to_its_sessions() -> None:
    def test(stage: Stage) -> None:
        rooms = [stage.room("1"), stage.room("2")]
        stage.router.exited(AgentExited("it ended"))
        assert [room.left for room in rooms] == [True, True]
        assert not stage.router.houses("1")

    staged(test)


# Agents that hang


@pytest.mark.parametrize("others", [True, False])
def test_a_hung_agent_is_ended_only_where_no_other_turn_suffers(others: bool) -> None:
    def test(stage: Stage) -> None:
        room = stage.room("1", "1", Client())
        stage.room("2").busy = others
        stage.router.give_up_on(room, AgentTimeout("too long"))
        assert (stage.agent.abandoned, len(stage.agent.ends)) == (([room], 0) if others else ([], 1))
        assert stage.router.houses("1") != others
        assert stage.router.retired == others

    staged(test)


@pytest.mark.parametrize("busy", [True, False])
def test_silence_over_a_request_ends_the_agent_unless_a_turn_runs(busy: bool) -> None:
    def test(stage: Stage) -> None:
        stage.room("1", "1", Client()).busy = busy
        stage.router.hung(Call(stage.agent, b"1", "session/new"), AgentTimeout("too long"))
        assert (len(stage.agent.abandoned), len(stage.agent.ends)) == ((1, 0) if busy else (0, 1))

    staged(test)


# Pace


def test_the_agent_waits_for_a_slow_client_that_is_alone_and_no_longer_when_it_is_not() -> None:
    def test(stage: Stage) -> None:
        slow, other = stage.bound(Client(1)), Client(2)
        assert stage.router.hold(slow, True)
        stage.bound(other)
        stage.router.joined()
        assert stage.agent.holds == [("client 1", True), ("client 1", False)]
        assert not stage.router.hold(slow, True)
        assert len(stage.agent.holds) == 2

    staged(test)


def test_clients_wait_for_a_slow_agent() -> None:
    def test(stage: Stage) -> None:
        client = stage.bound(Client())
        stage.router.congested(True)
        stage.router.congested(False)
        assert client.held == [("agent 4711", True), ("agent 4711", False)]

    staged(test)


# Greeting


@pytest.mark.parametrize(
    ("greeting", "can"),
    [
        ({"agentCapabilities": {"sessionCapabilities": {"close": {}}}}, True),
        ({"agentCapabilities": {"sessionCapabilities": {"close": None}}}, False),
        ({"agentCapabilities": {"sessionCapabilities": None}}, False),
        ({}, False),
    ],
)
def test_what_it_can_do_with_sessions_is_in_its_greeting(greeting: Any, can: bool) -> None:
    async def test() -> None:
        stage = Stage()
        stage.agent.greeting = greeting
        assert await stage.router.introduce({}) == greeting
        assert await stage.router.can_session("close") == can

    run(test())


def test_a_greeting_that_is_none_fails_for_everybody() -> None:
    async def test() -> None:
        stage = Stage()
        stage.agent.greeting = "hello"
        with pytest.raises(AgentdError, match="answered initialize with something else") as refusal:
            await stage.router.introduce({})
        stage.router.fail(refusal.value)
        with pytest.raises(AgentdError, match="answered initialize with something else"):
            await stage.router.greeted()
        await settle()

    run(test())
