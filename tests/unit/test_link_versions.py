# SPDX-License-Identifier: Apache-2.0
"""Workers and managers of other versions. link_version_1.json has the bytes that 0.1.0 sent, before there
were drains in a snapshot or sessions in a Connect: what it recorded never changes."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentd import errors, link
from unit.loop import Changes, run, settle
from unit.test_links import House, refusal
from unit.test_uplink import Manager, Near

RECORDED = json.loads((Path(__file__).parent / "link_version_1.json").read_text())
WORKER, MANAGER = ([bytes.fromhex(each) for each in RECORDED[side]] for side in ("worker", "manager"))


class Old:
    """A worker of version 1: says what was recorded, and understands what a plain decoder does."""

    def __init__(self, path: str) -> None:
        self._sock = link.connect(path)

    def say(self, data: bytes) -> None:
        self._sock.send(data)

    async def hear(self) -> dict[str, Any]:
        data = await asyncio.get_running_loop().sock_recv(self._sock, link.MESSAGE_BYTES)
        message = msgspec.msgpack.decode(data)
        assert isinstance(message, dict)
        return message

    def close(self) -> None:
        self._sock.close()


def future(name: str, **members: Any) -> bytes:
    """A message as a later version might send it."""
    return msgspec.msgpack.encode({"type": name, **members})


def test_a_conversation_of_version_1_is_understood(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            box, old = house.registry.get("box"), Old(house.path)
            old.say(WORKER[0])
            assert await old.hear() == {"type": "Welcome", "version": 1}
            assert (await old.hear())["type"] == "Settings"
            assert (box.state, box.snapshot.sessions[0].queued, box.snapshot.drain) == ("serving", 1, None)
            for said in WORKER[1:]:
                old.say(said)
            old.close()
            await house.until(lambda: box.worker is None)
            assert house.door.given == [3]
            assert isinstance(box.failure, errors.EngineFailed)

    run(test())


def test_a_worker_of_version_1_drains_for_a_job(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            old = Old(house.path)
            old.say(WORKER[0])
            for _ in range(2):
                await old.hear()
            house.jobs._next = 5  # as in what was recorded
            job, ended = house.jobs.drain("box", 60.0), Changes()
            house.jobs.on_ended.append(lambda _: ended.changed())
            assert await old.hear() == {"type": "Drain", "job": 5, "timeout": 60.0}
            old.say(WORKER[3])
            old.say(WORKER[4])
            await ended.until(lambda: not job.running)
            assert (job.state, job.drained) == ("done", ["s0", "s1"])
            old.close()

    run(test())


def test_what_the_manager_of_version_1_said_is_understood() -> None:
    decoder = msgspec.msgpack.Decoder(link.AnyMessage)
    said = [each for each in MANAGER if b"CancelDrain" not in each]  # could be said, and never was
    assert [type(decoder.decode(each)).__name__ for each in said] == [
        *("Welcome", "Settings", "Connect", "Drain", "Undrain", "Leave", "Refused"),
    ]
    assert decoder.decode(MANAGER[2]) == link.Connect(
        connection=3, uid=1000, agent="claude", attach_id=b"0", data=b"{}\n", session=""
    )


def test_a_newer_worker_is_taken_and_spoken_to_in_our_version(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            new = Old(house.path)
            snapshot = {"state": "serving", "turns": 2, "weather": {"sun": True}}
            hello = {"pid": 7, "code": "9.0", "container": "box", "mood": "fine", "snapshot": snapshot}
            new.say(future("Hello", version=link.VERSION + 7, **hello))
            new.say(future("Weather", wind=3))
            assert await new.hear() == {"type": "Welcome", "version": link.VERSION}
            await settle()
            assert house.registry.get("box").snapshot.turns == 2
            new.close()

    run(test())


def test_only_a_version_below_the_oldest_is_refused_and_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    async def test() -> None:
        async with House(tmp_path) as house:
            far = house.hello(version=link.OLDEST - 1)
            assert await refusal(far) == "invalid_request"
            [said] = far.said
            assert isinstance(said, link.Refused)
            assert "restart agentd@box.service" in said.message

    run(test())


def test_a_worker_lives_with_a_manager_that_says_what_it_has_never_heard_of(tmp_path: Path) -> None:
    async def test() -> None:
        manager = Manager(tmp_path).open()
        near = Near(manager)
        await manager.heard(1)
        ours, theirs = socket.socketpair()
        wire = manager.links[0]._sock
        wire.send(future("Welcome", version=link.VERSION, motto="onwards"))
        socket.send_fds(wire, [future("Teleport", where="mars")], [theirs.fileno()])
        wire.send(future("Drain", job=3, timeout=2.0, gently=True))
        theirs.close()
        await near.until(lambda: near.orders)
        assert near.orders == [link.Drain(job=3, timeout=2.0)]
        assert ours.recv(1) == b""  # nobody holds the descriptor that came with it
        ours.close()
        await near.close()
        manager.close()

    run(test())


def test_a_worker_that_is_too_new_for_its_manager_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "OLDEST", 3)
    monkeypatch.setattr(link, "VERSION", 4)

    async def test() -> None:
        manager = Manager(tmp_path).open()
        near = Near(manager)
        await manager.heard(1)
        manager.say(link.Welcome(version=2))
        await asyncio.wait([near.task])
        with pytest.raises(errors.InvalidRequest, match=r"restart the manager"):
            await near.task
        assert near.welcomes == 0
        manager.close()

    run(test())


def test_each_side_speaks_the_lower_version() -> None:
    assert [link.agreed(theirs) for theirs in (link.OLDEST, link.VERSION, link.VERSION + 1)] == [
        link.OLDEST,
        link.VERSION,
        link.VERSION,
    ]
