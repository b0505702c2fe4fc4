# SPDX-License-Identifier: Apache-2.0

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from agentd.errors import AgentdError, ClientGone, FrameTooLarge, InvalidArgs
from agentd.link import PermissionOption
from agentd.log import Context
from agentd.worker.calls import Call
from agentd.worker.question import Decision, Question
from unit.loop import run, skip

WAIT_SEC = 600.0
OPTIONS = [
    {"optionId": "always", "kind": "allow_always"},
    {"optionId": "once", "kind": "allow_once"},
    {"optionId": "never", "kind": "reject_always"},
]
YES = b'{"id":7,"result":{"outcome":{"outcome":"selected","optionId":"once"}}}'
ERROR = b'{"id":7,"error":{"code":-32601,"message":"what?"}}'


class Agent:
    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def answer(self, call: Call, frame: bytes) -> None:
        self.answers.append(frame)

    def fail(self, call: Call, error: AgentdError) -> None:
        raise AssertionError


class Client:
    """Is asked, and answers with the calls of `asked`."""

    def __init__(self) -> None:
        self.asked: list[Call] = []
        self.retracted = 0
        self.gone = False

    def ask(self, frame: bytes, call: Call) -> None:
        if self.gone:
            raise ClientGone("it has gone")
        self.asked.append(call)

    def retract(self, owner: object, raw_id: bytes, notice: bytes) -> None:
        assert (owner, raw_id) == (self.asked[-1].owner, b"7")
        self.retracted += 1

    def answer(self, frame: bytes) -> None:
        self.asked[-1].asker.answer(self.asked[-1], frame)

    def fail(self, error: AgentdError) -> None:
        self.asked[-1].asker.fail(self.asked[-1], error)


class Asked:
    """A question that was put to some clients."""

    def __init__(self, clients: int = 0, kind: str = "edit", options: Any = OPTIONS) -> None:
        params = {"sessionId": "s", "toolCall": {"kind": kind}, "options": options}
        frame = json.dumps({"id": 7, "method": "session/request_permission", "params": params}).encode()
        self.agent, self.ends = Agent(), 0
        call = Call(self.agent, b"7", "session/request_permission", "s")
        log = Context(logging.getLogger("test"), {})
        self.question = Question(
            self.agent, call, frame, wait_sec=WAIT_SEC, on_settled=self._settled, log=log
        )
        self.clients = [Client() for _ in range(clients)]
        for client in self.clients:
            self.question.put_to(client)

    def _settled(self, question: Question) -> None:
        self.ends += 1

    @property
    def outcome(self) -> Any:
        """What the agent was answered, None so long as it was not."""
        if not self.agent.answers:
            assert not self.question.settled
            return None
        (answer,) = self.agent.answers
        assert self.question.settled
        assert self.ends == 1
        return json.loads(answer).get("result", {}).get("outcome", "an error")


CANCELLED = {"outcome": "cancelled"}
ONCE = {"outcome": "selected", "optionId": "once"}


def asked(test: Callable[[Asked], None], clients: int = 2, **more: Any) -> None:
    async def inside() -> None:
        it = Asked(clients, **more)
        test(it)
        it.question.cancel()

    run(inside())


def test_the_first_answer_counts_and_the_others_need_not_answer() -> None:
    def test(it: Asked) -> None:
        first, second = it.clients
        second.answer(YES)
        assert (it.outcome, first.retracted) == (ONCE, 1)
        first.answer(b'{"id":7,"result":{"outcome":{"outcome":"cancelled"}}}')
        assert it.outcome == ONCE

    asked(test)


def test_an_error_counts_only_where_nobody_else_could_answer() -> None:
    def test(it: Asked) -> None:
        first, second = it.clients
        first.answer(ERROR)
        assert it.outcome is None
        second.answer(ERROR)
        assert it.outcome == "an error"

    asked(test)


def test_after_an_error_the_other_may_leave_and_the_question_waits() -> None:
    async def test() -> None:
        it = Asked(2)
        first, second = it.clients
        first.answer(ERROR)
        it.question.left(second)
        assert it.outcome is None
        await skip(WAIT_SEC)
        assert it.outcome == CANCELLED

    run(test())


@pytest.mark.parametrize("come_first", [True, False])
def test_nobody_there_is_waited_for_and_then_the_agent_does_not_get_it(come_first: bool) -> None:
    async def test() -> None:
        it = Asked(1 if come_first else 0)
        if come_first:
            await skip(WAIT_SEC)  # whoever is there may take their time
            it.question.left(it.clients[0])
        await skip(WAIT_SEC - 1)
        assert it.outcome is None
        await skip(1)
        assert it.outcome == CANCELLED

    run(test())


