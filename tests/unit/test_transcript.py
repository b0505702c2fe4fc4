# SPDX-License-Identifier: Apache-2.0

import asyncio

from agentd.errors import StoreFailed
from agentd.store.keeper import Nothing
from agentd.store.records import Run
from agentd.tasks import Tasks
from agentd.worker import transcript as module
from agentd.worker.transcript import Transcript
from unit.loop import run


class Shelf(Nothing):
    """Keeps frames as a store does. `on_disk`: how many of them have got there."""

    keeps_frames = True

    def __init__(self, *before: bytes) -> None:
        super().__init__()
        self.runs: list[Run] = []
        self.on_disk = 0
        for each in before:
            self.append(1, self.end, each)

    @property
    def end(self) -> int:
        return self.runs[-1].end if self.runs else 0

    def append(self, key: int, seq: int, run: bytes) -> None:
        assert seq == self.end
        self.runs.append(Run(seq, run.count(b"\n"), 0.0, run))

    def span(self, key: int) -> tuple[int, int]:
        return (self.runs[0].seq if self.runs else 0), self.end

    def written(self, key: int) -> int:
        return self.on_disk

    async def read(self, key: int, seq: int, most_bytes: int) -> list[Run]:
        return [run for run in self.runs if run.seq >= seq][:2]


def transcript(most: int = 100, store: Nothing | None = None) -> Transcript:
    return Transcript(1, store or Nothing(), most, Tasks())


def kept(transcript: Transcript) -> list[bytes]:
    found, number = [], transcript.start
    while number < transcript.end:
        found.append(transcript.run(number))
        number += found[-1].count(b"\n")
    return found


def test_runs_are_kept_in_order_and_frames_have_numbers() -> None:
    spoken = transcript()
    for each in (b"one\n", b"two\nthree\n", b"four\n"):
        spoken.append(each)
    assert kept(spoken) == [b"one\n", b"two\nthree\n", b"four\n"]
    assert (spoken.first, spoken.start, spoken.end, len(spoken)) == (0, 0, 4, 19)


def test_a_run_can_be_had_from_its_middle_on() -> None:
    spoken = transcript()
    spoken.append(b"one\n")
    spoken.append(b"two\nthree\nfour\n")
    assert spoken.run(2) == b"three\nfour\n"


def test_past_the_bound_the_oldest_are_lost_and_numbers_stay() -> None:
    spoken = transcript(10)
    for each in (b"123\n", b"567\n", b"9\n", b"abc\n"):
        spoken.append(each)
    assert (kept(spoken), spoken.first, spoken.start, len(spoken)) == (
        [b"567\n", b"9\n", b"abc\n"],
        1,
        1,
        10,
    )


def test_the_last_run_is_kept_however_long_it_is() -> None:
    spoken = transcript(10)
    spoken.append(b"x\n")
    spoken.append(b"y" * 100 + b"\n")
    assert (kept(spoken), spoken.start) == ([b"y" * 100 + b"\n"], 1)


def test_what_is_cleared_has_never_been_but_its_numbers_are_not_used_again() -> None:
    spoken = transcript()
    spoken.append(b"1\n")
    spoken.clear()
    assert (kept(spoken), spoken.first, spoken.start, spoken.end, len(spoken)) == ([], 1, 1, 1, 0)
    spoken.append(b"2\n")
    assert spoken.run(1) == b"2\n"


# With a store


def test_what_is_not_on_disk_yet_stays_in_memory() -> None:
    shelf = Shelf()
    spoken = transcript(10, shelf)
    for each in (b"1234\n", b"5678\n", b"90\n"):
        spoken.append(each)
    assert spoken.start == 0
    shelf.on_disk = 2
    spoken.trim()
    assert (kept(spoken), spoken.first) == ([b"5678\n", b"90\n"], 0)


def test_one_that_is_read_again_begins_where_the_store_ends() -> None:
    spoken = transcript(100, Shelf(b"one\n", b"two\n"))
    assert (spoken.first, spoken.start, spoken.end) == (0, 2, 2)


def test_what_has_left_memory_is_fetched() -> None:
    async def inside() -> None:
        spoken = transcript(100, Shelf(b"one\n", b"two\nthree\n", b"four\n"))
        pages: list[list[Run] | None] = []
        spoken.fetch(1, pages.append)
        await asyncio.sleep(0.01)
        assert [[each.data for each in page or []] for page in pages] == [[b"two\nthree\n", b"four\n"]]

    run(inside())


def test_the_last_frames_come_from_the_store_and_from_memory() -> None:
    async def inside() -> None:
        spoken = transcript(100, Shelf(b"one\n", b"two\n", b"three\n"))
        spoken.append(b"four\nfive\n")
        assert await spoken.last(100) == [b"one", b"two", b"three", b"four", b"five"]
        assert await spoken.last(3) == [b"three", b"four", b"five"]
        assert await spoken.last(1) == [b"five"]

    run(inside())


def test_a_store_that_cannot_be_read_is_told_of() -> None:
    class Broken(Shelf):
        async def read(self, key: int, seq: int, most_bytes: int) -> list[Run]:
            raise StoreFailed("no")

    async def inside() -> None:
        pages: list[list[Run] | None] = []
        transcript(100, Broken(b"one\n")).fetch(0, pages.append)
        await asyncio.sleep(0.01)
        assert pages == [None]

    run(inside())


def test_no_more_stays_in_memory_than_is_worth_it_where_all_is_on_disk() -> None:
    assert transcript(1 << 30, Shelf())._most == module.TAIL_BYTES
