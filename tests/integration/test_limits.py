# SPDX-License-Identifier: Apache-2.0
"""Every limit has a reason of its own, and only who goes past it feels it."""

import pytest

from support.acp_client import Client, process, reason, result, texts
from support.embedded import Embedded, Start, eventually

NEW = {"cwd": "/", "mcpServers": []}


def refused(agentd: Embedded) -> str:
    """The reason that one more client is given."""
    with agentd.client() as client:
        return reason(client.attach("here"))


@pytest.mark.parametrize("limit", ["clients", "clients_per_uid"])
def test_clients(start: Start, limit: str) -> None:
    agentd = start(limits=f"{limit} = 2")
    with agentd.client() as one, agentd.client() as two:
        one.open(), two.open()
        assert refused(agentd) == "too_many_clients"
        assert one.turn("say fine")[1] == two.turn("say fine")[1] == ["fine"]


def test_connections_without_a_first_line(start: Start) -> None:
    agentd = start(limits="pending_per_uid = 1")
    with agentd.client() as served:
        served.open()
        with agentd.client(), agentd.client() as more:
            assert reason(more.read()) == "too_many_connections"
            assert more.at_end()
        assert served.turn("say fine")[1] == ["fine"]


@pytest.mark.parametrize("limit", ["sessions", "sessions_per_uid"])
def test_sessions(start: Start, limit: str) -> None:
    with start(limits=f"{limit} = 2").client() as client:
        client.open(agent="scripted").turn("say one")
        client.new_session()
        asked = {"sessionId": client.session, **NEW}
        for method, params in (("session/new", NEW), ("session/fork", asked)):
            answer = client.call(method, params)
            assert reason(answer) == "too_many_sessions" and "2" in answer["error"]["message"]
        assert client.turn("say fine")[1] == ["fine"]


def test_sessions_of_other_times(start: Start) -> None:
    with start("--can", "load", limits="sessions = 1").client() as client:
        client.open(agent="scripted")
        assert reason(client.load("old")[0]) == "too_many_sessions"


@pytest.mark.parametrize("limit", ["sessions", "sessions_per_uid"])
def test_sessions_asked_for_at_once(start: Start, limit: str) -> None:
    with start(limits=f"{limit} = 2").client() as client:
        client.greet(agent="scripted")
        for _ in range(5):
            client.request("session/new", NEW)
        answers = [client.read() for _ in range(5)]
        assert sum("result" in answer for answer in answers) == 2
        assert {reason(answer) for answer in answers if "error" in answer} == {"too_many_sessions"}


@pytest.mark.parametrize("limit", ["sessions", "sessions_per_uid"])
def test_a_session_that_nobody_uses_makes_room(start: Start, limit: str) -> None:
    agentd = start(limits=f"{limit} = 2")
    with agentd.client() as one, agentd.client() as two, agentd.client() as late:
        one.open().turn("say one")
        two.open().turn("say two")
        one.close(), two.close()
        late.greet()
        eventually(lambda: "result" in late.call("session/new", NEW), "the oldest one was put away")
        states = {each["id"]: each["state"] for each in result(late.call("_agentd/sessions"))["sessions"]}
        assert (states[one.session], states[two.session]) == ("kept", "idle")
        eventually(lambda: "result" in late.load(one.session)[0], "it comes back, and another one goes")


def test_a_session_in_a_turn_does_not_have_to_go(start: Start) -> None:
    agentd = start(limits="sessions = 1")
    with agentd.client() as late:
        late.greet()
        with agentd.client() as one:
            one.open().prompt("say one", "hold", "say two")
            one.until_text("one")
        assert reason(late.call("session/new", NEW)) == "too_many_sessions"
        assert texts(late.load(one.session)[1]) == ["one"]
        late.notify("_release")
        late.until_text("two")


