# SPDX-License-Identifier: Apache-2.0
"""Sessions that outlive connections and agents, and several clients in one of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.acp_client import Client, Frame, process, reason, result, texts, told, updates
from support.embedded import Embedded, Start, eventually, memory


@pytest.fixture
def pair(agentd: Embedded) -> Iterator[tuple[Client, Client]]:
    """A client with a session, and another one that watches it."""
    with agentd.client() as one, agentd.client() as two:
        one.open()
        two.greet()
        assert "result" in two.load(one.session)[0]
        yield one, two


def prompts(frames: list[Frame]) -> list[str]:
    """The texts of other people's prompts."""
    return [each["content"]["text"] for each in updates(frames, "user_message_chunk")]


def until_turn_ended(client: Client) -> list[Frame]:
    """What comes up to the end of somebody else's turn, which is the last frame."""
    seen = [client.read()]
    while "agentd.turn" not in (seen[-1].get("params", {}).get("update", {}).get("_meta") or {}):
        seen.append(client.read())
    return seen


def listed(client: Client) -> dict[str, Frame]:
    return {each["sessionId"]: each for each in result(client.call("session/list"))["sessions"]}


# Detached is not gone


def test_a_turn_goes_on_without_its_client(agentd: Embedded) -> None:
    with agentd.client() as two:
        two.greet()
        with agentd.client() as one:
            one.open().prompt("say before", "hold", "say after")
            one.until_text("before")
        assert one.session in listed(two)
        _, shown = two.load(one.session)
        assert (prompts(shown), texts(shown)) == (["say before\nhold\nsay after"], ["before"])
        two.notify("_release")
        assert texts(until_turn_ended(two)) == ["after"]
        assert two.turn("say mine")[1] == ["mine"]


def test_what_was_said_meanwhile_is_shown(agentd: Embedded) -> None:
    with agentd.client() as two:
        two.greet()
        with agentd.client() as one:
            one.open().prompt("say before", "updates 100 10", "stderr it has ended")
            one.until_text("before")
        eventually(lambda: "it has ended" in agentd.log(), "the turn ran to its end")
        assert texts(two.load(one.session)[1]) == ["before", *(["x" * 10] * 100)]


def test_load_shows_everything_once_and_in_order(client: Client, agentd: Embedded) -> None:
    client.turn("say one", "say two")
    client.turn("say three")
    with agentd.client() as other:
        other.greet()
        answer, shown = other.load(client.session)
        assert "result" in answer
        assert prompts(shown) == ["say one\nsay two", "say three"]
        assert texts(shown) == ["one", "two", "three"]
        assert {each["params"]["sessionId"] for each in shown} == {client.session}


def test_loading_while_the_agent_speaks_loses_and_doubles_nothing(agentd: Embedded) -> None:
    with agentd.client() as one, agentd.client() as two:
        one.open().prompt("count 5000")
        two.greet()
        _, shown = two.load(one.session)
        live = until_turn_ended(two)
        assert texts([*shown, *live]) == [str(number) for number in range(5000)]


def test_resume_shows_nothing_of_before_and_everything_from_then(pair: tuple[Client, Client]) -> None:
    one, two = pair
    one.turn("say before")
    until_turn_ended(two)
    answer, shown = two.load(one.session, "session/resume")
    assert "result" in answer and shown == []
    one.turn("say after")
    assert texts(until_turn_ended(two)) == ["after"]


def test_the_agent_is_not_asked_to_load_what_it_has(start: Start) -> None:
    agentd = start("--can", "load", "--can", "resume", "--can", "list")
    with agentd.client() as one, agentd.client() as two:
        one.open().turn("say one")
        two.greet()
        for method in ("session/load", "session/resume"):
            assert "result" in two.load(one.session, method)[0]
            assert told(two, method) is None


