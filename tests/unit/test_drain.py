# SPDX-License-Identifier: Apache-2.0

import asyncio

from agentd import link
from agentd.worker.drain import CUT_OFF_SEC, Drain
from unit.loop import run, settle, skip


class Turns:
    """What waits in a session's queue."""

    def refuse_queued(self, error: Exception) -> None:
        """There is nothing."""


class Session:
    """A session with a turn that ends when a test says so."""

    def __init__(self, name: str) -> None:
        self.id, self.busy, self.cancelled = name, True, False
        self.turns = Turns()

    def cancel(self, client: object, frame: bytes) -> None:
        self.cancelled = True

    def cut_off(self, error: Exception) -> None:
        self.busy = False


class Sessions(dict[str, Session]):
    """By name."""

    @property
    def busy(self) -> list[Session]:
        return [each for each in self.values() if each.busy]


class Hub:
    """Sessions of these names, all at work."""

    def __init__(self, *names: str) -> None:
        self.sessions = Sessions({name: Session(name) for name in names})
        self.phase = "serving"
        self.turn_changed = asyncio.Event()

    def changed(self) -> None:
        self.turn_changed.set()

    async def end(self, name: str) -> None:
        self.sessions[name].busy = False
        self.changed()
        await settle()


def test_a_drain_can_be_asked_how_far_it_is_at_any_time() -> None:
    async def test() -> None:
        hub, said = Hub("a", "b"), list[link.Progress | link.Ended]()
        drain = Drain(hub, 7, 60.0, said.append)  # type: ignore[arg-type]
        assert drain.info == link.DrainInfo(job=7, remaining=2)
        running = asyncio.ensure_future(drain.run())
        await settle()
        await hub.end("a")
        assert drain.info == link.DrainInfo(job=7, remaining=1, drained=["a"])
        await hub.end("b")
        assert await running == "done"
        assert drain.info == link.DrainInfo(job=7, remaining=0, drained=["a", "b"], result="done")
        assert said == [
            link.Progress(job=7, remaining=2, drained=[]),
            link.Progress(job=7, remaining=1, drained=["a"]),
            link.Progress(job=7, remaining=0, drained=["a", "b"]),
            link.Ended(job=7, result="done", drained=["a", "b"]),
        ]

    run(test())


def test_one_that_goes_on_with_another_keeps_what_that_has_seen_end() -> None:
    async def test() -> None:
        hub, said = Hub("b"), list[link.Progress | link.Ended]()
        running = asyncio.ensure_future(Drain(hub, 7, 60.0, said.append, drained=["a"]).run())  # type: ignore[arg-type]
        await settle()
        await hub.end("b")
        await running
        assert said[0] == link.Progress(job=7, remaining=1, drained=["a"])
        assert said[-1] == link.Ended(job=7, result="done", drained=["a", "b"])

    run(test())


def test_one_past_its_time_cancels_then_cuts_off_and_says_so() -> None:
    async def test() -> None:
        hub = Hub("a")
        drain = Drain(hub, 7, 60.0, lambda message: None)  # type: ignore[arg-type]
        running = asyncio.ensure_future(drain.run())
        await settle()
        await skip(60.0)
        assert (hub.sessions["a"].cancelled, hub.sessions["a"].busy) == (True, True)
        await skip(CUT_OFF_SEC)
        assert (await running, drain.info.drained) == ("timeout", ["a"])

    run(test())
