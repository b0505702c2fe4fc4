# SPDX-License-Identifier: Apache-2.0

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from agentd import link
from agentd.config import Configuration, Container
from agentd.errors import AgentdError, EngineFailed, EngineMissing, NoSuchContainer
from agentd.tasks import Tasks
from agentd.watcher.follow import LONGEST_PAUSE, Follow
from unit.loop import Changes, run, settle, skip

OPTED_IN = {"agentd.enable": "true"}


def box(name: str = "box", **facts: object) -> link.ContainerInfo:
    """A container that has the label; its id is that of its first name unless it is given."""
    known: dict[str, object] = {"id": f"id-of-{name}", "running": True, "labels": OPTED_IN, **facts}
    return link.ContainerInfo(name=name, runtime="podman", **known)  # type: ignore[arg-type]


class Engine:
    """An engine that has what it is given, and whose events are told one by one."""

    name = "podman"

    def __init__(self, *there: link.ContainerInfo) -> None:
        self.there = {each.name: each for each in there}
        self.problem: AgentdError | None = None
        self.asked = 0
        self._events: asyncio.Queue[str] = asyncio.Queue()

    async def containers(self) -> list[link.ContainerInfo]:
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return [each for each in self.there.values() if each.labels == OPTED_IN]

    async def inspect(self, name: str) -> link.ContainerInfo:
        if self.problem is not None:
            raise self.problem
        if name not in self.there:
            raise NoSuchContainer(name)
        return self.there[name]

    async def events(self, since: float) -> AsyncIterator[str]:
        while name := await self._events.get():
            yield name

    def end(self) -> None:
        """End the stream of events."""
        self._events.put_nowait("")

    async def event(self, name: str, now: link.ContainerInfo | None = None) -> None:
        """Something has happened to a container, which now is like that."""
        if now is not None:
            self.there[now.name] = now
        self._events.put_nowait(name)
        await settle()


