# SPDX-License-Identifier: Apache-2.0

import asyncio

import pytest

from agentd import link
from agentd.errors import NotRunning, WorkerFailed
from agentd.manager.container import Container, State, WorkerEnd
from unit.loop import run
from unit.wire import served


class Wire:
    """A link nobody is at the other end of."""

    def send(self, message: link.AnyMessage, descriptor: int | None = None) -> None:
        raise AssertionError(message)


def info(*, running: bool = True, pid: int = 7, container_id: str = "1") -> link.ContainerInfo:
    return link.ContainerInfo(name="box", runtime="podman", running=running, pid=pid, id=container_id)


def worker(state: str = "serving") -> WorkerEnd:
    hello = link.Hello(version=1, pid=5, code="0", container="box", snapshot=link.Snapshot(state=state))
    return WorkerEnd(Wire(), hello)  # type: ignore[arg-type]


def box(*facts: str) -> Container:
    """A container of which this is known."""
    container = Container("box")
    for fact in facts:
        match fact.split():
            case ["runs"]:
                container.seen(info())
            case ["stopped"]:
                container.seen(info(running=False, pid=0))
            case ["worker", state]:
                container.attach(worker(state))
            case ["starting"]:
                container.start = asyncio.get_running_loop().create_task(asyncio.sleep(0))
            case ["drained"]:
                container.drained = True
            case ["failed"]:
                container.failure = WorkerFailed("x")
    return container


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ([], "idle"),
        (["runs"], "idle"),
        (["stopped"], "stopped"),
        (["runs", "starting"], "starting"),
        (["runs", "worker starting"], "starting"),
        (["worker serving"], "serving"),
        (["runs", "worker draining"], "draining"),
        (["runs", "worker drained"], "drained"),
        (["runs", "worker resuming"], "serving"),  # the word of a newer worker
        (["runs", "drained"], "drained"),
        (["runs", "failed"], "failed"),
        (["failed"], "failed"),
        # what outweighs what
        (["stopped", "worker serving"], "serving"),
        (["stopped", "starting"], "starting"),
        (["stopped", "drained"], "stopped"),
        (["stopped", "failed"], "stopped"),
        (["drained", "failed"], "drained"),
        (["drained", "starting"], "starting"),
        (["failed", "starting"], "starting"),
        (["starting", "worker serving"], "serving"),
        (["failed", "worker serving"], "serving"),
    ],
)
def test_the_state_follows_from_what_is_known(facts: list[str], state: str) -> None:
    async def test() -> str:
        return box(*facts).state

    assert run(test()) == state


@pytest.mark.parametrize(
    ("change", "forgiven"),
    [
        (info(), False),
        (info(pid=8), True),
        (info(container_id="2"), True),
        (info(running=False, pid=0), True),
    ],
)
def test_a_failure_is_forgotten_when_the_container_starts_anew(
    change: link.ContainerInfo, forgiven: bool
) -> None:
    container = box("runs", "failed")
    container.seen(change)
    assert (container.failure is None) == forgiven
    assert container.info == change


def test_a_container_takes_connections_while_its_worker_does() -> None:
    container = box()
    assert not container.ready.is_set()
    container.attach(worker("starting"))
    assert not container.ready.is_set()
    container.told(link.Snapshot(state="serving", clients=2))
    assert container.ready.is_set()
    assert container.snapshot.clients == 2
    container.told(link.Snapshot(state="starting"))
    assert not container.ready.is_set()


def test_a_worker_that_goes_leaves_nothing_of_itself() -> None:
    container = box("runs", "worker serving")
    assert not container.unlinked.is_set()
    container.detach()
    assert (container.state, container.snapshot) == ("idle", link.Snapshot())
    assert (container.ready.is_set(), container.unlinked.is_set()) == (False, True)
    container.told(link.Snapshot(state="serving"))  # its last words came late
    assert not container.ready.is_set()


def test_a_new_worker_ends_an_old_failure() -> None:
    container = box("failed")
    container.unlinked.set()
    container.attach(worker())
    assert (container.failure, container.unlinked.is_set()) == (None, False)


@pytest.mark.parametrize("state", ["draining", "drained"])
def test_a_drained_worker_makes_a_new_manager_know_it(state: str) -> None:
    container = box(f"worker {state}")
    assert container.drained
    container.detach()
    assert container.state == "drained"


def test_a_worker_that_leaves_is_not_drained_unless_that_was_ordered() -> None:
    leaving = link.Snapshot(state="draining", leaving=True)
    ordered = link.Snapshot(state="draining", leaving=True, drain=link.DrainInfo(job=3, remaining=1))
    for snapshot, drained in ((leaving, False), (ordered, True)):
        container, end = Container("box"), worker()
        end.snapshot = snapshot
        container.attach(end)
        assert (container.drained, end.leaving) == (drained, True)


@pytest.mark.parametrize(("theirs", "spoken"), [(1, 1), (link.VERSION, link.VERSION), (99, link.VERSION)])
def test_a_worker_speaks_what_both_sides_do(theirs: int, spoken: int) -> None:
    hello = link.Hello(version=theirs, pid=5, code="0", container="box")
    assert WorkerEnd(Wire(), hello).version == spoken  # type: ignore[arg-type]


def test_the_runtime_is_the_engines_word() -> None:
    assert (box().runtime, box("runs").runtime, box().stopped) == ("", "podman", False)


def test_failure_of_a_start_under_way_is_not_cleared_by_the_watcher() -> None:
    async def test() -> None:
        container = Container("box")
        container.failure = NotRunning("box is not running")
        container.start = asyncio.get_running_loop().create_task(asyncio.sleep(0))
        container.seen(info())
        assert isinstance(container.failure, NotRunning)
        await container.start
        container.start = None
        container.seen(info(container_id="2"))
        assert container.failure is None

    run(test())


def test_an_order_to_drain_is_seen_before_the_worker_has_heard_it() -> None:
    async def test() -> None:
        box, _ = served()
        box.drained = True
        assert box.state is State.DRAINING
        box.told(link.Snapshot(state="drained"))
        assert box.state is State.DRAINED

    run(test())
