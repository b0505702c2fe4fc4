# SPDX-License-Identifier: Apache-2.0
"""agentd.bus on a real bus, with both libraries."""

import array
import asyncio
import os
import socket
import xml.etree.ElementTree as ET
from types import ModuleType
from typing import Any

import pytest

from agentd import errors
from agentd.interface import (
    EVERYBODY,
    BusError,
    Caller,
    Interface,
    ObjectManager,
    Variant,
    caller,
    method,
    prop,
    signal,
    variant,
)

NAME, PATH, FACE = "org.example.Test", "/org/example/Test", "org.example.Face"
PROPERTIES, OBJECT_MANAGER = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.ObjectManager"
ERROR = "org.freedesktop.DBus.Error."

PLAIN = "ybnqiuxtdsogasa{su}(si)a(sq)ay"
VALUES = [
    *(255, True, -5, 65535, -(2**31), 2**32 - 1, -(2**63), 2**64 - 1, 0.5, "ü", "/a/b", "a{sv}"),
    *(["x", ""], {"k": 1}, ["s", 7], [["a", 1], ["b", 2]], b"\0\xff"),
]


class Face(Interface, name=FACE):
    def __init__(self) -> None:
        super().__init__()
        self.callers: list[Caller] = []
        self.gate = asyncio.Event()
        self.waiting = 0
        self.got: Any = None
        self.failure: BaseException = ValueError("a secret")

    @method(PLAIN, PLAIN)
    async def echo(
        self, y: Any, b: Any, n: Any, q: Any, i: Any, u: Any, x: Any, t: Any, d: Any, s: Any, o: Any, g: Any,
        strings: Any, counts: Any, pair: Any, pairs: Any, data: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        structs = tuple(pair), [tuple(each) for each in pairs]
        return y, b, n, q, i, u, x, t, d, s, o, g, strings, counts, *structs, data

    @method("sa{sv}", "a{sv}s", names=("options", "text"))
    async def options(self, from_: str, options: dict[str, Any]) -> tuple[dict[str, Variant], str]:
        self.got = options
        return {"n": variant("u", options["n"]), "v": variant("v", variant("as", [from_]))}, from_

    @method(gives="s")
    async def who(self) -> str:
        self.callers.append(caller())
        return caller().sender

    @method()
    async def fail(self) -> None:
        raise self.failure

    @method(gives="s")
    async def wait(self) -> str:
        self.waiting += 1
        await self.gate.wait()
        return "x" * 20_000

    @method("s", "o")
    async def path(self, text: str) -> str:
        return text

    @method(gives="h", names=("pipe",))
    async def open(self) -> int:
        ours, theirs = os.pipe()
        os.write(theirs, b"hello")
        os.close(theirs)
        return ours

    @method(gives="h")
    async def open_at_gate(self) -> int:
        await self.wait()
        return await self.open()

    @method("h", "s")
    async def read(self, pipe: int) -> str:
        return os.read(pipe, 100).decode()

    @signal("us")
    def ticked(self, number: int, text: str) -> None: ...

    @prop("s")
    def state(self) -> str:
        return "running"

    @prop("u", name="NClients")
    def clients(self) -> int:
        return 3

    @prop("t", emits="const")
    def start_timestamp(self) -> int:
        return 2**40

    @prop("as", emits="invalidates")
    def long_list(self) -> list[str]:
        return ["a", "b"]


class Flawed(Interface, name="org.example.Flawed"):
    @prop("s")
    def broken(self) -> str:
        raise ValueError("a secret")

    @prop("s")
    def sound(self) -> str:
        return "yes"


async def ask(client: Any, server: Any, member: str, signature: str = "", *args: object, **more: Any) -> Any:
    """The one result of a method of Face, or all of several."""
    results = await client.call(server.unique_name, PATH, FACE, member, signature, *args, **more)
    return results[0] if len(results) == 1 else results


async def until(condition: Any) -> None:
    while not condition():  # the test's deadline ends it
        await asyncio.sleep(0)


async def settled(bus: Any) -> None:
    """What was sent to `bus` so far has been read, since the daemon answers in order."""
    await bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.Peer", "Ping")


async def closed(peer: Any, witness: Any) -> None:
    """The daemon has noticed that `peer` is closed."""
    name = peer.unique_name
    await peer.close()
    there = True
    while there:
        [there] = await witness._ask("NameHasOwner", "s", name)


# Values


async def test_every_type_goes_round(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        assert await ask(client, server, "Echo", PLAIN, *VALUES) == VALUES


async def test_variants_arrive_unwrapped(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        options = {"n": variant("u", 5), "nested": variant("a{sv}", {"x": variant("b", True)})}
        results = await ask(client, server, "Options", "sa{sv}", "me", options)
        assert face.got == {"n": 5, "nested": {"x": True}}
        assert results == [{"n": 5, "v": ["me"]}, "me"]


@pytest.mark.parametrize("text", ["nul \0 inside", "lone \ud800 surrogate", "￿"])
async def test_no_text_ends_the_connection(peers: Any, text: str) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        heard: list[Any] = []
        client.subscribe(heard.append, interface=FACE, member="Ticked")
        face.ticked(1, text)
        face.ticked(2, "end")
        await until(lambda: len(heard) == 2)
        assert server.connected


@pytest.mark.parametrize("text", ["", "no path", "/trailing/", "//"])
async def test_an_invalid_path_is_refused_before_it_ends_the_connection(peers: Any, text: str) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        with pytest.raises(errors.Internal):
            await ask(client, server, "Path", "s", text)
        assert await ask(client, server, "Path", "s", "/good") == "/good"


# Errors


async def test_our_errors_come_back_as_themselves(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        face.failure = errors.NoSuchContainer("there is no container box")
        with pytest.raises(errors.NoSuchContainer, match=r"^there is no container box$"):
            await ask(client, server, "Fail")


async def test_other_errors_keep_their_name(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        face.failure = BusError("org.example.Odd", "it is odd")
        with pytest.raises(BusError, match=r"^it is odd$") as raised:
            await ask(client, server, "Fail")
        assert raised.value.name == "org.example.Odd"


@pytest.mark.parametrize(
    "failure", [ValueError("a secret"), asyncio.CancelledError("a secret"), KeyError("a secret")]
)
async def test_a_bug_is_told_to_the_journal_only(peers: Any, caplog: Any, failure: BaseException) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        face.failure = failure
        with pytest.raises(errors.Internal, match=r"^internal error; see the journal$"):
            await ask(client, server, "Fail")
        assert "a secret" in caplog.text and "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("path", "face", "member", "signature", "args", "error"),
    [
        ("/nowhere", FACE, "Who", "", (), "UnknownObject"),
        (PATH, FACE, "Nothing", "", (), "UnknownMethod"),
        (PATH, "org.example.Other", "Who", "", (), "UnknownMethod"),
        (PATH, PROPERTIES, "Get", "ss", (FACE, "Nothing"), "UnknownProperty"),
        (PATH, PROPERTIES, "Get", "ss", ("org.example.Other", "State"), "UnknownInterface"),
        (PATH, PROPERTIES, "Set", "ssv", (FACE, "State", variant("s", "")), "PropertyReadOnly"),
        (PATH, FACE, "Ticked", "us", (1, ""), "UnknownMethod"),
    ],
)
async def test_what_is_not_there_is_refused_by_name(
    peers: Any, path: str, face: str, member: str, signature: str, args: tuple[Any, ...], error: str
) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        with pytest.raises(BusError) as raised:
            await client.call(server.unique_name, path, face, member, signature, *args)
        assert raised.value.name == ERROR + error


async def test_wrong_arguments_are_refused_with_the_right_ones(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        with pytest.raises(errors.InvalidArgs, match=r"^Options takes \(sa\{sv\}\), not \(s\)$"):
            await ask(client, server, "Options", "s", "x")


async def test_a_call_has_a_deadline(peers: Any, bus: ModuleType) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        with pytest.raises(BusError) as raised:
            await ask(client, server, "Wait", timeout=0.01)
        assert raised.value.name == bus.NO_REPLY and not client._replies
        face.gate.set()
        assert await ask(client, server, "Who") == client.unique_name


# Callers


async def test_a_method_knows_its_caller(peers: Any) -> None:
    async with peers.connected(3) as (server, one, other):
        server.export(PATH, face := Face())
        await asyncio.gather(ask(one, server, "Who"), ask(other, server, "Who", interactive=True))
        who = await server.credentials(one.unique_name)
        assert who.uid == os.getuid() and who.groups >= set(os.getgroups())
        assert set(face.callers) == {
            Caller(one.unique_name, False, *who),
            Caller(other.unique_name, True, *who),
        }
        assert caller() == EVERYBODY


async def test_the_account_behind_a_sender(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        assert (await server.credentials(client.unique_name)).uid == os.getuid()
        await client.close()
        assert (await server.credentials(client.unique_name)).uid == os.getuid()
        assert await server.credentials(":1.4711") == (-1, frozenset())


async def test_whether_somebody_has_a_name(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        assert not await client.has_owner(NAME)
        await server.request_name(NAME)
        assert await client.has_owner(NAME)


async def test_one_sender_cannot_occupy_us(peers: Any, bus: ModuleType, monkeypatch: Any) -> None:
    monkeypatch.setattr(bus, "MAX_CALLS", 3)
    async with peers.connected(3) as (server, greedy, other):
        server.export(PATH, face := Face())
        calls = [asyncio.create_task(ask(greedy, server, "Wait")) for _ in range(4)]
        [refused], waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(refused.exception(), BusError) and len(waiting) == 3
        assert await ask(other, server, "Who") == other.unique_name
        face.gate.set()
        await asyncio.wait(waiting)
        assert await ask(greedy, server, "Who") == greedy.unique_name


# Properties


async def test_properties_are_read(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        [value] = await client.call(server.unique_name, PATH, PROPERTIES, "Get", "ss", FACE, "NClients")
        [everything] = await client.call(server.unique_name, PATH, PROPERTIES, "GetAll", "s", FACE)
        assert value == 3
        expected = {"State": "running", "NClients": 3, "StartTimestamp": 2**40, "LongList": ["a", "b"]}
        assert everything == expected


async def test_a_broken_property_does_not_hide_the_others(peers: Any, caplog: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Flawed())
        name = Flawed.dbus_name
        [everything] = await client.call(server.unique_name, PATH, PROPERTIES, "GetAll", "s", name)
        assert everything == {"Sound": "yes"} and "a secret" in caplog.text
        with pytest.raises(errors.Internal, match=r"^internal error"):
            await client.call(server.unique_name, PATH, PROPERTIES, "Get", "ss", name, "Broken")


async def test_changes_of_a_pass_are_one_signal(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        heard: list[Any] = []
        client.subscribe(heard.append, interface=PROPERTIES, member="PropertiesChanged", path=PATH)
        await settled(client)
        for _ in range(100):
            face.changed("State", "NClients", "StartTimestamp", "LongList")
        await ask(client, server, "Who")
        [news] = heard
        assert news.args == [FACE, {"State": "running", "NClients": 3}, ["LongList"]]


async def test_a_change_of_what_there_is_not_is_a_bug() -> None:
    with pytest.raises(ValueError, match="Stat"):
        Face().changed("Stat")


# Signals


async def test_signals_in_one_pass_all_arrive(peers: Any, daemon: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        heard: list[int] = []
        client.subscribe(lambda news: heard.append(news.args[0]), interface=FACE, member="Ticked")
        await settled(client)
        daemon.pause()  # so that the socket is full for certain
        for number in range(5000):
            face.ticked(number, text="x" * 1000)
        await asyncio.sleep(0)
        daemon.resume()
        await until(lambda: len(heard) == 5000)
        assert heard == list(range(5000))


async def test_only_the_owner_of_the_name_is_heard(peers: Any) -> None:
    async with peers.connected(3) as (server, client, impostor):
        heard: list[Any] = []
        client.subscribe(heard.append, interface=FACE, member="Ticked", sender=NAME)
        client.subscribe(lambda _: None, interface=FACE, member="Ticked")  # lets the impostor's signals in
        await server.request_name(NAME)
        for peer in (impostor, server, impostor):
            peer.export(PATH, face := Face())
            face.ticked(1, "")
            peer.unexport(PATH)
            await settled(peer)
        await settled(client)
        assert [news.sender for news in heard] == [server.unique_name]


async def test_a_new_owner_of_the_name_is_heard(peers: Any) -> None:
    async with peers.connected(3) as (first, client, second):
        await first.request_name(NAME)
        heard: list[Any] = []
        client.subscribe(heard.append, interface=FACE, member="Ticked", sender=NAME)
        await settled(client)
        await closed(first, second)
        await second.request_name(NAME)
        second.export(PATH, face := Face())
        face.ticked(2, "two")
        await until(lambda: heard)
        assert heard[0].sender == second.unique_name


async def test_equal_listeners_share_a_match(peers: Any, monkeypatch: Any) -> None:
    async with peers.connected(1) as (client,):
        told: list[str] = []
        monkeypatch.setattr(client, "_tell_daemon", lambda member, rule, then: told.append(member))
        leaves = [client.subscribe(print, interface=FACE, member="Ticked") for _ in range(3)]
        for leave in leaves:
            leave()
        assert told == ["AddMatch", "RemoveMatch"]


async def test_a_match_lasts_as_long_as_its_last_listener(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        one: list[Any] = []
        two: list[Any] = []
        leave = client.subscribe(one.append, interface=FACE, member="Ticked", path=PATH)
        client.subscribe(two.append, interface=FACE, member="Ticked", path=PATH)
        client.subscribe(two.append, interface=FACE, member="Ticked", path="/elsewhere")
        leave()
        leave()
        await settled(client)
        face.ticked(1, "")
        await ask(client, server, "Who")
        assert not one and len(two) == 1
        assert not client._replies


async def test_a_listener_that_fails_does_not_deafen_the_next(peers: Any, caplog: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        heard: list[Any] = []
        client.subscribe(lambda _: 1 / 0, interface=FACE, member="Ticked")  # type: ignore[arg-type]
        client.subscribe(heard.append, interface=FACE, member="Ticked")
        await settled(client)
        face.ticked(1, "")
        await until(lambda: heard)
        assert "ZeroDivisionError" in caplog.text


# Descriptors


async def test_a_descriptor_is_returned_and_closed_here(peers: Any, open_descriptors: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        before = open_descriptors()
        for _ in range(20):
            pipe = await ask(client, server, "Open")
            assert os.read(pipe, 100) == b"hello" and not os.get_inheritable(pipe)
            os.close(pipe)
        await asyncio.sleep(0)
        assert open_descriptors() == before


async def test_a_descriptor_waits_until_the_socket_is_writable(bus: ModuleType) -> None:
    near, far = socket.socketpair()
    with bus._Socket() as writer, near, far, open(os.devnull) as file:
        near.setblocking(False)
        os.dup2(near.fileno(), writer.fileno())
        filled = sum(iter(lambda: writer.send(b"x" * 4096), 0))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))]
        assert writer.sendmsg([b"abc"], rights) == 0
        while filled:
            filled -= len(far.recv(filled))
        assert writer.send(b"abc") == 3
        data, [received], _, _ = socket.recv_fds(far, 10, 10)
        os.close(received)
        assert data == b"abc" and writer.send(b"d") == 1
        assert socket.recv_fds(far, 10, 10)[:2] == (b"d", [])


async def test_every_message_has_its_own_descriptors(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        calls = [ask(client, server, member) for member in ("Who", "Open") * 50]
        for pipe in (await asyncio.gather(*calls))[1::2]:
            assert os.read(pipe, 100) == b"hello"
            os.close(pipe)


async def test_a_descriptor_is_passed_and_stays_ours(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        ours, theirs = os.pipe()
        os.write(theirs, b"12")
        assert await ask(client, server, "Read", "h", ours) == "12"
        os.close(ours)
        os.close(theirs)


async def test_a_descriptor_may_be_missing(peers: Any, bus: ModuleType) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        with open(os.devnull) as file:
            for _ in range(20):
                without = bus.Message(server.unique_name, PATH, FACE, "Read", signature="h", body=[0])
                missing = asyncio.create_task(client._round_trip(without))
                present = asyncio.create_task(ask(client, server, "Read", "h", file.fileno()))
                with pytest.raises(errors.InvalidArgs, match="without its descriptor"):
                    bus._results(await missing)
                assert await present == ""


async def test_nobody_can_have_us_hold_descriptors(
    peers: Any, bus: ModuleType, open_descriptors: Any
) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        ours, theirs = os.pipe()
        before = open_descriptors()
        message = bus.Message(server.unique_name, PATH, FACE, "Wait")
        message.unix_fds = [os.dup(ours), os.dup(theirs)]
        call = asyncio.create_task(client._round_trip(message))
        await until(lambda: face.waiting)
        assert open_descriptors() == before
        face.gate.set()
        await call
        os.close(ours)
        os.close(theirs)


async def test_a_descriptor_that_comes_too_late_is_closed(peers: Any, open_descriptors: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        before = open_descriptors()
        with pytest.raises(BusError):
            await ask(client, server, "OpenAtGate", timeout=0.01)
        face.gate.set()
        await until(lambda: not server._calls)
        await settled(server)
        await settled(client)
        assert open_descriptors() == before


@pytest.mark.parametrize("member", ["Nothing", "Who", "Fail"])
async def test_unwanted_descriptors_are_closed(peers: Any, open_descriptors: Any, member: str) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        ours, theirs = os.pipe()
        before = open_descriptors()
        for _ in range(5):
            with pytest.raises(errors.AgentdError):
                await ask(client, server, member, "h", ours)
        assert open_descriptors() == before
        os.close(ours)
        os.close(theirs)


# Load


async def test_large_replies_to_many_calls_at_once(peers: Any, daemon: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        calls = [asyncio.create_task(ask(client, server, "Wait")) for _ in range(64)]
        await until(lambda: face.waiting == 64)
        daemon.pause()
        face.gate.set()
        await asyncio.sleep(0)
        daemon.resume()
        assert {len(text) for text in await asyncio.gather(*calls)} == {20_000}


async def test_a_flood_leaves_the_loop_its_turns(bus: ModuleType, monkeypatch: Any) -> None:
    monkeypatch.setattr(bus, "READS_PER_PASS", 3)
    ours, theirs = socket.socketpair()
    with bus._Socket() as reader, ours, theirs:
        os.dup2(ours.fileno(), reader.fileno())
        theirs.send(b"x" * 100)
        reads = [recv_or_none(reader) for _ in range(8)]
    assert reads == [b"x", b"x", b"x", None, b"x", b"x", b"x", None]


def recv_or_none(sock: socket.socket) -> bytes | None:
    try:
        return sock.recvmsg(1)[0]
    except BlockingIOError:
        return None


async def test_a_bus_that_takes_nothing_is_given_up(
    peers: Any, daemon: Any, bus: ModuleType, monkeypatch: Any
) -> None:
    monkeypatch.setattr(bus, "MAX_UNSENT", 2000)
    async with peers.connected(1) as (server,):
        server.export(PATH, face := Face())
        daemon.pause()
        for number in range(5000):
            face.ticked(number, "x" * 1000)
        await server.wait_closed()
        daemon.resume()


# Coming and going


async def test_a_name_has_one_owner(peers: Any) -> None:
    async with peers.connected(2) as (first, second):
        await first.request_name(NAME)
        await first.request_name(NAME)
        with pytest.raises(errors.AlreadyRunning, match=NAME):
            await second.request_name(NAME)
        await closed(first, second)
        await second.request_name(NAME)


async def test_a_lost_bus_fails_what_waits_and_nothing_else(
    peers: Any, daemon: Any, bus: ModuleType
) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        call = asyncio.create_task(ask(client, server, "Wait"))
        event = asyncio.create_task(client.until(asyncio.get_running_loop().create_future()))
        await until(lambda: face.waiting)
        daemon.kill()
        await server.wait_closed()
        for waiting in (call, event, ask(client, server, "Who")):
            with pytest.raises(BusError) as raised:
                await waiting
            assert raised.value.name == bus.DISCONNECTED
        face.ticked(1, "to nobody")
        face.changed("State")
        face.gate.set()


async def test_nothing_is_sent_once_the_bus_is_lost(peers: Any, daemon: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        daemon.kill()
        for number in range(10):
            face.ticked(number, "")
        client.subscribe(print, interface=FACE, member="Ticked", sender=NAME)()
        await server.wait_closed()
        client.subscribe(print, interface=FACE, member="Ticked", sender=NAME)()
        assert not server.connected


async def test_an_interface_can_be_exported_on_the_next_connection(peers: Any) -> None:
    async with peers.connected(3) as (server, again, client):
        server.export(PATH, face := Face())
        with pytest.raises(ValueError, match="already"):
            again.export(PATH, face)
        await server.close()
        again.export(PATH, face)
        assert await ask(client, again, "Who") == client.unique_name


async def test_closing_ends_calls(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        call = asyncio.create_task(ask(client, server, "Wait"))
        await until(lambda: face.waiting)
        await server.close()
        with pytest.raises(errors.ShuttingDown, match="Wait was not finished"):
            await call


async def test_closing_sends_what_waits(peers: Any, bus: ModuleType, monkeypatch: Any) -> None:
    monkeypatch.setattr(bus, "FLUSH_TIMEOUT", 20.0)
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        heard: list[Any] = []
        client.subscribe(heard.append, interface=FACE, member="Ticked")
        await settled(client)
        for number in range(1000):
            face.ticked(number, "x" * 1000)
        await server.close()
        await until(lambda: len(heard) == 1000)


async def test_who_wants_no_reply_gets_none(peers: Any, bus: ModuleType, monkeypatch: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, face := Face())
        replies: list[Any] = []
        await server.credentials(client.unique_name)
        monkeypatch.setattr(server, "_send", replies.append)
        for member in ("Who", "Nothing"):
            flags = bus.MessageFlag.NO_REPLY_EXPECTED
            client._send(bus.Message(server.unique_name, PATH, FACE, member, flags=flags))
        await until(lambda: face.callers and not server._calls)
        assert not replies


async def test_unexported_is_gone(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        assert await ask(client, server, "Who") == client.unique_name
        server.unexport(PATH)
        server.unexport(PATH)
        with pytest.raises(BusError) as raised:
            await ask(client, server, "Who")
        assert raised.value.name == ERROR + "UnknownObject"


async def test_the_object_manager_lists_and_tells(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export("/org/example", ObjectManager())
        heard: list[Any] = []
        for member in ("InterfacesAdded", "InterfacesRemoved"):
            client.subscribe(heard.append, interface=OBJECT_MANAGER, member=member, path="/org/example")
        await settled(client)
        server.export(PATH, Flawed())
        properties = {Flawed.dbus_name: {"Sound": "yes"}}
        objects = await client.call(server.unique_name, "/org/example", OBJECT_MANAGER, "GetManagedObjects")
        assert objects == [{PATH: properties}]
        server.unexport(PATH)
        await until(lambda: len(heard) == 2)
        assert [news.args for news in heard] == [[PATH, properties], [PATH, [Flawed.dbus_name]]]


@pytest.mark.parametrize("talk", [b"", b"REJECTED\r\n"])
async def test_a_bus_that_hangs_up_is_an_error(bus: ModuleType, tmp_path: Any, talk: bytes) -> None:
    def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(talk)
        writer.close()

    async with await asyncio.start_unix_server(hang_up, tmp_path / "bus"):
        with pytest.raises(BusError) as raised:
            await bus.Bus.connect(f"unix:path={tmp_path}/bus")
        assert raised.value.name == bus.NO_SERVER


async def test_a_bus_that_says_nothing_is_an_error(bus: ModuleType, tmp_path: Any) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "bus"))
        silent.listen()
        with pytest.raises(BusError, match="does not answer"):
            await bus.Bus.connect(f"unix:path={tmp_path}/bus", timeout=0.05)


@pytest.mark.parametrize(
    "address", ["unix:path=/nonexistent/bus", "tcp:host=localhost,port=1", "nonsense", ""]
)
async def test_an_address_that_leads_nowhere_is_an_error(bus: ModuleType, address: str) -> None:
    with pytest.raises(BusError) as raised:
        await bus.Bus.connect(address)
    assert raised.value.name == bus.NO_SERVER


@pytest.mark.parametrize(
    ("kind", "variable"), [("system", "DBUS_SYSTEM_BUS_ADDRESS"), ("session", "DBUS_SESSION_BUS_ADDRESS")]
)
async def test_the_well_known_buses(
    bus: ModuleType, daemon: Any, monkeypatch: Any, kind: str, variable: str
) -> None:
    monkeypatch.setenv(variable, daemon.address)
    async with await bus.Bus.connect(kind) as connection:
        assert connection.unique_name.startswith(":1.")


# Introspection


async def introspect(client: Any, server: Any, path: str) -> ET.Element:
    [xml] = await client.call(server.unique_name, path, "org.freedesktop.DBus.Introspectable", "Introspect")
    return ET.fromstring(xml)


def arguments(interface: ET.Element, member: str) -> list[tuple[str | None, ...]]:
    found = interface.findall(f"*[@name='{member}']/arg")
    return [(arg.get("name"), arg.get("type"), arg.get("direction")) for arg in found]


async def test_introspection_has_signatures_and_names(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        face = (await introspect(client, server, PATH)).find(f"interface[@name='{FACE}']")
        assert face is not None
        taken = [("from", "s", "in"), ("options", "a{sv}", "in")]
        assert arguments(face, "Options") == [*taken, ("options", "a{sv}", "out"), ("text", "s", "out")]
        assert arguments(face, "Open") == [("pipe", "h", "out")]
        assert arguments(face, "Ticked") == [("number", "u", None), ("text", "s", None)]
        properties = {
            item.get("name"): (item.get("type"), item.get("access")) for item in face.findall("property")
        }
        assert properties["NClients"] == ("u", "read") and properties["LongList"] == ("as", "read")


async def test_introspection_says_how_properties_change(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        node = await introspect(client, server, PATH)
        said = {each.get("name"): each.find("annotation") for each in node.iter("property")}
        values = {name: None if item is None else item.get("value") for name, item in said.items()}
        assert values == {
            "State": None,
            "NClients": None,
            "StartTimestamp": "const",
            "LongList": "invalidates",
        }


async def test_introspection_leads_to_the_objects(peers: Any) -> None:
    async with peers.connected(2) as (server, client):
        server.export(PATH, Face())
        server.export("/org/example/Test/deep/down", Flawed())
        server.export("/org/example/Testament", Flawed())
        server.export("/", Flawed())
        for path, children in (("/", ["org"]), ("/org/example", ["Test", "Testament"]), (PATH, ["deep"])):
            node = await introspect(client, server, path)
            assert [child.get("name") for child in node.findall("node")] == children
        await client.call(server.unique_name, "/", "org.freedesktop.DBus.Peer", "Ping")
