# SPDX-License-Identifier: Apache-2.0

import asyncio
import errno
import functools
import json
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentd.errors import AgentdError, StoreCorrupt, StoreFailed, StoreFull, StoreTooNew
from agentd.log import HIDDEN, Redactor
from agentd.store import batch, writer
from agentd.store import store as face
from agentd.store.records import Asked, Begun, Progress, Run
from support.stored import (
    NOW,
    Watched,
    frames,
    in_writer,
    opened,
    permission,
    rows,
    session,
    synced,
    turn,
)
from unit.loop import run, settle, skip


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.db")


class Gate:
    """Holds up the writer at a boundary, counts what passes, or makes it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed: list[str] = []
        self.error: BaseException | None = None
        self.fails_at = "before begin"
        self._open = threading.Event()
        self._open.set()
        monkeypatch.setattr(writer, "boundary", self._pass)

    def _pass(self, where: str) -> None:
        if where == "before begin":
            assert self._open.wait(10)
        if self.error is not None and where == self.fails_at:
            raise self.error
        self.passed.append(where)

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    @property
    def commits(self) -> int:
        return self.passed.count("after commit")


def told_of(told: list[int], number: int, error: AgentdError | None) -> None:
    """Somebody who waits was called back."""
    assert error is None
    told.append(number)


def told_how(told: list[tuple[int, bool]], number: int, error: AgentdError | None) -> None:
    told.append((number, error is None))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


# What is kept


def test_what_is_kept_is_there_when_it_is_opened_again(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store, "one", title="a title", cwd="/home/x", prompted=True)
            store.save(msgspec.structs.replace(one, state="closed"), b'{"facts":1}')
            store.append(one.key, 0, b"a\nb\n")
            queued = turn(store, one.key, said=b"hello", progress=Progress.QUEUED)
            ended = turn(
                store, one.key, progress=Progress.ENDED, ended=NOW, outcome="end_turn", answer=b"{}"
            )
            asked = permission(store, one.key, turn=queued.number, frame=b"?\n")
            answered = permission(store, one.key, progress=Asked.ANSWERED, outcome="yes")
        async with opened(path) as store:
            assert store.sessions == {"one": msgspec.structs.replace(one, state="closed")}
            assert (store.unfinished, store.pending) == ([queued], [asked])
            assert await store.turns(one.key) == [queued, ended]
            assert await store.permissions(one.key) == [asked, answered]
            assert await store.facts(one.key) == b'{"facts":1}'
            assert (await frames(store, one.key), store.span(one.key)) == (b"a\nb\n", (0, 2))
            assert store.written(one.key) == 2

    run(test())


def test_the_last_state_of_what_was_changed_is_kept(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            store.save(one, b"facts")
            first = turn(store, one.key, said=b"hello")
            await synced(store)
            last = msgspec.structs.replace(one, updated=NOW + 1, title="new")
            store.save(last)
            store.put_turn(msgspec.structs.replace(first, progress=Progress.ENDED, said=b""))
        async with opened(path) as store:
            assert (store.sessions, store.unfinished) == ({"s": last}, [])
            assert await store.turns(one.key) == [
                msgspec.structs.replace(first, progress=Progress.ENDED, said=b"")
            ]
            assert await store.facts(one.key) == b"facts"

    run(test())


@pytest.mark.parametrize("text", ["\ud800", "/a\udcff", "\0", "é🙂", "'; DROP TABLE session"])
def test_any_text_comes_back_as_it_was(path: str, text: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store, text, title=text, cwd=text)
            asked = turn(store, one.key, client=text, raw_id=b"\xff\0")
        async with opened(path) as store:
            assert store.sessions == {text: one}
            assert await store.turn_of(text, b"\xff\0") == asked

    run(test())


def test_keys_and_numbers_are_not_used_again(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one, two = session(store, "one"), session(store, "two")
            numbers = [turn(store, two.key).number, permission(store, two.key).number]
            await synced(store)
            store.forget(two.key)
        async with opened(path) as store:
            assert (one.key, two.key, store.new_key()) == (1, 2, 3)
            assert store.new_number() > max(numbers) > min(numbers)

    run(test())


def test_what_is_forgotten_is_gone_altogether(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one, two = session(store, "one"), session(store, "two")
            for each in (one, two):
                store.save(each, b"facts")
                store.append(each.key, 0, b"x\n")
                turn(store, each.key)
                permission(store, each.key)
            await synced(store)
            store.forget(one.key)
            assert list(store.sessions) == ["two"]
            assert (await store.turns(one.key), await store.permissions(one.key)) == ([], [])
            assert (await store.facts(one.key), await store.read(one.key, 0, 10)) == (b"", [])
            assert await store.turn_of("c", b"1") == (await store.turns(two.key))[0]
        for table, column in (("session", "key"), ("facts", "session"), ("run", "place >> 36")):
            assert rows(path, f"SELECT {column} FROM {table}") == [(two.key,)]
        for table in ("turn", "permission"):
            assert rows(path, f"SELECT session FROM {table}") == [(two.key,)]

    run(test())


def test_an_id_is_free_at_once(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            await synced(store)
            store.forget(one.key)
            two = session(store)
            assert await synced(store) is None
        assert rows(path, "SELECT key, id FROM session") == [(two.key, "s")]

    run(test())


def test_what_was_never_written_leaves_nothing_when_it_is_forgotten(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            store.append(one.key, 0, b"x\n")
            turn(store, one.key)
            permission(store, one.key)
            store.clear(one.key)
            store.forget(one.key)
        for table in ("session", "facts", "run", "turn", "permission"):
            assert rows(path, f"SELECT * FROM {table}") == []

    run(test())


def test_what_comes_late_for_a_forgotten_session_is_not_kept(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            store.forget(one.key)
            session(store)
            store.save(one, b"late")
            store.append(one.key, 0, b"late\n")
            turn(store, one.key)
            permission(store, one.key)
            store.clear(one.key)
            store.forget(one.key)
            assert (store.span(one.key), store.written(one.key)) == ((0, 0), 0)
        for table in ("facts", "run", "turn", "permission"):
            assert rows(path, f"SELECT * FROM {table}") == []

    run(test())


def test_mistakes_of_the_caller_are_told_at_once(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one, unsaved = session(store, "one"), store.new_key()
            for key in (unsaved, unsaved + 1):
                with pytest.raises(ValueError, match="has to be saved first"):
                    store.append(key, 0, b"x\n")
            with pytest.raises(ValueError, match="cannot be one"):
                session(store, "one")
            with pytest.raises(ValueError, match="cannot be other"):
                store.save(msgspec.structs.replace(one, id="other"))
            with pytest.raises(ValueError, match="the next frame of session 1 is 0, not 1"):
                store.append(one.key, 1, b"x\n")
            assert (await synced(store), list(store.sessions)) == (None, ["one"])

    run(test())


# Frames


def test_frames_are_joined_to_rows_of_some_size(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "ROW_BYTES", 6)

    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            for seq, data in enumerate((b"a\n", b"b\n", b"c\n", b"d\n", b"a long one\n", b"e\n")):
                store.append(one.key, seq, data)
        found = rows(path, "SELECT place & 0xfff, count, at, data FROM run")
        assert found == [
            (0, 3, NOW, b"a\nb\nc\n"),
            (3, 1, NOW, b"d\n"),
            (4, 1, NOW, b"a long one\n"),
            (5, 1, NOW, b"e\n"),
        ]

    run(test())


@pytest.mark.parametrize(
    ("seq", "most", "found"),
    [
        (0, 1, [Run(0, 3, NOW, b"a\nb\nc\n")]),
        (0, 7, [Run(0, 3, NOW, b"a\nb\nc\n"), Run(3, 2, NOW, b"d\ne\n")]),
        (1, 4, [Run(1, 2, NOW, b"b\nc\n")]),
        (2, 100, [Run(2, 1, NOW, b"c\n"), Run(3, 2, NOW, b"d\ne\n")]),
        (3, 1, [Run(3, 2, NOW, b"d\ne\n")]),
        (4, 1, [Run(4, 1, NOW, b"e\n")]),
        (5, 100, []),
        (1 << 50, 100, []),
        (-1, 1, [Run(0, 3, NOW, b"a\nb\nc\n")]),
    ],
)
def test_reading_begins_and_ends_where_it_should(path: str, seq: int, most: int, found: list[Run]) -> None:
    async def test() -> None:
        async with opened(path) as store:
            session(store, "before")
            one = session(store)
            store.append(session(store, "after").key, 0, b"x\n")
            for first, data in ((0, b"a\nb\nc\n"), (3, b"d\ne\n")):
                store.append(one.key, first, data)
                await synced(store)
            assert await store.read(one.key, seq, most) == found

    run(test())


def test_written_tells_which_frames_are_on_disk(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            seen: list[int] = []
            store.on_written.append(lambda: seen.append(store.written(one.key)))
            store.append(one.key, 0, b"a\nb\n")
            await synced(store)
            gate.shut()
            store.append(one.key, 2, b"c\n")
            await settle()
            assert (store.written(one.key), store.span(one.key), await frames(store, one.key)) == (
                *(2, (0, 3)),
                b"a\nb\n",
            )
            gate.open()
            await synced(store)
            assert (store.written(one.key), seen) == (3, [2, 3])

    run(test())


def test_frames_that_are_cleared_are_gone_and_their_numbers_stay(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            store.append(one.key, 0, b"a\nb\n")
            await synced(store)
            gate.shut()
            store.append(one.key, 2, b"c\n")
            store.clear(one.key)
            assert (store.span(one.key), store.written(one.key)) == ((3, 3), 3)
            assert await store.read(one.key, 0, 100) == []  # though it is still on disk
            gate.open()
        async with opened(path) as store:
            assert store.span(one.key) == (3, 3)
            store.append(one.key, 3, b"d\n")
        async with opened(path) as store:
            assert (store.span(one.key), await frames(store, one.key)) == ((3, 4), b"d\n")

    run(test())


def test_clearing_does_not_lose_what_comes_after_it(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            gate.shut()
            store.append(one.key, 0, b"a\n")
            store.sync(lambda error: None)
            await settle()
            store.append(one.key, 1, b"b\n")
            store.clear(one.key)
            store.append(one.key, 2, b"c\n")
            gate.open()
            await synced(store)
            assert (await frames(store, one.key), store.written(one.key)) == (b"c\n", 3)

    run(test())


# When it is written


def test_it_is_on_disk_when_sync_says_so(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            said: list[list[Any]] = []
            session(store)
            store.sync(lambda error: said.append(rows(path, "SELECT id FROM session")))
            assert said == []
            await synced(store)
            assert said == [[("s",)]]

    run(test())


def test_the_writer_waits_for_the_disk(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            for setting, value in (("synchronous", 2), ("journal_mode", "wal"), ("auto_vacuum", 2)):
                assert await in_writer(store, f"PRAGMA {setting}") == [(value,)]

    run(test())


def test_what_nobody_waits_for_is_written_soon(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            written = asyncio.Event()
            store.on_written.append(written.set)
            one = session(store)
            await skip(face.FLUSH_SEC / 2)
            store.append(one.key, 0, b"x\n")
            await skip(face.FLUSH_SEC / 2)
            await written.wait()
            assert (gate.commits, store.written(one.key)) == (1, 1)

    run(test())


def test_much_is_written_at_once(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            written = asyncio.Event()
            one = session(store)
            await synced(store)
            store.on_written.append(written.set)
            store.append(one.key, 0, b"x" * face.EAGER_BYTES + b"\n")
            await written.wait()  # the clock stands still but for what this takes
            assert store.written(one.key) == 1

    run(test())


def test_what_is_said_in_one_pass_of_the_loop_is_written_together(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one, told = session(store), list[int]()
            for number in range(10):
                turn(store, one.key)
                store.sync(functools.partial(told_of, told, number))
            await synced(store)
            assert (gate.commits, told) == (1, list(range(10)))

    run(test())


def test_while_something_is_written_the_next_gathers(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one, told = session(store), list[int]()
            gate.shut()
            for number in range(10):
                turn(store, one.key)
                store.sync(functools.partial(told_of, told, number))
                await settle()
            gate.open()
            await synced(store)
            assert (gate.commits, told) == (2, list(range(10)))

    run(test())


def test_syncing_a_session_leaves_the_frames_of_others_for_later(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one, two = session(store, "one"), session(store, "two")
            await synced(store)
            for each in (one, two):
                store.append(each.key, 0, b"a\n")
                turn(store, each.key, raw_id=each.id.encode())
            done: asyncio.Future[AgentdError | None] = asyncio.get_running_loop().create_future()
            store.sync(done.set_result, one.key)
            assert await done is None
            assert (store.written(one.key), store.written(two.key)) == (1, 0)
            assert rows(path, "SELECT count(*) FROM turn") == [(2,)]
            store.append(two.key, 1, b"b\n")
            assert await synced(store) is None
            assert (store.written(two.key), await frames(store, two.key)) == (2, b"a\nb\n")

    run(test())


def test_what_was_left_is_written_in_time(path: str) -> None:
    async def test() -> None:
        written = asyncio.Event()
        async with opened(path) as store:
            one, two = session(store, "one"), session(store, "two")
            await synced(store)
            store.append(two.key, 0, b"a\n")
            store.sync(lambda error: None, one.key)
            store.on_written.append(lambda: written.set() if store.written(two.key) else None)
            await written.wait()

    run(test())


def test_syncing_nothing_waits_for_what_is_under_way(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            assert await synced(store) is None
            gate.shut()
            session(store)
            first, second = (asyncio.ensure_future(synced(store)) for _ in range(2))
            await settle()
            third = asyncio.ensure_future(synced(store))
            await settle()
            assert not (first.done() or second.done() or third.done())
            gate.open()
            assert (await third, first.done(), second.done(), gate.commits) == (None, True, True, 1)

    run(test())


def test_a_flood_does_not_make_the_log_grow(path: str, monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_BYTES", 1024 * 1024)

    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            for seq in range(40):
                store.append(one.key, seq, b"x" * 100_000 + b"\n")
                await synced(store)
            assert gate.passed.count("before checkpoint") >= 3
            assert os.stat(path + "-wal").st_size < 2_500_000
            assert store.span(one.key) == (0, 40)

    run(test())


def test_a_log_that_somebody_held_up_is_cut(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr(writer, "LOG_BYTES", 200_000)
    monkeypatch.setattr(writer, "BUSY_SEC", 0.01)

    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            await synced(store)
            reader = sqlite3.connect(path, isolation_level=None)
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM session").fetchall()
            for seq in range(10):
                store.append(one.key, seq, b"x" * 50_000 + b"\n")
                await synced(store)
            assert os.stat(path + "-wal").st_size > 500_000
            reader.close()
            store.append(one.key, 10, b"x" * 100_000 + b"\n")
            await synced(store)
            await synced(store)
            await in_writer(store, "SELECT 1")  # after what tidies up
            assert os.stat(path + "-wal").st_size < 200_000

    run(test())


# What is seen before it is on disk


def test_turns_that_are_not_on_disk_are_found(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            old = turn(store, one.key, raw_id=b"1")
            await synced(store)
            gate.shut()
            new = turn(store, one.key, raw_id=b"1")
            other = turn(store, one.key, raw_id=b"2")
            store.sync(lambda error: None)
            await settle()  # under way
            ended = msgspec.structs.replace(new, progress=Progress.ENDED)
            store.put_turn(ended)
            asked = permission(store, one.key)
            assert await store.turn_of("c", b"1") == ended
            assert await store.turn_of("c", b"2") == other
            assert await store.turn_of("d", b"1") is None
            assert await store.turns(one.key) == [old, ended, other]
            assert await store.permissions(one.key) == [asked]
            store.save(one, b"facts")
            assert await store.facts(one.key) == b"facts"
            gate.open()

    run(test())


def test_what_is_put_while_somebody_reads_is_seen(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            first = turn(store, one.key)
            reading = asyncio.ensure_future(store.turns(one.key))
            finding = asyncio.ensure_future(store.turn_of("c", b"2"))
            asking = asyncio.ensure_future(store.permissions(one.key))
            await asyncio.sleep(0)
            second = turn(store, one.key, raw_id=b"2")
            asked = permission(store, one.key)
            assert (await reading, await finding, await asking) == ([first, second], second, [asked])
            assert store._views == []

    run(test())


# What has begun


def test_turns_that_have_begun_are_told_latest_first_and_no_others(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one, two = session(store, "one"), session(store, "two")
            turn(store, one.key, progress=Progress.QUEUED)
            for key, begun in ((one.key, 10.0), (two.key, 12.5), (one.key, 11.0), (two.key, 20.0)):
                turn(store, key, begun=begun)
            await synced(store)
            found = [(each.session, each.at) for each in await store.begun(10.0, 20.0, 100)]
            assert found == [(two.key, 12.5), (one.key, 11.0)]
            assert [each.at for each in await store.begun(0.0, 100.0, 2)] == [20.0, 12.5]
            store.forget(two.key)
            await synced(store)
            assert [each.at for each in await store.begun(0.0, 100.0, 100)] == [11.0, 10.0]

    run(test())


def test_a_turn_that_ends_or_is_interrupted_has_still_begun(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            queued = turn(store, session(store).key, progress=Progress.QUEUED)
            await synced(store)
            running = msgspec.structs.replace(queued, progress=Progress.RUNNING, begun=7.0)
            store.put_turn(running)
        async with opened(path) as store:
            assert store.unfinished == [running]
            store.put_turn(msgspec.structs.replace(running, progress=Progress.INTERRUPTED))
            await synced(store)
            assert await store.begun(0.0, 10.0, 10) == [Begun(queued.session, 7.0)]

    run(test())


def test_what_has_begun_is_found_without_a_look_at_every_turn(path: str) -> None:
    filled(path)
    ((*_, plan),) = rows(path, "EXPLAIN QUERY PLAN " + writer.BEGUN.replace("?", "1"))
    assert "USING COVERING INDEX turn_begun" in plan


# What may be seen


def test_without_contents_only_what_happened_is_kept(path: str) -> None:
    async def test() -> None:
        async with opened(path, contents=False) as store:
            one, written = session(store, title="secret"), asyncio.Event()
            store.save(one, b"facts")
            asked = turn(store, one.key, said=b"secret", outcome="end_turn", answer=b"secret")
            waiting = permission(store, one.key, frame=b"secret\n")
            await synced(store)
            store.on_written.append(written.set)
            store.append(one.key, 0, b"secret\nsecret\n")
            assert (store.span(one.key), store.written(one.key), store.keeps_frames) == ((2, 2), 2, False)
            await skip(face.FLUSH_SEC)
            await written.wait()
            assert await store.read(one.key, 0, 100) == []
        async with opened(path, contents=False) as store:
            assert store.sessions == {"s": msgspec.structs.replace(one, title=None)}
            assert store.unfinished == [msgspec.structs.replace(asked, said=b"", answer=b"")]
            assert store.pending == [msgspec.structs.replace(waiting, frame=b"")]
            assert await store.facts(one.key) == b"facts"
        assert b"secret" not in Path(path).read_bytes()

    run(test())


def test_secrets_are_not_written(path: str) -> None:
    async def test() -> None:
        async with opened(path, redact=Redactor(["hunter22"])) as store:
            one = session(store, title="a hunter22")
            store.save(one, b'"hunter22"')
            store.append(one.key, 0, b'"hunter22"\n\xff\xc3\xa9\n')
            turn(store, one.key, said=b'"hunter22"', answer=b'"hunter22"')
            permission(store, one.key, frame=b'"hunter22"\n')
        hidden = f'"{HIDDEN}"'.encode()
        assert b"hunter22" not in Path(path).read_bytes()
        async with opened(path) as store:
            assert await frames(store, one.key) == hidden + b"\n\xff\xc3\xa9\n"
            assert (store.sessions["s"].title, await store.facts(one.key)) == (f"a {HIDDEN}", hidden)
            assert (store.unfinished[0].said, store.unfinished[0].answer) == (hidden, hidden)
            assert store.pending[0].frame == hidden + b"\n"

    run(test())


def test_a_frame_stays_json_whatever_a_secret_is_part_of() -> None:
    contents = batch.Contents(True, Redactor(["123456"]))
    frame = b'{"size":1234567,"key":123456,"text":"is 123456","more":[true,null,1.5]}\n'
    hidden = json.loads(contents.said(frame))
    assert hidden == {"size": 1234567, "key": HIDDEN, "text": f"is {HIDDEN}", "more": [True, None, 1.5]}


@pytest.mark.parametrize("secret", ["abcabcab", "x" * 6, "y" * 100])
@pytest.mark.parametrize("piece", [7, 64, 1000])
def test_long_lines_hide_secrets_wherever_they_are(
    secret: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PIECE", piece)
    contents = batch.Contents(True, Redactor([secret]))
    for before in range(150):
        line = "-" * before + secret + "+" * (150 - before) + secret
        assert contents.said(line.encode()).decode() == line.replace(secret, HIDDEN)


def test_a_secret_of_several_lines_does_not_swallow_a_frame() -> None:
    contents = batch.Contents(True, Redactor(["{secret-1}\n{secret-2}"]))
    assert contents.said(b"{secret-1}\n{secret-2}\n") == f"{HIDDEN}\n{HIDDEN}\n".encode()


# Too much


def test_it_tells_when_too_much_waits_and_when_there_is_room(path: str, gate: Gate) -> None:
    async def test() -> None:
        watched = Watched()
        store = await watched.open(path)
        one, block = session(store), b"x" * (1024 * 1024 - 1) + b"\n"
        await synced(store)
        gate.shut()
        for seq in range(10):
            store.append(one.key, seq, block)
            await settle()
            assert watched.full == ([True] if seq >= 8 else [])
        gate.open()
        assert (await synced(store), watched.full) == (None, [True, False])
        await store.close()

    run(test())


def test_what_is_cleared_or_forgotten_makes_room(path: str, gate: Gate) -> None:
    async def test() -> None:
        watched = Watched()
        store = await watched.open(path)
        one, two = session(store, "one"), session(store, "two")
        gate.error = OSError(errno.EIO, "no")
        await synced(store)
        for act in (store.clear, store.forget):
            store.append(two.key, store.span(two.key)[1], b"x" * face.FULL_BYTES + b"\n")
            await settle()
            assert watched.full[-1] is True
            act(two.key)
            await settle()
            assert watched.full[-1] is False
        gate.error = None
        assert (await synced(store), list(store.sessions)) == (None, ["one"])
        assert store.span(one.key) == (0, 0)
        await store.close()

    run(test())


# Trouble


def test_a_full_disk_is_told_once_and_all_is_written_when_there_is_space(path: str) -> None:
    async def test() -> None:
        watched = Watched()
        store = await watched.open(path)
        one = session(store)
        await synced(store)
        await in_writer(store, "PRAGMA max_page_count = 1")
        sent, errors = b"", []
        for seq in range(5):
            frame = b"%d" % seq * 20_000 + b"\n"
            store.append(one.key, seq, frame)
            turn(store, one.key, raw_id=b"%d" % seq)
            sent += frame
            errors.append(await synced(store))
        assert {type(error) for error in errors} == {StoreFull}
        assert (watched.troubles, store.trouble, store.written(one.key)) == (["store_full"], errors[-1], 0)
        assert f"there is no space left for {path}" in str(store.trouble)
        await in_writer(store, "PRAGMA max_page_count = 100000")
        assert (await synced(store), watched.troubles, store.trouble) == (None, ["store_full", None], None)
        assert (await frames(store, one.key), store.written(one.key)) == (sent, 5)
        assert [each.raw_id for each in await store.turns(one.key)] == [b"%d" % seq for seq in range(5)]
        await store.close()
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]

    run(test())


def test_where_it_is_not_required_a_full_disk_stops_nobody(path: str) -> None:
    async def test() -> None:
        watched = Watched()
        store = await watched.open(path, required=False)
        one = session(store)
        await synced(store)
        await in_writer(store, "PRAGMA max_page_count = 1")
        store.append(one.key, 0, b"x" * 20_000 + b"\n")
        turn(store, one.key)
        assert (await synced(store), store.trouble, watched.troubles) == (None, None, ["store_full"])
        await in_writer(store, "PRAGMA max_page_count = 100000")
        assert (await synced(store), watched.troubles) == (None, ["store_full", None])
        assert (len(await frames(store, one.key)), len(await store.turns(one.key))) == (20_001, 1)
        await store.close()

    run(test())


def test_what_there_is_no_room_for_is_given_up_where_it_is_not_required(path: str) -> None:
    async def test() -> None:
        store = await Watched().open(path, required=False)
        one = session(store)
        await synced(store)
        await in_writer(store, "PRAGMA max_page_count = 1")
        store.append(one.key, 0, (b"x" * 1_000_000 + b"\n") * 5)
        assert await synced(store) is None
        assert (store.span(one.key), store.written(one.key)) == ((5, 5), 5)
        await in_writer(store, "PRAGMA max_page_count = 100000")
        store.append(one.key, 5, b"later\n")
        await store.close()

    run(test())
    assert rows(path, "SELECT data FROM run") == [(b"later\n",)]


def test_where_it_is_not_required_a_full_disk_has_nothing_forgotten(path: str) -> None:
    async def test() -> None:
        store = await Watched().open(path, required=False)
        for name in "abcd":
            session(store, name)
        await synced(store)
        await in_writer(store, "PRAGMA max_page_count = 1")
        store.append(store.sessions["d"].key, 0, b"x" * 20_000 + b"\n")
        await store.prune(before=0, most_bytes=0, keep=())
        assert len(store.sessions) == 3  # the one that was on its way when it was noticed
        await in_writer(store, "PRAGMA max_page_count = 100000")
        await store.close()

    run(test())


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """In a mount namespace of its own, so that nothing is left of it whatever happens."""
    script = Path(__file__).parents[1] / "support" / "full_disk.py"
    roots = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", "--mount", *roots, sys.executable, str(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all was written\n", "")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "no space"), StoreFull),
        (OSError(errno.EDQUOT, "no quota"), StoreFull),
        (OSError(errno.EIO, "broken"), StoreFailed),
        (sqlite3.OperationalError("locked"), StoreFailed),
        (RuntimeError(), StoreFailed),
    ],
)
def test_whatever_goes_wrong_has_a_name_and_is_tried_again(
    path: str, gate: Gate, error: Exception, kind: type[AgentdError]
) -> None:
    async def test() -> None:
        watched = Watched()
        store = await watched.open(path)
        session(store)
        gate.error = error
        told = [await synced(store) for _ in range(3)]
        assert [type(each) for each in told] == [kind] * 3
        assert path in str(told[0])
        gate.error = None
        written = asyncio.Event()
        store.on_written.append(written.set)
        await skip(face.RETRY_SEC)
        await written.wait()
        assert (watched.troubles, rows(path, "SELECT id FROM session")) == ([kind.reason, None], [("s",)])
        await store.close()

    run(test())


def test_trouble_of_another_kind_is_told(path: str, gate: Gate) -> None:
    async def test() -> None:
        watched = Watched()
        store = await watched.open(path)
        session(store)
        for number in (errno.ENOSPC, errno.EIO, errno.EIO):
            gate.error = OSError(number, "no")
            await synced(store)
        assert watched.troubles == ["store_full", "store_failed"]
        gate.error = None
        await store.close()

    run(test())


def test_an_input_output_error_on_a_full_disk_is_a_full_disk(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_WRITE"
    assert type(writer.named(error, path, "written")) is StoreFailed

    def full(**_: object) -> None:
        raise OSError(errno.EDQUOT, "no quota")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert type(writer.named(error, path, "written")) is StoreFull


def test_in_trouble_it_is_not_tried_more_often_than_asked(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            gate.error = OSError(errno.EIO, "no")
            await synced(store)
            attempts = store._writing._given
            for _ in range(3):
                await skip(face.FLUSH_SEC)
                store.append(one.key, store.span(one.key)[1], b"x\n")
            assert store._writing._given == attempts
            await skip(face.RETRY_SEC)
            assert store._writing._given == attempts + 1
            gate.error = None

    run(test())


def test_those_who_wait_for_the_next_batch_are_told_too(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            told: list[tuple[int, bool]] = []
            one = session(store)
            gate.shut()
            for number in range(3):
                turn(store, one.key)
                store.sync(functools.partial(told_how, told, number))
                await settle()
            gate.error = OSError(errno.EIO, "no")
            gate.open()
            while len(told) < 3:
                await asyncio.sleep(0)
            assert told == [(0, False), (1, False), (2, False)]
            gate.error = None
            assert await synced(store) is None
            assert len(await store.turns(one.key)) == 3

    run(test())


def test_what_came_after_a_batch_that_failed_stays_after_it(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            gate.shut()
            first = turn(store, one.key)
            store.append(one.key, 0, b"a\n")
            failing = asyncio.ensure_future(synced(store))
            await settle()
            last = msgspec.structs.replace(first, progress=Progress.ENDED)
            store.put_turn(last)
            store.append(one.key, 1, b"b\n")
            gate.error = OSError(errno.EIO, "no")
            gate.open()
            assert isinstance(await failing, StoreFailed)
            gate.error = None
            assert await synced(store) is None
            assert (await store.turns(one.key), await frames(store, one.key)) == ([last], b"a\nb\n")

    run(test())


@pytest.mark.parametrize("where", ["after a statement", "before commit"])
def test_a_batch_that_fails_in_the_middle_leaves_nothing(path: str, gate: Gate, where: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            session(store)
            gate.fails_at, gate.error = where, OSError(errno.EIO, "no")
            assert isinstance(await synced(store), StoreFailed)
            connection = store._writer.connection
            assert (connection and connection.in_transaction, rows(path, "SELECT * FROM session")) == (
                False,
                [],
            )
            gate.error = None
            assert (await synced(store), rows(path, "SELECT id FROM session")) == (None, [("s",)])

    run(test())


def test_a_disk_that_does_not_answer_is_trouble(path: str, gate: Gate) -> None:
    async def test() -> None:
        watched = Watched()
        store = await watched.open(path)
        gate.shut()
        session(store)
        waiting = asyncio.ensure_future(synced(store))
        await settle()
        await skip(face.WRITE_SEC)
        assert "has not answered for 30 s" in str(await waiting)
        gate.open()
        assert (await synced(store), watched.troubles) == (None, ["store_failed", None])
        await store.close()

    run(test())


def test_a_checkpoint_that_fails_is_trouble_until_it_works(
    path: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        watched = Watched()
        store = await watched.open(path)
        session(store)
        assert await synced(store) is None
        monkeypatch.setattr(writer, "CHECKPOINT_BYTES", 1)
        gate.fails_at, gate.error = "before checkpoint", OSError(errno.ENOSPC, "no space")
        assert await synced(store) is None
        while not watched.troubles:  # comes by itself, when there is nothing to write
            await asyncio.sleep(0)
        assert type(await synced(store)) is StoreFull
        gate.error = None
        assert (await synced(store), watched.troubles) == (None, ["store_full", None])
        await store.close()

    run(test())


def test_a_backlog_may_be_dropped_and_numbers_go_on(path: str, gate: Gate) -> None:
    async def test() -> None:
        watched = Watched()
        store = await watched.open(path)
        one, two = session(store, "one"), session(store, "two")
        store.append(one.key, 0, b"a\n")
        await synced(store)
        gate.error = OSError(errno.EIO, "no")
        for key, seq in ((one.key, 1), (two.key, 0)):
            store.append(key, seq, b"x" * face.FULL_BYTES + b"\n")
        kept = turn(store, two.key)
        await synced(store)
        store.drop_backlog()
        await settle()
        assert watched.full == [True, False]
        assert (store.span(one.key), store.written(one.key)) == ((0, 2), 2)
        assert (store.span(two.key), store.written(two.key)) == ((1, 1), 1)
        store.append(one.key, 2, b"c\n")
        gate.error = None
        await synced(store)
        assert [each.data for each in await store.read(one.key, 0, 100)] == [b"a\n", b"c\n"]
        assert [each.data for each in await store.read(one.key, 1, 100)] == [b"c\n"]
        assert await store.turns(two.key) == [kept]
        await store.close()

    run(test())


def test_a_backlog_under_way_is_dropped_when_it_fails(path: str, gate: Gate) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            await synced(store)
            gate.shut()
            store.append(one.key, 0, b"a\n")
            failing = asyncio.ensure_future(synced(store))
            await settle()
            store.drop_backlog()
            store.append(one.key, 1, b"b\n")
            gate.error = OSError(errno.EIO, "no")
            gate.open()
            assert isinstance(await failing, StoreFailed)
            gate.error = None
            await synced(store)
            assert (await frames(store, one.key), store.span(one.key)) == (b"b\n", (1, 2))

    run(test())


# Retention


def test_sessions_that_are_old_are_forgotten(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            made = [session(store, f"{age}", updated=NOW - age) for age in range(5)]
            gone = await store.prune(before=NOW - 1, most_bytes=1 << 40, keep={made[3].key})
            assert gone == [made[4], made[2]]
            assert list(store.sessions) == ["0", "1", "3"]
        assert rows(path, "SELECT id FROM session") == [("0",), ("1",), ("3",)]

    run(test())


def test_the_longest_unused_make_room_and_the_file_gets_shorter(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            made = [session(store, f"{age}", updated=NOW - age) for age in range(5)]
            for each in made:
                store.append(each.key, 0, b"x" * 2_000_000 + b"\n")
            await synced(store)
            gone = await store.prune(before=0, most_bytes=5_000_000, keep=[made[4].key])
            assert gone == [made[3], made[2], made[1]]
            assert os.stat(path).st_size < 5_000_000
            assert len(await frames(store, made[0].key)) == 2_000_001
        assert rows(path, "PRAGMA freelist_count") == [(0,)]

    run(test())


def test_what_is_begun_while_others_are_pruned_is_kept(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            made, keep = [session(store, f"{age}", updated=NOW - age) for age in range(3)], set[int]()
            pruning = asyncio.ensure_future(store.prune(before=NOW + 1, most_bytes=0, keep=keep))
            await asyncio.sleep(0)
            keep |= {each.key for each in made[:2]}
            assert await pruning == [made[2]]

    run(test())


def test_what_is_begun_while_the_size_is_looked_up_is_kept(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one, keep = session(store), set[int]()
            pruning = asyncio.ensure_future(store.prune(before=0, most_bytes=0, keep=keep))
            await asyncio.sleep(0)
            keep.add(one.key)
            assert (await pruning, list(store.sessions)) == ([], ["s"])

    run(test())


def test_pruning_in_trouble_says_how_far_it_came(
    path: str, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with opened(path) as store:
            made = [session(store, f"{age}", updated=NOW - age) for age in range(3)]
            await synced(store)
            gate.error = OSError(errno.EIO, "broken")
            assert await store.prune(before=NOW + 1, most_bytes=0, keep=()) == [made[2]]
            gate.error = None

    run(test())
    assert "was not tidied up to the end" in caplog.text


# The end


def test_closing_in_trouble_gives_up_and_says_what_is_lost(
    path: str, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        store = await Watched().open(path)
        one = session(store)
        turn(store, one.key)
        permission(store, one.key)
        store.append(one.key, 0, b"a\nb\n")
        gate.error = OSError(errno.EIO, "broken")
        closing = asyncio.ensure_future(store.close())
        while "lost" not in caplog.text:
            await synced(store)
            await skip(face.RETRY_SEC)
        await closing

    run(test())
    assert "changes of 1 sessions, 1 turns and 1 permissions, and 2 frames" in caplog.text


def test_closing_waits_for_a_disk_that_recovers(path: str, gate: Gate) -> None:
    async def test() -> None:
        store = await Watched().open(path)
        session(store)
        gate.error = OSError(errno.EIO, "broken")
        await synced(store)
        closing = asyncio.ensure_future(store.close())
        await settle()
        gate.error = None
        await skip(face.RETRY_SEC)
        await closing
        assert rows(path, "SELECT id FROM session") == [("s",)]

    run(test())


def test_what_is_asked_of_a_closed_store_fails(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
        assert "is closed" in str(await synced(store))
        with pytest.raises(StoreFailed, match="is closed"):
            await store.turns(one.key)
        store.append(one.key, 0, b"x\n")
        await skip(1)

    run(test())


def test_it_leaves_one_file(path: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(path) as store:
            session(store)
            await synced(store)
            assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
            assert len(list(tmp_path.iterdir())) == 3
        assert [each.name for each in tmp_path.iterdir()] == ["store.db"]

    run(test())


# Files that are not as they should be


def refused(path: str, kind: type[AgentdError], match: str) -> None:
    async def test() -> None:
        with pytest.raises(kind, match=match) as caught:
            await Watched().open(path)
        assert type(caught.value) is kind
        assert path in str(caught.value)

    run(test())


def filled(path: str) -> int:
    """A database with something in it. Returns a session's key."""

    async def fill() -> int:
        async with opened(path) as store:
            one = session(store)
            for seq in range(10):
                store.append(one.key, seq, b"x" * 100_000 + b"\n")
                turn(store, one.key, said=b"y" * 3000)
            return one.key

    return run(fill())


