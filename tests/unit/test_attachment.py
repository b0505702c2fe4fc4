# SPDX-License-Identifier: Apache-2.0

import asyncio

from agentd.store.keeper import Nothing
from agentd.store.records import Run
from agentd.tasks import Tasks
from agentd.worker.attachment import Attachment
from agentd.worker.transcript import Transcript
from unit.loop import run, settle


class Reader:
    """Takes `takes` runs and is slow then."""

    def __init__(self, takes: int = 1000) -> None:
        self.takes = takes
        self.heard: list[str] = []

    @property
    def slow(self) -> bool:
        return len(self.heard) >= self.takes

    def relay(self, run: bytes) -> None:
        self.heard.append(run.decode().strip())

    def fell_behind(self) -> None:
        self.heard.append("behind")


class Reading:
    """A reader of a transcript, and the marks of what it was told in between."""

    def __init__(self, *before: str, takes: int = 1000, since: int = 0, most: int = 1000) -> None:
        self.transcript = Transcript(1, Nothing(), most, Tasks())
        for each in before:
            self.transcript.append(each.encode() + b"\n")
        self.reader = Reader(takes)
        note = self.reader.heard.append
        self.attachment = Attachment(
            self.reader,
            self.transcript,
            since,
            on_shown=lambda: note("shown"),
            on_live=lambda: note("live"),
        )
        self.attachment.pump()

    def say(self, run: str) -> None:
        self.transcript.append(run.encode() + b"\n")
        self.attachment.relay(run.encode() + b"\n")

    def go_on(self, takes: int = 1000) -> None:
        self.reader.takes = takes
        self.attachment.pump()

    @property
    def heard(self) -> list[str]:
        return self.reader.heard


def test_a_reader_is_shown_what_there_was_and_is_live_then() -> None:
    reading = Reading("one", "two")
    reading.say("three")
    assert reading.heard == ["one", "two", "shown", "live", "three"]


def test_one_that_begins_at_the_end_is_live_at_once() -> None:
    assert Reading("one", "two", since=2).heard == ["shown", "live"]


def test_a_slow_one_reads_at_its_own_pace_and_misses_nothing() -> None:
    reading = Reading("one", "two", "three", takes=1)
    assert reading.heard == ["one"]
    reading.say("four")
    assert reading.heard == ["one"]
    reading.go_on(takes=3)
    reading.say("five")
    assert reading.heard == ["one", "two", "three", "shown"]
    reading.go_on()
    assert reading.heard == ["one", "two", "three", "shown", "four", "five", "live"]


def test_pumping_one_that_is_live_does_nothing() -> None:
    reading = Reading("one")
    reading.go_on()
    assert reading.heard == ["one", "shown", "live"]


def test_one_whose_next_run_is_lost_has_fallen_behind() -> None:
    reading = Reading("one", "two", takes=1, most=8)
    reading.say("three")
    reading.go_on()
    assert reading.heard == ["one", "behind"]
    assert not reading.attachment.live


# From the store


class Shelf(Nothing):
    """A store whose reads are answered when a test says so."""

    keeps_frames = True

    def __init__(self, *frames: str) -> None:
        super().__init__()
        self.frames = [frame.encode() + b"\n" for frame in frames]
        self.asked: list[int] = []
        self.may_read = asyncio.Event()

    def span(self, key: int) -> tuple[int, int]:
        return 0, len(self.frames)

    async def read(self, key: int, seq: int, most_bytes: int) -> list[Run]:
        self.asked.append(seq)
        await self.may_read.wait()
        return [Run(seq + n, 1, 0.0, each) for n, each in enumerate(self.frames[seq : seq + 2])]


class Rereading:
    """A reader of what an earlier worker has kept."""

    def __init__(self, *frames: str, takes: int = 1000) -> None:
        self.shelf, self.reader = Shelf(*frames), Reader(takes)
        self.transcript = Transcript(1, self.shelf, 1000, Tasks())
        note = self.reader.heard.append
        self.attachment = Attachment(
            self.reader, self.transcript, 0, on_shown=lambda: note("shown"), on_live=lambda: note("live")
        )
        self.attachment.pump()

    async def read(self) -> list[str]:
        self.shelf.may_read.set()
        await settle()
        return self.reader.heard


def test_what_was_kept_is_read_page_by_page_and_then_it_is_live() -> None:
    async def inside() -> None:
        reading = Rereading("one", "two", "three")
        assert reading.reader.heard == []
        assert await reading.read() == ["one", "two", "three", "shown", "live"]
        assert reading.shelf.asked == [0, 2]

    run(inside())


def test_what_is_said_while_it_reads_comes_after_that() -> None:
    async def inside() -> None:
        reading = Rereading("one")
        reading.transcript.append(b"two\n")
        reading.attachment.relay(b"two\n")
        assert await reading.read() == ["one", "shown", "two", "live"]

    run(inside())


def test_a_slow_one_has_no_more_read_than_it_takes() -> None:
    async def inside() -> None:
        reading = Rereading("one", "two", "three", "four", takes=1)
        assert await reading.read() == ["one"]
        assert reading.shelf.asked == [0]
        reading.reader.takes = 1000
        reading.attachment.pump()
        assert await reading.read() == ["one", "two", "three", "four", "shown", "live"]

    run(inside())


def test_one_that_has_left_is_sent_nothing_more() -> None:
    async def inside() -> None:
        reading = Rereading("one")
        reading.attachment.end()
        assert await reading.read() == []

    run(inside())
