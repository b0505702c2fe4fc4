# SPDX-License-Identifier: Apache-2.0

import asyncio
import errno
import os
import threading
from functools import partial
from pathlib import Path

import pytest

from agentd import errors
from agentd.files import replace_file
from agentd.manager import drains as module
from agentd.manager.drains import Drains, JobRecord, Ledger, PartRecord
from agentd.tasks import Tasks
from unit.loop import run, settle, skip

JOB = JobRecord(
    id=3,
    target="box",
    state="running",
    deadline_usec=7,
    timeout=2.5,
    parts={"box": PartRecord(remaining=1, pid=5, drained=["s"])},
)
DRAINS = Drains(
    next_job=4,
    all_drained=True,
    drained=["box#ä/#", "box/claude", "cat"],
    orders={"box": 3},
    unheard=["box"],
    jobs=[JOB],
)
OLD = (
    b'{"version":1,"next_job":4,"all_drained":false,"drained":["box"],"orders":{"box":3},"jobs":[{"id":3,'
    b'"target":"box","state":"running","deadline_usec":7,"ended_usec":0,"parts":{"box":{"remaining":1,"pid":5,'
    b'"drained":["s"],"result":""}}}]}'
)
"""As an agentd wrote it that drained nothing but containers."""


def ledger(folder: Path) -> Ledger:
    return Ledger(str(folder / "drains.json"), Tasks())


def test_what_was_written_is_there_for_the_next_manager(tmp_path: Path) -> None:
    async def test() -> None:
        first = ledger(tmp_path)
        first.put(lambda: DRAINS)
        await first.written()
        assert ledger(tmp_path).load() == DRAINS
        assert [each.name for each in tmp_path.iterdir()] == ["drains.json"]
        assert (tmp_path / "drains.json").stat().st_mode & 0o777 == 0o600

    run(test())


def test_what_an_older_agentd_wrote_is_understood(tmp_path: Path) -> None:
    (tmp_path / "drains.json").write_bytes(OLD)
    job = JobRecord(id=3, target="box", state="running", deadline_usec=7, parts=JOB.parts)
    assert ledger(tmp_path).load() == Drains(next_job=4, drained=["box"], orders={"box": 3}, jobs=[job])


def test_where_nothing_was_ever_written_nothing_is_drained(tmp_path: Path) -> None:
    async def test() -> None:
        assert ledger(tmp_path).load() == Drains()
        await ledger(tmp_path).written()
        assert not list(tmp_path.iterdir())

    run(test())


@pytest.mark.parametrize("found", [b"", b"{", b"[]", b'{"next_job":"x"}', b'{"version":2}', b"\xff"])
def test_what_cannot_be_understood_is_kept_and_all_is_drained(
    tmp_path: Path, found: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "drains.json").write_bytes(found)

    async def test() -> None:
        first = ledger(tmp_path)
        assert first.load() == Drains(all_drained=True)
        await first.written()
        assert ledger(tmp_path).load().all_drained  # also after the next restart

    run(test())
    [aside] = [each for each in tmp_path.iterdir() if each.name != "drains.json"]
    assert aside.read_bytes() == found
    assert "agentctl undrain" in caplog.text and str(aside) in caplog.text


def test_a_file_that_cannot_even_be_read_keeps_nobody_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "drains.json").mkdir()

    async def test() -> None:
        first = ledger(tmp_path)
        assert first.load().all_drained
        await first.written()

    run(test())
    assert "agentctl undrain" in caplog.text


def test_the_newest_of_what_waits_is_written_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, go = list[bytes](), threading.Event()

    def slow(path: str, data: bytes) -> None:
        go.wait(10)
        written.append(data)

    monkeypatch.setattr(module, "replace_file", slow)

    async def test() -> None:
        first = ledger(tmp_path)
        for number in (1, 2, 3, 4):
            first.put(partial(Drains, next_job=number))
            await settle()
        go.set()
        await first.written()
        assert [b'"next_job":1' in written[0], b'"next_job":4' in written[1], len(written)] == [
            True,
            True,
            2,
        ]

    run(test())


def test_what_is_written_is_how_it_is_when_it_is_written(tmp_path: Path) -> None:
    async def test() -> None:
        first, asked = ledger(tmp_path), list[int]()

        def state() -> Drains:
            asked.append(len(asked))
            return Drains(next_job=7)

        for _ in range(100):
            first.put(state)
        await first.written()
        assert (ledger(tmp_path).load().next_job, asked) == (7, [0])

    run(test())


def test_nobody_waits_for_what_others_put_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.replace_file

    async def test() -> None:
        first, loop = ledger(tmp_path), asyncio.get_running_loop()
        busy = True

        def one_more() -> None:
            if busy:
                first.put(Drains)

        def replace_and_put(path: str, data: bytes) -> None:
            real(path, data)
            loop.call_soon_threadsafe(one_more)

        monkeypatch.setattr(module, "replace_file", replace_and_put)
        first.put(Drains)
        await first.written()
        busy = False
        await first.written()

    run(test())


def test_a_disk_that_fails_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def test() -> None:
        first = ledger(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(module, "replace_file", full)
            first.put(lambda: DRAINS)
            with pytest.raises(errors.StoreFailed, match=r"drains.json cannot be written: No space left"):
                await first.written()
        await first.written()
        assert ledger(tmp_path).load() == DRAINS

    run(test())


def test_a_disk_that_hangs_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    monkeypatch.setattr(module, "replace_file", lambda path, data: go.wait(10))

    async def test() -> None:
        first = ledger(tmp_path)
        first.put(lambda: DRAINS)
        waiting = asyncio.ensure_future(first.written())
        await settle()
        await skip(module.WRITE_SEC)
        with pytest.raises(errors.StoreFailed, match="not written within 10 s"):
            await waiting
        go.set()
        await first.written()

    run(test())


def test_a_crash_while_writing_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "drains.json")
    replace_file(path, b"old")

    def power_cut(descriptor: int) -> None:
        raise OSError(errno.EIO, "cut")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(OSError, match="cut"):
        replace_file(path, b"new")
    assert Path(path).read_bytes() == b"old"
