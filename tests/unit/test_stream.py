# SPDX-License-Identifier: Apache-2.0

import asyncio
import json
import os
import socket

import pytest

from agentd.acp.framing import Torn
from agentd.acp.stream import REFUSAL_SEC, FrameStream, HangUp, refuse
from agentd.errors import Draining
from unit.loop import Changes, run, settle, skip


class Recorder(Changes):
    """A sink that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.torn: list[Torn] = []
        self.calls: list[str] = []

    def received(self, block: bytes) -> None:
        assert block.endswith(b"\n")
        self.data += block
        self.changed()

    def oversized(self, message: Torn) -> None:
        self.torn.append(message)
        self.changed()

    def ended(self) -> None:
        self._note("ended")

    def lost(self) -> None:
        self._note("lost")

    def congested(self, full: bool) -> None:
        self._note("full" if full else "free")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.changed()


class Ends:
    """A stream over one end of a socket pair, and the other end."""

    def __init__(self, limit: int = 1000, high_water: int = 1 << 20) -> None:
        self.sink = Recorder()
        self.stream = FrameStream(self.sink, limit, high_water)
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)

    async def open(self) -> "Ends":
        await self.stream.over_socket(self.ours)
        return self

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await asyncio.get_running_loop().sock_recv(self.theirs, size - len(data))
            assert more, data
            data += more
        return data

    async def close(self) -> None:
        self.stream.abort()
        self.theirs.close()
        await self.sink.until(lambda: "lost" in self.sink.calls)


# Over a socket


def test_lines_reach_the_sink() -> None:
    async def test() -> None:
        ends = await Ends().open()
        ends.theirs.send(b"one\ntw")
        ends.theirs.send(b"o\nthr")
        await ends.sink.until(lambda: ends.sink.data == b"one\ntwo\n")
        await ends.close()

    run(test())


def test_what_was_read_before_comes_first() -> None:
    async def test() -> None:
        ends = await Ends().open()
        ends.stream.feed(b"one\ntw")
        ends.theirs.send(b"o\n")
        await ends.sink.until(lambda: ends.sink.data == b"one\ntwo\n")
        await ends.close()

    run(test())


def test_a_line_over_the_limit_does_not_end_the_stream() -> None:
    async def test() -> None:
        ends = await Ends(limit=10).open()
        ends.theirs.send(b"x" * 11 + b"\n" + b"y" * 10 + b"\n")
        await ends.sink.until(lambda: ends.sink.data == b"y" * 10 + b"\n")
        assert len(ends.sink.torn) == 1
        await ends.close()

    run(test())


def test_frames_are_sent_in_order_also_those_from_before_it_was_open() -> None:
    async def test() -> None:
        ends = Ends()
        ends.stream.send(b"one")
        ends.stream.write(b"two\n")
        await ends.open()
        ends.stream.send(b"three")
        assert await ends.read(14) == b"one\ntwo\nthree\n"
        await ends.close()

    run(test())


def test_who_ends_writing_can_still_be_answered() -> None:
    async def test() -> None:
        ends = await Ends().open()
        assert not ends.stream.at_end
        ends.theirs.send(b"question\n")
        ends.theirs.shutdown(socket.SHUT_WR)
        await ends.sink.until(lambda: ends.sink.calls == ["ended"])
        assert (ends.stream.at_end, ends.sink.data) == (True, b"question\n")
        ends.stream.send(b"answer")
        ends.stream.finish()
        assert await ends.read(7) == b"answer\n"
        await ends.sink.until(lambda: ends.sink.calls == ["ended", "lost"])
        ends.theirs.close()

    run(test())


def test_finishing_sends_all_there_is_first() -> None:
    async def test() -> None:
        ends = await Ends().open()
        frame = b"x" * 2_000_000
        ends.stream.send(frame)
        ends.stream.finish()
        assert await ends.read(len(frame) + 1) == frame + b"\n"
        await ends.sink.until(lambda: ends.sink.calls[-1:] == ["lost"])
        ends.theirs.close()

    run(test())


def test_one_that_is_finished_before_it_is_open_closes_once_it_has_sent_all() -> None:
    async def test() -> None:
        ends = Ends()
        ends.stream.send(b"bye")
        ends.stream.finish()
        await ends.open()
        assert await ends.read(4) == b"bye\n"
        await ends.sink.until(lambda: ends.sink.calls == ["lost"])
        ends.theirs.close()

    run(test())


def test_one_that_is_aborted_before_it_is_open_closes_at_once() -> None:
    async def test() -> None:
        ends = Ends()
        ends.stream.abort()
        await ends.open()
        await ends.sink.until(lambda: ends.sink.calls == ["lost"])
        assert ends.theirs.recv(1) == b""
        ends.theirs.close()

    run(test())


def test_the_end_is_told_once_however_often_reading_is_held() -> None:
    async def test() -> None:
        ends = await Ends().open()
        ends.theirs.shutdown(socket.SHUT_WR)
        await ends.sink.until(lambda: ends.sink.calls)
        for _ in range(3):
            ends.stream.hold("x")
            await settle()
            ends.stream.release()
            await settle()
        assert ends.sink.calls == ["ended"]
        await ends.close()

    run(test())


def test_writing_to_one_who_has_gone_does_nothing() -> None:
    async def test() -> None:
        ends = await Ends().open()
        await ends.close()
        ends.stream.send(b"anybody?")
        ends.stream.finish()
        ends.stream.abort()
        ends.stream.hold("x")
        ends.stream.release()
        await settle()
        assert ends.sink.calls == ["lost"]

    run(test())


# Pace


def test_a_slow_reader_is_told_of_once_and_so_is_its_catching_up() -> None:
    async def test() -> None:
        ends = await Ends(high_water=1000).open()
        sent = 0
        while "full" not in ends.sink.calls:
            ends.stream.send(b"x" * 999)
            sent += 1000
        ends.stream.send(b"x" * 999)
        assert ends.sink.calls == ["full"]
        await ends.read(sent + 1000)
        await ends.sink.until(lambda: ends.sink.calls == ["full", "free"])
        await ends.close()

    run(test())


def test_one_that_catches_up_is_told_of_when_half_has_left() -> None:
    async def test() -> None:
        ends = await Ends(high_water=1000).open()
        writer = ends.stream._writer
        assert writer is not None
        assert writer.get_write_buffer_limits() == (500, 1000)
        await ends.close()

    run(test())


def test_nothing_is_read_while_there_is_a_reason_against_it() -> None:
    async def test() -> None:
        ends = await Ends().open()
        ends.stream.hold("a")
        ends.stream.hold("b")
        ends.stream.hold("a", False)
        ends.stream.hold("never", False)
        ends.theirs.send(b"one\n")
        await settle()
        assert ends.sink.data == b""
        ends.stream.hold("b", False)
        await ends.sink.until(lambda: ends.sink.data == b"one\n")
        await ends.close()

    run(test())


def test_a_stream_that_is_held_before_it_is_open_begins_held() -> None:
    async def test() -> None:
        ends = Ends()
        ends.theirs.send(b"one\n")
        ends.stream.hold("a")
        ends.stream.hold("b")
        await ends.open()
        await settle()
        assert ends.sink.data == b""
        ends.stream.release()
        await ends.sink.until(lambda: ends.sink.data == b"one\n")
        await ends.close()

    run(test())


# Over pipes


def test_pipes_are_lost_when_both_have_ended() -> None:
    async def test() -> None:
        sink = Recorder()
        stream = FrameStream(sink, 1000, 1000)
        read, their_stdout = os.pipe()
        their_stdin, write = os.pipe()
        await stream.over_pipes(read, write)
        stream.send(b"to")
        assert os.read(their_stdin, 100) == b"to\n"
        os.write(their_stdout, b"from\n")
        os.close(their_stdout)
        await sink.until(lambda: sink.calls == ["ended"])
        assert (sink.data, stream.at_end) == (b"from\n", True)
        stream.finish()
        await sink.until(lambda: sink.calls == ["ended", "lost"])
        assert os.read(their_stdin, 100) == b""
        os.close(their_stdin)

    run(test())


def test_aborted_pipes_are_lost_at_once() -> None:
    async def test() -> None:
        sink = Recorder()
        stream = FrameStream(sink, 1000, 1 << 20)
        read, their_stdout = os.pipe()
        their_stdin, write = os.pipe()
        await stream.over_pipes(read, write)
        stream.write(b"x" * 500_000 + b"\n")  # more than fits into a pipe nobody reads
        stream.abort()
        await sink.until(lambda: sink.calls == ["lost"])
        os.close(their_stdout)
        os.close(their_stdin)

    run(test())


# Looking at a connection, and refusing one


@pytest.mark.parametrize("before", [False, True])
def test_one_who_only_ended_his_writing_is_not_gone(before: bool) -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        with ours:
            theirs.shutdown(socket.SHUT_WR)
            if before:
                theirs.close()
            gone = asyncio.Event()
            watch = HangUp(ours, gone.set)
            await settle()
            assert gone.is_set() is before
            theirs.close()
            await gone.wait()
            watch.close()

    run(test())


def test_a_refusal_is_an_answer_and_an_end() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        await refuse(ours, b'"x"', Draining("not now", container="box"))
        with theirs, theirs.makefile("rb") as lines:
            answer, end = json.loads(lines.readline()), lines.readline()
        assert (answer["id"], answer["error"]["message"], end) == ("x", "not now", b"")
        assert answer["error"]["data"] == {"reason": "draining", "container": "box"}

    run(test())


def test_a_refusal_does_not_wait_for_ever_to_be_read() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        refusing = asyncio.ensure_future(refuse(ours, b"1", Draining("x" * 2_000_000)))
        await settle()
        assert not refusing.done()
        await skip(REFUSAL_SEC + 1)
        await refusing
        assert ours.fileno() == -1
        theirs.close()

    run(test())


def test_a_refusal_that_finds_nobody_closes_all_the_same() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.close()
        await refuse(ours, b"1", Draining("not now"))
        assert ours.fileno() == -1

    run(test())
