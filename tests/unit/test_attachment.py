# SPDX-License-Identifier: Apache-2.0

from agentd.worker.attachment import Attachment
from agentd.worker.transcript import Transcript


class Reader:
    """Takes `takes` runs and is slow then."""

    def __init__(self, takes: int = 1000) -> None:
        self.takes = takes
        self.heard: list[str] = []

    @property
    def slow(self) -> bool:
        return len(self.heard) >= self.takes

    def relay(self, run: bytes) -> None:
        self.heard.append(run.decode())

    def fell_behind(self) -> None:
        self.heard.append("behind")


class Reading:
    """A reader of a transcript, and the marks of what it was told in between."""

    def __init__(self, *before: str, takes: int = 1000, since: int = 0, most: int = 1000) -> None:
        self.transcript = Transcript(most)
        for run in before:
            self.transcript.append(run.encode())
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
        self.transcript.append(run.encode())
        self.attachment.relay(run.encode())

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
    reading = Reading("one", "two", takes=1, most=6)
    reading.say("three")
    reading.go_on()
    assert reading.heard == ["one", "behind"]
    assert not reading.attachment.live
