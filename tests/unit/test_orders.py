# SPDX-License-Identifier: Apache-2.0
"""What a worker does at the manager's order, through a whole hub."""

import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from agentd import link
from agentd.config import Limits
from agentd.errors import AgentFailed
from agentd.paths import Mode, Paths
from agentd.worker import agents
from agentd.worker.drain import Scope
from agentd.worker.orders import ANSWER_SEC, Order, Orders, refused
from agentd.worker.service import Worker
from unit.loop import run, settle, skip
from unit.test_opening import ENDED, Loading, turn, until_asked
from unit.world import HERE, MINE, FakeAgent, FakeClient, World, in_world, prompt

OPTIONS = [
    {"optionId": "yes", "name": "Yes", "kind": "allow_once"},
    {"optionId": "no", "name": "No", "kind": "reject_once"},
]


class Office:
    """Takes orders for a world, and keeps the answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers: list[link.Answer] = []
        self.orders = Orders(world.hub, self.answers.append)

    async def obey(self, order: Order) -> link.Answer:
        """The answer, which is the only one."""
        number = len(self.answers)
        self.orders.take(order)
        while len(self.answers) == number:
            await settle()
        answer = self.answers[-1]
        assert answer.number == order.number
        return answer

    async def done(self, order: Order) -> None:
        assert await self.obey(order) == link.Answer(number=order.number)


Test = Callable[[World, Office], Coroutine[Any, Any, None]]


def in_office(folder: Path, test: Test, *names: str, **options: Any) -> None:
    async def inside(world: World) -> None:
        await test(world, Office(world))

    in_world(folder, inside, *names, **options)


async def at_work(world: World) -> tuple[FakeClient, str, int]:
    """A client with a session in which a turn runs."""
    client = await world.client("one")
    session = await client.new()
    number = client.request("session/prompt", prompt(session, "hello"))
    await until_asked(world, "session/prompt")
    return client, session, number


async def asked(world: World, session: str, *clients: FakeClient, **more: Any) -> int:
    """The agent wants a permission, and every client has been asked. The agent's number for it."""
    call = {"toolCallId": "t", "title": "Write a file", "kind": "edit"}
    about = {"sessionId": session, "toolCall": call, "options": OPTIONS, **more}
    number = world.agent.ask("session/request_permission", about)
    await world.until(
        lambda: all(each.asked for each in clients) and world.hub.sessions.alive[session]._questions
    )
    return number


def chosen(agent: FakeAgent, number: int) -> Any:
    return agent.outcomes[number]["result"]["outcome"]


@pytest.mark.parametrize(
    "order",
    [
        link.CancelTurn(number=1, session="x"),
        link.CloseSession(number=2, session="x"),
        link.ListPermissions(number=3, session="x"),
        link.ResolvePermission(number=4, session="x", permission="1", option="", uid=0),
    ],
)
def test_a_session_that_is_not_open_is_no_session(tmp_path: Path, order: Order) -> None:
    async def test(world: World, office: Office) -> None:
        answer = await office.obey(order)
        assert (answer.reason, answer.message) == ("no_such_session", "no session x is open here")

    in_office(tmp_path, test)


# Turns and sessions


