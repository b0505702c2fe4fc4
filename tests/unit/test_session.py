# SPDX-License-Identifier: Apache-2.0

import json
import logging

import pytest

from agentd.errors import AgentdError, AgentExited, AgentTimeout, Draining, NoSuchSession, QueueFull
from agentd.log import Context
from agentd.worker.calls import Call
from agentd.worker.session import Prompt, Session, cancel_notification
from unit.loop import run, skip

CANCEL = cancel_notification("s")
MOST = 3
CANCEL_SEC = 30.0


class Agent:
    """Notes what it is asked; its answers are calls of `turn_ended`."""

    name = "claude"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.frames: list[bytes] = []
        self.given_up: list[AgentdError] = []

    def request(self, frame: bytes, call: Call) -> None:
        self.calls.append(call)
        self.frames.append(frame)

    def notify(self, frame: bytes) -> None:
        self.frames.append(frame)

    def give_up(self, error: AgentdError) -> None:
        self.given_up.append(error)


class Client:
    """Notes the answers it gets from the session itself."""

    def __init__(self) -> None:
        self.answers: list[dict[str, object]] = []

    def send(self, frame: bytes) -> None:
        self.answers.append(json.loads(frame))

    def outcomes(self) -> list[object]:
        """The ids it got an answer for, each with the stop reason, or the reason of the error."""
        return [(each["id"], _outcome(each)) for each in self.answers]


def _outcome(answer: dict[str, object]) -> object:
    error, result = answer.get("error"), answer.get("result")
    if isinstance(error, dict):
        return error["data"]["reason"]
    assert isinstance(result, dict)
    return result["stopReason"]


class Room:
    """A session between an agent and a client."""

    def __init__(self) -> None:
        self.agent = Agent()
        self.client = Client()
        self.session = Session(
            "s",
            self.agent,  # type: ignore[arg-type]
            Context(logging.getLogger("test")),
            queue=MOST,
            cancel_sec=CANCEL_SEC,
        )

    def prompt(self, *numbers: int, client: Client | None = None) -> "Room":
        for number in numbers:
            asker = client or self.client
            self.session.prompt(Prompt(asker, b"%d" % number, b"prompt %d" % number))  # type: ignore[arg-type]
        return self

    def cancel(self, client: Client | None = None) -> "Room":
        self.session.cancel(client or self.client, CANCEL)  # type: ignore[arg-type]
        return self

    def seen(self) -> tuple[str, int]:
        info = self.session.info()
        assert (info.id, info.agent) == ("s", "claude")
        return info.state, info.queued


# Turns


def test_a_prompt_goes_to_the_agent_as_it_came() -> None:
    room = Room().prompt(1)
    assert room.agent.frames == [b"prompt 1"]
    (call,) = room.agent.calls
    assert call.asker is room.client  # type: ignore[comparison-overlap]
    assert (call.raw_id, call.method, call.session) == (b"1", "session/prompt", "s")
    assert (room.seen(), room.session.busy) == (("prompting", 0), True)


def test_a_turn_that_ends_leaves_the_session_idle() -> None:
    room = Room().prompt(1)
    room.session.turn_ended()
    assert (room.seen(), room.session.busy) == (("idle", 0), False)
    assert room.prompt(2).agent.frames == [b"prompt 1", b"prompt 2"]


def test_prompts_run_one_at_a_time_in_order() -> None:
    room = Room().prompt(1, 2, 3)
    assert (room.agent.frames, room.seen()) == ([b"prompt 1"], ("prompting", 2))
    room.session.turn_ended()
    assert (room.agent.frames, room.seen()) == ([b"prompt 1", b"prompt 2"], ("prompting", 1))
    room.session.turn_ended()
    room.session.turn_ended()
    assert room.agent.frames == [b"prompt 1", b"prompt 2", b"prompt 3"]
    assert room.seen() == ("idle", 0)


def test_the_queue_has_an_end_and_then_room_again() -> None:
    room = Room().prompt(1, 2, 3, 4)
    with pytest.raises(QueueFull, match=r"^3 prompts wait"):
        room.prompt(5)
    room.session.turn_ended()
    assert room.prompt(6).seen() == ("prompting", MOST)


# Cancelling


