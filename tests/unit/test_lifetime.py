# SPDX-License-Identifier: Apache-2.0

import asyncio
import os
import subprocess

import pytest

from agentd.errors import EngineFailed, NoSuchContainer
from agentd.link import ContainerInfo
from agentd.runtimes import lifetime
from unit.loop import run, settle


def box(pid: int, **facts: object) -> ContainerInfo:
    known: dict[str, object] = {"running": True, "id": "box", **facts}
    return ContainerInfo(name="box", runtime="x", pid=pid, **known)  # type: ignore[arg-type]


class Engine:
    """Answers with one thing after the other, and with the last one for ever."""

    def __init__(self, *answers: ContainerInfo | Exception) -> None:
        self.answers = list(answers)

    async def inspect(self, name: str) -> ContainerInfo:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_it_ends_with_its_first_process() -> None:
    async def test(child: "subprocess.Popen[bytes]") -> None:
        there = box(child.pid)
        waiting = asyncio.ensure_future(lifetime.outlived(there, Engine(there).inspect))
        await settle()
        assert not waiting.done()
        child.kill()
        assert await waiting

    with subprocess.Popen(["sleep", "60"]) as child:
        run(test(child))


@pytest.mark.parametrize(
    "now",
    [
        box(os.getpid(), id="another"),
        box(os.getpid() + 1),
        box(os.getpid(), running=False),
        NoSuchContainer("gone"),
    ],
    ids=["another id", "another process", "stopped", "gone"],
)
def test_what_is_another_by_now_has_ended(now: ContainerInfo | Exception) -> None:
    assert run(lifetime.outlived(box(os.getpid()), Engine(now).inspect))


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_a_process_out_of_sight_tells_nothing(pid: int) -> None:
    assert not run(lifetime.outlived(box(pid), Engine(box(pid)).inspect))


def test_an_engine_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "ASK_AGAIN_SEC", 0.01)
    there = box(os.getpid())
    assert run(lifetime.is_still(there, Engine(EngineFailed("busy"), EngineFailed("busy"), there).inspect))
