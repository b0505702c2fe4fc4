# SPDX-License-Identifier: Apache-2.0

import asyncio
import logging
import os
import socket
from pathlib import Path

import pytest

from agentd import __version__, errors, link
from agentd.config import Agent, Configuration, portable
from agentd.config import Container as Entry
from agentd.log import Context
from agentd.manager import links as module
from agentd.manager.access import Peer, peer_of
from agentd.manager.drains import Ledger
from agentd.manager.jobs import ALL, LONGEST_SEC, Jobs
from agentd.manager.links import HELLO_SEC, WATCHER_UNIT, Links, UnitOf, check_size
from agentd.manager.registry import Registry
from agentd.manager.sockets import OWNER_AND_GROUP, bind
from agentd.tasks import Tasks
from unit.house import Spawner
from unit.loop import Changes, run, settle, skip


class Door:
    """Notes which connections have found their worker."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def taken(self, connection: int) -> None:
        self.given.append(connection)


class Far(Changes):
    """The end of a link that a worker or the watcher has."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.said: list[link.AnyMessage] = []
        self.link = link.Link(link.connect(path), self._message, self.changed)

    def _message(self, message: link.AnyMessage, descriptor: int | None) -> None:
        assert descriptor is None
        self.said.append(message)
        self.changed()

    async def heard(self, count: int) -> list[link.AnyMessage]:
        await self.until(lambda: len(self.said) >= count)
        return self.said

    async def ended(self) -> None:
        await self.until(lambda: self.link.closed)


