# SPDX-License-Identifier: Apache-2.0
"""Several accounts in one container: each has its own sessions and agents, unless they are to be shared.

In system mode, as root: other accounts are let in nowhere else.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.acp_client import Client, process, reason, result, texts
from support.embedded import house
from support.system import System

ALICE, BOB, EVE = 64001, 64002, 64003
Systems = Callable[..., System]


@pytest.fixture
def systems(tmp_path: Path) -> Iterator[Systems]:
    """Starts an agentd that ALICE and BOB may use."""
    started: list[System] = []

    def systems(switches: str = "", **parts: str) -> System:
        limits = parts.pop("limits", "") + f'\n[access]\nusers = ["{ALICE}"]\n'
        here = f'users = ["{BOB}"]\n' + parts.pop("here", "")
        system = System(tmp_path, house(tmp_path, {"alpha": switches}, limits=limits, here=here))
        started.append(system)
        system.start()
        return system

    yield systems
    for system in started:
        system.clean_up()


@pytest.fixture
def system(systems: Systems) -> System:
    return systems("--can load --can list")


@pytest.fixture
def both(system: System) -> Iterator[tuple[Client, Client]]:
    """ALICE with a session in which something was said, and BOB with none."""
    with system.client_of(ALICE) as alice, system.client_of(BOB) as bob:
        alice.open().turn("say secret")
        bob.greet()
        yield alice, bob


def listed(client: Client) -> list[str]:
    return [each["sessionId"] for each in result(client.call("session/list"))["sessions"]]


def test_accounts_that_are_configured_may_come_and_others_may_not(system: System) -> None:
    with system.client_of(ALICE) as alice, system.client_of(BOB) as bob, system.client_of(EVE) as eve:
        assert alice.open().turn("say fine")[1] == bob.open().turn("say fine")[1] == ["fine"]
        assert reason(eve.attach("here")) == "access_denied"


def test_accounts_share_no_agent_process(both: tuple[Client, Client]) -> None:
    alice, bob = both
    bob.session = bob.new_session()
    assert process(alice) != process(bob)


def test_clients_of_one_account_share_it(system: System) -> None:
    with system.client_of(ALICE) as one, system.client_of(ALICE) as two:
        one.open(), two.open()
        assert process(one) == process(two)


def test_sessions_of_others_are_not_listed(both: tuple[Client, Client], system: System) -> None:
    alice, bob = both
    bob.session = bob.new_session()
    assert (listed(alice), listed(bob)) == ([alice.session], [bob.session])
    with system.client_of(ALICE) as again:
        again.greet()
        assert listed(again) == [alice.session]


OPENING = ["session/load", "session/resume", "session/fork", "session/close", "session/delete"]


@pytest.mark.parametrize("method", OPENING)
def test_sessions_of_others_are_not_found(both: tuple[Client, Client], method: str) -> None:
    alice, bob = both
    error = bob.call(method, {"sessionId": alice.session, "cwd": "/"})["error"]
    assert (error["code"], error["data"]) == (
        -32002, {"reason": "no_such_session", "sessionId": alice.session}
    )  # fmt: skip
    assert alice.turn("say fine")[1] == ["fine"]


@pytest.mark.parametrize("method", ["session/prompt", "session/set_mode", "session/set_config_option"])
def test_nothing_can_be_done_in_sessions_of_others(both: tuple[Client, Client], method: str) -> None:
    alice, bob = both
    params = {"sessionId": alice.session, "prompt": [{"type": "text", "text": "say mine"}], "modeId": "x"}
    assert reason(bob.call(method, params)) == "no_such_session"
    assert alice.turn("say fine")[1] == ["fine"]


def test_turns_of_others_cannot_be_cancelled(both: tuple[Client, Client]) -> None:
    alice, bob = both
    turn = alice.prompt("say on", "hold", "say off")
    alice.until_text("on")
    bob.cancel(alice.session)
    bob.notify("_release", {"sessionId": alice.session})
    bob.call("_echo", {})
    alice.notify("_release", {"sessionId": alice.session})
    answer, before = alice.answer_to(turn)
    assert (answer["result"]["stopReason"], texts(before)) == ("end_turn", ["off"])


def test_the_owner_comes_back_to_it(both: tuple[Client, Client], system: System) -> None:
    alice, _ = both
    with system.client_of(ALICE) as again:
        again.greet()
        assert texts(again.load(alice.session)[1]) == ["secret"]


def test_what_is_about_no_session_is_for_its_own_account(both: tuple[Client, Client]) -> None:
    alice, bob = both
    bob.session = bob.new_session()
    alice.turn('tell _auth/status_update {"who": "alice"}')
    assert bob.answer_to(bob.request("_echo"))[1] == []


def test_root_does_not_see_them_either(both: tuple[Client, Client], system: System) -> None:
    alice, _ = both
    with system.client() as root:
        root.greet()
        assert listed(root) == []
        assert reason(root.load(alice.session)[0]) == "no_such_session"


# Shared


@pytest.fixture
def sharing(systems: Systems) -> System:
    return systems("--can load", here="share_sessions = true")


def test_shared_sessions_are_there_for_all_who_may_come(sharing: System) -> None:
    with sharing.client_of(ALICE) as alice, sharing.client_of(BOB) as bob:
        alice.open().turn("say one")
        bob.greet()
        assert listed(bob) == [alice.session]
        assert texts(bob.load(alice.session)[1]) == ["one"]
        assert bob.turn("say two")[1] == ["two"]
        assert process(alice, sessionId=alice.session) == process(bob, sessionId=alice.session)


def test_a_shared_session_stays_its_owners(sharing: System) -> None:
    """Its agent, started anew, is the owner's, not that of whoever prompts."""
    with sharing.client_of(ALICE) as alice, sharing.client_of(BOB) as bob:
        alice.open().turn("say one")
        bob.open()
        own = bob.session
        assert "result" in bob.load(alice.session)[0]
        assert reason(bob.turn("exit 1")[0]) == "agent_exited"
        assert bob.turn("say two")[1] == ["two"]
        assert process(bob, sessionId=alice.session) != process(bob, sessionId=own)


