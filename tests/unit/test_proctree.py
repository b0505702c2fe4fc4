# SPDX-License-Identifier: Apache-2.0

import asyncio
import contextlib
import os
import secrets
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import proctree
from unit.loop import Loop, run

LONG = 20.0


class Tree:
    """Processes with a mark. `pids` are those that have said that they are up."""

    def __init__(self) -> None:
        self.owner = secrets.token_hex(8)
        self._read, self._write = os.pipe()
        self._never, self._held = os.pipe()
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, script: str, *, mark: str = "", up: int = 1) -> list[int]:
        """Run a shell script. `$up` is a descriptor for pids, `$never` one on which nothing ever comes."""
        variables = {"up": str(self._write), "never": str(self._never)}
        environment = {**os.environ, proctree.MARKER: mark or f"{self.owner}/1", **variables}
        child = subprocess.Popen(["sh", "-c", script], env=environment, pass_fds=[self._write, self._never])
        self._children.append(child)
        said = b""
        while said.count(b"\n") < up:
            said += os.read(self._read, 1000)
        return [int(pid) for pid in said.split()]

    def statuses(self) -> list[int]:
        return [child.wait() for child in self._children]

    def all_gone(self) -> bool:
        """Whether no process holds the descriptor that they all have."""
        os.close(self._write)
        self._write = -1
        ready, _, _ = select.select([self._read], [], [], LONG)
        return bool(ready) and os.read(self._read, 1000) == b""

    def close(self) -> None:
        for pid in proctree.find(self.owner):
            with contextlib.suppress(ProcessLookupError):  # it may have waited for the one before
                os.kill(pid, signal.SIGKILL)
        self.statuses()
        for descriptor in (self._read, self._write, self._never, self._held):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def tree() -> Iterator[Tree]:
    tree = Tree()
    yield tree
    tree.close()


def end(tree: Tree, *, term: float = LONG) -> list[int]:
    return run(proctree.end(tree.owner, term=term, kill=LONG))


SAY_AND_SLEEP = "echo $$ >/dev/fd/$up; read x </dev/fd/$never"
"""Without an exec after it has said so: in the middle of one a process has no environment to be seen."""


# Finding


def test_a_process_is_found_by_owner_and_by_instance(tree: Tree) -> None:
    one = tree.start(SAY_AND_SLEEP, mark=f"{tree.owner}/1")
    two = tree.start(SAY_AND_SLEEP, mark=f"{tree.owner}/2")
    assert sorted(proctree.find(tree.owner)) == sorted(one + two)
    assert proctree.find(f"{tree.owner}/2") == two


@pytest.mark.parametrize("other", ["x", "", "0/1"])
def test_another_ones_processes_are_not_found(tree: Tree, other: str) -> None:
    child = subprocess.Popen(["sleep", "60"], env={proctree.MARKER: tree.owner + other})
    found = proctree.find(tree.owner)
    child.kill()
    child.wait()
    assert found == ([] if other else [child.pid])


def test_a_mark_that_is_only_part_of_a_variable_does_not_count(tree: Tree) -> None:
    child = subprocess.Popen(["sleep", "60"], env={f"NOT_{proctree.MARKER}": tree.owner, "A": tree.owner})
    found = proctree.find(tree.owner)
    child.kill()
    child.wait()
    assert found == []


def test_a_child_without_environment_is_found_by_its_parent(tree: Tree) -> None:
    pids = tree.start(
        "echo $$ >/dev/fd/$up; env -i up=$up sh -c 'echo $$ >/dev/fd/$up; sleep 60; :' & wait", up=2
    )
    while len(found := proctree.find(tree.owner)) < 3:  # the sleep, two steps down, says nothing
        pass
    assert set(pids) < set(found)


def test_one_in_the_middle_of_an_exec_is_looked_at_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pid,) = tree.start(SAY_AND_SLEEP)
    empty, read = [b""] * (proctree.LOOKS - 1), proctree._read_environment
    monkeypatch.setattr(
        proctree, "_read_environment", lambda of: empty.pop() if of == pid and empty else read(of)
    )
    assert proctree.find(tree.owner) == [pid]
    assert empty == []


def test_what_left_its_parent_and_session_is_found_by_its_mark(tree: Tree) -> None:
    pids = tree.start(f"setsid sh -c '{SAY_AND_SLEEP}' &")
    tree.statuses()
    assert proctree.find(tree.owner) == pids


