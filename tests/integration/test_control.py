# SPDX-License-Identifier: Apache-2.0
"""org.agentd1 as a program uses it: sessions, permissions, agents, connections and drains over D-Bus."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agentd import errors
from support.acp_client import Client, reason, result
from support.control import ROOT, Control, control, eventually
from support.embedded import Embedded, Start

MANAGER, SESSION = "org.agentd1.Manager", "org.agentd1.Session"


@pytest.fixture
def agentd(start: Start) -> Embedded:
    return start(bus="private")


@pytest.fixture
def client(agentd: Embedded) -> Iterator[Client]:
    """A client with an open session in the container `here`."""
    with agentd.client() as client:
        yield client.open()


async def only_session(bus: Control) -> str:
    """The path of the only session, once it is told of."""
    [listed] = await eventually(lambda: bus.sessions("here"))
    return str(listed[-1])


async def in_state(bus: Control, path: str, state: str) -> None:
    async def look() -> bool:
        return bool(await bus.get("Session", path, "State") == state)

    await eventually(look, f"the session is {state}")


# Sessions


async def test_a_session_is_an_object_with_properties(agentd: Embedded, client: Client) -> None:
    before = time.time()
    client.turn("say hello")
    async with control(agentd) as bus:
        path = await only_session(bus)
        assert path == f"{ROOT}/session/here_1"
        listed = (await bus.sessions())[0]
        assert listed[:4] == [client.session, "here", "scripted", "idle"] and listed[6] == path
        known = (await bus.objects())[path][SESSION]
        assert (known["Id"], known["Container"], known["Agent"]) == (client.session, "here", "scripted")
        assert (known["Owner"], known["Clients"], known["Queued"]) == (os.getuid(), 1, 0)
        assert before - 60 < known["CreatedTimestamp"] / 1e6 <= time.time()
        assert known["LastActivity"] >= known["CreatedTimestamp"] and known["Drained"] is False


async def test_sessions_come_and_go_with_signals(agentd: Embedded) -> None:
    async with control(agentd) as bus:
        for member in ("SessionNew", "SessionRemoved"):
            bus.listen(MANAGER, member)
        await bus.sessions()
        with agentd.client() as client:
            client.open()
            await bus.until(lambda: bus.heard)
            assert bus.heard[0].args == ["here", client.session, f"{ROOT}/session/here_1"]
            await bus.session(f"{ROOT}/session/here_1", "Close")
            await bus.until(lambda: len(bus.heard) == 2)
        assert bus.heard[1].member == "SessionRemoved"
        assert bus.heard[1].args == bus.heard[0].args and not await bus.sessions()


async def test_a_change_is_told_once_and_nothing_that_has_not_changed(
    agentd: Embedded, client: Client
) -> None:
    async with control(agentd) as bus:
        path = await only_session(bus)
        bus.listen("org.freedesktop.DBus.Properties", "PropertiesChanged")
        await bus.manager("ListContainers")
        client.prompt("cancelled")
        told = [each for each in (await _changes(bus, path, "State")) if "State" in each]
        assert told[0]["State"] == "prompting" and "Owner" not in told[0] and "Agent" not in told[0]
        assert "Title" not in told[0]
        client.cancel()


async def _changes(bus: Control, path: str, name: str) -> list[dict[str, Any]]:
    def told() -> list[dict[str, Any]]:
        return [each.args[1] for each in bus.heard if each.path == path]

    await bus.until(lambda: any(name in each for each in told()))
    return told()


async def test_a_turn_is_cancelled(agentd: Embedded, client: Client) -> None:
    number, second = client.prompt("cancelled"), client.prompt("say more")
    async with control(agentd) as bus:
        path = await only_session(bus)
        await in_state(bus, path, "prompting")
        await bus.session(path, "Cancel")
        answer, before = client.answer_to(number)
        waiting = next(each for each in before if each.get("id") == second)
        assert result(answer)["stopReason"] == result(waiting)["stopReason"] == "cancelled"
        await in_state(bus, path, "idle")


async def test_a_closed_session_is_closed_for_everybody_and_kept(agentd: Embedded, client: Client) -> None:
    client.turn("say hello")
    async with control(agentd) as bus:
        path = await only_session(bus)
        await bus.session(path, "Close")
        assert reason(client.answer_to(client.prompt("say more"))[0]) == "no_such_session"
        with pytest.raises(errors.AgentdError):
            await bus.session(path, "Cancel")
        answer, _ = client.load(client.session)
        assert "result" in answer
        assert await only_session(bus) == path


# Permissions


async def test_a_permission_is_decided_over_the_bus(agentd: Embedded, client: Client) -> None:
    number = client.prompt("ask write-it")
    async with control(agentd) as bus:
        path = await only_session(bus)
        [[id_, title, kind, asked, options]] = await eventually(lambda: bus.session(path, "ListPermissions"))
        assert (title, kind) == ("write-it", "edit") and abs(asked / 1e6 - time.time()) < 60
        assert await bus.get("Session", path, "PendingPermissions") == 1
        allow = next(option for option, _, its in options if its == "allow_once")
        with pytest.raises(errors.InvalidArgs, match=allow):
            await bus.session(path, "ResolvePermission", "ss", id_, "no-such-option")
        await bus.session(path, "ResolvePermission", "ss", id_, allow)
        with pytest.raises(errors.NoSuchPermission):
            await bus.session(path, "ResolvePermission", "ss", id_, allow)
        answer, frames = client.answer_to(number)
        assert result(answer)["stopReason"] == "end_turn"
        assert any(f"permission: {allow}" in str(each) for each in frames)
        assert any(each.get("method") == "$/cancel_request" for each in frames)


async def test_a_permission_is_cancelled_by_choosing_nothing(agentd: Embedded, client: Client) -> None:
    number = client.prompt("ask write-it")
    async with control(agentd) as bus:
        path = await only_session(bus)
        [[id_, *_]] = await eventually(lambda: bus.session(path, "ListPermissions"))
        await bus.session(path, "ResolvePermission", "ss", id_, "")
        _, frames = client.answer_to(number)
        assert any("permission: cancelled" in str(each) for each in frames)


# Agents


async def agents(bus: Control) -> list[Any]:
    return list(await bus.get("Container", f"{ROOT}/container/here", "Agents"))


async def test_an_agent_is_stopped_and_its_session_goes_on(agentd: Embedded, client: Client) -> None:
    client.turn("say hello")
    async with control(agentd) as bus:
        [[name, _, pid, _]] = await eventually(lambda: ready(bus))
        assert name == "scripted" and pid
        await bus.container("StopAgent", "s", "scripted")
        await eventually(lambda: _none(bus), "the agent has gone")
        client.turn("say again")
        [[_, _, other, _]] = await eventually(lambda: ready(bus))
        assert other != pid


async def ready(bus: Control) -> list[Any]:
    return [each for each in await agents(bus) if each[1] == "ready"]


async def _none(bus: Control) -> bool:
    return not await agents(bus)


async def test_an_agent_is_launched_ahead_of_its_session(agentd: Embedded) -> None:
    async with control(agentd) as bus:
        with pytest.raises(errors.NotRunning, match="agentctl start here"):
            await bus.container("LaunchAgent", "s", "scripted")
        await bus.container("Start")
        await bus.container("LaunchAgent", "s", "scripted")
        [[name, *_]] = await eventually(lambda: ready(bus))
        assert name == "scripted"
        for member in ("LaunchAgent", "StopAgent"):
            with pytest.raises(errors.NoSuchAgent):
                await bus.container(member, "s", "nobody")


# Workers


async def test_a_worker_is_started_and_stopped_by_the_name_of_its_container(agentd: Embedded) -> None:
    async with control(agentd) as bus:
        await bus.manager("StartContainer", "s", "here")
        assert await bus.get("Container", f"{ROOT}/container/here", "State") == "serving"
        assert await bus.get("Container", f"{ROOT}/container/here", "ActiveSince")
        await bus.manager("StopContainer", "s", "here")
        assert await bus.get("Container", f"{ROOT}/container/here", "State") == "idle"
        with pytest.raises(errors.NoSuchContainer):
            await bus.manager("StartContainer", "s", "nowhere")


async def test_two_stops_are_one(agentd: Embedded, client: Client) -> None:
    client.prompt("cancelled")
    async with control(agentd) as bus:
        await in_state(bus, await only_session(bus), "prompting")
        await asyncio.gather(*(bus.manager("StopContainer", "s", "here", timeout=60) for _ in range(3)))
        assert await bus.get("Container", f"{ROOT}/container/here", "State") == "idle"


# Connections


async def test_a_connection_is_opened_over_the_bus(agentd: Embedded) -> None:
    async with control(agentd) as bus:
        descriptor = await bus.manager("OpenContainer", "sa{sv}", "here", {})
        with Client(socket.socket(fileno=descriptor)) as client:
            assert "result" in await asyncio.to_thread(client.call, "initialize", {"protocolVersion": 1})
            client.session = (
                await asyncio.to_thread(client.call, "session/new", {"cwd": "/", "mcpServers": []})
            )["result"]["sessionId"]
            assert (await only_session(bus)).endswith("/here_1")
            assert await bus.get("Session", f"{ROOT}/session/here_1", "Owner") == os.getuid()


async def test_a_connection_that_cannot_be_had_says_so_at_once_or_on_itself(agentd: Embedded) -> None:
    async with control(agentd) as bus:
        from agentd.interface import Variant

        with pytest.raises(errors.NoSuchContainer):
            await bus.manager("OpenContainer", "sa{sv}", "nowhere", {})
        with pytest.raises(errors.InvalidArgs, match="agent and session"):
            await bus.manager("OpenContainer", "sa{sv}", "here", {"colour": Variant("s", "red")})
        wish = {"agent": Variant("s", "nobody")}
        descriptor = await bus.manager("OpenContainer", "sa{sv}", "here", wish)
        with Client(socket.socket(fileno=descriptor)) as client:
            assert reason(await asyncio.to_thread(client.read)) == "no_such_agent"


# Drains


@contextlib.contextmanager
def two(agentd: Embedded) -> Iterator[tuple[Client, Client]]:
    with agentd.client() as one, agentd.client() as other:
        yield one.open(), other.open()


async def test_one_session_is_drained_and_no_other(agentd: Embedded) -> None:
    with two(agentd) as (one, other):
        number = one.prompt("cancelled")
        async with control(agentd) as bus:
            await eventually(lambda: _as_many(bus, 2))
            job = await bus.manager("Drain", "sa{sv}", f"here#{one.session}", {})
            path = next(each[-1] for each in await bus.sessions() if each[0] == one.session)
            assert await bus.get("Session", path, "Drained") is True
            assert await bus.job(job, "State") == "running"
            assert reason(one.answer_to(one.prompt("say no"))[0]) == "draining"
            other.turn("say yes")
            one.cancel()
            assert result(one.answer_to(number)[0])["stopReason"] == "cancelled"
            assert await bus.result(job) == "done"
            assert await bus.job(job, "Drained") == [one.session]
            await bus.session(path, "Undrain")
            one.turn("say yes")


async def _as_many(bus: Control, count: int) -> bool:
    return len(await bus.sessions()) == count


@pytest.fixture
def pair(several: Start) -> Embedded:
    """An agentd with two agents."""
    return several({"alpha": "", "beta": ""}, bus="private")


async def test_one_agent_is_drained_and_no_other(pair: Embedded) -> None:
    agentd = pair
    with agentd.client() as one, agentd.client() as other:
        one.open(agent="alpha")
        other.open(agent="beta")
        async with control(agentd) as bus:
            job = await bus.manager("Drain", "sa{sv}", "here/alpha", {})
            assert await bus.result(job) == "done"
            assert await bus.get("Container", f"{ROOT}/container/here", "Drained") == ["here/alpha"]
            assert reason(one.answer_to(one.prompt("say no"))[0]) == "draining"
            other.turn("say yes")
            await bus.manager("Undrain", "s", "here")
            one.turn("say yes")


async def test_what_is_drained_is_drained_for_the_next_worker_too(pair: Embedded) -> None:
    agentd = pair
    async with control(agentd) as bus:
        await bus.manager("Drain", "sa{sv}", "here/alpha", {})
        with agentd.client() as one:
            one.greet(agent="alpha")
            answer = one.call("session/new", {"cwd": "/", "mcpServers": []})
            assert reason(answer) == "draining"


async def test_an_owner_of_nothing_is_drained_in_vain(agentd: Embedded, client: Client) -> None:
    async with control(agentd) as bus:
        for target, error in (
            ("nowhere", errors.NoSuchContainer),
            ("here/nobody", errors.NoSuchAgent),
            ("here#no-such-session", errors.NoSuchSession),
            ("here/", errors.NoSuchTarget),
            ("/x", errors.NoSuchTarget),
        ):
            with pytest.raises(error):
                await bus.manager("Drain", "sa{sv}", target, {})
        with pytest.raises(errors.NotDraining):
            await bus.manager("Undrain", "s", "here")


async def test_another_deadline_does_not_join_a_drain(agentd: Embedded, client: Client) -> None:
    from agentd.interface import Variant

    client.prompt("cancelled")
    async with control(agentd) as bus:
        await in_state(bus, await only_session(bus), "prompting")
        job = await bus.manager("Drain", "sa{sv}", "here", {})
        assert await bus.manager("Drain", "sa{sv}", "here", {}) == job
        with pytest.raises(errors.AlreadyDraining, match=r"job 1"):
            await bus.manager("Drain", "sa{sv}", "here", {"timeout_usec": Variant("t", 1_000_000)})
        await bus.manager("Undrain", "s", "here")
        assert await bus.job(job, "State") == "canceled"
        client.cancel()


# Reload


async def test_a_reload_says_what_it_did(agentd: Embedded, client: Client) -> None:
    text = agentd.config.read_text()
    changed = text.replace("[limits]", '[access]\nusers = ["nobody-at-all"]\n[limits]\nclients = 7')
    agentd.config.write_text(changed.replace("runtimes = []", 'runtimes = ["podman"]'))
    async with control(agentd) as bus:
        bus.listen(MANAGER, "Reloading")
        await bus.sessions()
        report = await bus.manager("Reload")
        assert report == {
            "applied": ["access", "limits"],
            "needs_restart": ["runtimes"],
            "warnings": ["access.users: there is no nobody-at-all on this host"],
        }
        assert [each.args for each in bus.heard] == [[True], [False]]
        agentd.config.write_text("colour = 1")
        with pytest.raises(errors.ConfigurationInvalid, match="colour"):
            await bus.manager("Reload")
        assert await bus.get("Manager", ROOT, "State") == "running"
