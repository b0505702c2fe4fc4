# SPDX-License-Identifier: Apache-2.0
"""Which agents a container has, and what is known of each."""

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from agentd.config import KNOWN_AGENTS, Configuration
from agentd.errors import AgentdError, EngineFailed
from agentd.files import replace_file
from agentd.link import ContainerInfo
from agentd.log import Context
from agentd.process import capture
from agentd.runtimes import Command, Runtime
from agentd.tasks import Tasks
from agentd.worker.greeting import can_session

AGENT_LABELS = ("agentd.agents", "ai.terok.agents")
LOOK = 'for program; do command -v "$program" >/dev/null 2>&1 && printf "%s\\n" "$program"; done; :'
LOOKED_SEC = 60.0
"""How long it is taken for true which programs there are."""
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds before an agent that failed is tried again, unless somebody asks for just it."""


class State(enum.StrEnum):
    READY = "ready"
    NEEDS_LOGIN = "needs-login"
    MISSING = "missing"
    FAILING = "failing"
    UNKNOWN = "unknown"


class Card(msgspec.Struct):
    """What is known of an agent. `greeting`: its answer to initialize; `options`: of a new session.

    `probed`: whether it answered us, and not a client, for whom it may have less to offer.
    """

    name: str
    state: State = State.UNKNOWN
    reason: str = ""
    greeting: dict[str, Any] | None = None
    options: list[Any] | None = None
    probed: bool = False
    failures: int = 0
    again_at: float = 0.0

    @property
    def version(self) -> str:
        return self._info("version")

    @property
    def title(self) -> str:
        return self._info("title")

    def can_session(self, name: str) -> bool:
        """Whether the agent is known to do this with sessions."""
        return can_session(self.greeting, name)

    def _info(self, key: str) -> str:
        info = (self.greeting or {}).get("agentInfo")
        found = info.get(key) if isinstance(info, dict) else None
        return found if isinstance(found, str) else ""


class Found(NamedTuple):
    """What a probe has brought. `refusal`: why the agent makes no session, "" where it makes one."""

    greeting: dict[str, Any]
    options: list[Any] | None
    refusal: str


Probe = Callable[[str], Awaitable[Found]]


class Catalog:
    """The agents of one container. `probe` starts one and asks it; `file` keeps successes by image."""

    def __init__(
        self,
        configuration: Configuration,
        runtime: Runtime,
        container: ContainerInfo,
        probe: Probe,
        file: str,
        tasks: Tasks,
        log: Context,
    ) -> None:
        self.configuration = configuration
        self._runtime = runtime
        self._container = container
        self._probe = probe
        self._file = file
        self._tasks = tasks
        self._log = log
        self._cards: dict[str, Card] = {}
        self._looked_at = -LOOKED_SEC
        self._present: list[str] = []
        self._looking: asyncio.Task[None] | None = None
        self._probing: dict[str, asyncio.Task[None]] = {}
        self._recalled = False

    # What is known

    def card(self, name: str) -> Card:
        if name not in self._cards:
            self._cards[name] = Card(name)
        return self._cards[name]

    @property
    def cards(self) -> list[Card]:
        """Of the agents that are there, the preferred one first."""
        return [self.card(name) for name in self._present]

    @property
    def everything(self) -> list[Card]:
        """The same, with those that are missing though the configuration or a label names them."""
        named = [name for name in self._wanted() if name in {*self._named(), *self.configuration.agents}]
        return self.cards + [self.card(name) for name in named if name not in self._present]

    def default(self) -> str:
        """The agent of a session for which nobody has picked one. Raises NoSuchAgent."""
        preferred = self.configuration.preferred_agent(self._container.name)
        if preferred is not None:
            return preferred
        ready = [card.name for card in self.cards if card.state is State.READY]
        there = ready or self._present
        return there[0] if there else self.configuration.default_agent_for(self._container.name)

    # What is learned by the way

    def greeted(self, name: str, greeting: dict[str, Any], *, probed: bool = False) -> None:
        card = self.card(name)
        if probed or not card.probed:
            card.greeting, card.probed = greeting, probed
        card.failures, card.reason = 0, ""
        if card.state is not State.NEEDS_LOGIN:
            card.state = State.READY

    def opened(self, name: str, options: list[Any] | None) -> None:
        card = self.card(name)
        card.options = card.options if options is None else options
        card.state, card.reason = State.READY, ""

    def refused(self, name: str, reason: str) -> None:
        card = self.card(name)
        card.state, card.reason = State.NEEDS_LOGIN, reason

    def failed(self, name: str, error: AgentdError) -> None:
        """It could not be started: not tried again for a while."""
        card = self.card(name)
        card.state = State.MISSING if error.reason == "agent_missing" else State.FAILING
        card.reason = error.message
        card.again_at = self._now() + min(FIRST_PAUSE * 2**card.failures, LONGEST_PAUSE)
        card.failures = min(card.failures + 1, 10)

    # Finding out

    async def look(self, *, anew: bool = False) -> None:
        """See which agents are there, by one look into the container."""
        if self._looking is None and (anew or self._now() - self._looked_at >= LOOKED_SEC):
            self._looking = self._tasks.start(self._look(), "look for agents")
            self._looking.add_done_callback(self._looked)
        if self._looking is not None:
            await asyncio.shield(self._looking)

    def _looked(self, task: "asyncio.Task[None]") -> None:
        self._looking = None

    async def _look(self) -> None:
        wanted = self._wanted()
        programs = {name: self.configuration.agent(name).command for name in wanted}
        try:
            found = await self._lookup({command[0] for command in programs.values() if command})
        except AgentdError as exc:
            self._log.warning("which agents there are could not be found out: %s", exc.message)
            self._present = [name for name in wanted if name in self._named() or self.card(name).greeting]
            return  # asked again next time: a failure is no answer
        self._present = [name for name in wanted if not programs[name] or programs[name][0] in found]
        self._looked_at = self._now()
        for name in wanted:
            self._note_presence(name)

    def _note_presence(self, name: str) -> None:
        card = self.card(name)
        if name not in self._present:
            program = self.configuration.agent(name).command[0]
            card.state, card.reason = State.MISSING, f"{self._container.name} has no program {program}"
        elif card.state is State.MISSING:
            card.state, card.reason, card.again_at = State.UNKNOWN, "", 0.0

    async def _lookup(self, programs: set[str]) -> set[str]:
        entry = self.configuration.containers.get(self._container.name)
        command = Command(
            ("sh", "-c", LOOK, "sh", *sorted(programs)),
            {},
            entry.user if entry else None,
            entry.workdir if entry else None,
        )
        deadline = self.configuration.limits.engine_sec
        status, output = await capture(*self._runtime.exec(self._container, command), deadline=deadline)
        if status:
            raise EngineFailed(f"a shell in {self._container.name} ended with status {status}")
        return set(output.decode(errors="replace").splitlines())

    def _wanted(self) -> list[str]:
        """The agents to look for: those the configuration or a label names, else all that are known."""
        named = self._named()
        rest = () if self._is_limited() else (*self.configuration.agents, *KNOWN_AGENTS)
        return list(dict.fromkeys((*named, *rest)))

    def _named(self) -> list[str]:
        preferred = self.configuration.preferred_agent(self._container.name)
        first = [preferred] if preferred is not None else []
        return list(
            dict.fromkeys((*first, *self.configuration.offered(self._container.name), *self._labelled()))
        )

    def _is_limited(self) -> bool:
        return bool(self.configuration.offered(self._container.name) or self._labelled())

    def _labelled(self) -> list[str]:
        known = self.configuration.agent_names()
        words = [
            word
            for label in AGENT_LABELS
            for word in self._container.labels.get(label, "").replace(",", " ").split()
        ]
        return [word for word in words if word in known]

    # Probing

    async def probe(self, names: Iterable[str], *, anew: bool = False) -> None:
        """Find out what is not known of these agents, all at once, within the deadline."""
        await self._recall()
        asked = [self._probed(name) for name in names if self._is_open(name, anew=anew)]
        if asked:
            await asyncio.wait(asked, timeout=self.configuration.limits.probe_sec)

    def _is_open(self, name: str, *, anew: bool) -> bool:
        card = self.card(name)
        if card.state in (State.READY, State.MISSING):
            return anew and not card.probed and card.state is State.READY
        return anew or card.state is State.UNKNOWN or self._now() >= card.again_at

    def _probed(self, name: str) -> "asyncio.Task[None]":
        if name not in self._probing:
            task = self._probing[name] = self._tasks.start(self._run_probe(name), f"probe of {name}")
            task.add_done_callback(lambda _: self._probing.pop(name))
        return self._probing[name]

    async def _run_probe(self, name: str) -> None:
        try:
            found = await self._probe(name)
        except AgentdError as exc:
            self.failed(name, exc)
            return
        self.greeted(name, found.greeting, probed=True)
        if found.refusal:
            self.refused(name, found.refusal)
        else:
            self.opened(name, found.options)
            await self._remember()

    # Remembering what agents of this image can do

    async def _recall(self) -> None:
        if not self._container.image_id or self._recalled:
            return
        for card in await asyncio.to_thread(_read, self._file, self._key()):
            if card.name in self.configuration.agent_names() and self.card(card.name).state is State.UNKNOWN:
                self._cards[card.name] = card
        self._recalled = True

    async def _remember(self) -> None:
        if self._container.image_id:
            ready = [card for card in self._cards.values() if card.state is State.READY]
            await asyncio.to_thread(_write, self._file, self._key(), ready)

    def _key(self) -> str:
        """Whatever else is in the configuration of agents may change what they can do."""
        agents = {name: self.configuration.agent(name).command for name in self.configuration.agent_names()}
        return f"{self._container.image_id} {msgspec.json.encode(agents, order='sorted').decode()}"

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


class _Kept(msgspec.Struct):
    key: str
    cards: list[Card]


_kept = msgspec.json.Decoder(_Kept)
"""Made here, for threads: see schema.learn."""


def _read(file: str, key: str) -> list[Card]:
    try:
        with open(file, "rb") as stream:
            kept = _kept.decode(stream.read())
    except (OSError, msgspec.DecodeError):
        return []  # it is only a cache
    return kept.cards if kept.key == key else []


def _write(file: str, key: str, cards: list[Card]) -> None:
    replace_file(file, msgspec.json.encode(_Kept(key, cards)))