def test_whoever_comes_while_it_waits_is_asked() -> None:
    async def test() -> None:
        it, late = Asked(), Client()
        await skip(WAIT_SEC - 1)
        it.question.put_to(late)
        await skip(WAIT_SEC)
        assert it.outcome is None
        late.answer(YES)
        assert it.outcome == ONCE

    run(test())


def test_a_client_that_is_asked_again_has_one_copy_and_can_leave() -> None:
    async def test() -> None:
        it = Asked(1)
        (client,) = it.clients
        it.question.put_to(client)
        assert (len(client.asked), client.retracted) == (2, 1)
        it.question.left(client)
        await skip(WAIT_SEC)
        assert it.outcome == CANCELLED

    run(test())


def test_one_that_cannot_be_asked_is_left_out() -> None:
    def test(it: Asked) -> None:
        gone = Client()
        gone.gone = True
        it.question.put_to(gone)
        it.clients[0].answer(ERROR)
        assert it.outcome == "an error"

    asked(test, clients=1)


def test_an_answer_that_cannot_be_passed_on_is_a_no() -> None:
    def test(it: Asked) -> None:
        it.clients[0].fail(ClientGone("it has gone"))
        assert it.outcome is None
        it.clients[0].fail(FrameTooLarge("too long"))
        assert it.outcome == CANCELLED

    asked(test)


def test_what_is_closed_is_answered_to_nobody() -> None:
    def test(it: Asked) -> None:
        it.question.close()
        it.clients[0].answer(YES)
        it.question.cancel()
        assert it.agent.answers == []
        assert [client.retracted for client in it.clients] == [1, 1]

    asked(test)


# By somebody who was not asked


def test_somebody_else_may_decide_and_those_who_were_asked_need_not_answer() -> None:
    def test(it: Asked) -> None:
        it.question.resolve("once", 1000)
        assert (it.outcome, it.question.outcome) == (ONCE, "once")
        assert [client.retracted for client in it.clients] == [1, 1]

    asked(test)


def test_somebody_else_may_cancel_it() -> None:
    def test(it: Asked) -> None:
        it.question.resolve("", 1000)
        assert (it.outcome, it.question.outcome) == (CANCELLED, "cancelled")

    asked(test)


@pytest.mark.parametrize(
    ("options", "offered"), [(OPTIONS, "always, once, never"), (None, "none"), ([1], "none")]
)
def test_only_what_is_offered_can_be_chosen(options: Any, offered: str) -> None:
    def test(it: Asked) -> None:
        with pytest.raises(InvalidArgs, match=f"no option x; this permission offers {offered}$"):
            it.question.resolve("x", 1000)
        assert it.outcome is None

    asked(test, options=options)


@pytest.mark.parametrize("options", [None, "x", [], [1, {}, {"optionId": 3}]])
def test_a_question_that_makes_no_sense_can_be_told_of(options: Any) -> None:
    def test(it: Asked) -> None:
        info = it.question.info()
        assert (info.title, info.kind, info.options) == ("", "edit", [])

    asked(test, options=options)


def test_what_is_told_of_a_question_is_cut_but_for_what_names_the_option() -> None:
    def test(it: Asked) -> None:
        info = it.question.info()
        assert info.kind == "k" * 256
        assert info.options == [PermissionOption(id="i" * 300, name="n" * 256, kind="")]

    asked(test, kind="k" * 300, options=[{"optionId": "i" * 300, "name": "n" * 300, "kind": 5}])


# By configuration


@pytest.mark.parametrize(
    ("decision", "option"), [("allow", "once"), ("reject", "never"), ("ask", None)], ids=str
)
def test_a_policy_chooses_what_allows_no_more_than_once(decision: Decision, option: str | None) -> None:
    def test(it: Asked) -> None:
        assert it.question.decide(lambda kind: decision) == (option is not None)
        assert it.outcome == (option and {"outcome": "selected", "optionId": option})

    asked(test, clients=0)


@pytest.mark.parametrize("options", [[], None, "x", [1], [{"kind": "allow_always", "optionId": "a"}]])
def test_a_policy_that_finds_no_option_of_its_kind_leaves_it_to_people(options: Any) -> None:
    def test(it: Asked) -> None:
        assert not it.question.decide(lambda kind: "allow")
        assert it.outcome is None

    asked(test, clients=0, options=options)


def test_the_policy_is_asked_about_the_kind_of_the_tool() -> None:
    def test(it: Asked) -> None:
        kinds: list[str] = []
        it.question.decide(lambda kind: kinds.append(kind) or "ask")  # type: ignore[func-returns-value]
        assert kinds == ["execute"]

    asked(test, kind="execute")