def test_a_cancel_goes_to_the_agent_and_the_turn_ends_when_it_says_so() -> None:
    async def test() -> None:
        room = Room().prompt(1).cancel()
        assert room.agent.frames == [b"prompt 1", CANCEL]
        assert (room.seen(), room.session.busy) == (("cancelling", 0), True)
        room.session.turn_ended()
        assert room.seen() == ("idle", 0)
        await skip(2 * CANCEL_SEC)
        assert room.agent.given_up == []

    run(test())


def test_a_cancel_answers_what_its_client_has_waiting_and_leaves_others_alone() -> None:
    async def test() -> None:
        room, other = Room(), Client()
        room.prompt(1, 2).prompt(3, client=other).prompt(4).cancel()
        assert room.client.outcomes() == [(2, "cancelled"), (4, "cancelled")]
        assert (other.answers, room.seen()) == ([], ("cancelling", 1))
        room.session.turn_ended()
        assert room.agent.frames[-1] == b"prompt 3"

    run(test())


def test_a_cancel_from_nobody_in_particular_is_for_all() -> None:
    async def test() -> None:
        room, other = Room(), Client()
        room.prompt(1, 2).prompt(3, client=other)
        room.session.cancel(None, CANCEL)
        assert (room.client.outcomes(), other.outcomes()) == ([(2, "cancelled")], [(3, "cancelled")])
        room.session.turn_ended()

    run(test())


def test_a_cancel_with_no_turn_running_changes_nothing() -> None:
    room = Room().cancel()
    assert (room.agent.frames, room.seen()) == ([CANCEL], ("idle", 0))


@pytest.mark.parametrize("again", [0, 1, 3])
def test_an_agent_that_ignores_a_cancel_is_given_up_once(again: int) -> None:
    async def test() -> None:
        room = Room().prompt(1).cancel()
        await skip(CANCEL_SEC / 2)
        for _ in range(again):  # which gives the agent no more time
            room.cancel()
        assert room.agent.given_up == []
        await skip(CANCEL_SEC / 2)
        await skip(CANCEL_SEC)
        (error,) = room.agent.given_up
        assert isinstance(error, AgentTimeout)
        assert "30 s" in error.message

    run(test())


def test_the_next_turn_has_all_its_time_after_a_cancelled_one() -> None:
    async def test() -> None:
        room = Room().prompt(1).cancel().prompt(2)
        room.session.turn_ended()
        assert room.seen() == ("prompting", 0)
        await skip(2 * CANCEL_SEC)
        assert room.agent.given_up == []

    run(test())


# Other ends


def test_waiting_prompts_can_be_refused_and_the_running_one_goes_on() -> None:
    room = Room().prompt(1, 2, 3)
    room.session.refuse_queued(Draining("not now"))
    assert room.client.outcomes() == [(2, "draining"), (3, "draining")]
    assert room.seen() == ("prompting", 0)


def test_the_prompts_of_a_client_that_has_gone_are_not_started() -> None:
    room, other = Room(), Client()
    room.prompt(1, 2).prompt(3, client=other)
    room.session.forget(room.client)  # type: ignore[arg-type]
    room.session.turn_ended()
    assert room.agent.frames == [b"prompt 1", b"prompt 3"]
    assert room.client.answers == []


def test_a_session_that_is_closed_in_the_middle_answers_everything() -> None:
    async def test() -> None:
        room = Room().prompt(1, 2, 3).cancel().prompt(4)
        room.client.answers.clear()
        room.session.close(AgentExited("it ended"))
        assert (room.client.outcomes(), room.seen()) == ([(4, "agent_exited")], ("closed", 0))
        assert not room.session.busy
        await skip(2 * CANCEL_SEC)
        assert room.agent.given_up == []

    run(test())


def test_a_session_that_is_closed_takes_no_prompts() -> None:
    room = Room()
    room.session.close(AgentExited("it ended"))
    with pytest.raises(NoSuchSession, match="session s has ended"):
        room.prompt(1)
    assert (room.agent.frames, room.seen()) == ([], ("closed", 0))


def test_the_end_of_a_turn_does_not_open_a_closed_session_again() -> None:
    room = Room().prompt(1, 2)
    room.session.close(AgentExited("it ended"))
    room.session.turn_ended()
    assert (room.agent.frames, room.seen()) == ([b"prompt 1"], ("closed", 0))
