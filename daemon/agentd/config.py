# SPDX-License-Identifier: Apache-2.0
"""The configuration: what may be written in agentd.toml, and what is wrong with what was written.

The structs below are the schema. The type of every value carries a `Meta` whose description completes
the sentence "must be …", and every problem of every file is reported at once, with file and key.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agentd import errors
from agentd.log import worth_hiding
from agentd.schema import Key, Problem, is_table, kinds_of, problems, quoted, suggestion, table_of

# What a value may be

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]"
CONTAINER_NAME = rf"^{NAME}{{0,127}}\Z"
AGENT_NAME = rf"^{NAME}{{0,63}}\Z"

Seconds = Annotated[  # so that a deadline in milliseconds still fits 31 bits
    float, Meta(gt=0, le=1_000_000, description="a number of seconds above 0, at most 1000000")
]
Count = Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1000000")]
Bytes = Annotated[int, Meta(ge=1, le=2**31 - 1, description="a whole number of bytes from 1 to 2147483647")]
FirstLine = Annotated[  # has to fit into a message between the processes
    int, Meta(ge=1, le=131_072, description="a whole number of bytes from 1 to 131072")
]
Text = Annotated[str, Meta(pattern=r"^[^\x00]+\Z", description="a non-empty string")]
Texts = Annotated[tuple[Text, ...], Meta(description="a list of non-empty strings")]
Command = Annotated[
    tuple[Text, ...], Meta(min_length=1, description="a list of non-empty strings, program first")
]
Directory = Annotated[str, Meta(pattern=r"^/[^\x00]*\Z", description="an absolute path")]
ContainerUser = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?\Z",
        description="a user of the container, or user:group, by name or number",
    ),
]
ContainerName = Annotated[
    str,
    Meta(
        pattern=CONTAINER_NAME,
        description="a container's name: letters, digits and _ . -, a letter or digit first, at most 128",
    ),
]
AgentName = Annotated[
    str,
    Meta(
        pattern=AGENT_NAME,
        description="an agent's name: letters, digits and _ . -, a letter or digit first, at most 64",
    ),
]
AgentNames = Annotated[
    tuple[AgentName, ...],
    Meta(min_length=1, description="a list of agents' names; without the key, any agent may be used"),
]
EnvName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z",
        description="a variable's name: letters, digits and _, no digit first",
    ),
]
LiteralValue = Annotated[  # "secret": problems don't quote it
    str,
    Meta(
        pattern=r"^[^\x00]*\Z",
        description='a string without NUL, { credential = "NAME" } or { file = "/PATH" }',
        extra={"secret": True},
    ),
]
CredentialName = Annotated[  # as systemd has them; a key pasted here by mistake is not quoted either
    str,
    Meta(
        pattern=r"^(?!\.\.?\Z)[ -.0-9;-~]{1,255}\Z",
        description="a credential's name: ASCII without / and :, not . or .., at most 255",
        extra={"secret": True},
    ),
]
SecretFile = Annotated[
    str, Meta(pattern=r"^/[^\x00]*\Z", description="an absolute path", extra={"secret": True})
]

Engine = Annotated[
    Literal["podman", "docker", "machined"], Meta(description='"podman", "docker" or "machined"')
]
Engines = Annotated[tuple[Engine, ...], Meta(description='a list of "podman", "docker" and "machined"')]
Runtime = Literal["podman", "docker", "machined", "host"]
RuntimeChoice = Annotated[Runtime, Meta(description='"podman", "docker", "machined" or "host"')]

Decision = Literal["ask", "allow", "reject"]
DecisionChoice = Annotated[Decision, Meta(description='"ask", "allow" or "reject"')]
Selector = Annotated[Literal["agent", "agent:model"], Meta(description='"agent" or "agent:model"')]
Isolation = Annotated[Literal["shared", "session"], Meta(description='"shared" or "session"')]
Transport = Annotated[Literal["stdio", "tcp"], Meta(description='"stdio" or "tcp"')]
Port = Annotated[int, Meta(ge=1, le=65_535, description="a whole number from 1 to 65535")]
Transcripts = Annotated[Literal["full", "metadata", "off"], Meta(description='"full", "metadata" or "off"')]
UnmappedCwd = Annotated[Literal["refuse", "workdir"], Meta(description='"refuse" or "workdir"')]
Switch = Annotated[bool, Meta(description="true or false")]


# The tables


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Accounts, by name or number, that may use every container (besides root and the manager's own)."""

    users: Texts = ()
    groups: Texts = ()


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Deadlines (`_sec`, seconds), sizes (`_bytes`) and how many of a thing there may be."""

    front_door_sec: Seconds = 10.0  # for the first line to be complete
    front_door_bytes: FirstLine = 65_536  # of the first line
    frame_bytes: Bytes = 67_108_864  # of any later line
    pending_per_uid: Count = 32  # connections whose first line has not come
    clients: Count = 64  # of a container
    clients_per_uid: Count = 32  # of a container and an account
    sessions: Count = 64  # of a container
    sessions_per_uid: Count = 32  # of a container and an account
    prompt_queue: Count = 10  # of a session
    agent_handshake_sec: Seconds = 60.0  # of silence, not in all
    agent_stop_sec: Seconds = 5.0  # between SIGTERM and SIGKILL
    agent_kill_sec: Seconds = 2.0  # after SIGKILL
    cancel_sec: Seconds = 30.0  # for an agent to end a cancelled turn
    drain_sec: Seconds = 25.0  # for turns to end when the unit is stopped
    worker_start_sec: Seconds = 60.0
    engine_sec: Seconds = 20.0  # of one engine command
    client_buffer_bytes: Bytes = 8_388_608  # not yet read by a client
    permission_wait_sec: Seconds = 600.0  # for a client to come and answer
    probe_sec: Seconds = 20.0  # to find out what an agent can do
    agent_idle_sec: Seconds = 900.0  # until an agent without work is ended
    transcript_bytes: Bytes = 16_777_216  # of a session, in memory, where it is not kept on disk
    session_ttl_sec: Seconds = 604_800.0  # until a session that nobody uses is closed
    worker_idle_sec: Seconds = 600.0  # until a worker with nothing to do leaves


class Store(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept of sessions on disk, and for how long.

    `required`: whether nothing is served while it cannot be kept. `transcripts`: with "metadata" only which
    sessions and turns there were, with "off" nothing. The oldest are forgotten after `keep_days`, and where
    a container's are more than `keep_bytes`.
    """

    required: Switch = True
    transcripts: Transcripts = "full"
    keep_days: Count = 90
    keep_bytes: Bytes = 1_073_741_824


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How many turns may begin in any minute, and in any 24 hours; None: as many as one likes.

    `turns_`: of a container, all its sessions together; `session_turns_`: of each of its sessions. A prompt
    is refused where turns that have begun, and prompts that wait, are as many already. What has begun counts
    also after a restart, as far as `Store` keeps it. A guard against agents that drive each other, and
    schedules that run wild.
    """

    turns_per_minute: Count | None = None
    turns_per_day: Count | None = None
    session_turns_per_minute: Count | None = None
    session_turns_per_day: Count | None = None


class Permissions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is answered to an agent that wants to use a tool, by the kind of the tool."""

    read: DecisionChoice = "ask"
    edit: DecisionChoice = "ask"
    delete: DecisionChoice = "ask"
    move: DecisionChoice = "ask"
    search: DecisionChoice = "ask"
    execute: DecisionChoice = "ask"
    think: DecisionChoice = "ask"
    fetch: DecisionChoice = "ask"
    switch_mode: DecisionChoice = "ask"
    other: DecisionChoice = "ask"