def test_a_name_with_spaces_and_brackets_confuses_nothing(tree: Tree, tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    shutil.copy(shutil.which("sleep") or "", odd)
    (pid,) = tree.start(f"echo $$ >/dev/fd/$up; env -i '{odd}' 60; :")
    while len(found := proctree.find(tree.owner)) < 2:
        pass
    assert pid in found


def test_those_of_another_pid_namespace_can_be_left_out(tree: Tree) -> None:
    pids = tree.start(SAY_AND_SLEEP)
    here = proctree.pid_namespace_of(os.getpid())
    assert here is not None
    assert proctree.find(tree.owner, pid_namespace=here) == pids
    assert proctree.find(tree.owner, pid_namespace=here + 1) == []


def test_what_has_gone_has_no_times_and_no_namespace() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert (proctree.start_time(child.pid), proctree.pid_namespace_of(child.pid)) == (None, None)


def test_a_start_time_is_in_seconds_since_boot() -> None:
    before = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    child = subprocess.Popen(["sleep", "60"])
    born = proctree.start_time(child.pid)
    child.kill()
    child.wait()
    assert born is not None
    assert before - 1 < born < before + LONG


def test_owners_are_as_different_as_their_folders_and_containers(tmp_path: Path) -> None:
    (tmp_path / "same").symlink_to(tmp_path)
    one = proctree.owner_of(str(tmp_path), "box")
    assert proctree.owner_of(str(tmp_path / "same"), "box") == one
    assert len({one, proctree.owner_of(str(tmp_path), "box2"), proctree.owner_of("/x", "box")}) == 3
    assert "/" not in one


# Ending


def test_ending_nothing_is_done_at_once() -> None:
    assert run(proctree.end("nobody", term=LONG, kill=LONG)) == []


def test_a_tree_ends_by_sigterm(tree: Tree) -> None:
    # A child that is forked and no program of its own yet would take the signal for the trap, and forget it.
    tree.start(
        "trap 'echo bye >/dev/fd/$up; exit 5' TERM; echo $$ >/dev/fd/$up; "
        f"sh -c '{SAY_AND_SLEEP}' & while :; do wait; done",
        up=2,
    )
    assert end(tree) == []
    assert tree.statuses() == [5]


def test_what_ignores_sigterm_is_killed_with_all_its_children(tree: Tree) -> None:
    tree.start(f"trap '' TERM; echo $$ >/dev/fd/$up; setsid sh -c '{SAY_AND_SLEEP}' & sleep 60; :", up=2)
    assert end(tree, term=0.05) == []
    assert tree.statuses() == [-signal.SIGKILL]
    assert tree.all_gone()


def test_what_is_stopped_is_killed_too(tree: Tree) -> None:
    (pid,) = tree.start(SAY_AND_SLEEP)
    os.kill(pid, signal.SIGSTOP)
    assert end(tree, term=0.05) == []
    assert tree.all_gone()


def test_a_tree_that_forks_as_it_is_ended_leaves_nobody(tree: Tree) -> None:
    tree.start("trap 'setsid sleep 60 &' TERM; echo $$ >/dev/fd/$up; while :; do sleep 60 & wait; done")
    assert end(tree, term=0.05) == []
    assert tree.all_gone()


def test_only_one_instance_of_two_is_ended(tree: Tree) -> None:
    tree.start(SAY_AND_SLEEP, mark=f"{tree.owner}/1")
    (other,) = tree.start(SAY_AND_SLEEP, mark=f"{tree.owner}/2")
    assert run(proctree.end(f"{tree.owner}/1", term=LONG, kill=LONG)) == []
    assert proctree.find(tree.owner) == [other]


def test_the_loop_runs_on_while_a_tree_is_ended(tree: Tree) -> None:
    async def test() -> None:
        tree.start("trap '' TERM; echo $$ >/dev/fd/$up; while :; do sleep 60 & wait; done")
        ending, turns = asyncio.ensure_future(proctree.end(tree.owner, term=0.1, kill=LONG)), 0
        while not ending.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100

    run(test())
    assert tree.all_gone()


@pytest.mark.parametrize("cancelled", ["while it waits", "before"])
def test_ending_that_is_given_up_leaves_nothing_on_the_loop(tree: Tree, cancelled: str) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        tree.start("trap '' TERM; echo $$ >/dev/fd/$up; while :; do sleep 60 & wait; done")
        ending = asyncio.ensure_future(proctree.end(tree.owner, term=LONG, kill=LONG))
        while cancelled != "before" and not loop.watched():
            await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
        assert (ending.cancelled(), loop.watched()) == (True, 0)

    run(test())
