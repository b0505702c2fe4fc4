# SPDX-License-Identifier: Apache-2.0

from pathlib import Path
from typing import Any

import pytest

from agentd.config import Agent, Configuration, Container, Limits
from agentd.errors import AgentdError, AgentFailed, AgentMissing, NoSuchAgent
from agentd.link import ContainerInfo
from agentd.worker.catalog import FIRST_PAUSE, LONGEST_PAUSE, LOOKED_SEC, Catalog, Found, State
from unit.loop import skip
from unit.world import World, in_world

OPTIONS = [{"id": "model"}]
GREETING = {"agentInfo": {"title": "Claude Code", "version": "1.2"}}


class Prober:
    """Answers as a test has told it to; without an answer, that all is well."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Found | AgentdError] = {}

    async def __call__(self, name: str) -> Found:
        self.asked.append(name)
        answer = self.answers.get(name, Found(GREETING, OPTIONS, ""))
        if isinstance(answer, AgentdError):
            raise answer
        return answer


class Shelf:
    """A catalog, and what is around it."""

    def __init__(
        self,
        world: World,
        folder: Path,
        *agents: str,
        prober: Prober | None = None,
        image: str = "",
        labels: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        self.world, self.prober = world, prober or Prober()
        container = ContainerInfo(
            name="box", runtime="host", running=True, image_id=image, labels=labels or {}
        )
        configuration = Configuration(
            limits=Limits(probe_sec=20.0), containers={"box": Container(agents=agents)}, **more
        )
        place = world.hub.place
        self.catalog = Catalog(
            configuration,
            place.runtime,
            container,
            self.prober,
            str(folder / "agents.json"),
            world.tasks,
            place.log,
        )

    def names(self) -> list[str]:
        return [card.name for card in self.catalog.cards]

    def state(self, name: str) -> State:
        return self.catalog.card(name).state


# Looking


def test_one_look_finds_the_agents_that_are_there(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.missing = {"codex-acp", "opencode", "copilot", "goose", "vibe-acp", "qwen", "auggie"}
        shelf = Shelf(world, tmp_path)
        await shelf.catalog.look()
        assert shelf.names() == ["claude", "gemini"]
        assert (shelf.state("codex"), shelf.state("claude")) == (State.MISSING, State.UNKNOWN)
        assert "no program codex-acp" in shelf.catalog.card("codex").reason
        assert world.looks == 1

    in_world(tmp_path, test)


def test_looks_at_the_same_time_are_one_and_it_is_true_for_a_while(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        shelf = Shelf(world, tmp_path)
        one, two = (world.tasks.start(shelf.catalog.look(), "look") for _ in range(2))
        await one
        await two
        await shelf.catalog.look()
        assert world.looks == 1
        await skip(LOOKED_SEC)
        await shelf.catalog.look()
        await shelf.catalog.look(anew=True)
        assert world.looks == 3

    in_world(tmp_path, test)


def test_an_agent_that_was_installed_since_is_no_longer_missing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.missing = {"codex-acp"}
        shelf = Shelf(world, tmp_path, "claude", "codex")
        await shelf.catalog.look()
        world.missing = set()
        await shelf.catalog.look(anew=True)
        assert (shelf.names(), shelf.state("codex")) == (["claude", "codex"], State.UNKNOWN)

    in_world(tmp_path, test)


def test_a_look_that_fails_is_no_answer(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.look_status = 1
        shelf = Shelf(world, tmp_path, "claude")
        await shelf.catalog.look()
        assert (shelf.names(), shelf.state("claude")) == (["claude"], State.UNKNOWN)
        await shelf.catalog.look()
        assert world.looks == 2

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"labels": {"agentd.agents": "gemini, codex nonsense"}}, ["gemini", "codex"]),
        ({"labels": {"ai.terok.agents": "codex"}, "default_agent": "claude"}, ["claude", "codex"]),
        (
            {"agents": {"own": Agent(command=("own",))}, "labels": {"agentd.agents": "codex"}},
            ["own", "codex"],
        ),
    ],
    ids=["label", "default first", "the only one configured first"],
)
def test_which_agents_are_looked_for(tmp_path: Path, more: Any, names: list[str]) -> None:
    async def test(world: World) -> None:
        shelf = Shelf(world, tmp_path, **more)
        await shelf.catalog.look()
        assert shelf.names() == names

    in_world(tmp_path, test)


# The default


def test_the_default_is_the_preferred_one_else_the_first_that_is_ready(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        shelf = Shelf(world, tmp_path)
        with pytest.raises(NoSuchAgent):
            shelf.catalog.default()
        await shelf.catalog.look()
        assert shelf.catalog.default() == "claude"
        shelf.catalog.opened("gemini", None)
        assert shelf.catalog.default() == "gemini"
        assert Shelf(world, tmp_path, "codex").catalog.default() == "codex"

    in_world(tmp_path, test)


# Probing


def test_a_probe_tells_what_an_agent_is(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        shelf = Shelf(world, tmp_path, "claude")
        await shelf.catalog.look()
        await shelf.catalog.probe(["claude"])
        card = shelf.catalog.card("claude")
        assert (card.state, card.title, card.version) == (State.READY, "Claude Code", "1.2")
        assert (card.options, card.probed) == (OPTIONS, True)
        await shelf.catalog.probe(["claude"])
        assert shelf.prober.asked == ["claude"]

    in_world(tmp_path, test)


def test_an_agent_that_wants_a_login_is_listed_as_such(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        shelf = Shelf(world, tmp_path, "claude")
        shelf.prober.answers["claude"] = Found(GREETING, None, "log in first")
        await shelf.catalog.probe(["claude"])
        card = shelf.catalog.card("claude")
        assert (card.state, card.reason) == (State.NEEDS_LOGIN, "log in first")
        shelf.catalog.greeted("claude", GREETING)  # which does not mean that it makes sessions
        assert card.state is State.NEEDS_LOGIN
        shelf.catalog.opened("claude", OPTIONS)
        assert (card.state, card.reason) == (State.READY, "")

    in_world(tmp_path, test)


def test_one_that_fails_is_left_alone_for_longer_and_longer(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        shelf = Shelf(world, tmp_path, "claude")
        shelf.prober.answers["claude"] = AgentFailed("it broke")
        for pause in (FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE):
            before = len(shelf.prober.asked)
            await shelf.catalog.probe(["claude"])
            await skip(pause - 1)
            await shelf.catalog.probe(["claude"])
            assert len(shelf.prober.asked) == before + 1
            await skip(2)
        for _ in range(20):
            await shelf.catalog.probe(["claude"], anew=True)
        assert shelf.state("claude") is State.FAILING
        await skip(LONGEST_PAUSE)
        before = len(shelf.prober.asked)
        await shelf.catalog.probe(["claude"])
        assert len(shelf.prober.asked) == before + 1

    in_world(tmp_path, test)


def test_one_whose_program_is_not_there_is_missing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        shelf = Shelf(world, tmp_path, "claude")
        shelf.prober.answers["claude"] = AgentMissing("no program")
        await shelf.catalog.probe(["claude"])
        await shelf.catalog.probe(["claude"], anew=True)
        assert (shelf.state("claude"), shelf.prober.asked) == (State.MISSING, ["claude"])

    in_world(tmp_path, test)


def test_what_a_client_was_told_does_not_replace_what_we_were(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        shelf = Shelf(world, tmp_path, "claude")
        shelf.catalog.greeted("claude", {"agentInfo": {"title": "to a client"}})
        await shelf.catalog.probe(["claude"], anew=True)
        shelf.catalog.greeted("claude", {"agentInfo": {"title": "to a client"}})
        assert shelf.catalog.card("claude").title == "Claude Code"

    in_world(tmp_path, test)


# Remembering


async def probed(shelf: Shelf) -> list[str]:
    """Which agents had to be probed."""
    await shelf.catalog.look()
    await shelf.catalog.probe(shelf.names())
    return shelf.prober.asked


@pytest.mark.parametrize(
    ("image", "more", "again"),
    [
        ("sha256:1", {}, []),
        ("sha256:2", {}, ["claude"]),
        ("", {}, ["claude"]),
        ("sha256:1", {"agents": {"claude": Agent(command=("other",))}}, ["claude"]),
    ],
    ids=["same", "another image", "no image", "another command"],
)
def test_successes_are_kept_by_image(tmp_path: Path, image: str, more: Any, again: list[str]) -> None:
    async def test(world: World) -> None:
        assert await probed(Shelf(world, tmp_path, "claude", image="sha256:1")) == ["claude"]
        shelf = Shelf(world, tmp_path, "claude", image=image, **more)
        assert await probed(shelf) == again
        assert shelf.catalog.card("claude").title == "Claude Code"

    in_world(tmp_path, test)


def test_failures_are_not_kept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        shelf = Shelf(world, tmp_path, "claude", "codex", image="sha256:1")
        shelf.prober.answers["codex"] = AgentFailed("it broke")
        await probed(shelf)
        assert await probed(Shelf(world, tmp_path, "claude", "codex", image="sha256:1")) == ["codex"]

    in_world(tmp_path, test)


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff", b'{"key":"sha256:1","cards":5}'])
def test_a_cache_that_cannot_be_read_is_none(tmp_path: Path, junk: bytes) -> None:
    async def test(world: World) -> None:
        (tmp_path / "agents.json").write_bytes(junk)
        assert await probed(Shelf(world, tmp_path, "claude", image="sha256:1")) == ["claude"]

    in_world(tmp_path, test)
