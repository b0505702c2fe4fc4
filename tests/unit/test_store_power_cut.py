# SPDX-License-Identifier: Apache-2.0
"""A process is killed at every place where the disk changes, and what it leaves behind is looked at."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.store.records import Asked, Progress
from agentd.store.store import Store
from support.power_cut import Model, State, modelled
from support.stored import frames, opened, rows
from unit.loop import run

SCRIPT = Path(__file__).parents[1] / "support" / "power_cut.py"
ENOUGH = 500
"""Boundaries, of which there are far fewer."""


class Victims:
    """Processes that live through the scenario, each until its time has come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._parent = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._parent.communicate(timeout=10)

    def start(self, at: int) -> None:
        """Let one live until that boundary, after those before it."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(f"{at} {self._path(at)} {self._ledger(at)}\n")
        self._parent.stdin.flush()

    def killed(self, at: int) -> tuple[bool, str, int]:
        """Whether the next of them died, the path of its store, and how many promises it kept."""
        assert self._parent.stdout is not None
        status = int(self._parent.stdout.readline())
        assert status in (0, signal.SIGKILL), status
        return status != 0, self._path(at), Path(self._ledger(at)).read_bytes().count(b"kept\n")

    def _path(self, at: int) -> str:
        return str(self._folder / f"{at}.db")

    def _ledger(self, at: int) -> str:
        return str(self._folder / f"{at}.ledger")


@pytest.fixture
def victims(tmp_path: Path) -> Iterator[Victims]:
    victims = Victims(tmp_path)
    yield victims
    victims.close()


async def state(store: Store) -> State:
    """All that is there, with every frame where it claims to be."""
    keys = [record.key for record in store.sessions.values()]
    facts = {key: await store.facts(key) for key in keys}
    return State(
        {record.key: record for record in store.sessions.values()},
        {key: data for key, data in facts.items() if data},
        {key: (*store.span(key), await frames(store, key)) for key in keys},
        {turn.number: turn for key in keys for turn in await store.turns(key)},
        {asked.number: asked for key in keys for asked in await store.permissions(key)},
    )


async def check(path: str, kept: int, model: Model) -> None:
    """What is on disk is one of the states there were since the last promise that was kept."""
    first = model.promised[kept - 1] if kept else 0
    async with opened(path) as store:
        found = await state(store)
        assert found in model.states[first:]
        for start, end, data in found.frames.values():
            assert end - start == data.count(b"\n")
        unfinished = (Progress.QUEUED, Progress.RUNNING)
        assert store.unfinished == [turn for turn in found.turns.values() if turn.progress in unfinished]
        assert store.pending == [
            each for each in found.permissions.values() if each.progress is Asked.PENDING
        ]
        assert store.new_key() > max(found.sessions, default=0)
        assert store.new_number() > max((*found.turns, *found.permissions), default=0)


def test_whenever_it_is_killed_what_was_promised_is_there_and_nothing_by_halves(victims: Victims) -> None:
    model, seen = modelled(), set[int]()
    victims.start(0)
    for at in range(ENOUGH):
        victims.start(at + 1)  # lives while the one before it is looked at
        died, path, kept = victims.killed(at)
        seen.add(kept)
        run(check(path, kept, model))
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]
        if not died:
            break
    assert (died, kept, at > 100) == (False, len(model.promised), True)
    assert len(seen) > len(model.promised) // 2  # it was killed all along the way
