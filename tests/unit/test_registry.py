# SPDX-License-Identifier: Apache-2.0

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agentd import errors, link
from agentd.config import Configuration
from agentd.config import Container as Entry
from agentd.errors import AgentdError, WorkerFailed
from agentd.manager.container import Container, WorkerEnd
from agentd.manager.registry import COME_BACK_SEC, LAST_WORDS_SEC, LISTING_SEC, THERE_SEC, Registry
from agentd.manager.spawner import STOP_MARGIN_SEC
from agentd.tasks import Tasks
from unit.loop import run, settle, skip


class Wire:
    """A worker's link, and what is sent over it."""

    def __init__(self) -> None:
        self.closed = False
        self.sent: list[link.AnyMessage] = []

    def send(self, message: link.AnyMessage, descriptor: int | None = None) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.closed = True


class Spawner:
    """Starts wait until `go` is called, and then fail with `error`, or for None report ready."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.given_up = False
        self._gate = asyncio.Event()
        self._error: AgentdError | None = None

    def unit(self, name: str) -> str:
        return f"agentd@{name}.service"

    async def start(self, name: str, ready: asyncio.Event) -> None:
        self.started.append(name)
        await self._gate.wait()
        self._gate.clear()
        if self._error is not None:
            raise self._error
        await ready.wait()

    async def stop(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        self.stopped.append(name)
        await ask()

    async def gave_up(self, name: str) -> bool:
        return self.given_up

    def forgive(self, name: str) -> None:
        self.given_up = False

    def remedy(self, name: str) -> str:
        return f"agentctl start {name}"

    async def close(self) -> None:
        """Nothing to end."""

    def go(self, error: AgentdError | None = None) -> None:
        self._error = error
        self._gate.set()


class House:
    """A registry, and all it tells of."""

    def __init__(self) -> None:
        self.spawner, self.tasks = Spawner(), Tasks()
        self.registry = Registry(self.spawner, self.tasks)
        self.told: list[str] = []
        self.registry.on_new.append(lambda each: self.told.append(f"new {each.name}"))
        self.registry.on_removed.append(lambda each: self.told.append(f"removed {each.name}"))
        self.registry.on_change.append(lambda each: self.told.append(f"{each.name} {each.state}"))

    def names(self) -> list[str]:
        return [each.name for each in self.registry]

    def box(self) -> Container:
        return self.registry.get("box")

    def see(
        self, name: str = "box", *, running: bool = True, runtime: str = "podman", pid: int = 7
    ) -> Container:
        info = link.ContainerInfo(name=name, runtime=runtime, running=running, pid=pid)
        self.registry.seen(info)
        return self.registry.get(name)

    def configure(self, *names: str) -> None:
        self.registry.configure(Configuration(containers={name: Entry() for name in names}))

    def link(self, name: str = "box", state: str = "serving") -> WorkerEnd:
        hello = link.Hello(version=1, pid=5, code="0", container=name, snapshot=link.Snapshot(state=state))
        worker = WorkerEnd(Wire(), hello)  # type: ignore[arg-type]
        self.registry.attach(name, worker)
        return worker

    def ask(self, container: Container) -> "asyncio.Task[WorkerEnd]":
        return asyncio.ensure_future(self.registry.worker_of(container))


def failure(task: "asyncio.Task[WorkerEnd]") -> AgentdError:
    error = task.exception()
    assert isinstance(error, AgentdError)
    return error


def everything(name: str) -> bool:
    return True


# What is known


def test_what_the_watcher_sees_is_there_until_it_is_gone() -> None:
    async def test() -> None:
        house = House()
        house.see()
        house.see(running=False)
        house.registry.gone("box", "podman")
        assert house.told == ["new box", "box idle", "box stopped", "removed box"]
        assert (house.names(), len(house.registry)) == ([], 0)

    run(test())


def test_one_runtime_cannot_take_away_anothers_container() -> None:
    async def test() -> None:
        house = House()
        house.see()
        house.registry.gone("box", "docker")
        house.registry.gone("stranger", "podman")
        assert house.names() == ["box"]

    run(test())


def test_what_is_configured_is_known_whatever_the_watcher_says() -> None:
    async def test() -> None:
        house = House()
        house.configure("box", "other")
        house.see()
        house.registry.gone("box", "podman")
        assert house.names() == ["box", "other"]
        house.configure("other")
        assert house.names() == ["other"]

    run(test())


def test_what_opts_out_of_the_configuration_stays_while_it_is_seen() -> None:
    async def test() -> None:
        house = House()
        house.configure("box")
        house.see()
        house.configure()
        assert house.names() == ["box"]
        house.registry.gone("box", "podman")
        assert house.names() == []

    run(test())


def test_one_with_a_worker_is_known_until_that_has_left() -> None:
    async def test() -> None:
        house = House()
        worker = house.link()
        house.registry.gone("box", "podman")
        assert house.names() == ["box"]
        house.registry.detach(house.box(), worker)
        assert house.names() == []

    run(test())


def test_one_that_is_being_started_is_known_until_that_has_failed() -> None:
    async def test() -> None:
        house = House()
        asked = house.ask(house.see())
        await settle()
        house.registry.gone("box", "podman")
        assert house.names() == ["box"]
        house.spawner.go(WorkerFailed("no"))
        await asyncio.wait([asked])
        assert (failure(asked).reason, house.names()) == ("worker_failed", [])

    run(test())


def test_a_name_that_nobody_has_is_an_error() -> None:
    async def test() -> None:
        with pytest.raises(errors.NoSuchContainer, match="box"):
            House().box()

    run(test())


def test_one_that_has_opted_out_takes_no_more_connections_while_its_worker_lives() -> None:
    async def test() -> None:
        house = House()
        house.configure("box", "other")
        worker = house.link()
        house.configure("other")
        assert house.names() == ["box", "other"]
        assert house.registry.choose("", everything).name == "other"
        with pytest.raises(errors.NoSuchContainer) as caught:
            house.registry.choose("box", everything)
        assert caught.value.data == {"container": "box", "containers": ["other"]}
        house.registry.detach(house.box(), worker)
        assert house.names() == ["other"]

    run(test())


def test_one_that_opts_in_again_takes_connections_again() -> None:
    async def test() -> None:
        house = House()
        house.link()
        house.see()
        house.registry.gone("box", "podman")
        with pytest.raises(errors.NoSuchContainer):
            house.registry.choose("box", everything)
        house.see()
        assert house.registry.choose("", everything).name == "box"

    run(test())


# Choosing


def test_a_connection_gets_the_container_it_names() -> None:
    async def test() -> None:
        house = House()
        house.configure("a", "b")
        assert house.registry.choose("b", everything).name == "b"
        with pytest.raises(errors.NoSuchContainer) as caught:
            house.registry.choose("c", lambda name: name == "a")
        assert caught.value.data == {"container": "c", "containers": ["a"]}

    run(test())


@pytest.mark.parametrize(
    ("allowed", "chosen"),
    [("a", "a"), ("ab", errors.AmbiguousContainer), ("", errors.NoSuchContainer)],
)
def test_one_that_names_none_gets_the_only_one_it_may_use(
    allowed: str, chosen: str | type[AgentdError]
) -> None:
    async def test() -> None:
        house = House()
        house.configure("a", "b", "c")
        if isinstance(chosen, str):
            assert house.registry.choose("", lambda name: name in allowed).name == chosen
            return
        with pytest.raises(chosen) as caught:
            house.registry.choose("", lambda name: name in allowed)
        assert caught.value.data == {"containers": list(allowed)}

    run(test())


def test_a_name_not_known_yet_waits_for_the_watchers_list() -> None:
    async def test() -> None:
        house = House()
        found = asyncio.ensure_future(house.registry.find("box", everything))
        await settle()
        assert not found.done()
        box = house.see()
        house.registry.complete.set()
        assert await found is box
        with pytest.raises(errors.NoSuchContainer):
            await house.registry.find("other", everything)

    run(test())


def test_without_a_watcher_that_wait_has_an_end() -> None:
    async def test() -> None:
        house = House()
        house.configure("box")
        assert (await house.registry.find("box", everything)).name == "box"
        found = asyncio.ensure_future(house.registry.find("other", everything))
        await settle()
        await skip(LISTING_SEC)
        with pytest.raises(errors.NoSuchContainer):
            await found

    run(test())


# Workers


def test_a_worker_that_is_there_is_taken() -> None:
    async def test() -> None:
        house = House()
        worker = house.link()
        assert await house.registry.worker_of(house.box()) is worker
        assert house.spawner.started == []

    run(test())


def test_one_start_serves_all_who_ask() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        asked = [house.ask(box) for _ in range(3)]
        await settle()
        assert (house.spawner.started, box.state) == (["box"], "starting")
        house.spawner.go()
        worker = house.link()
        assert await asyncio.gather(*asked) == [worker] * 3
        assert (house.spawner.started, box.state) == (["box"], "serving")

    run(test())


def test_a_worker_that_is_starting_is_waited_for() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        worker = house.link(state="starting")
        asked = house.ask(box)
        house.spawner.go()
        await settle()
        assert not asked.done()
        box.told(link.Snapshot(state="serving"))
        assert await asked is worker

    run(test())


def test_who_gives_up_does_not_end_the_start_for_the_others() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        impatient, patient = house.ask(box), house.ask(box)
        await settle()
        impatient.cancel()
        await settle()
        house.spawner.go()
        worker = house.link()
        assert await patient is worker

    run(test())


def test_a_start_that_fails_fails_for_all_and_is_not_remembered() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        asked = [house.ask(box) for _ in range(2)]
        await settle()
        house.spawner.go(WorkerFailed("first"))
        await asyncio.wait(asked)
        assert [failure(each).message for each in asked] == ["first", "first"]
        assert (box.state, box.start) == ("failed", None)
        again = house.ask(box)
        await settle()
        assert (house.spawner.started, box.state) == (["box", "box"], "starting")
        house.spawner.go()
        assert house.link() is await again

    run(test())


def test_a_workers_own_reason_counts_more_than_its_exit() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        asked = house.ask(box)
        await settle()
        worker = house.link(state="starting")
        house.spawner.go(WorkerFailed("it ended with status 69"))
        await settle()
        assert not asked.done()
        box.failure = errors.EngineFailed("podman is on fire")
        house.registry.detach(box, worker)
        await asyncio.wait([asked])
        assert failure(asked).message == "podman is on fire"

    run(test())


def test_a_worker_without_last_words_is_not_waited_for_long() -> None:
    async def test() -> None:
        house = House()
        asked = house.ask(house.see())
        await settle()
        worker = house.link(state="starting")
        house.spawner.go(WorkerFailed("it ended"))
        await settle()
        assert not asked.done()
        house.box().worker = None  # its link is gone, but nobody has said so
        await skip(LAST_WORDS_SEC)
        await asyncio.wait([asked])
        assert failure(asked).message == "it ended"
        assert worker.snapshot.state == "starting"

    run(test())


def test_no_worker_is_started_for_a_container_that_does_not_run() -> None:
    async def test() -> None:
        house = House()
        with pytest.raises(errors.NotRunning, match="box is not running"):
            await house.registry.worker_of(house.see(running=False))
        assert house.spawner.started == []

    run(test())


def test_a_worker_that_leaves_at_once_is_a_failure() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        asked = house.ask(box)
        await settle()
        house.spawner.go()
        house.registry.detach(box, house.link())
        box.ready.set()  # as it was for a moment
        await asyncio.wait([asked])
        assert failure(asked).message == "the worker of box left at once"

    run(test())


def test_a_newer_worker_replaces_an_older_one() -> None:
    async def test() -> None:
        house = House()
        house.configure("box")
        old, new = house.link(), house.link()
        assert isinstance(old.link, Wire)
        assert (old.link.closed, house.box().worker) == (True, new)
        house.registry.detach(house.box(), old)  # the old one's end comes late
        assert house.box().worker is new

    run(test())


def test_one_that_is_replaced_takes_nothing_away_though_nobody_else_knows_its_container() -> None:
    async def test() -> None:
        house = House()
        old = house.link()
        box = house.box()
        old.link.close = lambda: house.registry.detach(box, old)  # type: ignore[method-assign,assignment]
        new = house.link()
        assert (house.names(), house.box() is box, box.worker) == (["box"], True, new)
        assert "removed box" not in house.told

    run(test())


def test_no_worker_is_started_for_a_container_that_has_just_gone() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        house.registry.gone("box", "podman")
        with pytest.raises(errors.NoSuchContainer, match="box has just gone"):
            await house.registry.worker_of(box)
        assert (house.spawner.started, house.told[-1]) == ([], "removed box")

    run(test())


def test_a_start_that_fails_while_its_worker_is_still_starting_is_a_failure() -> None:
    async def test() -> None:
        house = House()
        asked = house.ask(house.see())
        await settle()
        worker = house.link(state="starting")
        house.spawner.go(WorkerFailed("no report"))
        await settle()
        await skip(LAST_WORDS_SEC)
        await asyncio.wait([asked])
        assert (failure(asked).message, house.box().worker) == ("no report", worker)

    run(test())


def test_an_earlier_worker_that_lives_is_waited_for() -> None:
    async def test() -> None:
        house = House()
        asked = house.ask(house.see())
        await settle()
        house.spawner.go(errors.AlreadyRunning("a worker of box is running already"))
        await settle()
        await skip(COME_BACK_SEC / 2)
        assert not asked.done()
        assert house.link() is await asked

    run(test())


def test_an_earlier_worker_that_does_not_come_back_is_not_waited_for_long() -> None:
    async def test() -> None:
        house = House()
        asked = house.ask(house.see())
        await settle()
        house.spawner.go(errors.AlreadyRunning("a worker of box is running already"))
        await settle()
        await skip(COME_BACK_SEC)
        await asyncio.wait([asked])
        assert (failure(asked).reason, house.box().state) == ("already_running", "failed")

    run(test())


def test_stopping_a_worker_is_the_spawners_business() -> None:
    async def test() -> None:
        house = House()
        await house.registry.stop_worker(house.see(), 3.0)
        assert house.spawner.stopped == ["box"]
        assert house.registry.unit(house.box()) == "agentd@box.service"

    run(test())


def test_a_worker_is_asked_to_leave_and_waited_for() -> None:
    async def test() -> None:
        house = House()
        house.configure("box")
        worker = house.link()
        stopping = asyncio.ensure_future(house.registry.stop_worker(house.box(), 3.0))
        await settle()
        assert isinstance(worker.link, Wire)
        assert (worker.link.sent, stopping.done()) == ([link.Leave(timeout=3.0)], False)
        house.registry.detach(house.box(), worker)
        await stopping

    run(test())


def test_a_worker_that_does_not_leave_is_a_failure() -> None:
    async def test() -> None:
        house = House()
        house.link()
        stopping = asyncio.ensure_future(house.registry.stop_worker(house.box(), 3.0))
        await settle()
        await skip(3.0 + STOP_MARGIN_SEC)
        with pytest.raises(WorkerFailed, match="the worker of box does not leave"):
            await stopping

    run(test())


def test_all_are_asked_to_leave_and_can_be_hurried(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        house = House()
        house.configure("a", "b", "idle")
        workers = {name: house.link(name) for name in "ab"}
        stopping = asyncio.ensure_future(house.registry.stop_all(3.0))
        await settle()
        house.registry.hurry()
        orders = [link.Leave(timeout=3.0), link.Leave(timeout=0.0)]
        assert [each.link.sent for each in workers.values()] == [orders, orders]  # type: ignore[attr-defined]
        house.registry.detach(house.registry.get("a"), workers["a"])
        await skip(3.0 + STOP_MARGIN_SEC)
        await stopping

    run(test())
    assert caplog.messages == ["the worker of b does not leave"]


# Workers that leave


def test_a_worker_that_leaves_is_waited_for_and_the_next_one_started() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        old = house.link()
        old.dismissed = True
        asked = house.ask(box)
        await settle()
        assert (house.spawner.started, asked.done()) == ([], False)
        house.registry.detach(box, old)
        await settle()
        assert house.spawner.started == ["box"]
        house.spawner.go()
        assert house.link() is await asked

    run(test())


def test_a_worker_says_itself_that_it_leaves() -> None:
    house = House()
    worker = house.link()
    worker.snapshot = link.Snapshot(state="draining", leaving=True)
    assert worker.leaving


def test_a_worker_that_was_to_leave_and_stays_is_not_waited_for_for_ever() -> None:
    async def test() -> None:
        house = House()
        house.registry.leave_sec = 7.0
        box = house.see()
        house.link().dismissed = True
        asked = house.ask(box)
        await settle()
        await skip(7.0)
        await asyncio.wait([asked])
        assert failure(asked).message == "the worker of box was stopped, but does not end"

    run(test())


# Without a start


def test_who_wants_no_worker_started_gets_one_that_is_there() -> None:
    async def test() -> None:
        house = House()
        worker = house.link()
        assert await house.registry.worker_there(house.box()) is worker

    run(test())


def test_who_wants_no_worker_started_waits_for_one_that_comes_by_itself() -> None:
    async def test() -> None:
        house = House()
        asked = asyncio.ensure_future(house.registry.worker_there(house.see()))
        await settle()
        house.link(state="starting")
        await skip(THERE_SEC - 1)
        assert not asked.done()
        house.box().told(link.Snapshot(state="serving"))
        assert await asked is house.box().worker
        assert house.spawner.started == []

    run(test())


def test_who_wants_no_worker_started_is_told_after_a_while_that_there_is_none() -> None:
    async def test() -> None:
        house = House()
        asked = asyncio.ensure_future(house.registry.worker_there(house.see()))
        await settle()
        await skip(THERE_SEC)
        with pytest.raises(errors.NotRunning, match="was stopped; connect again to start it"):
            await asked

    run(test())


# Failing again and again


def test_a_worker_that_ends_without_a_word_has_failed() -> None:
    house = House()
    house.configure("box")
    house.registry.detach(house.box(), house.link())
    assert house.box().failure is not None
    assert (house.box().state, house.box().failure.message) == (
        "failed",
        "the worker of box ended without a word",
    )


@pytest.mark.parametrize("said", ["dismissed", "leaving", "failed"])
def test_one_that_has_said_why_it_ends_has_not_crashed(said: str) -> None:
    house = House()
    house.configure("box")
    worker, reason = house.link(), errors.EngineFailed("podman is on fire")
    worker.dismissed = said == "dismissed"
    worker.snapshot = link.Snapshot(leaving=said == "leaving")
    house.box().failure = reason if said == "failed" else None
    house.registry.detach(house.box(), worker)
    assert house.box().failure is (reason if said == "failed" else None)


def test_one_that_was_given_up_is_refused_at_once_with_its_last_words() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        box.failure, house.spawner.given_up = errors.EngineFailed("podman is on fire"), True
        with pytest.raises(WorkerFailed) as caught:
            await house.registry.worker_of(box)
        assert "podman is on fire" in caught.value.message and "agentctl start box" in caught.value.message
        assert (house.spawner.started, box.state) == ([], "failed")
        assert box.failure.message == "podman is on fire"

    run(test())


def test_the_failure_that_was_one_too_many_is_refused_so_too_and_keeps_the_words() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        box.failure = errors.EngineFailed("podman is on fire")
        asked = house.ask(box)
        await settle()
        house.spawner.given_up = True  # as systemd says when asked to start it: no process ran
        house.spawner.go(WorkerFailed("agentd@box.service did not start: it failed"))
        await asyncio.wait([asked])
        assert "again and again" in failure(asked).message
        assert box.failure.message == "podman is on fire"

    run(test())


def test_somebody_who_means_it_has_it_started_all_the_same() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        house.spawner.given_up = True
        started = asyncio.ensure_future(house.registry.start_worker(box))
        await settle()
        house.spawner.go()
        assert house.link() is await started

    run(test())


def test_a_container_that_was_restarted_is_worth_another_try() -> None:
    async def test() -> None:
        house = House()
        box = house.see(pid=7)
        box.failure, house.spawner.given_up = WorkerFailed("no"), True
        house.see(pid=7)
        assert house.spawner.given_up
        house.see(pid=8)
        assert not house.spawner.given_up

    run(test())


# Starts and stops


def test_a_stop_ends_the_start_that_was_asked_for_before_it() -> None:
    async def test() -> None:
        house = House()
        box = house.see()
        asked = [house.ask(box) for _ in range(2)]
        await settle()
        await house.registry.stop_worker(box, 3.0)
        await asyncio.wait(asked)
        assert [failure(each).reason for each in asked] == ["shutting_down"] * 2
        assert (house.spawner.stopped, box.start, box.state) == (["box"], None, "idle")

    run(test())


def test_a_start_that_is_asked_for_during_a_stop_waits_for_its_end() -> None:
    async def test() -> None:
        house = House()
        box, order = house.see(), list[str]()
        worker = house.link()
        stopping = asyncio.ensure_future(house.registry.stop_worker(box, 3.0))
        stopping.add_done_callback(lambda _: order.append(f"stopped, {len(house.spawner.started)} started"))
        await settle()
        asked = house.ask(box)
        await settle()
        house.registry.detach(box, worker)
        await stopping
        await settle()
        house.spawner.go()
        assert (house.link() is await asked, order) == (True, ["stopped, 0 started"])

    run(test())


def test_a_start_does_not_begin_before_the_stop_of_a_worker_that_never_linked_is_over() -> None:
    async def test() -> None:
        house, over = House(), asyncio.Event()
        box = house.see()

        async def stop(name: str, ask: Callable[[], Awaitable[None]]) -> None:
            await over.wait()

        house.spawner.stop = stop  # type: ignore[method-assign]
        stopping = asyncio.ensure_future(house.registry.stop_worker(box, 3.0))
        await settle()
        asked = house.ask(box)
        await settle()
        assert (house.spawner.started, box.state) == ([], "starting")
        over.set()
        await stopping
        await settle()
        assert house.spawner.started == ["box"]
        house.spawner.go()
        assert house.link() is await asked

    run(test())