def test_garbage_is_refused(path: str) -> None:
    Path(path).write_bytes(b"garbage" * 1000)
    refused(path, StoreCorrupt, "file is not a database.*move it away.*required = false")
    assert Path(path).read_bytes() == b"garbage" * 1000


def test_a_truncated_database_is_refused(path: str) -> None:
    filled(path)
    os.truncate(path, os.stat(path).st_size // 2)
    refused(path, StoreCorrupt, "is damaged.*malformed")


def test_one_from_the_future_is_refused(path: str) -> None:
    filled(path)
    rows(path, "PRAGMA user_version = 1000")
    refused(path, StoreTooNew, "was written by a newer agentd")


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    refused(
        str(tmp_path / "missing" / "store.db"), StoreFailed, "No such file.*see to it that its directory"
    )


def test_what_is_no_file_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    os.symlink("other", path)
    refused(path, StoreFailed, "symbolic links")
    os.unlink(path)
    os.mkdir(path)
    refused(path, StoreFailed, "directory")
    os.rmdir(path)
    os.mkfifo(path)
    refused(path, StoreFailed, "is not a file of ours")
    assert (tmp_path / "other").read_bytes() == b""


def test_a_file_that_others_could_read_is_closed_to_them(path: str) -> None:
    Path(path).touch(0o666)
    filled(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def flip(path: str, pages: range) -> None:
    """Damage pages of the file."""
    with open(path, "r+b") as file:
        for page in pages:
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)


def test_a_damaged_page_is_found_when_it_is_read(path: str) -> None:
    key = filled(path)

    async def test() -> None:
        async with opened(path) as store:
            flip(path, range(16, os.stat(path).st_size // 4096))
            with pytest.raises(StoreCorrupt, match="is damaged"):
                await store.read(key, 0, 1 << 40)

    run(test())


def test_a_damaged_page_is_found_when_it_is_written(path: str, caplog: pytest.LogCaptureFixture) -> None:
    key = filled(path)

    async def test() -> None:
        watched = Watched()
        store = await watched.open(path)
        flip(path, range(16, os.stat(path).st_size // 4096))
        for _ in range(20):
            turn(store, key, said=b"z" * 3000)
        assert type(await synced(store)) is StoreCorrupt
        assert (watched.troubles, type(store.trouble)) == (["store_corrupt"], StoreCorrupt)
        closing = asyncio.ensure_future(store.close())
        while "lost" not in caplog.text:
            await synced(store)
            await skip(face.RETRY_SEC)
        await closing

    run(test())


@pytest.mark.parametrize(
    "damage",
    ["UPDATE session SET owner = 'x'", "UPDATE turn SET at = 'x'", "UPDATE session SET id = x'ff'"],
)
def test_rows_that_make_no_sense_are_damage(path: str, damage: str) -> None:
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute(damage)
    connection.commit()
    connection.close()
    refused(path, StoreCorrupt, "is damaged")


def test_a_file_that_was_moved_away_is_not_written_in_secret(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            session(store)
            await synced(store)
            os.rename(path, path + ".old")
            session(store, "two")
            error = await synced(store)
            assert (type(error), "was moved or replaced" in str(error)) == (StoreFailed, True)
            os.rename(path + ".old", path)
            assert await synced(store) is None

    run(test())


def test_an_error_is_logged_by_nobody_here_but_told(path: str, caplog: pytest.LogCaptureFixture) -> None:
    Path(path).write_bytes(b"garbage" * 1000)
    with caplog.at_level(logging.DEBUG):
        refused(path, StoreCorrupt, "store.db")
    assert [each for each in caplog.records if each.name.startswith("agentd")] == []


def test_a_loop_that_is_always_busy_lets_a_thread_that_waits_have_its_turn(
    path: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[float] = []
    monkeypatch.setattr(time, "sleep", moments.append)

    async def test() -> None:
        async with opened(path) as store:
            gate.shut()
            session(store)
            store.sync(lambda error: None)
            for _ in range(5):
                await skip(writer.TURN_SEC)
            assert len(moments) >= 3
            gate.open()
            await synced(store)
            had = len(moments)
            for _ in range(5):
                await skip(writer.TURN_SEC)
            assert len(moments) == had

    run(test())


def test_a_loop_that_is_always_busy_does_not_keep_it_from_writing(path: str) -> None:
    async def test() -> None:
        async with opened(path) as store:
            one = session(store)
            loop = asyncio.get_running_loop()
            for _ in range(20):
                turn(store, one.key)
                done = asyncio.ensure_future(synced(store))
                deadline = loop.time() + 5
                while not done.done() and loop.time() < deadline:
                    sum(range(50_000))
                    await asyncio.sleep(0)
                assert done.done()

    run(test())
