# SPDX-License-Identifier: Apache-2.0

import asyncio
import json
import socket

import pytest

from agentd import errors
from agentd.manager.handshake import Opening, first_line, understand
from unit.loop import run, settle, skip

LIMIT = 100
SECONDS = 10.0


def read(*pieces: bytes, end: bool = False) -> tuple[bytes, bytes] | None:
    """The first line and the rest of what a peer sends in these pieces, one after the other is read."""

    async def test() -> tuple[bytes, bytes] | None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            reading = asyncio.ensure_future(first_line(ours, limit=LIMIT, deadline=SECONDS))
            for piece in pieces:
                theirs.sendall(piece)
                await settle()
            if end:
                theirs.shutdown(socket.SHUT_WR)
            return await reading

    return run(test())


# The line


@pytest.mark.parametrize(
    "pieces",
    [[b"one\ntwo\nthr"], [b"one\n", b"two\nthr"], [b"o", b"ne", b"\ntwo\nthr"], [b"one\ntwo\n", b"thr"]],
)
def test_the_first_line_is_read_and_nothing_after_it_is_lost(pieces: list[bytes]) -> None:
    async def test() -> bytes:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            reading = asyncio.ensure_future(first_line(ours, limit=LIMIT, deadline=SECONDS))
            for piece in pieces:
                theirs.sendall(piece)
                await settle()
            theirs.shutdown(socket.SHUT_WR)
            came = await reading
            assert came is not None
            line, rest = came
            assert line == b"one"
            while more := await asyncio.get_running_loop().sock_recv(ours, LIMIT):
                rest += more
            return rest

    assert run(test()) == b"two\nthr"


def test_a_line_may_have_just_the_limit() -> None:
    assert read(b"x" * LIMIT, b"\n") == (b"x" * LIMIT, b"")


@pytest.mark.parametrize(
    "pieces", [[b"x" * (LIMIT + 1)], [b"x" * LIMIT, b"x"], [b"x" * 5000], [b"x" * 150 + b"\n"]]
)
def test_a_longer_one_is_refused_as_soon_as_it_is_too_long(pieces: list[bytes]) -> None:
    with pytest.raises(errors.FrameTooLarge, match="100 bytes"):
        read(*pieces)


def test_who_leaves_without_a_word_is_no_error() -> None:
    assert read(end=True) is None


def test_a_blank_first_line_is_a_line_and_no_message() -> None:
    assert read(b"\n{}") == (b"", b"{}")
    with pytest.raises(errors.ParseError):
        understand(b"", b"{}")


@pytest.mark.parametrize("half", [b"{", b'{"id":0,"method":"initialize"}'])
def test_a_line_that_breaks_off_is_refused(half: bytes) -> None:
    with pytest.raises(errors.ParseError, match="middle of its first line"):
        read(half, end=True)


@pytest.mark.parametrize("pieces", [[], [b'{"id"', b":0"]])
def test_a_slow_line_is_refused_however_steadily_it_comes(pieces: list[bytes]) -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            reading = asyncio.ensure_future(first_line(ours, limit=LIMIT, deadline=SECONDS))
            await settle()
            for piece in pieces:
                theirs.sendall(piece)
                await skip(0.4 * SECONDS)
            assert not reading.done()
            theirs.sendall(b" ")
            await skip(SECONDS)
            with pytest.raises(errors.HandshakeTimeout, match="within 10 s"):
                await reading

    run(test())


# Its meaning: attach


def line(method: str, params: object, **members: object) -> bytes:
    message = {"jsonrpc": "2.0", "id": 0, "method": method, "params": params, **members}
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    ("params", "container", "agent"),
    [
        ({"container": "box", "agent": "claude"}, "box", "claude"),
        ({"container": "box"}, "box", ""),
        ({"agent": "claude"}, "", "claude"),
        ({}, "", ""),
    ],
)
def test_attach_names_container_and_agent(params: dict[str, str], container: str, agent: str) -> None:
    assert understand(line("_agentd/attach", params), b"rest") == Opening(container, agent, b"0", b"rest")


def test_attach_may_name_a_session_and_do_without_a_start() -> None:
    opening = understand(line("_agentd/attach", {"container": "box", "session": "s-1", "start": False}), b"")
    assert opening == Opening("box", "", b"0", b"", session="s-1", start=False)


def test_attach_may_come_without_params() -> None:
    assert understand(b'{"id":"x","method":"_agentd/attach"}', b"") == Opening("", "", b'"x"', b"")


@pytest.mark.parametrize(
    "params",
    [
        {"container": "box", "agnet": "claude"},
        {"container": 7},
        {"container": None},
        {"container": "box", "agent": ["claude"]},
        {"container": "box", "session": 7},
        {"container": "box", "start": "no"},
        ["box"],
        "box",
        None,
        7,
    ],
)
def test_attach_takes_nothing_else(params: object) -> None:
    with pytest.raises(errors.InvalidArgs, match="_agentd/attach takes container and agent"):
        understand(line("_agentd/attach", params), b"")


# Its meaning: initialize


@pytest.mark.parametrize(
    ("params", "container", "agent"),
    [
        ({"protocolVersion": 1}, "", ""),
        ({"protocolVersion": 1, "_meta": {"agentd.container": "box"}}, "box", ""),
        ({"_meta": {"agentd.container": "box", "agentd.agent": "claude", "x": 1}}, "box", "claude"),
        ({"_meta": {}}, "", ""),
        ({"_meta": None}, "", ""),
        ({"_meta": {"agentd.container": 7}}, "", ""),
        ({"agentd.container": "box"}, "", ""),
        (None, "", ""),
        ([], "", ""),
    ],
)
def test_initialize_may_name_them_in_meta(params: object, container: str, agent: str) -> None:
    first = line("initialize", params)
    assert understand(first, b"") == Opening(container, agent, b"", first + b"\n")


def test_the_worker_gets_initialize_byte_for_byte_and_what_came_with_it() -> None:
    first = b' {"method":"initialize" , "id":"\\u00e9", "params":{"a":1.0}}\r'
    assert understand(first, b'{"id":2,').data == first + b'\n{"id":2,'


# What is neither


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (b"hello", errors.ParseError),
        (b"GET / HTTP/1.1\r", errors.ParseError),
        (b"{", errors.ParseError),
        (b'{"id":0,"method":"initialize","params":{"x":"\xff"}}', errors.ParseError),
        (b"[" + line("initialize", {}) + b"]", errors.BatchRefused),
        (b"7", errors.InvalidRequest),
        (b"{}", errors.InvalidRequest),
        (b'{"method":"initialize"}', errors.InvalidRequest),
        (b'{"id":0,"result":{}}', errors.InvalidRequest),
        (b'{"id":0,"method":7}', errors.InvalidRequest),
        (line("session/new", {}), errors.InvalidRequest),
        (line("Initialize", {}), errors.InvalidRequest),
    ],
)
def test_anything_else_is_refused_with_its_reason(first: bytes, error: type[errors.AgentdError]) -> None:
    with pytest.raises(error) as caught:
        understand(first, b"")
    assert type(caught.value) is error