def test_prompts_in_a_session_from_all_its_clients(start: Start) -> None:
    agentd = start(limits="prompt_queue = 2")
    with agentd.client() as one, agentd.client() as two:
        one.open().prompt("say on", "hold")
        one.until_text("on")
        two.greet()
        two.load(one.session)
        waiting = [(each, each.prompt("say later")) for each in (one, two)]
        process(one), process(two)  # they have come
        for each in (one, two):
            answer = each.answer_to(each.prompt("say never"))[0]
            assert reason(answer) == "queue_full" and "2" in answer["error"]["message"]
        other = two.new_session()
        assert texts(two.answer_to(two.prompt("say else", session=other))[1])[-1] == "else"
        one.notify("_release")
        assert all("result" in each.answer_to(number)[0] for each, number in waiting)


def test_a_prompt_that_is_withdrawn_makes_room(start: Start) -> None:
    with start(limits="prompt_queue = 1").client() as client:
        turn = client.open().prompt("say on", "hold")
        client.until_text("on")
        waiting = client.prompt("say never")
        client.notify("$/cancel_request", {"requestId": waiting})
        assert client.answer_to(waiting)[0]["error"]["code"] == -32800
        later = client.prompt("say later")
        client.notify("_release")
        assert "result" in client.answer_to(turn)[0]
        assert texts(client.answer_to(later)[1]) == ["later"]


@pytest.mark.parametrize("message", [{"id": 5}, {}])
def test_frames(start: Start, message: dict[str, int]) -> None:
    with start(limits="frame_bytes = 3000").client() as client:
        client.open().send({**message, "method": "_echo", "params": {"x": "x" * 4000}})
        answer = client.read()
        assert (answer["id"], reason(answer)) == (message.get("id"), "frame_too_large")
        assert client.turn("say fine")[1] == ["fine"]


def test_requests_that_wait_for_the_agent(client: Client) -> None:
    for number in range(1100):
        client.send({"id": f"wait {number}", "method": "_patient", "params": {}})
    answer = client.read()
    assert (answer["id"], reason(answer)) == ("wait 1024", "too_many_requests")


def test_requests_that_wait_for_the_hub(start: Start) -> None:
    with start("--hang", "session/new", limits="sessions = 100\nsessions_per_uid = 100").client() as client:
        client.greet(agent="scripted")
        for number in range(65):
            client.send({"id": f"new {number}", "method": "session/new", "params": NEW})
        answer = client.read()
        assert (answer["id"], reason(answer)) == ("new 64", "too_many_requests")


def test_requests_of_a_client_do_not_count_for_another(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        one.open(agent="scripted"), two.open(agent="scripted")
        assert process(one) == process(two)
        for number in range(1100):
            one.send({"id": f"wait {number}", "method": "_patient", "params": {}})
        assert reason(one.read()) == "too_many_requests"
        assert two.turn("say fine")[1] == ["fine"]


def test_what_an_agent_may_say_before_it_is_asked(start: Start) -> None:
    """More than 16 MiB of sessions nobody knows, while one is being made."""
    agentd = start()
    with agentd.client() as client:
        client.open(agent="scripted")
        early = "x" * 17_000_000
        answer = client.call("session/new", {**NEW, "_meta": {"text": early}})
        assert reason(answer) == "limit_reached" and "16777216" in answer["error"]["message"]
        assert client.turn("say fine")[1] == ["fine"]


def test_a_transcript_has_a_bound_and_loses_the_oldest(start: Start) -> None:
    agentd = start(limits="transcript_bytes = 100000", agent='[store]\ntranscripts = "off"')
    with agentd.client() as one, agentd.client() as two:
        one.open()
        for number in range(40):
            one.turn("updates 1 10000", f"say {number}")
        two.greet()
        shown = [text for text in texts(two.load(one.session)[1]) if len(text) < 10]
        assert 0 < len(shown) <= 10
        assert shown == [str(number) for number in range(40 - len(shown), 40)]


def test_a_reason_tells_programs_and_a_sentence_tells_people(start: Start) -> None:
    agentd = start(limits="clients = 1")
    with agentd.client() as one, agentd.client() as two:
        one.attach("here")
        error = two.attach("here")["error"]
        assert error["data"] == {"reason": "too_many_clients"} and error["code"] == -32603
        assert "here" in error["message"]
