# SPDX-License-Identifier: Apache-2.0
"""A turn and what belongs to it, through manager, worker and a real agent process."""

from support.acp_client import Client, reason, texts
from support.embedded import Embedded, Start


def test_turn_with_streamed_answer(client: Client) -> None:
    answer, said = client.turn("say one", "say two")
    assert answer["result"]["stopReason"] == "end_turn"
    assert said == ["one", "two"]


def test_permission_is_asked_and_answered(client: Client) -> None:
    turn = client.prompt("ask May I?")
    asked = client.until("session/request_permission")
    client.send({"id": asked["id"], "result": {"outcome": {"outcome": "selected", "optionId": "no"}}})
    answer, before = client.answer_to(turn)
    assert texts(before) == ["permission: no"]
    assert answer["result"]["stopReason"] == "end_turn"


def test_cancel_ends_the_turn(client: Client) -> None:
    turn = client.prompt("say started", "cancelled")
    client.until_text("started")
    client.cancel()
    assert client.answer_to(turn)[0]["result"]["stopReason"] == "cancelled"


def test_prompts_run_one_after_the_other(client: Client) -> None:
    first, second = client.prompt("say one", "hold", "say two"), client.prompt("say three")
    client.until_text("one")
    client.notify("_release")
    ended, before = client.answer_to(first)
    assert "result" in ended and texts(before) == ["two"]
    assert texts(client.answer_to(second)[1]) == ["three"]


def test_eleventh_waiting_prompt_is_refused(client: Client) -> None:
    client.prompt("say running", "hold")
    client.until_text("running")
    waiting = [client.prompt("say later") for _ in range(10)]
    assert reason(client.answer_to(client.prompt("say never"))[0]) == "queue_full"
    client.notify("_release")
    assert all("result" in client.answer_to(number)[0] for number in waiting)


def test_cancel_answers_what_waits(client: Client) -> None:
    running, waiting = client.prompt("say running", "cancelled"), client.prompt("say never")
    client.until_text("running")
    client.cancel()
    assert client.answer_to(waiting)[0]["result"] == {"stopReason": "cancelled"}
    assert client.answer_to(running)[0]["result"]["stopReason"] == "cancelled"


def test_unknown_methods_and_members_pass_both_ways(client: Client) -> None:
    params = {"_meta": {"x": [None, {"y": 1.5}]}, "sessionId": client.session, "new": "ü\u2028"}
    assert client.call("_echo", params)["result"] == params
    client.notify("_echo", params)
    assert client.until("_echo")["params"] == params


def test_errors_of_the_agent_pass_through(client: Client) -> None:
    error = client.call("_no_such_method")["error"]
    assert error == {
        "code": -32601,
        "message": "no _no_such_method here",
        "data": {"method": "_no_such_method"},
    }


def test_string_and_null_ids_stay_what_they_are(client: Client) -> None:
    for number in ("a string", None, 2**53, -1):
        client.send({"id": number, "method": "_echo", "params": {"n": 1}})
        assert client.read() == {"jsonrpc": "2.0", "id": number, "result": {"n": 1}}


def test_same_ids_of_client_and_agent_do_not_mix(client: Client) -> None:
    """The agent's first request has id 0 of its own; the client answers it while its own 0 is open."""
    client.send({"id": 0, "method": "_wait", "params": {"mine": True}})
    turn = client.prompt('call _question {"q": 1}')
    asked = client.until("_question")
    client.send({"id": asked["id"], "result": {"answer": 2}})
    assert texts(client.answer_to(turn)[1]) == ['{"answer": 2}']
    client.notify("_release")
    assert client.answer_to(0)[0]["result"] == {"mine": True}


def test_cancel_request_reaches_the_agent_under_its_own_id(client: Client) -> None:
    pending = client.request("_wait")
    client.notify("$/cancel_request", {"requestId": pending, "_meta": {"kept": 1}})
    client.notify("_release")
    assert "result" in client.answer_to(pending)[0]


def test_agent_withdraws_a_request(client: Client) -> None:
    client.prompt('tell $/cancel_request {"requestId": 0}', "call _question {}")
    turn = client.prompt("call _second {}")
    first = client.until("_question")
    client.send({"id": first["id"], "error": {"code": -32800, "message": "cancelled"}})
    second = client.until("_second")
    client.send({"id": second["id"], "result": {}})
    assert "result" in client.answer_to(turn)[0]


def test_two_clients_have_a_session_each(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        one.open(), two.open()
        assert one.session != two.session
        first = one.prompt("say mine", "hold")
        assert two.turn("say yours")[1] == ["yours"]
        one.notify("_release")
        assert texts(one.answer_to(first)[1]) == ["mine"]


def test_half_closed_client_gets_its_answer(start: Start) -> None:
    """It cannot answer any more, and nobody else comes to."""
    with start(limits="permission_wait_sec = 0.3").client() as client:
        turn = client.open().prompt("say one", "ask May I?", "say two")
        client.sock.shutdown(1)
        answer, before = client.answer_to(turn)
        assert texts(before) == ["one", "permission: cancelled", "two"]
        assert answer["result"]["stopReason"] == "end_turn"
        assert client.at_end()


def test_large_frames_pass(client: Client) -> None:
    big = {"text": "x" * (20 << 20)}
    assert client.call("_echo", big)["result"] == big


def test_half_a_character_is_passed_on_where_nothing_is_rewritten_and_mended_elsewhere(
    client: Client,
) -> None:
    """JavaScript leaves such halves where it cuts a text: JSON allows them, and not everybody reads them."""
    turn = client.prompt('raw {"jsonrpc":"2.0","method":"_half","params":{"text":"\\ud83d"}}')
    assert client.until("_half")["params"] == {"text": "\ud83d"}
    assert "result" in client.answer_to(turn)[0]
    client.raw(b'{"jsonrpc":"2.0","id":9000,"method":"_echo","params":{"text":"\\ud83d\\ude00 \\ud83d"}}\n')
    assert client.answer_to(9000)[0]["result"] == {"text": "😀 \ufffd"}