def test_loading_answers_with_modes_and_options_as_they_are_now(start: Start) -> None:
    agentd = start("--models", "small,large", "--modes", "plan,code")
    with agentd.client() as one, agentd.client() as two:
        one.open(agent="scripted")
        one.call("session/set_mode", {"sessionId": one.session, "modeId": "code"})
        one.call(
            "session/set_config_option", {"sessionId": one.session, "configId": "model", "value": "large"}
        )
        two.greet(agent="scripted")
        told_now = result(two.load(one.session)[0])
        assert told_now["modes"]["currentModeId"] == "code"
        assert [each["currentValue"] for each in told_now["configOptions"]] == ["large"]


def test_a_session_nobody_has_used_goes_with_its_client(agentd: Embedded) -> None:
    with agentd.client() as two:
        two.greet()
        with agentd.client() as one:
            one.open()
            assert one.session in listed(two)
        eventually(lambda: one.session not in listed(two), "it was dropped")
        assert reason(two.load(one.session)[0]) == "no_such_session"


def test_a_session_says_its_title_directory_and_agent_in_the_list(client: Client) -> None:
    client.turn("say hello")
    [entry] = listed(client).values()
    assert (entry["title"], entry["cwd"], entry["_meta"]) == ("say hello", "/", {"agentd.agent": "scripted"})
    assert result(client.call("session/list", {"cwd": "/elsewhere"}))["sessions"] == []


def test_a_closed_session_is_closed_for_all(pair: tuple[Client, Client]) -> None:
    one, two = pair
    turn = one.prompt("say on", "hold")
    one.until_text("on")
    assert result(two.call("session/close", {"sessionId": one.session})) == {}
    assert reason(one.answer_to(turn)[0]) == "no_such_session"
    assert reason(one.turn("say no")[0]) == "no_such_session"
    assert one.session in listed(one)  # it can be loaded again


def test_a_deleted_session_is_not_there_any_more(pair: tuple[Client, Client]) -> None:
    one, two = pair
    one.turn("say on")
    assert result(two.call("session/delete", {"sessionId": one.session})) == {}
    assert one.session not in listed(one)
    assert (
        reason(one.call("session/load", {"sessionId": one.session, "cwd": "/", "mcpServers": []}))
        == "no_such_session"
    )


def test_nothing_asked_in_a_closed_session_opens_it_again(pair: tuple[Client, Client]) -> None:
    one, two = pair
    assert "result" in one.call("session/close", {"sessionId": one.session})
    assert reason(two.call("_echo", {"sessionId": one.session})) == "no_such_session"
    assert (
        reason(two.call("session/set_mode", {"sessionId": one.session, "modeId": "x"})) == "no_such_session"
    )
    assert one.session not in listed(two)


# Agents that have gone


def crash(client: Client) -> None:
    assert reason(client.turn("exit 1")[0]) == "agent_exited"


@pytest.fixture
def remembering(start: Start, tmp_path: Path) -> Embedded:
    (tmp_path / "memory").mkdir()
    switches = [each for name in ("load", "resume", "list", "delete") for each in ("--can", name)]
    return start(*switches, "--memory", str(tmp_path / "memory"))


def test_an_agent_started_anew_loads_the_session(remembering: Embedded) -> None:
    with remembering.client() as client:
        client.open().turn("say one")
        old = process(client)
        crash(client)
        assert client.turn("say two")[1] == ["two"]
        assert process(client, sessionId=client.session) != old
        loaded = told(client, "session/load", _meta={"for": client.session})
        assert loaded["sessionId"] == client.session and loaded["cwd"] == "/"


def test_what_it_replays_is_not_shown_twice(remembering: Embedded) -> None:
    with remembering.client() as client, remembering.client() as other:
        client.open().turn("say one")
        crash(client)
        answer, before = client.answer_to(client.prompt("say two"))
        assert "result" in answer and texts(before) == ["two"]
        other.greet()
        assert texts(other.load(client.session)[1]) == ["one", "two"]