class ContainerPermissions(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The same for one container, where None leaves a kind to `Configuration.permissions`."""

    read: DecisionChoice | None = None
    edit: DecisionChoice | None = None
    delete: DecisionChoice | None = None
    move: DecisionChoice | None = None
    search: DecisionChoice | None = None
    execute: DecisionChoice | None = None
    think: DecisionChoice | None = None
    fetch: DecisionChoice | None = None
    switch_mode: DecisionChoice | None = None
    other: DecisionChoice | None = None


class SecretReference(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Where the value of a variable is read when an agent starts. Exactly one of the two is set.

    `credential`: a file in the worker's $CREDENTIALS_DIRECTORY.
    """

    credential: CredentialName | None = None
    file: SecretFile | None = None


EnvValue = LiteralValue | SecretReference


class Agent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an ACP agent is come by in a container.

    `command`, `env`: argument vector, and what its environment gets on top; without a command in the file,
    that of the built-in agent of the same name is used. `isolation`: whether sessions share a process.
    `port`: where an agent listens that is a server already, for `transport = "tcp"` and only for it, which
    has neither command nor env. `frame_bytes`: longest message it takes, None for that of the limits.
    """

    command: Command = ()
    env: dict[EnvName, EnvValue] = {}
    isolation: Isolation = "shared"
    transport: Transport = "stdio"
    port: Port | None = None
    frame_bytes: Bytes | None = None


class Container(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A container that opted in.

    `runtime`: None looks it up in `Configuration.runtimes`. `agents`: only these may be used, the first
    by default; empty means any. `directory`: where agents run, for `host` and only for it. `user` and
    `workdir`: inside the container, None for the container's own. `paths`: directories of the host, and
    what each is called inside; `unmapped_cwd`: what becomes of a session for any other directory.
    `share_sessions`: whether a session is there for everybody who may use the container, or its owner's.
    """

    runtime: RuntimeChoice | None = None
    agents: AgentNames = ()
    directory: Directory | None = None
    users: Texts = ()
    groups: Texts = ()
    user: ContainerUser | None = None
    workdir: Directory | None = None
    paths: dict[Directory, Directory] = {}
    unmapped_cwd: UnmappedCwd = "refuse"
    share_sessions: Switch = False
    permissions: ContainerPermissions = ContainerPermissions()
    budget: Budget = Budget()


KNOWN_AGENTS: Mapping[str, Agent] = MappingProxyType(
    {
        "claude": Agent(command=("claude-agent-acp",)),
        "codex": Agent(command=("codex-acp",)),
        "gemini": Agent(command=("gemini", "--acp")),
        "opencode": Agent(command=("opencode", "acp")),
        "copilot": Agent(command=("copilot", "--acp")),
        "goose": Agent(command=("goose", "acp")),
        "vibe": Agent(command=("vibe-acp",)),
        "qwen": Agent(command=("qwen", "--acp")),
        "auggie": Agent(command=("auggie", "--acp")),
    }
)


class Configuration(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The whole of it.

    `selector`: what a client picks from that has not named its agent, agents or their models as well.
    `runtimes`: in which order a container's name is looked up.
    """

    default_agent: AgentName | None = None
    selector: Selector = "agent"
    runtimes: Engines = ("podman", "docker")
    access: Access = Access()
    limits: Limits = Limits()
    permissions: Permissions = Permissions()
    store: Store = Store()
    budget: Budget = Budget()
    agents: dict[AgentName, Agent] = {}
    containers: dict[ContainerName, Container] = {}

    def agent_names(self) -> list[str]:
        """Every agent there is, configured or built in."""
        return sorted({*KNOWN_AGENTS, *self.agents})

    def agent(self, name: str) -> Agent:
        """How to start the agent. Errors: NoSuchAgent, listing what there is."""
        known, configured = KNOWN_AGENTS.get(name), self.agents.get(name)
        agent = configured or known
        if agent is None:
            there = self.agent_names()
            text = f"no agent is called {name}{suggestion(name, there)}; there are: {', '.join(there)}"
            raise errors.NoSuchAgent(text, agent=name, agents=there)
        if known is None or agent.command or agent.transport == "tcp":
            return agent
        return msgspec.structs.replace(agent, command=known.command)

    def offered(self, container: str) -> tuple[str, ...]:
        """The only agents that may be used in the container; () for any."""
        entry = self.containers.get(container)
        return entry.agents if entry is not None else ()

    def preferred_agent(self, container: str) -> str | None:
        """The agent of a client that named none, None where the configuration does not tell."""
        if offered := self.offered(container):
            return offered[0]
        if self.default_agent is None and len(self.agents) == 1:
            return next(iter(self.agents))
        return self.default_agent

    def default_agent_for(self, container: str) -> str:
        """The preferred agent. Errors: NoSuchAgent, saying what to configure."""
        if (preferred := self.preferred_agent(container)) is not None:
            return preferred
        raise errors.NoSuchAgent(
            f"no agent was named and none is the default: name one, or set default_agent in agentd.toml, "
            f"or agents in its [{dotted(('containers', container))}]",
            container=container,
            agents=self.agent_names(),
        )

    def agent_of(self, container: str, name: str | None) -> tuple[str, Agent]:
        """The agent that a client of `container` gets; the default one if it named none.

        Errors: NoSuchAgent, also for one that exists but that this container does not offer.
        """
        chosen = self.default_agent_for(container) if name is None else name
        allowed = self.offered(container)
        if allowed and chosen not in allowed:
            text = f"container {container} offers {', '.join(allowed)}, and no agent called {chosen}"
            raise errors.NoSuchAgent(text, container=container, agent=chosen, agents=list(allowed))
        return chosen, self.agent(chosen)

    def budget_of(self, container: str) -> Budget:
        """How many turns may begin in the container: by its own entry, and else by the general table."""
        entry = self.containers.get(container)
        own = msgspec.structs.asdict(entry.budget) if entry is not None else {}
        set_ = {name: value for name, value in own.items() if value is not None}
        return msgspec.structs.replace(self.budget, **set_)

    def permission(self, container: str, kind: str) -> Decision:
        """What to answer an agent of `container` that wants to use a tool; an unknown kind is "other"."""
        known = kind if kind in Permissions.__struct_fields__ else "other"
        entry = self.containers.get(container)
        own: Decision | None = getattr(entry.permissions, known) if entry is not None else None
        general: Decision = getattr(self.permissions, known)
        return own or general


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration and where it came from.

    `sources` maps the dotted key of every value, and of every empty table, to the file that set it;
    what is not in it is a default. `files`: those that were read, in order.
    """

    configuration: Configuration
    sources: dict[str, Path]
    files: tuple[Path, ...]


def load(files: Iterable[str | os.PathLike[str]]) -> Loaded:
    """Read and merge the files, later ones winning by key; one that is not there is skipped.

    Errors: ConfigurationInvalid, one problem a line, the lines again as `data["problems"]`.
    """
    sheets = [sheet for file in files if (sheet := _read(Path(file))) is not None]
    _refuse([each for sheet in sheets for each in sheet.problems])
    merged: dict[str, Any] = {}
    sources: dict[str, Path] = {}
    for sheet in sheets:
        _merge(merged, sheet.table, Configuration)
        sources.update((dotted(key), sheet.file) for key in _leaves(sheet.table, Configuration, ()))
    configuration = msgspec.convert(merged, Configuration)
    _refuse([_line(_origin(key, sources), key, text) for key, text in _conflicts(configuration)])
    return Loaded(configuration=configuration, sources=sources, files=tuple(sheet.file for sheet in sheets))


def portable(configuration: Configuration, container: str) -> dict[str, Any]:
    """What the worker of a container needs to know of it, as plain data: no other container's entry."""
    entry = configuration.containers.get(container)
    mine = {container: entry} if entry else {}
    return _plain(msgspec.structs.replace(configuration, containers=mine))


def portable_without_agents(configuration: Configuration) -> dict[str, Any]:
    """What the watcher needs to know of it, as plain data: no agent's environment, and so no secret."""
    containers = {
        name: Container(runtime=each.runtime, directory=each.directory)
        for name, each in configuration.containers.items()
    }
    return _plain(
        Configuration(runtimes=configuration.runtimes, limits=configuration.limits, containers=containers)
    )


def from_portable(data: dict[str, Any]) -> Configuration:
    """A configuration another process has sent, which may be of another version: unknown keys are ignored.

    Errors: ConfigurationInvalid for a value that this version does not take.
    """
    try:
        return msgspec.convert(_known(data, Configuration), Configuration)
    except msgspec.ValidationError as error:
        raise errors.ConfigurationInvalid(
            f"the manager's configuration is not understood: {error}"
        ) from None


def _plain(configuration: Configuration) -> dict[str, Any]:
    data = msgspec.to_builtins(configuration)
    assert isinstance(data, dict)
    return data


def _known(data: Any, kind: Any) -> Any:
    """The data without the keys that this version's tables do not have."""
    table = table_of(kind)
    if table is None or not isinstance(data, dict):
        return data
    kinds = kinds_of(table, data)
    return {name: _known(value, kinds[name]) for name, value in data.items() if name in kinds}


def valid_name(name: str) -> bool:
    """May a container be called that? Such names need no escaping in unit names and file names."""
    return re.match(CONTAINER_NAME, name) is not None


def secrets(configuration: Configuration) -> list[str]:
    """What traces must not show of it. What it refers to becomes known when an agent starts."""
    values = (value for agent in configuration.agents.values() for value in agent.env.values())
    return worth_hiding(value for value in values if isinstance(value, str))


def dotted(key: Iterable[str]) -> str:
    """A key as TOML writes it: `containers."my.box".agents`."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else quoted(part) for part in key)


# Reading one file


class _Sheet(msgspec.Struct, frozen=True):
    file: Path
    table: dict[str, Any]
    problems: list[str]


def _read(file: Path) -> _Sheet | None:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return _Sheet(file, {}, [f"{file}: can't be read: {error.strerror}"])
    import tomllib  # workers, of which there may be many, read no files

    try:
        table = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return _Sheet(file, {}, [f"{file}: line {line} is not UTF-8"])
    except ValueError as error:  # besides TOMLDecodeError, that of a number of more than 4300 digits
        return _Sheet(file, {}, [f"{file}: not TOML: {_located(str(error), content)}"])
    except RecursionError:
        return _Sheet(file, {}, [f"{file}: not TOML: nested too deeply"])
    return _Sheet(file, table, [_line(file, key, text) for key, text in problems(table, Configuration, ())])


def _located(text: str, content: bytes) -> str:
    """The parser's words, with a line number where it has none."""
    last = len(content.splitlines()) or 1
    return text.replace("at end of document", f"at line {last}, where the file ends")


def _line(file: Path, key: Key, text: str) -> str:
    return f"{file}: {dotted(key)}: {text}"


def _refuse(problems: list[str]) -> None:
    if problems:
        raise errors.ConfigurationInvalid("\n".join(problems), problems=problems)


# Putting the files together


def _merge(base: dict[str, Any], over: Mapping[str, Any], table: Any) -> None:
    """A value that may be a string as well as a table is replaced as a whole."""
    kinds = kinds_of(table, over)
    for name, value in over.items():
        if is_table(kinds[name]):
            _merge(base.setdefault(name, {}), value, kinds[name])
        else:
            base[name] = value


def _leaves(written: Mapping[str, Any], table: Any, key: Key) -> Iterator[Key]:
    kinds = kinds_of(table, written)
    for name, value in written.items():
        if value and is_table(kinds[name]):
            yield from _leaves(value, kinds[name], (*key, name))
        else:
            yield (*key, name)


def _origin(key: Key, sources: Mapping[str, Path]) -> Path:
    """The file to look into: the one that set the key, else one that set something beside it."""
    prefixes = [dotted(key[:length]) for length in range(len(key), 0, -1)]
    return next(
        file
        for prefix in prefixes
        for name, file in sources.items()
        if name == prefix or name.startswith(f"{prefix}.")
    )


# What only the whole can tell


def _conflicts(configuration: Configuration) -> Iterator[Problem]:
    there = configuration.agent_names()
    if configuration.default_agent is not None:
        yield from _reference_problems([configuration.default_agent], there, ("default_agent",))
    yield from _repeats(configuration.runtimes, ("runtimes",))
    for name, agent in configuration.agents.items():
        yield from _agent_problems(name, agent, ("agents", name))
    for name, container in configuration.containers.items():
        yield from _container_problems(container, there, ("containers", name))


def _agent_problems(name: str, agent: Agent, key: Key) -> Iterator[Problem]:
    for variable, value in agent.env.items():
        if isinstance(value, SecretReference) and (value.credential is None) == (value.file is None):
            yield (*key, "env", variable), "must have one of credential and file, not none or both"
    if agent.transport == "tcp":
        yield from _server_problems(agent, key)
        return
    if agent.port is not None:
        yield (*key, "port"), 'is for transport = "tcp" only'
    if not agent.command and name not in KNOWN_AGENTS:
        hint = suggestion(name, KNOWN_AGENTS) or f"; those that need none are {', '.join(KNOWN_AGENTS)}"
        yield (*key, "command"), f"is missing{hint}"


def _server_problems(agent: Agent, key: Key) -> Iterator[Problem]:
    if agent.port is None:
        yield (*key, "port"), 'is missing: with transport = "tcp" it is where the agent listens'
    for name in ("command", "env"):
        if getattr(agent, name):
            yield (*key, name), 'is not for transport = "tcp", whose agent is a server that runs already'


def _container_problems(container: Container, there: list[str], key: Key) -> Iterator[Problem]:
    yield from _reference_problems(container.agents, there, (*key, "agents"))
    yield from _repeats(container.agents, (*key, "agents"))
    if container.runtime == "host":
        yield from _host_problems(container, key)
    elif container.directory is not None:
        yield (*key, "directory"), 'is for runtime = "host" only; inside a container it is workdir'


def _host_problems(container: Container, key: Key) -> Iterator[Problem]:
    if container.directory is None:
        yield (*key, "directory"), "is missing: a host container needs to know where its agents run"
    for name in ("user", "workdir"):
        if getattr(container, name) is not None:
            yield (*key, name), 'is not for runtime = "host", whose agents run as the worker, in directory'
    if container.paths:
        yield (*key, "paths"), 'is not for runtime = "host", whose agents see the paths of this host'


def _reference_problems(names: Iterable[str], there: list[str], key: Key) -> Iterator[Problem]:
    for name in names:
        if name not in there:
            hint = suggestion(name, there) or f"; there are: {', '.join(there)}"
            yield key, f"no agent is called {name}{hint}"


def _repeats(names: tuple[str, ...], key: Key) -> Iterator[Problem]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield key, f"names {name} twice"