def test_a_session_forked_of_a_shared_one_is_served_by_its_agent(systems: Systems) -> None:
    system = systems("--can fork", here="share_sessions = true")
    with system.client_of(ALICE) as alice, system.client_of(BOB) as bob:
        alice.open().turn("say one")
        bob.greet()
        fork = str(result(bob.call("session/fork", {"sessionId": alice.session, "cwd": "/"}))["sessionId"])
        assert texts(bob.answer_to(bob.prompt("say two", session=fork))[1])[-1] == "two"


# Limits are for each


def test_one_account_cannot_take_all_places(systems: Systems) -> None:
    system = systems(limits="clients_per_uid = 2")
    with system.client_of(ALICE) as one, system.client_of(ALICE) as two:
        one.open(), two.open()
        with system.client_of(ALICE) as three:
            assert reason(three.attach("here")) == "too_many_clients"
        with system.client_of(BOB) as bob:
            assert bob.open().turn("say fine")[1] == ["fine"]


def test_one_account_cannot_have_all_sessions(systems: Systems) -> None:
    system = systems(limits="sessions_per_uid = 2")
    with system.client_of(ALICE) as alice, system.client_of(BOB) as bob:
        alice.open().new_session()
        assert reason(alice.call("session/new", {"cwd": "/", "mcpServers": []})) == "too_many_sessions"
        assert bob.open().turn("say fine")[1] == ["fine"]


def test_one_account_cannot_keep_others_waiting_at_the_door(systems: Systems) -> None:
    system = systems(limits="pending_per_uid = 1")
    with system.client_of(ALICE), system.client_of(ALICE) as more:
        assert reason(more.read()) == "too_many_connections"
        with system.client_of(BOB) as bob:
            assert bob.open().turn("say fine")[1] == ["fine"]
