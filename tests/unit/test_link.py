# SPDX-License-Identifier: Apache-2.0

import asyncio
import os
import socket
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from agentd import link
from unit.loop import Changes, run, settle


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class End(Changes):
    """One end of a link, and all that came in."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.messages: list[link.AnyMessage] = []
        self.descriptors: list[int | None] = []
        self.closings = 0
        self.link = link.Link(sock, self._message, self._closed)

    def _message(self, message: link.AnyMessage, descriptor: int | None) -> None:
        self.messages.append(message)
        self.descriptors.append(descriptor)
        self.changed()

    def _closed(self) -> None:
        self.closings += 1
        self.changed()

    async def received(self, count: int) -> list[link.AnyMessage]:
        await self.until(lambda: len(self.messages) >= count)
        return self.messages


SESSION = link.SessionInfo(id="s", agent="a", state="idle", queued=2)
SNAPSHOT = link.Snapshot(state="serving", clients=3, turns=1, sessions=[SESSION], agents=[])
MOUNT = link.Mount("/host", "/inside")
BOX = link.ContainerInfo(
    name="box", runtime="podman", running=True, pid=7, workdir="/w", labels={"a": "b"}, mounts=[MOUNT]
)
OPTION = link.PermissionOption(id="yes", name="Yes", kind="allow_once")
ONE_OF_EACH: list[link.AnyMessage] = [
    link.Hello(version=1, pid=2, code="3", container="box", snapshot=SNAPSHOT),
    link.Welcome(version=1),
    link.Refused(reason="r", message="m"),
    link.Connect(connection=1, uid=1000, agent="a", attach_id=b'"x"', data=b"\x00\xff\n"),
    link.Drain(job=1, timeout=2.5),
    link.Drain(job=1, timeout=1.0, agent="claude"),
    link.Undrain(),
    link.Settings(configuration={"limits": {"drain_sec": 1.5}}),
    link.Leave(timeout=3.0),
    link.Refresh(),
    link.CancelTurn(number=1, session="s"),
    link.CloseSession(number=2, session="s"),
    link.ListPermissions(number=3, session="s"),
    link.ResolvePermission(number=4, session="s", permission="7", option="yes", uid=1000),
    link.StopAgent(number=5, agent="a"),
    link.LaunchAgent(number=6, agent="a", uid=1000),
    link.Answer(number=3, permissions=[link.PermissionInfo(id="7", options=[OPTION])]),
    link.Measure(containers=["box"]),
    link.Measured(container="box", addresses=["10.0.0.2"], received=1, sent=2),
    link.Taken(connection=1),
    link.State(snapshot=SNAPSHOT),
    link.Failed(reason="r", message="m"),
    link.Leaving(container_ended=True),
    link.Progress(job=1, remaining=2, drained=["s"]),
    link.Ended(job=1, result="done", drained=["s"]),
    link.Seen(container=BOX),
    link.Gone(name="box", runtime="podman"),
    link.Listed(),
    link.Engine(runtime="podman", problem="p"),
]


def test_every_message_arrives_as_it_was_in_order() -> None:
    async def test() -> None:
        ours, theirs = pair()
        near, far = End(ours), End(theirs)
        for message in ONE_OF_EACH:
            near.link.send(message)
        assert await far.received(len(ONE_OF_EACH)) == ONE_OF_EACH
        near.link.close()
        await far.link.wait_closed()

    run(test())


def test_there_is_one_of_each_message_above() -> None:
    assert {type(each) for each in ONE_OF_EACH} == set(get_args(link.AnyMessage))


def test_a_descriptor_is_passed_and_the_senders_stays_its_own() -> None:
    async def test() -> None:
        ours, theirs = pair()
        near, far = End(ours), End(theirs)
        read, write = os.pipe()
        near.link.send(link.Connect(connection=1, uid=0), write)
        near.link.send(link.Undrain())
        await far.received(2)
        passed, nothing = far.descriptors
        assert passed is not None
        assert nothing is None
        os.close(write)
        os.write(passed, b"x")
        assert os.read(read, 10) == b"x"
        for each in (passed, read):
            os.close(each)
        near.link.close()
        await far.link.wait_closed()

    run(test())


def test_a_descriptor_that_came_is_not_inherited_by_children() -> None:
    async def test() -> None:
        ours, theirs = pair()
        near, far = End(ours), End(theirs)
        near.link.send(link.Connect(connection=1, uid=0), 0)
        await far.received(1)
        assert far.descriptors[0] is not None
        assert not os.get_inheritable(far.descriptors[0])
        os.close(far.descriptors[0])
        near.link.close()
        await far.link.wait_closed()

    run(test())


# What another version, or a stranger, may send


@pytest.mark.parametrize(
    "data",
    [
        msgspec.msgpack.encode({"type": "Telepathy", "to": "box"}),
        msgspec.msgpack.encode({"type": "Drain", "job": "one", "timeout": 1.0}),
        msgspec.msgpack.encode({"job": 1}),
        msgspec.msgpack.encode([1, 2]),
        b"\xc1garbage",
        b"x" * (link.MESSAGE_BYTES + 1),
    ],
)
def test_what_is_not_understood_is_ignored_and_its_descriptor_closed(data: bytes) -> None:
    async def test() -> None:
        ours, theirs = pair()
        far = End(theirs)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        read, write = os.pipe()
        socket.send_fds(ours, [data], [write])
        os.close(write)
        ours.send(msgspec.msgpack.encode({"type": "Undrain", "because": "why not"}))
        assert await far.received(1) == [link.Undrain()]
        assert os.read(read, 1) == b""  # nobody holds the other end
        os.close(read)
        ours.close()
        await far.link.wait_closed()

    run(test())


def test_a_message_that_is_too_long_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        ours, theirs = pair()
        far = End(theirs)
        ours.send(b"x" * (link.MESSAGE_BYTES + 1))
        ours.close()
        await far.link.wait_closed()
        assert "was cut off" in caplog.text

    run(test())


def test_more_descriptors_than_one_do_not_pile_up() -> None:
    async def test() -> None:
        ours, theirs = pair()
        far = End(theirs)
        socket.send_fds(ours, [msgspec.msgpack.encode({"type": "Undrain"})], [0, 1, 2])
        await far.received(1)
        assert far.descriptors[0] is not None
        os.close(far.descriptors[0])
        far.link.close()
        ours.close()

    run(test())


def test_an_empty_message_ends_the_link_and_its_descriptor_is_closed() -> None:
    async def test() -> None:
        ours, theirs = pair()
        far = End(theirs)
        read, write = os.pipe()
        socket.send_fds(ours, [b""], [write])
        os.close(write)
        await far.link.wait_closed()
        assert os.read(read, 1) == b""  # nobody holds the other end
        os.close(read)
        ours.close()

    run(test())


# Back-pressure


def test_what_the_peer_does_not_read_yet_waits_for_it() -> None:
    async def test() -> None:
        ours, theirs = pair()
        near = End(ours)
        messages = [link.Connect(connection=n, uid=0, data=b"x" * 100_000) for n in range(50)]
        for message in messages:
            near.link.send(message)
        await settle()
        far = End(theirs)
        assert await far.received(50) == messages
        near.link.send(link.Undrain())
        await far.received(51)
        assert not asyncio.get_running_loop().remove_writer(ours)  # nothing to write, nothing to wake up for
        near.link.close()
        await far.link.wait_closed()

    run(test())


def test_a_peer_that_reads_nothing_is_given_up_and_all_descriptors_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "QUEUE_BYTES", 1 << 20)

    async def test() -> None:
        ours, theirs = pair()
        near = End(ours)
        for number in range(100):
            near.link.send(link.Connect(connection=number, uid=0, data=b"x" * 100_000), 0)
        assert (near.link.closed, near.closings) == (True, 1)
        theirs.close()

    run(test())


def test_a_message_that_is_too_long_to_send_is_logged_and_ends_the_link(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        ours, theirs = pair()
        near, far = End(ours), End(theirs)
        message = link.Connect(connection=1, uid=0, data=b"x" * link.MESSAGE_BYTES)
        assert not link.fits(message)
        near.link.send(message, 0)
        near.link.send(link.Undrain())
        assert (near.link.closed, near.closings) == (True, 1)
        await far.link.wait_closed()
        assert far.messages == []
        assert "a Connect of" in caplog.text

    run(test())


def test_the_longest_message_that_fits_arrives() -> None:
    async def test() -> None:
        ours, theirs = pair()
        near, far = End(ours), End(theirs)
        empty = len(msgspec.msgpack.encode(link.Connect(connection=1, uid=0, data=b"x" * (1 << 16))))
        room = link.MESSAGE_BYTES - empty + (1 << 16)
        longest = link.Connect(connection=1, uid=0, data=b"x" * room)
        assert link.fits(longest)
        near.link.send(longest)
        assert await far.received(1) == [longest]
        near.link.close()
        await far.link.wait_closed()

    run(test())


# Ends


@pytest.mark.parametrize("who", ["this", "that"])
def test_each_end_learns_of_the_close_once(who: str) -> None:
    async def test() -> None:
        ours, theirs = pair()
        near, far = End(ours), End(theirs)
        waiting = asyncio.ensure_future(far.link.wait_closed())
        (near if who == "this" else far).link.close()
        await near.link.wait_closed()
        await waiting
        for end in (near, far):
            end.link.close()
            assert (end.link.closed, end.closings) == (True, 1)

    run(test())


def test_sending_into_a_closed_link_does_nothing() -> None:
    async def test() -> None:
        ours, theirs = pair()
        near = End(ours)
        near.link.close()
        near.link.send(link.Connect(connection=1, uid=0), 0)
        theirs.close()
        assert near.closings == 1

    run(test())


def test_sending_to_a_peer_that_has_gone_closes_the_link() -> None:
    async def test() -> None:
        ours, theirs = pair()
        near = End(ours)
        theirs.close()
        near.link.send(link.Connect(connection=1, uid=0), 0)
        await near.until(lambda: near.closings == 1)

    run(test())


@pytest.mark.parametrize("first", ["our word", "their end"])
def test_the_last_words_of_a_peer_that_did_not_read_ours_are_heard(first: str) -> None:
    async def test() -> None:
        ours, theirs = pair()
        near, said = End(ours), link.Failed(reason="r", message="m")
        if first == "our word":
            near.link.send(link.Undrain())
        theirs.send(msgspec.msgpack.encode(said))
        theirs.close()  # with ours unread, which resets the connection
        if first == "their end":
            near.link.send(link.Connect(connection=1, uid=0), 0)
            near.link.send(link.Undrain())
        await near.link.wait_closed()
        assert (near.messages, near.closings) == ([said], 1)

    run(test())


def test_waiting_for_the_close_can_be_given_up() -> None:
    async def test() -> None:
        ours, theirs = pair()
        near = End(ours)
        waiting = asyncio.ensure_future(near.link.wait_closed())
        await settle()
        waiting.cancel()
        await settle()
        assert not near.link.closed
        near.link.close()
        theirs.close()

    run(test())


# Connecting


def test_connecting_where_nobody_listens_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        link.connect(str(tmp_path / "link.sock"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / "link.sock"))
    with pytest.raises(ConnectionRefusedError):
        link.connect(str(tmp_path / "link.sock"))


def test_connecting_to_a_full_house_does_not_block(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(str(tmp_path / "link.sock"))
        door.listen(0)
        with link.connect(str(tmp_path / "link.sock")), pytest.raises(BlockingIOError):
            link.connect(str(tmp_path / "link.sock"))
