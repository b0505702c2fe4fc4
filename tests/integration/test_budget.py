# SPDX-License-Identifier: Apache-2.0
"""Budgets of turns: what is past them is refused with a reason, and no restart forgets what was used."""

from integration.test_durable import again, kill_worker, rows
from integration.test_reload import reload
from support.acp_client import Client, Frame, process, reason
from support.embedded import Embedded, Start, eventually


def budget(**limits: int) -> str:
    """A table for the end of an agent's."""
    return "[budget]\n" + "".join(f"{name} = {most}\n" for name, most in limits.items())


def refusal(client: Client, session: str = "") -> Frame:
    """What one more prompt is answered with."""
    answer, before = client.answer_to(client.prompt("say never", session=session))
    assert (reason(answer), before) == ("budget_exhausted", [])
    error = answer["error"]
    assert isinstance(error, dict)
    return error


def turns(agentd: Embedded) -> int:
    """How many are kept."""
    return len(rows(agentd, "SELECT 1 FROM turn"))


def used(agentd: Embedded) -> object:
    return agentd.container()["budget"]


def test_a_container_has_no_more_turns_a_minute_than_it_may(start: Start) -> None:
    agentd = start(agent=budget(turns_per_minute=3))
    with agentd.client() as one, agentd.client() as two:
        one.open(), two.open()
        for client, text in ((one, "one"), (two, "two"), (one, "three")):
            assert client.turn(f"say {text}")[1] == [text]
        error = refusal(one)
        assert error["code"] == -32603 and 1 <= error["data"]["retry_after_sec"] <= 60
        assert "container here has used up its 3 turns a minute (turns_per_minute in" in error["message"]
        refusal(two)
        refusal(two, session=two.new_session())
        assert turns(agentd) == 3


def test_a_session_has_no_more_turns_a_day_than_it_may(start: Start) -> None:
    agentd = start(agent=budget(session_turns_per_day=1))
    with agentd.client() as client:
        client.open().turn("say one")
        error = refusal(client)
        assert "this session has used up its 1 turn a day" in error["message"]
        assert 86_300 < error["data"]["retry_after_sec"] <= 86_400
        refusal(client)
        used_up, client.session = client.session, client.new_session()
        assert client.turn("say two")[1] == ["two"]
        refusal(client, session=used_up)
    eventually(lambda: "this session has used up" in agentd.log(), "it is logged")
    agentd.stop()
    assert agentd.log().count("this session has used up") == 1, "said once, and not of every prompt"


def test_prompts_that_wait_use_the_budget_up_until_they_are_withdrawn(start: Start) -> None:
    agentd = start(agent=budget(turns_per_day=2))
    with agentd.client() as client:
        running = client.open().prompt("say on", "hold")
        client.until_text("on")
        waiting = client.prompt("say waiting")
        refusal(client)
        client.notify("$/cancel_request", {"requestId": waiting})
        assert reason(client.answer_to(waiting)[0]) == "request_cancelled"
        last = client.prompt("say last")
        refusal(client)
        client.notify("_release")
        assert all("result" in client.answer_to(each)[0] for each in (running, last))
        refusal(client)


def test_a_worker_that_was_killed_has_used_nothing_less(start: Start) -> None:
    agentd = start(agent=budget(turns_per_day=2, session_turns_per_day=1))
    with agentd.client() as one, agentd.client() as two:
        one.open().turn("say one")
        two.open().turn("say two")
        kill_worker(agentd)
    back, _ = again(agentd, one.session)
    with back:
        assert "its 2 turns a day" in refusal(back, session=back.new_session())["message"]
        reload(agentd, agentd.config.read_text().replace("\nturns_per_day = 2", "\nturns_per_day = 9"))
        eventually(lambda: "its 1 turn a day" in refusal(back)["message"], "the worker has heard of it")


def test_what_waited_when_the_worker_was_killed_has_not_begun(start: Start) -> None:
    agentd = start(agent=budget(turns_per_day=3))
    with agentd.client() as client:
        client.open().prompt("say on", "hold")
        client.until_text("on")
        client.prompt("say waiting")
        eventually(lambda: rows(agentd, "SELECT 1 FROM turn WHERE progress = 'queued'"), "it is on disk")
        kill_worker(agentd)
    back, _ = again(agentd, client.session)
    with back:
        back.turn("say two"), back.turn("say three")
        refusal(back)


def test_where_nothing_is_kept_the_next_worker_begins_at_zero(start: Start) -> None:
    agentd = start(agent='[store]\ntranscripts = "off"\n' + budget(turns_per_day=1))
    with agentd.client() as client:
        client.open().turn("say one")
        refusal(client)
        kill_worker(agentd)
    with agentd.client() as client:
        assert client.open().turn("say two")[1] == ["two"]
        refusal(client)


def test_a_limit_that_is_raised_lets_it_go_on_with_what_was_used(start: Start) -> None:
    agentd = start(agent=budget(turns_per_day=1))
    with agentd.client() as client:
        client.open().turn("say one")
        refusal(client)
        served_by = process(client)
        reload(agentd, agentd.config.read_text().replace("turns_per_day = 1", "turns_per_day = 2"))
        eventually(lambda: "result" in client.turn("say two")[0], "the worker has heard of it")
        refusal(client)
        assert process(client) == served_by


def test_what_a_container_says_comes_before_the_general_and_status_shows_it(several: Start) -> None:
    agentd = several(
        {"alpha": ""},
        limits=budget(turns_per_minute=50, turns_per_day=1),
        here="budget = { turns_per_day = 2 }",
        bus="private",
    )
    with agentd.client() as client:
        client.open()
        shown = {"last_minute": 0, "last_day": 0, "per_minute": 50, "per_day": 2}
        assert used(agentd) == shown
        client.turn("say one"), client.turn("say two")
        refusal(client)
        shown |= {"last_minute": 2, "last_day": 2}
        eventually(lambda: used(agentd) == shown, "the status shows two")


def test_status_shows_no_budget_where_there_is_none(start: Start) -> None:
    agentd = start(bus="private")
    with agentd.client() as client:
        client.open().turn("say one")
        assert used(agentd) is None
