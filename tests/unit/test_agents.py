# SPDX-License-Identifier: Apache-2.0
"""How agents start: tried again where they end at once, but not for ever, nor for nobody."""

import os
from pathlib import Path

import pytest

from agentd.worker import agents
from unit.world import FakeAgent, Message, World, in_world


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "START_PAUSES", (0.01, 0.02))


class Stumbling(FakeAgent):
    """Ends before it has said hello, as often as the world says."""

    status = 1
    last_words = b""
    on_stdout = False

    def requested(self, message: Message) -> None:
        if message["method"] == "initialize" and self.world.stumbles:  # type: ignore[attr-defined]
            self.world.stumbles -= 1  # type: ignore[attr-defined]
            os.write(self.ends.stdout if self.on_stdout else self.ends.stderr, self.last_words)
            self.crash(self.status)
        else:
            super().requested(message)


async def greeting(world: World, stumbles: int) -> object:
    """What a client is answered whose agent stumbles so often."""
    world.stumbles = stumbles  # type: ignore[attr-defined]
    client = await world.stranger("one")
    return await client.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})


@pytest.mark.parametrize("stumbles", [0, 1, 2])
def test_an_agent_that_ends_at_once_is_started_again(tmp_path: Path, stumbles: int) -> None:
    async def test(world: World) -> None:
        assert isinstance(await greeting(world, stumbles), dict)
        assert len(world.agents) == stumbles + 1

    in_world(tmp_path, test, agent_class=Stumbling)


def test_three_times_and_no_more(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await greeting(world, 99) == "agent_failed"
        assert len(world.agents) == 3

    in_world(tmp_path, test, agent_class=Stumbling)


def test_the_next_client_has_it_tried_again(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await greeting(world, 3) == "agent_failed"
        assert isinstance(await greeting(world, 0), dict)

    in_world(tmp_path, test, agent_class=Stumbling)


def test_a_program_that_is_not_there_is_not_tried_again(tmp_path: Path) -> None:
    class Missing(Stumbling):
        status = 127
        last_words = b"Error: crun: executable file `one` not found in $PATH\n"

    async def test(world: World) -> None:
        assert await greeting(world, 99) == "agent_missing"
        assert len(world.agents) == 1

    in_world(tmp_path, test, agent_class=Missing)


def test_docker_tells_on_stdout_that_a_program_is_not_there(tmp_path: Path) -> None:
    class Missing(Stumbling):
        status = 126
        on_stdout = True
        last_words = b'OCI runtime exec failed: exec: "one": executable file not found in $PATH: unknown\r\n'

    async def test(world: World) -> None:
        assert await greeting(world, 99) == "agent_missing"

    in_world(tmp_path, test, agent_class=Missing)


def test_an_engine_that_refuses_is_told_of_in_its_own_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Refused(Stumbling):
        status = 126
        last_words = b"a warning\nError: crun: capset: Operation not permitted\n"

    async def test(world: World) -> None:
        assert await greeting(world, 99) == "agent_failed"
        said = "answered anything (exit status 126): Error: crun: capset: Operation not permitted"
        assert [each for each in caplog.messages if each.endswith(said)], caplog.messages

    in_world(tmp_path, test, agent_class=Refused)


def test_a_program_that_has_run_is_not_missing_though_it_ends_as_if_it_were(tmp_path: Path) -> None:
    class Silent(Stumbling):
        status = 127

    async def test(world: World) -> None:
        assert await greeting(world, 99) == "agent_failed"

    in_world(tmp_path, test, agent_class=Silent)


def test_for_a_client_that_has_left_it_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "START_PAUSES", (0.2,))

    async def test(world: World) -> None:
        world.stumbles = 99  # type: ignore[attr-defined]
        client = await world.stranger("one")
        client.request("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        await world.until(lambda: world.agents and not world.agent.alive)
        client.leave()
        await world.until(lambda: not world.hub.agents)
        assert len(world.agents) == 1

    in_world(tmp_path, test, agent_class=Stumbling)