def test_an_agent_that_can_only_resume_is_asked_to(start: Start, tmp_path: Path) -> None:
    with start("--can", "resume", "--memory", str(tmp_path)).client() as client:
        client.open().turn("say one")
        crash(client)
        assert client.turn("say two")[1] == ["two"]
        assert told(client, "session/resume")["sessionId"] == client.session
        assert told(client, "session/load") is None


@pytest.mark.parametrize("switches", [(), ("--can", "load")])
def test_one_that_has_forgotten_begins_anew_and_it_is_said(start: Start, switches: tuple[str, ...]) -> None:
    with start(*switches).client() as client:
        client.open().turn("say one")
        crash(client)
        answer, before = client.answer_to(client.prompt("say two"))
        assert "result" in answer and texts(before) == ["two"]
        assert {each["params"]["sessionId"] for each in before} == {client.session}
        notice, _ = updates(before, "agent_message_chunk")
        assert "remembers nothing" in notice["_meta"]["agentd.notice"]


def test_a_mode_and_a_model_are_told_as_the_new_agent_has_them(start: Start) -> None:
    """It has forgotten what was chosen: then clients must not believe that it still holds."""
    with start("--models", "small,large", "--modes", "plan,code").client() as client:
        client.open(agent="scripted")
        chosen = {"sessionId": client.session, "configId": "model", "value": "large"}
        assert "result" in client.call("session/set_config_option", chosen)
        client.turn("say one")
        crash(client)
        _, before = client.answer_to(client.prompt("say two"))
        [told_now] = updates(before, "config_option_update")
        assert [each["currentValue"] for each in told_now["configOptions"]] == ["small"]


def test_a_session_of_another_time_is_listed_and_loaded(remembering: Embedded, tmp_path: Path) -> None:
    said = '{"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "long ago"}}\n'
    (tmp_path / "memory" / "old").write_text(said)
    with remembering.client() as client, remembering.client() as other:
        client.greet(agent="scripted")
        assert listed(client)["old"]["title"] == "kept old"
        assert texts(client.load("old")[1]) == ["long ago"]
        assert client.turn("say now")[1] == ["now"]
        other.greet(agent="scripted")
        assert texts(other.load("old")[1]) == ["long ago", "now"]


def test_a_session_that_nobody_knows_is_not_found(remembering: Embedded) -> None:
    with remembering.client() as client:
        client.greet(agent="scripted")
        error = client.load("nobody")[0]["error"]
        assert (error["code"], error["data"]["sessionId"]) == (-32002, "nobody")
        assert "nobody" not in listed(client)


def test_a_session_can_be_deleted_for_good(remembering: Embedded, tmp_path: Path) -> None:
    with remembering.client() as client:
        client.open(agent="scripted").turn("say one")
        assert (tmp_path / "memory" / client.session).exists()
        assert result(client.call("session/delete", {"sessionId": client.session})) == {"_deleted": True}
        assert not (tmp_path / "memory" / client.session).exists()
        assert client.session not in listed(client)


def test_an_agent_that_nobody_needs_ends_and_comes_back(start: Start, tmp_path: Path) -> None:
    agentd = start("--can", "load", "--memory", str(tmp_path), limits="agent_idle_sec = 0.1")
    with agentd.client() as one:
        one.open().turn("say one")
    eventually(lambda: not agentd.agents(), "it was ended")
    with agentd.client() as two:
        two.greet(capabilities={"other": {}})
        assert texts(two.load(one.session)[1]) == ["one"]
        assert two.turn("say two")[1] == ["two"]


# Watching together


def test_others_see_prompts_answers_and_the_end_of_a_turn(pair: tuple[Client, Client]) -> None:
    one, two = pair
    answer, own = one.answer_to(one.prompt("say one"))
    seen = until_turn_ended(two)
    assert (prompts(own), prompts(seen)) == ([], ["say one"])
    assert texts(own) == texts(seen) == ["one"]
    turn = seen[-1]["params"]["update"]
    assert turn["sessionUpdate"] == "session_info_update"
    assert turn["_meta"]["agentd.turn"] == {"state": "ended", "outcome": answer["result"]["stopReason"]}
    assert all("id" not in frame for frame in seen)


