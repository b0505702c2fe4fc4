# SPDX-License-Identifier: Apache-2.0

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from agentd.config import Budget as Unlimited
from agentd.config import Limits
from agentd.errors import (
    AgentdError,
    AgentExited,
    AgentFailed,
    AgentTimeout,
    ClientGone,
    Draining,
    NoSuchSession,
    QueueFull,
)
from agentd.log import Context
from agentd.store.keeper import Keeper, Nothing
from agentd.tasks import Tasks
from agentd.worker.budget import Budget
from agentd.worker.calls import Call
from agentd.worker.facts import Facts
from agentd.worker.hello import NOBODY
from agentd.worker.pathmap import PathMap
from agentd.worker.question import Decision
from agentd.worker.session import Session, cancel_notification
from agentd.worker.turns import Prompt
from unit.loop import run, skip

CANCEL = cancel_notification("s")
NOTICE = b'{"jsonrpc":"2.0","method":"$/cancel_request","params":{"requestId":7}}'
MOST = 3
CANCEL_SEC = 30.0
WAIT_SEC = 600.0
ENDED = {"stopReason": "end_turn"}
PERMISSION = "session/request_permission"


def frame(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def prompt(number: int, session: str = "s") -> bytes:
    params = {"sessionId": session, "prompt": [{"type": "text", "text": f"prompt {number}"}]}
    return frame(id=number, method="session/prompt", params=params)


def update(text: str, session: str = "s") -> bytes:
    content = {"type": "text", "text": text}
    about = {"sessionId": session, "update": {"sessionUpdate": "agent_message_chunk", "content": content}}
    return frame(method="session/update", params=about) + b"\n"


class Agent:
    """Notes what it is asked and told, and what it is answered."""

    name = "claude"
    alive = True

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.frames: list[bytes] = []
        self.answers: list[bytes] = []
        self.told_before: list[bytes] = []
        """The frame before each answer."""
        self.failed: list[tuple[Call, AgentdError]] = []

    def request(self, frame: bytes, call: Call) -> None:
        self.calls.append(call)
        self.frames.append(frame)

    def notify(self, frame: bytes) -> None:
        self.frames.append(frame)

    def answer(self, call: Call, frame: bytes) -> None:
        self.answers.append(frame)
        self.told_before += self.frames[-1:]

    def fail(self, call: Call, error: AgentdError) -> None:
        self.failed.append((call, error))


class Router:
    """Notes what becomes of its session."""

    renames = False
    retired = False

    def __init__(self) -> None:
        self.agent = Agent()
        self.housed: list[str] = []
        self.given_up: list[AgentdError] = []
        self.left_by: list[Session] = []

    def house(self, native: str, room: Session) -> None:
        self.housed.append(native)

    def left(self, room: Session) -> None:
        self.left_by.append(room)

    def settle(self) -> None: ...

    def joined(self) -> None: ...

    def give_up_on(self, room: Session, error: AgentdError) -> None:
        self.given_up.append(error)

    def make_public(self, named: object) -> bool:
        return False

    def to_public(self, frame: bytes) -> bytes:
        return frame


class Client:
    """Notes what it gets. `able`: the requests of an agent's that it serves."""

    slow = False
    uid = 1000

    def __init__(self, number: int = 1, *able: str) -> None:
        self.token = f"client {number}"
        self.number, self.able = number, able
        self.answers: list[dict[str, Any]] = []
        self.heard: list[str] = []
        self.asked: list[Call] = []
        self.retracted: list[bytes] = []

    def reply(self, frame: bytes) -> None:
        self.answers.append(json.loads(frame))

    def relay(self, run: bytes) -> None:
        self.heard += [_said(json.loads(line)) for line in run.splitlines()]

    def can(self, method: str) -> bool:
        return method in self.able

    def ask(self, frame: bytes, call: Call) -> None:
        self.asked.append(call)

    def retract(self, owner: object, raw_id: bytes, notice: bytes) -> None:
        self.retracted.append(raw_id)

    def outcomes(self) -> list[object]:
        """The ids it got an answer for, each with the stop reason, or the reason of the error."""
        return [(each["id"], _outcome(each)) for each in self.answers]


def _said(message: dict[str, Any]) -> str:
    match message["params"]:
        case {"update": {"content": {"text": str(text)}}}:
            return text
        case {"update": {"_meta": {"agentd.turn": {"outcome": str(outcome)}}}}:
            return f"<{outcome}>"
    return str(message["method"])


def _outcome(answer: dict[str, Any]) -> object:
    return answer["error"]["data"]["reason"] if "error" in answer else answer["result"]["stopReason"]


class House:
    """Has sessions revived when a test says so."""

    limits = Limits(prompt_queue=MOST, cancel_sec=CANCEL_SEC, permission_wait_sec=WAIT_SEC)
    paths = PathMap.everything()
    decision: Decision = "ask"

    def __init__(self, store: Keeper) -> None:
        self.revivals = 0
        self.store = store
        self.budget = Budget(Unlimited(), "box", self.now)
        self.tasks = Tasks()

    def now(self) -> float:
        return 1e9

    def policy(self, kind: str) -> Decision:
        return self.decision

    def revive(self, session: Session) -> None:
        self.revivals += 1

    def changed(self) -> None: ...


class Room:
    """A session between an agent and a client who has made it."""

    def __init__(self, native: str = "s", store: Keeper | None = None) -> None:
        self.house, self.router, self.client = House(store or Nothing()), Router(), Client()
        facts = Facts("claude", NOBODY, {}, now=0.0)
        log = Context(logging.getLogger("test"), {})
        self.session = Session("s", 1, facts, 1000, self.house, log)
        self.session.settle_in(self.router, native)  # type: ignore[arg-type]
        self.enter(self.client)

    @property
    def agent(self) -> Agent:
        return self.router.agent

    def enter(self, client: Client, *, replay: bool = False) -> Client:
        self.session.attach(client, replay=replay, on_shown=lambda: None)  # type: ignore[arg-type]
        return client

    def prompt(self, *numbers: int, client: Client | None = None) -> "Room":
        for number in numbers:
            asker = client or self.client
            self.session.prompt(Prompt(asker, b"%d" % number, prompt(number)))  # type: ignore[arg-type]
        return self

    def cancel(self, client: Client | None = None) -> "Room":
        self.session.cancel(client or self.client, CANCEL)  # type: ignore[arg-type]
        return self

    def end_turn(self) -> "Room":
        """The agent answers the prompt it got last."""
        call = self.agent.calls[-1]
        self.session.answer(call, frame(id=int(call.raw_id), result=ENDED))
        return self

    def lose_agent(self) -> "Room":
        """It ends, and whoever waits for it hears of that."""
        self.agent.alive = False  # type: ignore[misc]
        if self.session.busy:
            self.session.fail(self.agent.calls[-1], AgentExited("it ended"))
        self.session.agent_left()
        return self

    def revive(self) -> "Room":
        self.router = Router()
        self.session.revived(self.router, "s")  # type: ignore[arg-type]
        return self

    def ask(self, method: str = PERMISSION, **params: Any) -> None:
        """The agent wants something."""
        call = Call(self.agent, b"7", method, "s", self.agent)
        self.session.asked(frame(id=7, method=method, params={"sessionId": "s", **params}), call)

    def seen(self) -> tuple[str, int]:
        info = self.session.info()
        assert (info.id, info.agent) == ("s", "claude")
        return info.state, info.queued


def in_room(test: Callable[[Room], None], native: str = "s") -> None:
    async def inside() -> None:
        room = Room(native)
        test(room)
        room.session.close(NoSuchSession("the test is over"))

    run(inside())


# Turns


def test_a_prompt_goes_to_the_agent_as_it_came() -> None:
    def test(room: Room) -> None:
        room.prompt(1)
        assert room.agent.frames == [prompt(1)]
        (call,) = room.agent.calls
        assert (call.owner, call.asker) == (room.client, room.session)
        assert (call.raw_id, call.method, call.session) == (b"1", "session/prompt", "s")
        assert (room.seen(), room.session.busy) == (("prompting", 0), True)

    in_room(test)


def test_a_turn_that_ends_leaves_the_session_idle() -> None:
    def test(room: Room) -> None:
        room.prompt(1).end_turn()
        assert (room.seen(), room.session.busy) == (("idle", 0), False)
        assert room.client.answers == [{"jsonrpc": "2.0", "id": 1, "result": ENDED}]
        assert room.prompt(2).agent.frames == [prompt(1), prompt(2)]

    in_room(test)


def test_prompts_run_one_at_a_time_in_order() -> None:
    def test(room: Room) -> None:
        room.prompt(1, 2, 3)
        assert (room.agent.frames, room.seen()) == ([prompt(1)], ("prompting", 2))
        room.end_turn()
        assert (room.agent.frames, room.seen()) == ([prompt(1), prompt(2)], ("prompting", 1))
        room.end_turn().end_turn()
        assert room.agent.frames == [prompt(1), prompt(2), prompt(3)]
        assert room.seen() == ("idle", 0)

    in_room(test)


def test_the_queue_has_an_end_and_then_room_again() -> None:
    def test(room: Room) -> None:
        room.prompt(1, 2, 3, 4)
        with pytest.raises(QueueFull, match=r"^3 prompts wait"):
            room.prompt(5)
        assert room.end_turn().prompt(6).seen() == ("prompting", MOST)

    in_room(test)


def test_the_agent_gets_its_own_name_for_the_session() -> None:
    def test(room: Room) -> None:
        room.prompt(1)
        assert json.loads(room.agent.frames[0]) == json.loads(prompt(1, "native"))
        room.session.updated(update("hello", "native"))
        assert room.client.heard == ["hello"]
        assert json.loads(room.session.transcript.run(1))["params"]["sessionId"] == "s"

    in_room(test, native="native")


# Cancelling


def test_a_cancel_goes_to_the_agent_and_the_turn_ends_when_it_says_so() -> None:
    async def test() -> None:
        room = Room().prompt(1).cancel()
        assert room.agent.frames == [prompt(1), CANCEL]
        assert (room.seen(), room.session.busy) == (("cancelling", 0), True)
        assert room.end_turn().seen() == ("idle", 0)
        await skip(2 * CANCEL_SEC)
        assert room.router.given_up == []

    run(test())


def test_a_cancel_answers_what_its_client_has_waiting_and_leaves_others_alone() -> None:
    def test(room: Room) -> None:
        other = Client(2)
        room.prompt(1, 2).prompt(3, client=other).prompt(4).cancel()
        assert room.client.outcomes() == [(2, "cancelled"), (4, "cancelled")]
        assert (other.answers, room.seen()) == ([], ("cancelling", 1))
        assert room.end_turn().agent.frames[-1] == prompt(3)

    in_room(test)


def test_a_cancel_from_nobody_in_particular_is_for_all() -> None:
    def test(room: Room) -> None:
        other = Client(2)
        room.prompt(1, 2).prompt(3, client=other)
        room.session.cancel(None, CANCEL)
        assert (room.client.outcomes(), other.outcomes()) == ([(2, "cancelled")], [(3, "cancelled")])

    in_room(test)


def test_a_cancel_with_no_turn_running_changes_nothing() -> None:
    def test(room: Room) -> None:
        room.cancel()
        assert (room.agent.frames, room.seen()) == ([CANCEL], ("idle", 0))

    in_room(test)


@pytest.mark.parametrize("again", [0, 1, 3])
def test_an_agent_that_ignores_a_cancel_is_given_up_once(again: int) -> None:
    async def test() -> None:
        room = Room().prompt(1).cancel()
        await skip(CANCEL_SEC / 2)
        for _ in range(again):  # which gives the agent no more time
            room.cancel()
        assert room.router.given_up == []
        await skip(CANCEL_SEC / 2)
        await skip(CANCEL_SEC)
        (error,) = room.router.given_up
        assert isinstance(error, AgentTimeout)
        assert "30 s" in error.message

    run(test())


def test_the_next_turn_has_all_its_time_after_a_cancelled_one() -> None:
    async def test() -> None:
        room = Room().prompt(1).cancel().prompt(2).end_turn()
        assert room.seen() == ("prompting", 0)
        await skip(2 * CANCEL_SEC)
        assert room.router.given_up == []

    run(test())


def test_a_cancelled_turn_that_fails_was_cancelled() -> None:
    def test(room: Room) -> None:
        room.prompt(1).cancel().lose_agent()
        assert room.client.outcomes() == [(1, "cancelled")]

    in_room(test)


def test_a_prompt_that_waits_can_be_withdrawn_by_its_client_alone() -> None:
    def test(room: Room) -> None:
        room.prompt(1, 2)
        withdraw = room.session.turns.withdraw
        assert not withdraw(Client(2), b"2")  # type: ignore[arg-type]
        assert not withdraw(room.client, b"1")  # type: ignore[arg-type]
        assert withdraw(room.client, b"2")  # type: ignore[arg-type]
        assert (room.client.outcomes(), room.seen()) == ([(2, "request_cancelled")], ("prompting", 0))

    in_room(test)


# Other ends


def test_waiting_prompts_can_be_refused_and_the_running_one_goes_on() -> None:
    def test(room: Room) -> None:
        room.prompt(1, 2, 3).session.turns.refuse_queued(Draining("not now"))
        assert room.client.outcomes() == [(2, "draining"), (3, "draining")]
        assert room.seen() == ("prompting", 0)

    in_room(test)


def test_the_prompts_of_a_client_that_has_gone_run_all_the_same() -> None:
    def test(room: Room) -> None:
        room.prompt(1, 2).session.detach(room.client)  # type: ignore[arg-type]
        room.end_turn()
        assert room.agent.frames == [prompt(1), prompt(2)]
        assert room.session.clients == set()

    in_room(test)


def test_a_session_that_is_closed_in_the_middle_answers_everything() -> None:
    async def test() -> None:
        room = Room().prompt(1, 2, 3).cancel().prompt(4)
        room.client.answers.clear()
        room.session.close(AgentExited("it ended"))
        assert room.client.outcomes() == [(4, "agent_exited"), (1, "agent_exited")]
        assert (room.seen(), room.session.busy) == (("closed", 0), False)
        assert room.router.left_by == [room.session]
        await skip(2 * CANCEL_SEC)
        assert room.router.given_up == []

    run(test())


def test_a_session_that_is_closed_takes_no_prompts() -> None:
    def test(room: Room) -> None:
        room.session.close(AgentExited("it ended"))
        with pytest.raises(NoSuchSession, match="session s has ended"):
            room.prompt(1)
        assert (room.agent.frames, room.seen()) == ([], ("closed", 0))

    in_room(test)


@pytest.mark.parametrize("late", [Room.end_turn, Room.lose_agent])
def test_nothing_that_comes_late_opens_a_closed_session_again(late: Callable[[Room], Room]) -> None:
    def test(room: Room) -> None:
        room.prompt(1, 2).session.close(AgentExited("it ended"))
        late(room)
        assert (room.agent.frames, room.seen()) == ([prompt(1)], ("closed", 0))

    in_room(test)


def test_an_agent_that_comes_for_a_closed_session_is_not_wanted() -> None:
    def test(room: Room) -> None:
        room.lose_agent().prompt(1).session.close(NoSuchSession("closed"))
        assert room.revive().seen() == ("closed", 0)
        assert (room.agent.frames, room.router.left_by) == ([], [room.session])
        room.session.turns.not_revived(AgentFailed("no"))
        assert room.seen() == ("closed", 0)

    in_room(test)


# Beginning again


def test_the_next_prompt_has_a_lost_agent_started_and_waits_for_it() -> None:
    def test(room: Room) -> None:
        room.prompt(1).lose_agent()
        assert (room.client.outcomes(), room.seen()) == ([(1, "agent_exited")], ("idle", 0))
        room.prompt(2, 3)
        assert (room.house.revivals, room.seen(), room.session.busy) == (1, ("resuming", 1), True)
        assert room.revive().agent.frames == [prompt(2)]
        assert room.end_turn().agent.frames == [prompt(2), prompt(3)]

    in_room(test)


def test_where_no_agent_can_be_had_each_prompt_tries_once() -> None:
    def test(room: Room) -> None:
        room.lose_agent().prompt(1, 2).session.turns.not_revived(AgentFailed("no"))
        assert (room.client.outcomes(), room.house.revivals) == ([(1, "agent_failed")], 2)
        room.session.turns.not_revived(AgentFailed("no"))
        assert room.client.outcomes()[1:] == [(2, "agent_failed")]
        assert (room.house.revivals, room.seen()) == (2, ("idle", 0))

    in_room(test)


def test_a_prompt_can_be_cancelled_while_its_agent_is_on_its_way() -> None:
    def test(room: Room) -> None:
        room.lose_agent().prompt(1).cancel()
        assert room.client.outcomes() == [(1, "cancelled")]
        room.prompt(2)
        assert room.seen() == ("resuming", 1)
        assert room.revive().agent.frames == [prompt(2)]

    in_room(test)


def test_what_is_said_again_while_it_is_loaded_is_not_heard() -> None:
    def test(room: Room) -> None:
        room.session.muted = True
        room.session.updated(update("again"))
        room.session.unmute()
        room.session.updated(update("new"))
        assert room.client.heard == ["new"]

    in_room(test)


# Watching together


def test_others_see_the_prompt_and_the_end_of_the_turn() -> None:
    def test(room: Room) -> None:
        other = room.enter(Client(2))
        room.prompt(1)
        room.session.updated(update("one") + update("two"))
        room.end_turn()
        assert room.client.heard == ["one", "two"]
        assert other.heard == ["prompt 1", "one", "two", "<end_turn>"]

    in_room(test)


def test_whoever_comes_later_is_shown_all_of_it_or_nothing() -> None:
    def test(room: Room) -> None:
        room.prompt(1)
        room.session.updated(update("one"))
        shown, live = room.enter(Client(2), replay=True), room.enter(Client(3))
        room.session.updated(update("two"))
        assert (shown.heard, live.heard) == (["prompt 1", "one", "two"], ["two"])

    in_room(test)


def test_other_notifications_are_for_those_who_are_there() -> None:
    def test(room: Room) -> None:
        other = frame(method="_other", params={"sessionId": "s"}) + b"\n"
        room.session.notified(other, "_other")
        assert room.client.heard == ["_other"]
        assert len(room.session.transcript) == 0

    in_room(test)


# What agents ask


def test_a_permission_is_asked_of_everybody_and_of_those_who_come() -> None:
    def test(room: Room) -> None:
        other = room.enter(Client(2))
        room.ask()
        late = room.enter(Client(3))
        assert [len(each.asked) for each in (room.client, other, late)] == [1, 1, 1]
        (call,) = other.asked
        call.asker.answer(call, frame(id=7, result={"yes": 1}))
        assert room.agent.answers == [frame(id=7, result={"yes": 1})]
        assert room.client.retracted == late.retracted == [b"7"]

    in_room(test)


def test_a_cancel_and_a_withdrawal_decide_a_permission() -> None:
    def test(room: Room) -> None:
        room.ask()
        room.cancel()
        room.ask()
        assert room.session.withdrawn(b"7", NOTICE)
        assert not room.session.withdrawn(b"7", NOTICE)
        outcomes = [json.loads(each)["result"]["outcome"] for each in room.agent.answers]
        assert outcomes == [{"outcome": "cancelled"}] * 2

    in_room(test)


def test_an_agent_hears_that_its_turn_is_cancelled_before_its_question_is_answered() -> None:
    def test(room: Room) -> None:
        room.prompt(1).ask()
        room.cancel()
        assert room.agent.told_before == [CANCEL]

    in_room(test)


def test_an_agent_that_has_gone_is_not_answered() -> None:
    def test(room: Room) -> None:
        room.ask()
        room.lose_agent()
        assert (room.client.retracted, room.agent.answers) == ([b"7"], [])

    in_room(test)


def test_other_requests_go_to_whoever_prompts_if_it_can_and_else_to_who_can() -> None:
    def test(room: Room) -> None:
        other = room.enter(Client(2, "fs/read_text_file"))
        room.prompt(1).ask("fs/read_text_file")
        assert (room.client.asked, len(other.asked)) == ([], 1)
        room.ask("_other")
        assert len(room.client.asked) == 1

    in_room(test)


def test_terminals_stay_with_one_client_until_it_goes() -> None:
    def test(room: Room) -> None:
        first, second = room.enter(Client(2, "terminal/create")), room.enter(Client(3, "terminal/create"))
        room.ask("terminal/create")
        room.prompt(1, client=second).ask("terminal/output")
        assert (len(first.asked), len(second.asked)) == (2, 0)
        room.session.detach(first)  # type: ignore[arg-type]
        room.ask("terminal/create")
        assert len(second.asked) == 1

    in_room(test)


def test_with_nobody_there_other_requests_fail() -> None:
    def test(room: Room) -> None:
        room.session.detach(room.client)  # type: ignore[arg-type]
        room.ask("fs/read_text_file")
        ((_, error),) = room.agent.failed
        assert isinstance(error, ClientGone)

    in_room(test)