class House(Changes):
    """The manager's end, and whoever has linked to it. Ends with `async with`."""

    def __init__(self, folder: Path, *, unit_of: UnitOf | None = None) -> None:
        super().__init__()
        self.path = str(folder / "link.sock")
        self.tasks, self.door = Tasks(), Door()
        self.registry = Registry(Spawner(), self.tasks)
        ledger = Ledger(str(folder / "drains.json"), self.tasks)
        self.jobs = Jobs(self.registry, Context(logging.getLogger("test")), ledger)
        self.configuration = Configuration(
            agents={"claude": Agent(env={"KEY": "hunter2"})}, containers={"box": Entry(), "other": Entry()}
        )
        self.registry.configure(self.configuration)
        self.registry.on_change.append(lambda _: self.changed())
        self.links = Links(
            self.registry,
            self.door,  # type: ignore[arg-type]
            self.jobs,
            self.tasks,
            lambda: self.configuration,
            unit_of=unit_of,
        )
        self._fars: list[Far] = []

    async def __aenter__(self) -> "House":
        self._sock = bind(self.path, socket.SOCK_SEQPACKET, OWNER_AND_GROUP)
        self.links.listen(self._sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        for far in self._fars:
            far.link.close()
        await self.until(lambda: not any(each.worker for each in self.registry))
        self.links.close()
        self._sock.close()
        await self.tasks.close()
        await settle()

    def connect(self) -> Far:
        self._fars.append(Far(self.path))
        return self._fars[-1]

    def hello(
        self, container: str = "box", *, pid: int = 5, state: str = "serving", version: int = link.VERSION
    ) -> Far:
        """Somebody who says that."""
        far = self.connect()
        snapshot = link.Snapshot(state=state, turns=1)
        far.link.send(
            link.Hello(version=version, pid=pid, code=__version__, container=container, snapshot=snapshot)
        )
        return far

    async def taken(self, container: str = "box", **said: int) -> Far:
        """Somebody who is taken in."""
        far = self.hello(container, **said)  # type: ignore[arg-type]
        welcome, settings = await far.heard(2)
        assert welcome == link.Welcome(version=link.VERSION)
        assert isinstance(settings, link.Settings)
        return far


async def refusal(far: Far) -> str:
    (said,) = await far.heard(1)
    assert isinstance(said, link.Refused)
    return said.reason


# Who may link


def test_a_worker_is_welcomed_with_what_concerns_its_container(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far = await house.taken("box", pid=7)
            assert far.said[1] == link.Settings(configuration=portable(house.configuration, "box"))
            worker = house.registry.get("box").worker
            assert worker is not None
            assert (worker.pid, worker.snapshot.turns) == (7, 1)
            assert house.registry.get("box").state == "serving"

    run(test())


def test_the_watcher_is_welcomed_without_secrets(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far = await house.taken("")
            assert "hunter2" not in repr(far.said)
            assert house.links.watch.link is not None
            far.link.close()
            await settle()
            assert house.links.watch.link is None

    run(test())


def test_a_worker_of_another_process_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            await house.taken("box", pid=7)
            first = house.registry.get("box").worker
            assert await refusal(house.hello("box", pid=8)) == "already_running"
            assert house.registry.get("box").worker is first
            await house.taken("other", pid=8)

    run(test())


@pytest.mark.parametrize("leaves", [False, True])
def test_who_is_gone_before_it_was_looked_at_is_not_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, leaves: bool
) -> None:
    """As a watcher is that is restarted together with the manager."""
    looking, go_on = asyncio.Event(), asyncio.Event()

    async def gone(pid: int, pidfd: int | None) -> str:
        looking.set()
        await go_on.wait()
        assert pidfd is not None and kernels_pid(pidfd) == os.getpid()  # it is still that descriptor
        raise errors.NotRunning(f"process {pid} has ended")

    async def test() -> None:
        async with House(tmp_path, unit_of=gone) as house:
            far = house.hello("")
            await looking.wait()
            if leaves:
                far.link.close()
                await settle()
            go_on.set()
            await far.ended()
            await settle()
            assert (far.said, house.links.watch.link) == ([], None)

    before = set(os.listdir("/proc/self/fd"))
    with caplog.at_level(logging.INFO):
        run(test())
    assert caplog.messages == []
    assert set(os.listdir("/proc/self/fd")) == before


def kernels_pid(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}") as info:
        return next(int(line.split()[1]) for line in info if line.startswith("Pid:"))


def test_a_worker_may_follow_one_that_has_left(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            first = await house.taken("box", pid=7)
            first.link.close()
            await house.until(lambda: house.registry.get("box").worker is None)
            await house.taken("box", pid=8)

    run(test())


def test_the_same_process_may_link_again_and_its_old_link_is_closed(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            old = await house.taken("box", pid=7)
            await house.taken("box", pid=7)
            await old.ended()
            await settle()
            assert house.registry.get("box").worker is not None

    run(test())


def test_two_workers_of_a_container_do_not_take_it_from_each_other_in_turn(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            first, second = house.hello("box", pid=7), house.hello("box", pid=8)
            await first.heard(2)
            assert await refusal(second) == "already_running"
            assert not first.link.closed

    run(test())


def test_a_version_of_the_link_that_is_no_longer_spoken_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far = house.hello(version=link.OLDEST - 1)
            assert await refusal(far) == "invalid_request"
            assert "restart agentd@box.service" in repr(far.said)
            assert house.registry.get("box").worker is None

    run(test())


def test_another_account_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stranger(sock: socket.socket, *, with_pidfd: bool = False) -> Peer:
        return peer_of(sock, with_pidfd=with_pidfd)._replace(uid=54321)

    monkeypatch.setattr(module, "peer_of", stranger)

    async def test() -> None:
        async with House(tmp_path) as house:
            assert await refusal(house.hello()) == "access_denied"
            assert await refusal(house.hello("")) == "access_denied"

    run(test())


@pytest.mark.parametrize(
    ("container", "unit", "taken"),
    [
        ("box", "agentd@box.service", True),
        ("box", "agentd@other.service", False),
        ("box", "user@1000.service", False),
        ("box", "", False),
        ("", WATCHER_UNIT, True),
        ("", "agentd@box.service", False),
    ],
)
def test_where_systemd_supervises_its_word_counts(
    tmp_path: Path, container: str, unit: str, taken: bool
) -> None:
    async def unit_of(pid: int, pidfd: int | None) -> str:
        assert pid == os.getpid()
        return unit

    async def test() -> None:
        async with House(tmp_path, unit_of=unit_of) as house:
            if taken:
                await house.taken(container)
            else:
                assert await refusal(house.hello(container)) == "access_denied"

    run(test())


def test_one_that_leaves_while_it_is_being_checked_is_not_taken_in(tmp_path: Path) -> None:
    checked = asyncio.Event()

    async def unit_of(pid: int, pidfd: int | None) -> str:
        await checked.wait()
        return "agentd@box.service"

    async def test() -> None:
        async with House(tmp_path, unit_of=unit_of) as house:
            far = house.hello()
            await settle()
            far.link.close()
            await settle()
            checked.set()
            await settle()
            assert house.registry.get("box").worker is None

    run(test())


def test_what_is_said_before_the_check_is_over_is_not_lost(tmp_path: Path) -> None:
    checked = asyncio.Event()

    async def unit_of(pid: int, pidfd: int | None) -> str:
        await checked.wait()
        return "agentd@box.service"

    async def test() -> None:
        async with House(tmp_path, unit_of=unit_of) as house:
            far = house.hello()
            for number in range(3):
                far.link.send(link.Taken(connection=number))
            await settle()
            assert house.door.given == []
            checked.set()
            await far.heard(2)
            assert house.door.given == [0, 1, 2]

    run(test())


def test_one_that_begins_with_anything_but_hello_is_shown_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far = house.connect()
            far.link.send(link.Taken(connection=1))
            await far.ended()
            assert (house.door.given, far.said) == ([], [])

    run(test())


def test_one_that_says_nothing_is_shown_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            patient, silent = await house.taken(), house.connect()
            await settle()
            await skip(HELLO_SEC)
            await silent.ended()
            assert not patient.link.closed

    run(test())


# What workers say


def test_a_worker_tells_of_its_state_and_of_what_it_has_taken(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far, box = await house.taken(), house.registry.get("box")
            far.link.send(link.State(snapshot=link.Snapshot(state="serving", clients=4)))
            far.link.send(link.Taken(connection=9))
            await house.until(lambda: box.snapshot.clients == 4)
            await settle()
            assert house.door.given == [9]

    run(test())


def test_a_workers_own_reason_for_failing_is_kept(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far, box = await house.taken(), house.registry.get("box")
            far.link.send(link.Failed(reason="engine_failed", message="podman is on fire"))
            far.link.close()
            await house.until(lambda: box.worker is None)
            assert isinstance(box.failure, errors.EngineFailed)
            assert (box.failure.message, box.state) == ("podman is on fire", "failed")

    run(test())


def test_a_worker_whose_container_has_ended_says_so_before_the_watcher_does(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            house.registry.seen(link.ContainerInfo(name="box", runtime="podman", running=True))
            far, box = await house.taken(), house.registry.get("box")
            far.link.send(link.Leaving(container_ended=True))
            far.link.close()
            await house.until(lambda: box.worker is None)
            assert box.state == "stopped"

    run(test())


def test_drains_reach_workers_and_their_reports_the_job(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far, other = await house.taken("box"), await house.taken("other")
            job = house.jobs.drain(ALL, 60.0)
            assert (await far.heard(3))[2] == link.Drain(job=job.id, timeout=60.0)
            far.link.send(link.Progress(job=job.id, remaining=0, drained=["s"]))
            far.link.send(link.Ended(job=job.id, result="done", drained=["s"]))
            await other.heard(3)
            other.link.close()
            ended = Changes()
            house.jobs.on_ended.append(lambda _: ended.changed())
            await ended.until(lambda: not job.running)
            assert (job.state, job.drained) == ("failed", ["s"])

    run(test())


def test_a_worker_that_links_while_all_is_drained_learns_of_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            house.jobs.drain("box", 60.0)
            far = await house.taken("box")
            assert (await far.heard(3))[2] == link.Drain(job=0, timeout=LONGEST_SEC)  # cuts off no turn

    run(test())


# What the watcher says


def test_the_watcher_tells_what_there_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far = await house.taken("")
            found = link.ContainerInfo(name="new", runtime="podman", running=True)
            far.link.send(link.Seen(container=found))
            far.link.send(link.Engine(runtime="docker", problem="docker is not installed"))
            far.link.send(link.Listed())
            await house.registry.complete.wait()
            assert house.registry.get("new").info == found
            assert house.links.watch.engines == {"docker": "docker is not installed"}
            far.link.send(link.Gone(name="new", runtime="podman"))
            far.link.send(link.Engine(runtime="docker"))
            while house.links.watch.engines["docker"]:
                await asyncio.sleep(0)
            assert [each.name for each in house.registry] == ["box", "other"]

    run(test())


def test_a_watcher_of_another_process_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            first = await house.taken("", pid=1)
            assert await refusal(house.hello("", pid=2)) == "already_running"
            first.link.close()
            while house.links.watch.link is not None:
                await asyncio.sleep(0)
            await house.taken("", pid=2)

    run(test())


def test_a_watcher_that_links_again_takes_its_own_place(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            old = await house.taken("", pid=1)
            await house.taken("", pid=1)
            await old.ended()
            await settle()
            assert house.links.watch.link is not None

    run(test())


def test_the_watcher_can_be_told_to_leave(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            house.links.dismiss_watcher()  # there is none
            far = await house.taken("")
            house.links.dismiss_watcher()
            assert (await far.heard(3))[2] == link.Leave(timeout=0.0)

    run(test())


def test_everyone_is_told_when_the_configuration_changes(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            worker, watcher = await house.taken("box"), await house.taken("")
            house.configuration = Configuration(default_agent="codex", runtimes=("docker",))
            house.links.reload()
            for far in (worker, watcher):
                settings = (await far.heard(3))[2]
                assert isinstance(settings, link.Settings)
                assert settings.configuration["runtimes"] == ["docker"]

    run(test())


def test_a_worker_is_not_told_what_it_knows(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            box, other, watcher = [await house.taken(name) for name in ("box", "other", "")]
            old = house.configuration
            entries = {**old.containers, "other": Entry(share_sessions=True)}
            house.configuration = Configuration(agents=old.agents, containers=entries)
            house.links.reload()
            house.links.reload()
            assert len(await other.heard(3)) == 3
            await settle()
            assert (len(box.said), len(watcher.said)) == (2, 2)

    run(test())


# Trouble


def test_without_descriptors_accepting_pauses_and_then_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            listening, attempts = house._sock, list[int]()

            class Poor:
                """A listening socket with no descriptors left for whoever comes."""

                def fileno(self) -> int:
                    return listening.fileno()

                def accept(self) -> tuple[socket.socket, str]:
                    attempts.append(1)
                    if len(attempts) == 1:
                        raise OSError(24, "Too many open files")
                    return listening.accept()

                def setblocking(self, flag: bool) -> None:
                    """It does not block already."""

            asyncio.get_running_loop().remove_reader(listening)
            house.links.listen(Poor())  # type: ignore[arg-type]
            far = house.hello()
            await settle()
            assert (len(attempts), far.said) == (1, [])
            await skip(module.BREATH_SEC)
            await far.heard(2)

    run(test())
    assert "cannot accept links for 1 s" in caplog.text


def test_a_configuration_too_long_to_be_passed_on_is_refused() -> None:
    long = Configuration(
        agents={"a": Agent(command=("x",), env={f"K{n}": "v" * 4000 for n in range(60)})},
        containers={"box": Entry()},
    )
    with pytest.raises(errors.ConfigurationInvalid, match="too long for the worker of box"):
        check_size(long)
    check_size(Configuration(containers={"box": Entry()}))


# A restart of the manager


def test_a_manager_that_ends_does_not_take_its_workers_for_lost(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far = await house.taken("box")
            job = house.jobs.drain("box", 60.0)
            house.links.close()
            await far.ended()
            await settle()
            assert (job.state, house.registry.get("box").failure) == ("running", None)
            house.registry.get("box").worker = None
            await house.jobs.kept()
        async with House(tmp_path) as house:
            house.jobs.restore()
            assert [each.state for each in house.jobs] == ["running"]
            snapshot = link.Snapshot(
                state="drained", drain=link.DrainInfo(job=1, remaining=0, result="done")
            )
            far = house.connect()
            far.link.send(link.Hello(version=1, pid=5, code="0", container="box", snapshot=snapshot))
            await house.until(lambda: house.registry.get("box").worker)
            assert [each.state for each in house.jobs] == ["done"]

    run(test())


def test_a_report_in_a_state_counts_like_any_other(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far = await house.taken("box")
            job, seen = house.jobs.drain("box", 60.0), Changes()
            house.jobs.on_progress.append(lambda _: seen.changed())
            drain = link.DrainInfo(job=job.id, remaining=1, drained=["s"])
            far.link.send(link.State(snapshot=link.Snapshot(state="draining", turns=1, drain=drain)))
            await seen.until(lambda: job.drained == ["s"])
            ended = link.DrainInfo(job=job.id, remaining=0, drained=["s", "t"], result="timeout")
            far.link.send(link.State(snapshot=link.Snapshot(state="drained", drain=ended)))
            await seen.until(lambda: not job.running)
            assert (job.state, job.drained) == ("timeout", ["s", "t"])

    run(test())