def test_every_block_of_a_prompt_is_seen_as_it_was(pair: tuple[Client, Client]) -> None:
    one, two = pair
    blocks = [{"type": "text", "text": "say fine", "_kept": 1}, {"type": "image", "data": "", "x": [None]}]
    one.call("session/prompt", {"sessionId": one.session, "prompt": blocks})
    seen = updates(until_turn_ended(two), "user_message_chunk")
    assert [each["content"] for each in seen] == blocks


def test_a_turn_that_fails_is_seen_to_end(pair: tuple[Client, Client]) -> None:
    one, two = pair
    crash(one)
    ended = until_turn_ended(two)[-1]["params"]["update"]["_meta"]["agentd.turn"]
    assert ended == {"state": "ended", "outcome": "agent_exited"}


def test_prompts_of_two_clients_run_in_order(pair: tuple[Client, Client]) -> None:
    one, two = pair
    first = one.prompt("say one", "hold")
    one.until_text("one")
    second = two.prompt("say two")
    process(two)  # it has come
    third = one.prompt("say three")
    one.notify("_release")
    assert "result" in one.answer_to(first)[0]
    assert texts(one.answer_to(third)[1]) == ["two", "three"]
    assert "result" in two.answer_to(second)[0]


def test_an_agent_that_refuses_a_second_prompt_never_gets_one(start: Start) -> None:
    agentd = start("--reject-second-prompt")
    with agentd.client() as one, agentd.client() as two:
        one.open()
        two.greet()
        two.load(one.session)
        asked = [(each, each.prompt(f"say {n}")) for n in range(4) for each in (one, two)]
        assert all("result" in each.answer_to(number)[0] for each, number in asked)


def test_a_mode_that_was_set_holds_for_the_prompt_behind(start: Start) -> None:
    with start("--modes", "plan,code").client() as client:
        client.open(agent="scripted")
        client.request("session/set_mode", {"sessionId": client.session, "modeId": "code"})
        assert client.turn("mode")[1] == ["code"]


def test_a_watcher_can_cancel(pair: tuple[Client, Client]) -> None:
    one, two = pair
    turn = one.prompt("say on", "cancelled")
    two.until_text("on")
    two.cancel(one.session)
    assert one.answer_to(turn)[0]["result"]["stopReason"] == "cancelled"


def test_cancelling_leaves_what_another_has_waiting(pair: tuple[Client, Client]) -> None:
    one, two = pair
    turn = one.prompt("say on", "cancelled")
    one.until_text("on")
    mine, waiting = one.prompt("say never"), two.prompt("say later")
    process(two)
    one.cancel()
    assert one.answer_to(mine)[0]["result"]["stopReason"] == "cancelled"
    assert one.answer_to(turn)[0]["result"]["stopReason"] == "cancelled"
    assert texts(two.answer_to(waiting)[1])[-1] == "later"


def test_what_one_sets_the_other_sees(start: Start) -> None:
    agentd = start("--models", "small,large", "--modes", "plan,code")
    with agentd.client() as one, agentd.client() as two:
        one.open(agent="scripted")
        two.greet(agent="scripted")
        two.load(one.session)
        one.call("session/set_mode", {"sessionId": one.session, "modeId": "code"})
        update = two.until("session/update")["params"]["update"]
        assert update == {"sessionUpdate": "current_mode_update", "currentModeId": "code"}
        chosen = {"sessionId": one.session, "configId": "model", "value": "large"}
        one.call("session/set_config_option", chosen)
        update = two.until("session/update")["params"]["update"]
        assert update["sessionUpdate"] == "config_option_update"
        assert [each["currentValue"] for each in update["configOptions"]] == ["large"]


def test_one_who_leaves_does_not_disturb_the_other(pair: tuple[Client, Client]) -> None:
    one, two = pair
    turn = one.prompt("say on", "hold", "say off")
    one.until_text("on")
    two.close()
    one.notify("_release")
    answer, before = one.answer_to(turn)
    assert (answer["result"]["stopReason"], texts(before)) == ("end_turn", ["off"])


