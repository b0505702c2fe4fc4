# SPDX-License-Identifier: Apache-2.0
"""Requests for permission: who is asked, whose answer counts, and what the configuration says to them."""

import json
from collections.abc import Iterator

import pytest

from support.acp_client import Client, Frame, process, result, texts
from support.embedded import Embedded, Start, eventually

ASK = "session/request_permission"


@pytest.fixture
def pair(agentd: Embedded) -> Iterator[tuple[Client, Client]]:
    """A client with a session, and another one that is in it too."""
    with agentd.client() as one, agentd.client() as two:
        one.open()
        two.greet()
        assert "result" in two.load(one.session)[0]
        yield one, two


def choose(client: Client, asked: Frame, option: str) -> None:
    client.send({"id": asked["id"], "result": {"outcome": {"outcome": "selected", "optionId": option}}})


def outcome(client: Client, turn: int) -> str:
    """What the agent says that it was answered, at the end of the turn."""
    answer, before = client.answer_to(turn)
    assert "result" in answer
    return [text.removeprefix("permission: ") for text in texts(before) if text.startswith("permission")][-1]


# Who is asked


def test_everybody_in_the_session_is_asked_the_same(pair: tuple[Client, Client]) -> None:
    one, two = pair
    one.prompt("ask May I?")
    asked = [client.until(ASK) for client in pair]
    assert asked[0]["params"] == asked[1]["params"]
    assert asked[0]["params"]["toolCall"]["title"] == "May I?"
    choose(two, asked[1], "no")


@pytest.mark.parametrize("first", [0, 1])
def test_the_first_answer_counts(pair: tuple[Client, Client], first: int) -> None:
    one, _ = pair
    turn = one.prompt("ask May I?", "hold")
    asked = [client.until(ASK) for client in pair]
    quick, slow = pair[first], pair[1 - first]
    choose(quick, asked[first], "yes")
    withdrawn = slow.until("$/cancel_request")
    assert withdrawn["params"]["requestId"] == asked[1 - first]["id"]
    choose(slow, asked[1 - first], "no")
    slow.notify("_release")
    assert outcome(one, turn) == "yes"