class Sent(Changes):
    """A link to the manager: what was sent over it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[link.AnyMessage] = []

    def send(self, message: link.AnyMessage) -> None:
        self.messages.append(message)
        self.changed()

    def take(self) -> list[link.AnyMessage]:
        """What is new since the last call."""
        taken, self.messages = self.messages, []
        return taken


class Watch:
    """An engine that is followed, and all the manager is told."""

    def __init__(
        self,
        engine: Engine,
        configuration: Configuration | None = None,
        known: list[link.ContainerInfo] | None = None,
    ) -> None:
        self.engine, self.sent, self.listings = engine, Sent(), 0
        before = {each.name: each for each in known or []}
        self.follow = Follow(
            engine,  # type: ignore[arg-type]
            configuration or Configuration(),
            self.sent,  # type: ignore[arg-type]
            before,
            self._listed,
        )
        self._tasks = Tasks()

    def _listed(self) -> None:
        assert self.follow.listed
        self.listings += 1

    async def start(self) -> list[link.AnyMessage]:
        """Begin, and return what is told at first."""
        self.follow.start(self._tasks)
        await settle()
        return self.sent.take()


def seen(container: link.ContainerInfo) -> link.Seen:
    return link.Seen(container=container)


def gone(name: str = "box") -> link.Gone:
    return link.Gone(name=name, runtime="podman")


def engine(problem: str = "") -> link.Engine:
    return link.Engine(runtime="podman", problem=problem)


# What there is


def test_what_is_there_is_told_and_that_the_engine_is_well() -> None:
    async def test() -> None:
        watch = Watch(Engine(box(), box("other"), box("not-ours", labels={})))
        assert await watch.start() == [seen(box()), seen(box("other")), engine()]
        assert watch.listings == 1
        await watch.follow.stop()

    run(test())


def test_what_is_known_already_is_not_told_again_and_what_is_no_more_is() -> None:
    async def test() -> None:
        watch = Watch(Engine(box(), box("changed", pid=2)), known=[box(), box("changed"), box("old")])
        assert await watch.start() == [gone("old"), seen(box("changed", pid=2)), engine()]
        await watch.follow.stop()

    run(test())


def test_a_new_manager_is_told_everything() -> None:
    async def test() -> None:
        watch = Watch(Engine(box(), box("other")))
        await watch.start()
        watch.follow.tell_all()
        assert watch.sent.take() == [engine(), seen(box()), seen(box("other"))]
        await watch.follow.stop()

    run(test())


# What happens


def test_what_comes_changes_and_goes_is_told_once() -> None:
    async def test() -> None:
        watch = Watch(Engine())
        await watch.start()
        await watch.engine.event("box", box())
        await watch.engine.event("box")
        await watch.engine.event("box", stopped := box(running=False))
        del watch.engine.there["box"]
        await watch.engine.event("box")
        await watch.engine.event("box")
        assert watch.sent.take() == [seen(box()), seen(stopped), gone()]
        await watch.follow.stop()

    run(test())


def test_what_is_renamed_loses_its_old_name() -> None:
    async def test() -> None:
        watch = Watch(Engine(box(), box("other")))
        await watch.start()
        del watch.engine.there["box"]
        await watch.engine.event("new", renamed := box("new", id="id-of-box"))
        assert watch.sent.take() == [gone(), seen(renamed)]
        assert sorted(watch.follow.known) == ["new", "other"]
        await watch.follow.stop()

    run(test())


def test_what_is_made_anew_under_its_name_is_told() -> None:
    async def test() -> None:
        watch = Watch(Engine(box()))
        await watch.start()
        await watch.engine.event("box", anew := box(id="another"))
        assert watch.sent.take() == [seen(anew)]
        await watch.follow.stop()

    run(test())


def test_what_has_not_opted_in_is_not_told_and_what_opts_out_is_gone() -> None:
    async def test() -> None:
        watch = Watch(Engine(box()))
        await watch.start()
        await watch.engine.event("private", box("private", labels={"agentd.enable": "false"}))
        await watch.engine.event("box", box(labels={}))
        assert watch.sent.take() == [gone()]
        await watch.follow.stop()

    run(test())


@pytest.mark.parametrize(
    ("entry", "labels", "ours"),
    [
        (Container(), {}, True),
        (Container(runtime="podman"), {}, True),
        (Container(runtime="docker"), {}, False),
        (Container(runtime="docker"), OPTED_IN, False),
    ],
)
def test_the_configuration_opts_in_and_settles_whose_a_name_is(
    entry: Container, labels: dict[str, str], ours: bool
) -> None:
    async def test() -> None:
        watch = Watch(Engine(), Configuration(containers={"box": entry}))
        await watch.start()
        await watch.engine.event("box", found := box(labels=labels))
        assert watch.sent.take() == ([seen(found)] if ours else [])
        await watch.follow.stop()

    run(test())


# Engines that fail


async def fail_while_listing(watch: Watch) -> None:
    watch.engine.problem = EngineFailed("podman is on fire")
    await watch.start()


async def fail_while_inspecting(watch: Watch) -> None:
    await watch.start()
    watch.engine.problem = EngineFailed("podman is on fire")
    await watch.engine.event("box")


async def fail_to_tell_of_events(watch: Watch) -> None:
    await watch.start()
    watch.engine.end()
    await settle()


@pytest.mark.parametrize(
    ("fail", "problem"),
    [
        (fail_while_listing, "podman is on fire"),
        (fail_while_inspecting, "podman is on fire"),
        (fail_to_tell_of_events, "podman has stopped telling of events"),
    ],
)
def test_an_engine_that_fails_is_asked_again_and_what_is_known_stays(
    fail: Callable[[Watch], object], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        watch = Watch(Engine(box()), known=[box(), box("old")])
        await fail(watch)  # type: ignore[misc]
        assert watch.follow.known["box"] == box()
        watch.follow.tell_all()
        assert engine(problem) in watch.sent.take()
        watch.engine.problem = None
        asked = watch.engine.asked
        await skip(LONGEST_PAUSE)
        assert (watch.engine.asked, watch.sent.take()[-1], watch.listings) == (asked + 1, engine(), 1)
        assert sorted(watch.follow.known) == ["box"]
        await watch.follow.stop()

    run(test())
    assert caplog.messages == [problem]


def test_an_engine_that_goes_on_failing_is_asked_less_and_less_often() -> None:
    async def test() -> None:
        watch = Watch(Engine())
        await fail_while_listing(watch)
        for _ in range(600):
            await skip(1)
        assert 10 <= watch.engine.asked <= 20
        asked = watch.engine.asked
        for _ in range(4):
            await skip(LONGEST_PAUSE)
        assert watch.engine.asked == asked + 4
        assert watch.listings == 1
        await watch.follow.stop()

    run(test())


def test_an_engine_that_is_not_installed_is_not_asked_again() -> None:
    async def test() -> None:
        watch = Watch(Engine())
        watch.engine.problem = EngineMissing("podman is not installed")
        assert await watch.start() == [engine("podman is not installed")]
        await skip(10 * LONGEST_PAUSE)
        assert (watch.engine.asked, watch.listings) == (1, 1)
        await watch.follow.stop()

    run(test())


def test_stopping_what_was_never_started_does_nothing() -> None:
    run(Watch(Engine()).follow.stop())