# Pace


def flood(client: Client) -> None:
    """10 MB in pieces, each read before the next comes."""
    for _ in range(20):
        assert len(client.turn("updates 50 10000")[1]) == 50


def test_a_stalled_client_is_cut_off_and_the_other_is_not(start: Start) -> None:
    agentd = start(limits="client_buffer_bytes = 1000000")
    with agentd.client() as one, agentd.client() as two:
        one.open()
        two.greet()
        two.load(one.session)
        flood(one)
        eventually(lambda: "cut off" in agentd.log(), "it was cut off")
        assert one.turn("say fine")[1] == ["fine"]
    with agentd.client() as again:
        again.greet()
        assert len(texts(again.load(one.session)[1])) == 1001


def test_a_stalled_client_costs_its_buffer_and_no_more(start: Start) -> None:
    agentd = start(limits="client_buffer_bytes = 1000000\ntranscript_bytes = 1000000")
    with agentd.client() as one, agentd.client() as two:
        one.open()
        two.greet()
        two.load(one.session)
        flood(one)
        eventually(lambda: "cut off" in agentd.log(), "it was cut off")
        [worker] = agentd.workers()
        before = memory(worker, "VmRSS")
        flood(one)
        flood(one)
        assert memory(worker, "VmRSS") - before < 20 << 20


def test_one_frame_larger_than_the_buffer_cuts_nobody_off(pair: tuple[Client, Client]) -> None:
    one, two = pair
    assert len(one.turn("updates 1 12000000")[1][0]) == 12_000_000
    assert len(texts(until_turn_ended(two))[0]) == 12_000_000
    assert two.call("_echo", {"n": 1})["result"] == {"n": 1}


def test_the_agent_waits_for_the_only_client(start: Start) -> None:
    agentd = start(limits="client_buffer_bytes = 1000000\ntranscript_bytes = 1000000")
    with agentd.client() as client:
        turn = client.open().prompt("say on", "updates 5000 10000", "stderr all is written")
        client.until_text("on")
        [worker] = agentd.workers()
        assert memory(worker, "VmHWM") < 100 << 20
        assert "all is written" not in agentd.log()
        answer, before = client.answer_to(turn)
        assert "result" in answer and len(texts(before)) == 5000
        assert memory(worker, "VmHWM") < 100 << 20
        assert "cut off" not in agentd.log()


def test_the_agent_no_longer_waits_once_the_client_is_not_alone(start: Start) -> None:
    agentd = start(limits="client_buffer_bytes = 1000000\ntranscript_bytes = 200000000")
    with agentd.client() as one, agentd.client() as two:
        one.open().prompt("say on", "updates 3000 10000")
        one.until_text("on")
        two.greet()
        _, shown = two.load(one.session)
        live = until_turn_ended(two)
        assert len(texts([*shown, *live])) == 3001


def test_a_client_that_reads_slowly_while_it_is_shown_the_past_is_not_cut_off(start: Start) -> None:
    agentd = start(limits="client_buffer_bytes = 1000000")
    with agentd.client() as one, agentd.client() as two:
        one.open().turn("updates 1000 10000")
        two.greet()
        asked = two.request("session/load", {"sessionId": one.session, "cwd": "/", "mcpServers": []})
        assert one.turn("say meanwhile")[1] == ["meanwhile"]
        answer, shown = two.answer_to(asked)
        assert "result" in answer and len(texts(shown)) in (1000, 1001)
        assert "cut off" not in agentd.log()


def test_leaving_with_the_agent_held_up_lets_it_go_on(start: Start) -> None:
    agentd = start(limits="client_buffer_bytes = 1000000")
    with agentd.client() as client:
        client.open().prompt("say on", "updates 5000 10000", "stderr all is written")
        client.until_text("on")
    eventually(lambda: "all is written" in agentd.log(), "the turn went on")