def test_a_turn_is_cancelled_with_what_waits(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        client, session, number = await at_work(world)
        waiting = client.request("session/prompt", prompt(session, "then"))
        await client.sync()
        await office.done(link.CancelTurn(number=5, session=session))
        assert (await client.answer_to(waiting))["result"] == {"stopReason": "cancelled"}
        await world.until(lambda: [each["method"] for each in world.agent.told] == ["session/cancel"])
        world.agent.answer({"stopReason": "cancelled"})
        assert (await client.answer_to(number))["result"] == {"stopReason": "cancelled"}

    in_office(tmp_path, test)


def test_a_session_is_closed_for_everybody_in_it_and_can_be_loaded_again(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        client, session, number = await at_work(world)
        other = await world.client("one")
        await other.call("session/load", {**HERE, "sessionId": session})
        await office.done(link.CloseSession(number=6, session=session))
        assert (await client.answer_to(number))["error"]["data"]["reason"] == "no_such_session"
        await other.sync()
        assert '"state": "closed"' in str(other.inbox).replace("'", '"')
        assert [each["method"] for each in world.agent.told] == ["session/cancel"]
        assert world.agent.methods()[-1] == "session/close"
        assert world.hub.sessions.alive == {}
        assert world.hub.store.sessions == {} or world.hub.store.sessions[session].state == "closed"

    in_office(tmp_path, test, agent_class=Loading)


def test_an_agent_that_does_not_answer_holds_no_close_up(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        client, session, _ = await at_work(world)
        del world.agent.answers["session/close"]
        office.orders.take(link.CloseSession(number=6, session=session))
        await until_asked(world, "session/close")
        await skip(ANSWER_SEC - 1)
        assert office.answers == [link.Answer(number=6)]
        assert client.here

    in_office(tmp_path, test, agent_class=Loading)


# Permissions


def test_undecided_permissions_are_listed(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        client, session, _ = await at_work(world)
        await asked(world, session, client)
        answer = await office.obey(link.ListPermissions(number=7, session=session))
        (seen,) = answer.permissions
        assert (seen.title, seen.kind, seen.asked_usec) == ("Write a file", "edit", 1_000_000_000)
        assert [(each.id, each.name, each.kind) for each in seen.options] == [
            ("yes", "Yes", "allow_once"),
            ("no", "No", "reject_once"),
        ]
        assert world.hub.snapshot().sessions[0].permissions == 1

    in_office(tmp_path, test, clock=lambda: 1000.0)


def test_a_permission_is_decided_and_those_who_were_asked_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(world: World, office: Office) -> None:
        client, session, _ = await at_work(world)
        number = await asked(world, session, client)
        (seen,) = (await office.obey(link.ListPermissions(number=7, session=session))).permissions
        order = link.ResolvePermission(number=8, session=session, permission=seen.id, option="no", uid=1234)
        await office.done(order)
        await world.until(lambda: number in world.agent.outcomes)
        assert chosen(world.agent, number) == {"outcome": "selected", "optionId": "no"}
        await client.sync()
        assert client.inbox[-2]["method"] == "$/cancel_request"
        assert (await office.obey(order)).reason == "no_such_permission"
        assert world.hub.snapshot().sessions[0].permissions == 0

    with caplog.at_level(logging.INFO, "test"):
        in_office(tmp_path, test)
    assert "edit: no, by uid 1234" in caplog.messages


def test_a_permission_is_cancelled(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        client, session, _ = await at_work(world)
        number = await asked(world, session, client)
        (seen,) = (await office.obey(link.ListPermissions(number=7, session=session))).permissions
        await office.done(
            link.ResolvePermission(number=8, session=session, permission=seen.id, option="", uid=0)
        )
        await world.until(lambda: number in world.agent.outcomes)
        assert chosen(world.agent, number) == {"outcome": "cancelled"}

    in_office(tmp_path, test)


def test_an_option_that_is_not_offered_is_refused_and_those_that_are_are_named(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        client, session, _ = await at_work(world)
        await asked(world, session, client)
        (seen,) = (await office.obey(link.ListPermissions(number=7, session=session))).permissions
        order = link.ResolvePermission(number=8, session=session, permission=seen.id, option="maybe", uid=0)
        answer = await office.obey(order)
        assert (answer.reason, answer.message) == (
            "invalid_args",
            "there is no option maybe; this permission offers yes, no",
        )
        assert len(world.hub.sessions.alive[session].permissions()) == 1

    in_office(tmp_path, test)


def test_the_answer_fits_however_much_is_asked_in_however_many_words(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        client, session, _ = await at_work(world)
        long = [{"optionId": "x" * 20_000, "name": "y" * 20_000, "kind": "allow_once"}]
        call = {"toolCallId": "t", "title": "z" * 20_000, "kind": "edit"}
        for count in range(1, 7):
            await asked(world, session, client, toolCall=call, options=long)
            await world.until(lambda count=count: len(client.asked) == count)
        answer = await office.obey(link.ListPermissions(number=7, session=session))
        assert (len(answer.permissions), link.fits(answer)) == (4, True)
        (first, *_) = answer.permissions
        order = link.ResolvePermission(number=8, session=session, permission=first.id, option="q", uid=0)
        assert (await office.obey(order)).reason == "invalid_args"

    in_office(tmp_path, test)


# Agents


def test_an_agent_that_is_stopped_has_its_turns_cancelled_and_comes_back_with_a_prompt(
    tmp_path: Path,
) -> None:
    async def test(world: World, office: Office) -> None:
        client, session, number = await at_work(world)
        office.orders.take(link.StopAgent(number=9, agent="one"))
        await world.until(lambda: [each["method"] for each in world.agent.told] == ["session/cancel"])
        assert (world.agent.alive, office.answers) == (True, [])
        world.agent.answer({"stopReason": "cancelled"})
        assert (await client.answer_to(number))["result"] == {"stopReason": "cancelled"}
        while not office.answers:
            await settle()
        assert office.answers == [link.Answer(number=9)]
        assert ([each.alive for each in world.agents], world.hub.snapshot().agents) == ([False], [])
        again = client.request("session/prompt", prompt(session, "again"))
        (await until_asked(world, "session/prompt", 2)).answer(ENDED)
        assert (await client.answer_to(again))["result"] == ENDED

    in_office(tmp_path, test)


def test_an_agent_that_does_not_end_its_turn_is_stopped_all_the_same(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        client, _, number = await at_work(world)
        office.orders.take(link.StopAgent(number=9, agent="one"))
        await settle()
        await skip(agents.CANCEL_SEC)
        assert (await client.answer_to(number))["result"] == {"stopReason": "cancelled"}
        while not office.answers:
            await settle()
        assert (office.answers, world.agent.alive) == ([link.Answer(number=9)], False)

    in_office(tmp_path, test)


def test_a_session_that_begins_while_an_agent_is_stopped_gets_another(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        await at_work(world)
        office.orders.take(link.StopAgent(number=9, agent="one"))
        await world.until(lambda: world.agent.told)
        assert await (await world.client("one")).new()
        assert [each.alive for each in world.agents] == [True, True]
        await skip(agents.CANCEL_SEC)
        while not office.answers:
            await settle()
        assert [each.alive for each in world.agents] == [False, True]

    in_office(tmp_path, test)


def test_every_process_of_an_agent_is_stopped_and_no_other(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        await world.client("one")
        await world.client("one", uid=MINE + 1)
        await world.client("two")
        await office.done(link.StopAgent(number=9, agent="one"))
        assert [each.name for each in world.agents if each.alive] == ["two"]

    in_office(tmp_path, test, "one", "two")


def test_an_agent_that_is_slow_to_end_is_said_to_be_in_progress(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        await world.client("one")
        world.agent.may_die.clear()
        office.orders.take(link.StopAgent(number=9, agent="one"))
        await settle()
        await skip(ANSWER_SEC)
        assert [each.reason for each in office.answers] == ["in_progress"]
        world.agent.may_die.set()
        while world.hub.agents:
            await settle()
        assert len(office.answers) == 1

    in_office(tmp_path, test)


@pytest.mark.parametrize(("name", "reason"), [("one", ""), ("three", "no_such_agent")])
def test_to_stop_what_does_not_run_is_done_where_it_could_run(
    tmp_path: Path, name: str, reason: str
) -> None:
    async def test(world: World, office: Office) -> None:
        assert (await office.obey(link.StopAgent(number=9, agent=name))).reason == reason

    in_office(tmp_path, test)


@pytest.mark.parametrize("isolation", ["shared", "session"])
def test_an_agent_that_was_launched_is_the_one_that_the_next_client_gets(
    tmp_path: Path, isolation: str
) -> None:
    async def test(world: World, office: Office) -> None:
        await office.done(link.LaunchAgent(number=10, agent="one", uid=MINE))
        await office.done(link.LaunchAgent(number=11, agent="one", uid=MINE))
        assert [each.state for each in world.hub.snapshot().agents] == ["ready"]
        client = await world.client("one")
        session = await client.new()
        assert (await turn(client, session, "hello"))["result"] == ENDED
        assert len(world.agents) == 1

    in_office(tmp_path, test, agent={"isolation": isolation})


def test_an_agent_is_launched_for_the_client_that_was_here_last(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        for capabilities in ({"terminal": False}, {"terminal": True}):
            await world.until_gone(await world.client("one", capabilities=capabilities))
        await world.until_gone(await world.client("one", uid=MINE + 1))
        await office.done(link.LaunchAgent(number=10, agent="one", uid=MINE))
        assert world.agent.asked[0]["params"]["clientCapabilities"] == {"terminal": True}
        await world.client("one", capabilities={"terminal": True})
        assert len(world.agents) == 4

    in_office(tmp_path, test)


def test_only_so_many_accounts_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "REMEMBERED", 2)

    async def test(world: World, office: Office) -> None:
        for uid in (1, 2, 1, 3):
            await world.until_gone(await world.client("one", uid=uid, capabilities={"terminal": True}))
        for uid, capabilities in ((1, {"terminal": True}), (2, {})):
            await office.done(link.LaunchAgent(number=10, agent="one", uid=uid))
            assert world.agent.asked[0]["params"]["clientCapabilities"] == capabilities

    in_office(tmp_path, test)


def test_a_launched_agent_stays_when_clients_leave_and_ends_as_idle(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        await office.done(link.LaunchAgent(number=10, agent="one", uid=MINE))
        await world.until_gone(await world.client("one"))
        await settle()
        assert [each.alive for each in world.agents] == [True]
        await skip(1000.0)
        while world.hub.agents:  # it looks twice, and at the processors
            await skip(60.0)
        assert not world.agent.alive

    in_office(tmp_path, test, limits=Limits(agent_idle_sec=900.0))


@pytest.mark.parametrize("isolation", ["shared", "session"])
def test_a_launched_agent_that_has_had_its_session_is_like_any_other(tmp_path: Path, isolation: str) -> None:
    async def test(world: World, office: Office) -> None:
        await office.done(link.LaunchAgent(number=10, agent="one", uid=MINE))
        client = await world.client("one")
        await office.done(link.CloseSession(number=11, session=await client.new()))
        await world.until_gone(client)
        while world.hub.agents:
            await settle()
        assert [each.alive for each in world.agents] == [False]

    in_office(tmp_path, test, agent={"isolation": isolation})


def test_a_drained_agent_is_not_launched(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        world.hub.drains.order(Scope("one"), 1, 60.0)
        answer = await office.obey(link.LaunchAgent(number=10, agent="one", uid=MINE))
        assert (answer.reason, world.agents) == ("draining", [])

    in_office(tmp_path, test)


def test_why_an_agent_cannot_be_launched_is_said(tmp_path: Path) -> None:
    class Missing(FakeAgent):
        def requested(self, message: dict[str, Any]) -> None:
            os.write(self.ends.stderr, b"Error: crun: executable file `one` not found in $PATH\n")
            self.crash(127)

    async def test(world: World, office: Office) -> None:
        answer = await office.obey(link.LaunchAgent(number=10, agent="one", uid=MINE))
        assert (answer.reason, answer.message) == ("agent_missing", "box has no program one to run one")
        assert (
            await office.obey(link.LaunchAgent(number=11, agent="x", uid=MINE))
        ).reason == "no_such_agent"

    in_office(tmp_path, test, agent_class=Missing)


def test_a_launch_that_takes_long_is_in_progress_and_goes_on(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        world.agent_class = Silent
        office.orders.take(link.LaunchAgent(number=10, agent="one", uid=MINE))
        agent = await world.until_agents(1)
        await until_asked(world, "initialize")
        await skip(ANSWER_SEC)
        assert [each.reason for each in office.answers] == ["in_progress"]
        agent.answer({"protocolVersion": 1}, "initialize")
        await world.until(lambda: [each.state for each in world.hub.snapshot().agents] == ["ready"])
        assert len(office.answers) == 1

    in_office(tmp_path, test)


class Silent(FakeAgent):
    """Greets nobody before a test says so."""

    def __init__(self, world: World, name: str, mark: str) -> None:
        super().__init__(world, name, mark)
        del self.answers["initialize"]


# In any case


def test_what_an_order_has_changed_is_told_before_its_answer(tmp_path: Path) -> None:
    async def test(world: World, office: Office) -> None:
        told: list[object] = office.answers  # type: ignore[assignment]
        world.hub._on_change = lambda: told.append(world.hub.snapshot().agents)
        office.orders.take(link.LaunchAgent(number=10, agent="one", uid=MINE))
        while link.Answer(number=10) not in told:
            await settle()
        (*_, agents_told, _) = told
        assert [each.state for each in agents_told] == ["ready"]  # type: ignore[attr-defined]

    in_office(tmp_path, test)


def test_why_not_fits_into_a_message_however_much_an_agent_had_to_say_about_it() -> None:
    assert link.fits(refused(1, AgentFailed("x" * link.MESSAGE_BYTES)))


def test_whatever_breaks_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: object, name: str) -> None:
        raise RuntimeError("secret")

    async def test(world: World, office: Office) -> None:
        monkeypatch.setattr(agents.Agents, "stop", broken)
        answer = await office.obey(link.StopAgent(number=9, agent="one"))
        assert (answer.reason, "secret" in answer.message) == ("internal", False)

    in_office(tmp_path, test)
    assert "order 9 (StopAgent) has failed" in caplog.messages


def test_a_late_failure_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agents, "START_PAUSES", ())

    async def test(world: World, office: Office) -> None:
        world.agent_class = Silent
        office.orders.take(link.LaunchAgent(number=10, agent="one", uid=MINE))
        await until_asked(world, "initialize", 1)
        await skip(ANSWER_SEC)
        world.agent.crash(3)
        while world.hub.agents:
            await settle()
        await settle()

    in_office(tmp_path, test)
    assert any(
        each.startswith("order 10 (LaunchAgent) has failed, late: one ended") for each in caplog.messages
    )


# Before there is anything


def test_an_order_that_comes_too_early_is_refused_and_drains_are_kept(tmp_path: Path) -> None:
    async def test() -> None:
        paths = Paths(Mode.EMBEDDED, str(tmp_path), str(tmp_path))
        worker, said = Worker("box", paths), list[link.AnyMessage]()
        worker._uplink.send = said.append  # type: ignore[assignment, method-assign]
        for order in (
            link.CancelTurn(number=3, session="s"),
            link.Refresh(),
            link.Drain(job=1, timeout=1.0, agent="one"),
            link.Drain(job=2, timeout=1.0, session="s"),
            link.Drain(job=3, timeout=1.0),
            link.Undrain(agent="one"),
        ):
            worker._order(order, None)
        refused, state = said
        assert isinstance(refused, link.Answer)
        assert (refused.number, refused.reason) == (3, "not_running")
        assert state == link.State(snapshot=link.Snapshot())
        assert [each.job for each in worker._early.values()] == [2, 3]
        worker._order(link.Undrain(), None)
        assert worker._early == {}

    run(test())
