# SPDX-License-Identifier: Apache-2.0

import random
import tracemalloc

import pytest

from agentd.acp.framing import EDGE, Framer, Torn, torn

LIMIT = 64


class Cut:
    """A framer, fed in pieces, and what came of it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.torn: list[Torn] = []
        self.framer = Framer(limit, self.torn.append)

    def feed(self, data: bytes, size: int) -> bytes:
        return b"".join(self.framer.feed(data[at : at + size]) for at in range(0, len(data), size))


SIZES = [1, 2, 3, 7, 64, 65, 66, 1000]


@pytest.mark.parametrize("size", SIZES)
def test_lines_come_out_whole_however_they_came_in(size: int) -> None:
    cut = Cut()
    assert cut.feed(b"one\n\ntwo\r\nthree", size) == b"one\n\ntwo\r\n"
    assert cut.framer.pending == len(b"three")
    assert cut.feed(b"\n", size) == b"three\n"
    assert (cut.framer.pending, cut.torn) == (0, [])


def test_a_block_holds_only_whole_lines() -> None:
    framer = Cut().framer
    assert [framer.feed(piece) for piece in (b"a", b"b\nc\nd", b"e", b"\n")] == [
        b"",
        b"ab\nc\n",
        b"",
        b"de\n",
    ]


@pytest.mark.parametrize("size", SIZES)
def test_a_line_may_have_just_the_limit(size: int) -> None:
    cut = Cut()
    line = b"x" * LIMIT + b"\n"
    assert cut.feed(b"a\n" + line + line + b"b\n", size) == b"a\n" + line + line + b"b\n"
    assert cut.torn == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("excess", [1, 2, LIMIT, 50 * LIMIT])
def test_a_longer_line_is_skipped_and_told_once(size: int, excess: int) -> None:
    cut = Cut()
    assert cut.feed(b"a\n" + b"x" * (LIMIT + excess) + b"\nb\n", size) == b"a\nb\n"
    assert len(cut.torn) == 1


@pytest.mark.parametrize("size", SIZES)
def test_the_id_of_a_line_that_is_skipped_is_known(size: int) -> None:
    cut = Cut()
    cut.feed(b'{"id":1,"method":"m","params":"' + b"x" * LIMIT + b'"}\n', size)
    cut.feed(b'{"result":"' + b"x" * LIMIT + b'","id":"b"}\n', size)
    assert cut.torn == [Torn(b"1", False), Torn(b'"b"', True)]


def test_both_ends_of_a_very_long_line_are_looked_at() -> None:
    cut, filling = Cut(), b"x" * (10 * EDGE)
    cut.feed(b'{"id":1,"method":"m","params":"' + filling + b'"}\n', 1000)
    cut.feed(b'{"result":"' + filling + b'","id":2}\n', 1000)
    assert cut.torn == [Torn(b"1", False), Torn(b"2", True)]


@pytest.mark.parametrize("seed", range(20))
def test_any_pieces_give_the_same_lines(seed: int) -> None:
    chance = random.Random(seed)
    lines = [b"y" * chance.choice([0, 1, 63, 64, 65, 66, 200]) for _ in range(50)]
    stream = b"".join(line + b"\n" for line in lines)
    cut, out, at = Cut(), b"", 0
    while at < len(stream):
        size = chance.choice([1, 5, 60, 70, 300])
        out += cut.framer.feed(stream[at : at + size])
        at += size
    assert out == b"".join(line + b"\n" for line in lines if len(line) <= LIMIT)
    assert len(cut.torn) == sum(len(line) > LIMIT for line in lines)


def test_an_endless_line_costs_no_memory() -> None:
    cut, piece = Cut(limit=1 << 16), b"x" * (1 << 14)
    tracemalloc.start()
    try:
        for _ in range(640):
            cut.framer.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 18


def test_a_line_that_dribbles_in_costs_little_more_than_its_bytes() -> None:
    cut, pieces = Cut(limit=1 << 20), [b"x"] * 50_000
    tracemalloc.start()
    try:
        for piece in pieces:
            cut.framer.feed(piece)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 5 * len(pieces)


@pytest.mark.parametrize(
    ("head", "tail", "expected"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a', b'"}}', Torn(b"7", False)),
        (b'{"jsonrpc":"2.0", "method" : "m" ,"id": "x","params":[', b"]}", Torn(b'"x"', False)),
        (b'{"method":"m","params":{"a":"', b'"},"id":8}', Torn(b"8", False)),
        (b'{"method":"m","params":{"a":"', b'"}}', Torn(None, False)),
        (b'{"id":null,"result":"', b'"}', Torn(b"null", True)),
        (b'{"id":-3,"result":"', b'"}', Torn(b"-3", True)),
        (b'{"result":{"a":"', b'"} , "id" : "a\\"b" } ', Torn(b'"a\\"b"', True)),
        (b'{"params":{"id":9,"x":"', b'"},"method":"m"}', Torn(None, False)),
        (b'{"jsonrpc":"2.0","id":5,"params":{"a":"', b'"},"method":"session/prompt"}', Torn(b"5", False)),
        (b'{"id":5,"result":{"method":"m","x":"', b'"}}', Torn(b"5", True)),
        (b"xxxxxxxx", b"xxxxxxx", Torn(None, True)),
        (b"", b"", Torn(None, True)),
    ],
)
def test_what_is_left_of_a_torn_message(head: bytes, tail: bytes, expected: Torn) -> None:
    assert torn(head, tail) == expected


def test_an_id_that_is_cut_off_is_not_taken_for_a_shorter_one() -> None:
    assert torn(b'{"jsonrpc":"2.0","id":123', b"") == Torn(None, True)