def test_who_is_only_attached_to_the_agent_is_not_asked(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as other:
        one.open()
        other.open()
        turn = one.prompt("ask May I?")
        choose(one, one.until(ASK), "yes")
        assert outcome(one, turn) == "yes"
        assert [frame.get("method") for frame in other.answer_to(other.request("_echo"))[1]] == []


def test_an_error_does_not_decide_where_another_could(pair: tuple[Client, Client]) -> None:
    one, two = pair
    turn = one.prompt("ask May I?")
    asked = [client.until(ASK) for client in pair]
    two.send({"id": asked[1]["id"], "error": {"code": -32601, "message": "what is that?"}})
    process(two)
    choose(one, asked[0], "yes")
    assert outcome(one, turn) == "yes"


def test_an_error_of_all_is_no_permission(pair: tuple[Client, Client]) -> None:
    one, two = pair
    turn = one.prompt("ask May I?")
    asked = [client.until(ASK) for client in pair]
    for client, question in zip((two, one), (asked[1], asked[0]), strict=True):
        client.send({"id": question["id"], "error": {"code": -32601, "message": "what is that?"}})
    assert outcome(one, turn) not in ("yes", "no")


def test_a_decision_of_one_who_left_is_left_to_the_other(pair: tuple[Client, Client]) -> None:
    one, two = pair
    turn = one.prompt("ask May I?")
    asked = [client.until(ASK) for client in pair]
    two.close()
    choose(one, asked[0], "yes")
    assert outcome(one, turn) == "yes"


# Nobody is there


@pytest.mark.parametrize("method", ["session/load", "session/resume"])
def test_it_waits_for_whoever_comes_next(agentd: Embedded, method: str) -> None:
    with agentd.client() as two:
        two.greet()
        with agentd.client() as one:
            one.open().prompt("ask May I?", "hold")
            one.until(ASK)
        assert "result" in two.load(one.session, method)[0]
        asked = two.until(ASK)
        assert asked["params"]["toolCall"]["title"] == "May I?"
        choose(two, asked, "yes")
        two.until_text("permission: yes")
        two.notify("_release")


def test_it_waits_though_it_was_asked_for_with_nobody_there(agentd: Embedded) -> None:
    with agentd.client() as two:
        two.greet()
        with agentd.client() as one:
            one.open().prompt("say one", "hold", "stderr about to ask", "ask May I?")
            one.until_text("one")
        two.notify("_release")
        eventually(lambda: "about to ask" in agentd.log())
        assert "result" in two.load(one.session)[0]
        choose(two, two.until(ASK), "no")
        two.until_text("permission: no")


def test_it_is_cancelled_when_nobody_comes(start: Start) -> None:
    agentd = start(limits="permission_wait_sec = 0.3")
    with agentd.client() as two:
        two.greet()
        with agentd.client() as one:
            one.open().prompt("ask May I?", "stderr was answered")
            one.until(ASK)
        eventually(lambda: "was answered" in agentd.log())
        assert texts(two.load(one.session)[1]) == ["permission: cancelled"]


def test_it_waits_as_long_as_somebody_is_there(start: Start) -> None:
    with start(limits="permission_wait_sec = 0.2").client() as client:
        turn = client.open().prompt("ask May I?")
        asked = client.until(ASK)
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(20)
        choose(client, asked, "yes")
        assert outcome(client, turn) == "yes"


# Cancelling


def test_a_cancelled_turn_has_its_question_cancelled(pair: tuple[Client, Client]) -> None:
    one, two = pair
    turn = one.prompt("ask May I?")
    asked = [client.until(ASK) for client in pair]
    one.cancel()
    for client, question in zip(pair, asked, strict=True):
        assert client.until("$/cancel_request")["params"]["requestId"] == question["id"]
    answer = one.answer_to(turn)[0]
    assert answer["result"]["stopReason"] == "cancelled"
    assert texts([two.until("session/update")]) == ["permission: cancelled"]


def test_an_agent_that_ignores_cancel_is_still_answered(start: Start) -> None:
    with start("--ignore-cancel").client() as client:
        turn = client.open().prompt("ask May I?")
        client.until(ASK)
        client.cancel()
        assert outcome(client, turn) == "cancelled"


def test_a_question_that_the_agent_withdraws_is_withdrawn_from_all(pair: tuple[Client, Client]) -> None:
    one, _ = pair
    one.prompt('tell $/cancel_request {"requestId": 0}', "say fine")  # of nothing: does no harm
    one.until_text("fine")
    turn = one.prompt("withdraw May I?", "say done")
    asked = [client.until(ASK) for client in pair]
    for client, question in zip(pair, asked, strict=True):
        assert client.until("$/cancel_request")["params"]["requestId"] == question["id"]
    assert "done" in texts(one.answer_to(turn)[1])


# What the configuration says


def rules(**decisions: str) -> str:
    return "[permissions]\n" + "".join(f'{kind} = "{what}"\n' for kind, what in decisions.items())


@pytest.mark.parametrize(("decision", "option"), [("allow", "yes"), ("reject", "no")])
def test_a_rule_answers_and_the_log_says_so(start: Start, decision: str, option: str) -> None:
    agentd = start(limits=rules(execute=decision))
    with agentd.client() as client:
        turn = client.open().prompt("want execute")
        _, before = client.answer_to(turn)
        assert [frame["method"] for frame in before] == ["session/update"]
        assert texts(before) == [f"permission: {option}"]
        line = eventually(lambda: [each for each in agentd.log().splitlines() if "as configured" in each])[0]
    assert f"execute: {decision}, as configured" in line and "agentd.worker" in line
    assert f"session={client.session}" in line and "container=here" in line


@pytest.mark.parametrize("kind", ["edit", "delete", "other", "never_heard_of", "_own"])
def test_a_rule_is_for_its_kind_only(start: Start, kind: str) -> None:
    with start(limits=rules(read="allow", execute="allow")).client() as client:
        turn = client.open().prompt(f"want {kind}")
        choose(client, client.until(ASK), "no")
        assert outcome(client, turn) == "no"


def test_an_unknown_kind_goes_by_the_rule_for_the_others(start: Start) -> None:
    with start(limits=rules(other="reject")).client() as client:
        assert client.open().turn("want never_heard_of")[1] == ["permission: no"]


def test_a_containers_own_rules_come_first(several: Start) -> None:
    own = '[containers.here.permissions]\nedit = "reject"\nread = "ask"'
    agentd = several({"alpha": ""}, limits=rules(edit="allow", read="allow", search="allow"), here=own)
    with agentd.client() as client:
        assert client.open().turn("want edit")[1] == ["permission: no"]
        assert client.turn("want search")[1] == ["permission: yes"]
        turn = client.prompt("want read")
        choose(client, client.until(ASK), "no")
        assert outcome(client, turn) == "no"


def want(*options: tuple[str, str], tool: object = None) -> str:
    """A prompt that asks, for reading, with only these options (id, kind)."""
    offered = [{"optionId": name, "name": name, "kind": kind} for name, kind in options]
    call = {"toolCallId": "1", "kind": "read"} if tool is None else tool
    return json.dumps({"sessionId": "SESSION", "toolCall": call, "options": offered})


@pytest.mark.parametrize(
    "asked",
    [
        want(("always", "allow_always"), ("no", "reject_once")),
        want(("no", "reject_once")),
        want(),
        want(("yes", "allow_once"), tool=[]),
    ],
)
def test_what_a_rule_cannot_answer_a_person_is_asked(start: Start, asked: str) -> None:
    """It never allows more than this once, and guesses nothing."""
    with start(limits=rules(read="allow")).client() as client:
        client.open()
        turn = client.prompt(f"call {ASK} {asked.replace('SESSION', client.session)}")
        question = client.until(ASK)
        client.send({"id": question["id"], "result": {"outcome": {"outcome": "cancelled"}}})
        assert texts(client.answer_to(turn)[1]) == ['{"outcome": {"outcome": "cancelled"}}']


def test_a_rule_also_answers_with_nobody_there(start: Start) -> None:
    agentd = start(limits=rules(edit="allow"))
    with agentd.client() as two:
        two.greet()
        with agentd.client() as one:
            one.open().prompt("say one", "hold", "ask May I?", "stderr was answered")
            one.until_text("one")
        two.notify("_release")
        eventually(lambda: "was answered" in agentd.log())
        assert texts(two.load(one.session)[1]) == ["one", "permission: yes"]


def test_a_rule_that_is_reloaded_holds_from_then_on(start: Start) -> None:
    agentd = start(limits=rules(edit="allow"), bus="private")
    with agentd.client() as client:
        assert client.open().turn("want edit")[1] == ["permission: yes"]
        agentd.config.write_text(agentd.config.read_text().replace('edit = "allow"', 'edit = "reject"'))
        assert agentd.agentctl("reload").returncode == 0
        eventually(lambda: client.turn("want edit")[1] == ["permission: no"], "it is known")


def test_permission_is_asked_with_what_the_agent_wrote(client: Client) -> None:
    asked = want(("yes", "allow_once"), tool={"toolCallId": "1", "kind": "read", "_meta": {"x": [1.0]}})
    turn = client.prompt(f"call {ASK} {asked.replace('SESSION', client.session)}")
    question = client.until(ASK)
    assert question["params"] == json.loads(asked.replace("SESSION", client.session))
    answer = {"outcome": {"outcome": "selected", "optionId": "yes", "_meta": None}, "_kept": {"y": 1}}
    client.send({"id": question["id"], "result": answer})
    assert [json.loads(each) for each in texts(client.answer_to(turn)[1])] == [answer]
    assert result(client.call("_echo", {})) == {}
