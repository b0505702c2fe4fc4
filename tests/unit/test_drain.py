# SPDX-License-Identifier: Apache-2.0
"""One drain, beside sessions whose turns end when a test says so."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agentd import link
from agentd.errors import Draining
from agentd.worker.drain import CUT_OFF_SEC, WHOLE, Drain, Scope
from unit.loop import run, settle, skip


class Turns:
    """What waits in a session's queue."""

    def __init__(self) -> None:
        self.refused = ""

    def refuse_queued(self, error: Draining) -> None:
        self.refused = error.message


class Session:
    """A session with a turn that ends when a test says so."""

    def __init__(self, name: str, agent: str) -> None:
        self.id, self.busy, self.cancelled = name, True, False
        self.facts = SimpleNamespace(agent=agent)
        self.turns = Turns()

    def cancel_turn(self) -> None:
        self.cancelled = True

    def cut_off(self, error: Draining) -> None:
        self.busy = False


class Sessions:
    def __init__(self, alive: dict[str, Session]) -> None:
        self.alive = alive

    @property
    def busy(self) -> list[Session]:
        return [each for each in self.alive.values() if each.busy]


class Hub:
    """Sessions of these names, all at work; their agents are called like their first letters."""

    def __init__(self, *names: str) -> None:
        self.sessions = Sessions({name: Session(name, name[0]) for name in names})
        self.turn_changed = asyncio.Event()
        self.said: list[link.Progress | link.Ended] = []

    def changed(self) -> None:
        self.turn_changed.set()

    def drain(self, scope: Scope = WHOLE, job: int = 7, **more: Any) -> Drain:
        return Drain(self, scope, "it", job, 60.0, self.said.append, **more)  # type: ignore[arg-type]

    async def end(self, name: str) -> None:
        self.sessions.alive[name].busy = False
        self.changed()
        await settle()


def test_a_drain_can_be_asked_how_far_it_is_at_any_time() -> None:
    async def test() -> None:
        hub = Hub("a", "b")
        drain = hub.drain()
        assert drain.info() == link.DrainInfo(job=7, remaining=2)
        running = asyncio.ensure_future(drain.run())
        await settle()
        await hub.end("a")
        assert drain.info() == link.DrainInfo(job=7, remaining=1, drained=["a"])
        await hub.end("b")
        assert await running == "done"
        assert drain.info() == link.DrainInfo(job=7, remaining=0, drained=["a", "b"], result="done")
        assert hub.said == [
            link.Progress(job=7, remaining=2, drained=[]),
            link.Progress(job=7, remaining=1, drained=["a"]),
            link.Progress(job=7, remaining=0, drained=["a", "b"]),
            link.Ended(job=7, result="done", drained=["a", "b"]),
        ]

    run(test())


def test_one_that_goes_on_with_another_keeps_what_that_has_seen_end() -> None:
    async def test() -> None:
        hub = Hub("b")
        running = asyncio.ensure_future(hub.drain(drained=["a"]).run())
        await settle()
        await hub.end("b")
        await running
        assert hub.said[0] == link.Progress(job=7, remaining=1, drained=["a"])
        assert hub.said[-1] == link.Ended(job=7, result="done", drained=["a", "b"])

    run(test())


def test_one_past_its_time_cancels_then_cuts_off_and_says_so() -> None:
    async def test() -> None:
        hub = Hub("a")
        drain, session = hub.drain(), hub.sessions.alive["a"]
        running = asyncio.ensure_future(drain.run())
        await settle()
        await skip(60.0)
        assert (session.cancelled, session.busy) == (True, True)
        await skip(CUT_OFF_SEC)
        assert (await running, drain.info().drained) == ("timeout", ["a"])

    run(test())


@pytest.mark.parametrize(
    ("scope", "covered"),
    [(WHOLE, ["a1", "a2", "b"]), (Scope("a"), ["a1", "a2"]), (Scope(session="a2"), ["a2"])],
)
def test_it_is_about_the_turns_of_its_scope_and_no_others(scope: Scope, covered: list[str]) -> None:
    async def test() -> None:
        hub = Hub("a1", "a2", "b")
        drain = hub.drain(scope)
        running = asyncio.ensure_future(drain.run())
        await settle()
        sessions = hub.sessions.alive.values()
        assert [each.id for each in sessions if each.turns.refused] == covered
        for name in covered:
            await hub.end(name)
        assert await running == "done"
        info = drain.info()
        assert (info.agent, info.session, info.drained) == (*scope, covered)

    run(test())


def test_several_at_once_each_see_their_turns_end() -> None:
    async def test() -> None:
        hub = Hub("a1", "a2", "b")
        scopes = [WHOLE, Scope("a"), Scope(session="b")]
        running = [asyncio.ensure_future(hub.drain(scope, job).run()) for job, scope in enumerate(scopes)]
        await settle()
        for name in ("a1", "b", "a2"):
            await hub.end(name)
        assert [await each for each in running] == ["done"] * 3
        ended = {each.job: each.drained for each in hub.said if isinstance(each, link.Ended)}
        assert ended == {0: ["a1", "b", "a2"], 1: ["a1", "a2"], 2: ["b"]}

    run(test())


def test_one_that_was_cut_off_does_not_disturb_others() -> None:
    async def test() -> None:
        hub = Hub("a", "b")
        other = asyncio.ensure_future(hub.drain(Scope("b"), 8).run())
        await settle()
        await skip(30.0)
        short = asyncio.ensure_future(
            Drain(hub, Scope("a"), "it", 7, 1.0, hub.said.append).run()  # type: ignore[arg-type]
        )
        await settle()
        await skip(1.0)
        await skip(CUT_OFF_SEC)
        assert (await short, other.done(), hub.sessions.alive["b"].cancelled) == ("timeout", False, False)
        await hub.end("b")
        assert await other == "done"

    run(test())


def test_reports_of_very_many_sessions_still_fit() -> None:
    hub = Hub()
    drain = hub.drain(drained=[f"{number:0100}" for number in range(5_000)])
    drain._tell_progress()
    assert link.fits(hub.said[0])
    assert len(hub.said[0].drained) > 1_000
    assert len(drain.info().drained) > 100


@pytest.mark.parametrize(
    ("scope", "called"),
    [(WHOLE, "box"), (Scope("claude"), "agent claude of box"), (Scope(session="s"), "session s of box")],
)
def test_people_are_told_what_is_drained(scope: Scope, called: str) -> None:
    assert scope.called("box") == called
