# SPDX-License-Identifier: Apache-2.0

import tomllib
from pathlib import Path

import msgspec
import pytest

from agentd import config, errors, schema

KNOWN = "auggie, claude, codex, copilot, gemini, goose, opencode, qwen, vibe"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def loads(tmp_path: Path, text: str) -> config.Configuration:
    return config.load([write(tmp_path / "agentd.toml", text)]).configuration


def problems_of(*files: Path) -> list[str]:
    with pytest.raises(errors.ConfigurationInvalid) as caught:
        config.load(files)
    problems = caught.value.data["problems"]
    assert isinstance(problems, list)
    assert caught.value.message == "\n".join(problems)
    return problems


# What may be written

STRUCTS = (
    config.Configuration,
    config.Access,
    config.Limits,
    config.Budget,
    config.Permissions,
    config.ContainerPermissions,
    config.SecretReference,
    config.Agent,
    config.Container,
)


def test_nothing_written_is_the_defaults() -> None:
    loaded = config.load([])
    assert loaded.configuration == config.Configuration()
    assert (loaded.sources, loaded.files) == ({}, ())


def test_defaults_are_those_of_the_design() -> None:
    limits = config.Limits()
    assert (limits.front_door_sec, limits.front_door_bytes) == (10.0, 64 * 1024)
    assert (limits.frame_bytes, limits.client_buffer_bytes) == (64 * 1024**2, 8 * 1024**2)
    assert (limits.sessions, limits.sessions_per_uid, limits.prompt_queue) == (64, 32, 10)
    assert (limits.pending_per_uid, limits.clients, limits.clients_per_uid) == (32, 64, 32)
    assert (limits.agent_handshake_sec, limits.agent_stop_sec, limits.agent_kill_sec) == (60.0, 5.0, 2.0)
    assert (limits.cancel_sec, limits.drain_sec) == (30.0, 25.0)
    assert (limits.worker_start_sec, limits.engine_sec) == (60.0, 20.0)
    assert (limits.permission_wait_sec, limits.probe_sec, limits.agent_idle_sec) == (600.0, 20.0, 900.0)
    assert limits.transcript_bytes == 16 * 1024**2
    assert set(msgspec.structs.asdict(config.Permissions()).values()) == {"ask"}


def test_everything_written(tmp_path: Path) -> None:
    loaded = loads(
        tmp_path,
        """
        default_agent = "mine"
        selector = "agent:model"
        runtimes = ["docker", "machined"]
        access = { users = ["alice"], groups = ["devs"] }
        limits.drain_sec = 3
        permissions = { read = "allow", switch_mode = "reject" }
        [budget]
        turns_per_minute = 1
        turns_per_day = 2
        session_turns_per_minute = 3
        session_turns_per_day = 4
        [agents.mine]
        command = ["agent", "--acp"]
        env = { LANG = "C.UTF-8", A = { credential = "a key" }, B = { file = "/srv/b" } }
        isolation = "session"
        frame_bytes = 1000
        [agents.codex]
        transport = "tcp"
        port = 4096
        [containers."my.box"]
        runtime = "podman"
        agents = ["mine", "codex"]
        users = ["bob"]
        groups = ["1000"]
        user = "dev:dev"
        workdir = "/workspace"
        paths = { "/home/bob" = "/workspace" }
        unmapped_cwd = "workdir"
        share_sessions = true
        permissions = { execute = "reject" }
        budget = { session_turns_per_day = 7 }
        [containers.here]
        runtime = "host"
        directory = "/srv/scratch"
        [containers.machine]
        runtime = "machined"
        user = "dev"
        workdir = "/src"
        """,
    )
    assert (loaded.default_agent, loaded.runtimes) == ("mine", ("docker", "machined"))
    assert loaded.selector == "agent:model"
    assert loaded.permissions == config.Permissions(read="allow", switch_mode="reject")
    assert loaded.access == config.Access(users=("alice",), groups=("devs",))
    assert loaded.limits == config.Limits(drain_sec=3.0)
    assert loaded.budget == config.Budget(
        turns_per_minute=1, turns_per_day=2, session_turns_per_minute=3, session_turns_per_day=4
    )
    assert loaded.agents["codex"] == config.Agent(transport="tcp", port=4096)
    assert loaded.agents["mine"] == config.Agent(
        command=("agent", "--acp"),
        env={
            "LANG": "C.UTF-8",
            "A": config.SecretReference(credential="a key"),
            "B": config.SecretReference(file="/srv/b"),
        },
        isolation="session",
        frame_bytes=1000,
    )
    assert loaded.containers["here"] == config.Container(runtime="host", directory="/srv/scratch")
    assert loaded.containers["my.box"] == config.Container(
        runtime="podman",
        agents=("mine", "codex"),
        users=("bob",),
        groups=("1000",),
        user="dev:dev",
        workdir="/workspace",
        paths={"/home/bob": "/workspace"},
        unmapped_cwd="workdir",
        share_sessions=True,
        permissions=config.ContainerPermissions(execute="reject"),
        budget=config.Budget(session_turns_per_day=7),
    )
    assert loaded.containers["machine"] == config.Container(runtime="machined", user="dev", workdir="/src")


def test_configuration_is_frozen() -> None:
    with pytest.raises(AttributeError):
        config.Limits().sessions = 1  # type: ignore[misc]


def test_every_value_of_the_schema_says_what_it_must_be() -> None:
    for struct in STRUCTS:
        for field in msgspec.structs.fields(struct):
            if not isinstance(field.default, msgspec.Struct) and "dict" not in str(field.type):
                assert schema.meta_of(field.type).description, field.name


# What may not

BAD = [
    # unknown keys
    ("limits.sesions = 3", "limits.sesions: unknown key; did you mean `sessions`?"),
    ("default_agnet = 'claude'", "default_agnet: unknown key; did you mean `default_agent`?"),
    ("[acces]", "acces: unknown key; did you mean `access`?"),
    ("[agents.claude]\ncomand = ['x']", "agents.claude.comand: unknown key; did you mean `command`?"),
    (
        "[containers.box]\nimage = 'x'",
        "containers.box.image: unknown key; this table has agents, budget, directory,",
    ),
    ("[containers.'a.b']\nxyz = 1", 'containers."a.b".xyz: unknown key'),
    # numbers
    ("limits.sessions = 0", "limits.sessions: must be a whole number from 1 to 1000000, not 0"),
    ("limits.sessions = -3", "limits.sessions: must be a whole number from 1 to 1000000, not -3"),
    ("limits.sessions = 1.5", "not 1.5"),
    ("limits.sessions = true", "not true"),
    ("limits.sessions = '3'", 'not "3"'),
    ("limits.sessions = 1979-05-27", "not a date or time"),
    ("limits.sessions = 0x1" + "0" * 5000, "not a number of that many digits"),
    ("limits.sessions = 1" + "0" * 5000, "not TOML"),
    (
        "limits.frame_bytes = 2147483648",
        "limits.frame_bytes: must be a whole number of bytes from 1 to 2147483647",
    ),
    (
        "limits.drain_sec = 0",
        "limits.drain_sec: must be a number of seconds above 0, at most 1000000, not 0",
    ),
    ("limits.drain_sec = -1.5", "limits.drain_sec: must be a number of seconds above 0"),
    ("limits.drain_sec = inf", "not inf"),
    ("limits.drain_sec = -inf", "not -inf"),
    ("limits.drain_sec = nan", "not nan"),
    ("limits.drain_sec = 1e400", "not inf"),
    (f"limits.sessions = '{'a' * 99}'", f'from 1 to 1000000, not "{"a" * 64}"'),
    ("budget.turns_per_hour = 1", "budget.turns_per_hour: unknown key; did you mean `turns_per_"),
    ("budget.turns_per_day = 0", "turns_per_day: must be a whole number from 1 to 1000000, not 0"),
    ("budget.turns_per_day = 1000001", "must be a whole number from 1 to 1000000, not 1000001"),
    ("budget.session_turns_per_day = '9'", 'must be a whole number from 1 to 1000000, not "9"'),
    ("containers.box.budget.turns_per_minute = -1", "containers.box.budget.turns_per_minute: must be a"),
    ("containers.box.budget = 3", "containers.box.budget: must be a table, not 3"),
    # tables
    ("limits = 3", "limits: must be a table, not 3"),
    ("agents = ['claude']", "agents: must be a table, not a list"),
    ("[[containers]]", "containers: must be a table, not a list"),
    ("containers.box = true", "containers.box: must be a table, not true"),
    # lists
    (
        "access.users = 'alice'",
        'access.users: must be a list of non-empty strings, not "alice": write ["alice"]',
    ),
    ("access.groups = ['']", 'access.groups: element 1 must be a non-empty string, not ""'),
    ("access.users = [0]", "access.users: element 1 must be a non-empty string, not 0"),
    (
        "runtimes = ['podman', 'lxc']",
        'runtimes: element 2 must be "podman", "docker" or "machined", not "lxc"',
    ),
    ("runtimes = ['host']", 'runtimes: element 1 must be "podman", "docker" or "machined", not "host"'),
    ("runtimes = ['podman', 'podman']", "runtimes: names podman twice"),
    # choices
    ("selector = 'model'", 'selector: must be "agent" or "agent:model", not "model"'),
    ("permissions.reed = 'ask'", "permissions.reed: unknown key; did you mean `read`?"),
    ("permissions.zzz = 'ask'", "permissions.zzz: unknown key; this table has delete, edit, execute,"),
    ("permissions.read = 'no'", 'permissions.read: must be "ask", "allow" or "reject", not "no"'),
    ("permissions = 'allow'", 'permissions: must be a table, not "allow"'),
    ("containers.box.permissions.raed = 'ask'", "box.permissions.raed: unknown key; did you mean `read`?"),
    ("containers.box.permissions.read = true", 'box.permissions.read: must be "ask", "allow" or "reject"'),
    ("containers.box.permissions = 'allow'", 'containers.box.permissions: must be a table, not "allow"'),
    ("containers.box.unmapped_cwd = 'x'", 'box.unmapped_cwd: must be "refuse" or "workdir", not "x"'),
    ("containers.box.share_sessions = 1", "containers.box.share_sessions: must be true or false, not 1"),
    ("agents.claude.isolation = 'x'", 'isolation: must be "shared" or "session", not "x"'),
    ("agents.claude.frame_bytes = 0", "frame_bytes: must be a whole number of bytes from 1 to 2147483647"),
    # agents that are servers
    ("agents.x.transport = 'udp'", 'agents.x.transport: must be "stdio" or "tcp", not "udp"'),
    ("agents.x.transport = 'tcp'", "agents.x.port: is missing"),
    ("agents.claude.port = 1", 'agents.claude.port: is for transport = "tcp" only'),
    ("agents.x = {transport = 'tcp', port = 0}", "port: must be a whole number from 1 to 65535, not 0"),
    ("agents.x = {transport = 'tcp', port = 65536}", "number from 1 to 65535, not 65536"),
    (
        "agents.x = {transport = 'tcp', port = 1, command = ['x']}",
        'agents.x.command: is not for transport = "tcp"',
    ),
    (
        "agents.claude = {transport = 'tcp', port = 1, env.A = 'x'}",
        'agents.claude.env: is not for transport = "tcp"',
    ),
    # agents
    ("[agents.x]\ncommand = 'x --acp'", 'program first, not "x --acp": write ["x", "--acp"]'),
    (
        "[agents.x]\ncommand = []",
        "agents.x.command: must be a list of non-empty strings, program first, not an empty list",
    ),
    ("[agents.x]\ncommand = ['x', '']", 'agents.x.command: element 2 must be a non-empty string, not ""'),
    ("[agents.x]\ncommand = ['x', 3]", "agents.x.command: element 2 must be a non-empty string, not 3"),
    ('[agents.x]\ncommand = ["a\\u0000"]', 'element 1 must be a non-empty string, not "a\\U00000000"'),
    (
        "[agents.x]\ncommand = {}",
        "agents.x.command: must be a list of non-empty strings, program first, not a table",
    ),
    ("[agents.cluade]", "agents.cluade.command: is missing; did you mean `claude`?"),
    ("[agents.zzz]", "agents.zzz.command: is missing; those that need none are claude, codex"),
    ("[agents.'a b']\ncommand = ['x']", 'agents."a b": must be an agent\'s name'),
    (f"[agents.{'a' * 65}]\ncommand = ['x']", "must be an agent's name"),
    ("[agents.claude.env]\n'A=B' = 'x'", 'agents.claude.env."A=B": must be a variable\'s name'),
    ("[agents.claude.env]\n1A = 'x'", "agents.claude.env.1A: must be a variable's name"),
    ("[agents.claude.env]\nA = 3", "agents.claude.env.A: must be a string"),
    ('[agents.claude.env]\nA = "a\\u0000"', "agents.claude.env.A: must be a string without NUL"),
    ("agents.claude.env.A = ['x']", 'NUL, { credential = "NAME" } or { file = "/PATH" }'),
    ("agents.claude.env.A = {}", "agents.claude.env.A: must have one of credential and file, not none or"),
    ("agents.claude.env.A = {credential = 'a', file = '/a'}", "env.A: must have one of credential and"),
    ("agents.claude.env.A = {flie = '/a'}", "env.A.flie: unknown key; did you mean `file`?"),
    ("agents.claude.env.A = {file = 'a'}", "agents.claude.env.A.file: must be an absolute path"),
    ("agents.claude.env.A = {credential = 1}", "env.A.credential: must be a credential's name"),
    ("agents.claude.env.A = {credential = 'a/b'}", "env.A.credential: must be a credential's name"),
    ("agents.claude.env.A = {credential = 'a:b'}", "env.A.credential: must be a credential's name"),
    ("agents.claude.env.A = {credential = '.'}", "env.A.credential: must be a credential's name"),
    ("agents.claude.env.A = {credential = '..'}", "env.A.credential: must be a credential's name"),
    ("agents.claude.env.A = {credential = ''}", "env.A.credential: must be a credential's name"),
    ('agents.claude.env.A = {credential = "a\\n"}', "env.A.credential: must be a credential's name"),
    (f"agents.claude.env.A = {{credential = '{'a' * 256}'}}", "env.A.credential: must be a credential's"),
    # containers
    ("[containers.-box]", "containers.-box: must be a container's name"),
    ("[containers.'']", 'containers."": must be a container\'s name'),
    ("[containers.'a/b']", 'containers."a/b": must be a container\'s name'),
    ('[containers."a\\n"]', 'containers."a\\U0000000a": must be a container\'s name'),
    (
        "[containers.box]\nruntime = 'lxc'",
        'containers.box.runtime: must be "podman", "docker", "machined" or "host", not "lxc"',
    ),
    (
        "[containers.box]\nagents = []",
        "containers.box.agents: must be a list of agents' names; without the key, any",
    ),
    ("[containers.box]\nagents = ['a/b']", "containers.box.agents: element 1 must be an agent's name"),
    ("[containers.box]\nagents = ['claude', 'claude']", "containers.box.agents: names claude twice"),
    ("[containers.box]\nuser = '--privileged'", "containers.box.user: must be a user of the container"),
    ("[containers.box]\nworkdir = 'src'", 'containers.box.workdir: must be an absolute path, not "src"'),
    ("[containers.box]\nruntime = 'host'", "containers.box.directory: is missing: a host container needs"),
    (
        "[containers.box]\nruntime = 'host'\ndirectory = 'x'",
        "containers.box.directory: must be an absolute path",
    ),
    ("[containers.box]\ndirectory = '/srv'", 'containers.box.directory: is for runtime = "host" only'),
    ("[containers.box]\nruntime = 'docker'\ndirectory = '/srv'", 'is for runtime = "host" only'),
    (
        "containers.x = {runtime = 'host', directory = '/', user = 'a'}",
        'containers.x.user: is not for runtime = "host"',
    ),
    (
        "containers.x = {runtime = 'host', directory = '/', workdir = '/'}",
        "containers.x.workdir: is not for",
    ),
    (
        "containers.x = {runtime = 'host', directory = '/', paths = {'/a' = '/b'}}",
        "containers.x.paths: is not for",
    ),
    ("containers.x.paths = ['/a']", "containers.x.paths: must be a table, not a list"),
    ("containers.x.paths = {a = '/b'}", "containers.x.paths.a: must be an absolute path"),
    ("containers.x.paths = {'/a' = 'b'}", 'containers.x.paths."/a": must be an absolute path, not "b"'),
    # references
    ("default_agent = 'cluade'", "default_agent: no agent is called cluade; did you mean `claude`?"),
    ("default_agent = 'zzz'", f"default_agent: no agent is called zzz; there are: {KNOWN}"),
    (
        "[containers.box]\nagents = ['codx']",
        "containers.box.agents: no agent is called codx; did you mean `codex`?",
    ),
    # not TOML at all
    (
        "[limits]\nsessions = 3 4\n",
        "not TOML: Expected newline or end of document after a statement (at line 2,",
    ),
    ("[limits]\nsessions =", "(at line 2, where the file ends)"),
    ("[limits]\n[limits]", "(at line 2, column"),
    ("runtimes = " + "[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "part"), BAD)
def test_bad_input_is_refused_with_file_key_and_reason(tmp_path: Path, text: str, part: str) -> None:
    file = write(tmp_path / "agentd.toml", text)
    (problem,) = problems_of(file)
    assert problem.startswith(f"{file}: ")
    assert part in problem


def test_every_problem_of_every_file_is_reported(tmp_path: Path) -> None:
    one = write(tmp_path / "one.toml", "limits = {sesions = 1, clients = 0}")
    two = write(tmp_path / "two.toml", "nonsense")
    three = write(tmp_path / "three.toml", "[agents.x]\ncommand = ['', 1]")
    problems = problems_of(one, two, three)
    assert [problem.split(": ")[0] for problem in problems] == [*[str(one)] * 2, str(two), *[str(three)] * 2]


def test_a_file_that_a_later_one_would_mend_is_refused_alone(tmp_path: Path) -> None:
    one = write(tmp_path / "one.toml", "limits.sessions = 'many'")
    two = write(tmp_path / "two.toml", "limits.sessions = 3")
    (problem,) = problems_of(one, two)
    assert problem.startswith(f"{one}: limits.sessions: ")


def test_a_secret_is_never_quoted(tmp_path: Path) -> None:
    text = """
    A = "hunter2\\u0000"
    "B-C" = "hunter2"
    D = ["hunter2"]
    E = { credential = "hunter2/" }
    F = { file = "hunter2" }
    """
    file = write(tmp_path / "agentd.toml", f"[agents.claude.env]{text}")
    assert len(problems := problems_of(file)) == 5
    assert "hunter2" not in "\n".join(problems)


def test_problems_are_one_line_each_whatever_the_key(tmp_path: Path) -> None:
    file = write(tmp_path / "agentd.toml", '"a\\nb\\u001b[31m" = 1')
    (problem,) = problems_of(file)
    assert '"a\\U0000000ab\\U0000001b[31m": unknown key' in problem


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    (file := tmp_path / "agentd.toml").write_bytes(b"# one\n# caf\xe9\n")
    assert problems_of(file) == [f"{file}: line 2 is not UTF-8"]


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    assert problems_of(tmp_path) == [f"{tmp_path}: can't be read: Is a directory"]


# Several files


def test_a_missing_file_is_skipped(tmp_path: Path) -> None:
    there = write(tmp_path / "there.toml", "limits.sessions = 3")
    loaded = config.load([tmp_path / "missing.toml", there])
    assert loaded.files == (there,)
    assert loaded.configuration.limits.sessions == 3


def test_later_files_win_by_key_and_lists_are_replaced(tmp_path: Path) -> None:
    one = write(tmp_path / "1", "access.users = ['a', 'b']\n[agents.claude.env]\nA = '1'\nB = '1'")
    two = write(tmp_path / "2", "access.users = ['c']\naccess.groups = ['d']\nagents.claude.env.B = '2'")
    configuration = config.load([one, two]).configuration
    assert configuration.access == config.Access(users=("c",), groups=("d",))
    assert configuration.agents["claude"].env == {"A": "1", "B": "2"}


def test_tables_in_a_container_are_merged_by_key(tmp_path: Path) -> None:
    one = write(
        tmp_path / "1", "[containers.box]\npaths = {'/a' = '/1', '/b' = '/1'}\npermissions.read = 'ask'"
    )
    two = write(tmp_path / "2", "[containers.box]\npaths = {'/b' = '/2'}\npermissions.edit = 'reject'")
    box = config.load([one, two]).configuration.containers["box"]
    assert box.paths == {"/a": "/1", "/b": "/2"}
    assert box.permissions == config.ContainerPermissions(read="ask", edit="reject")


def test_a_variable_is_replaced_as_a_whole(tmp_path: Path) -> None:
    one = write(tmp_path / "1", "agents.claude.env = {A = 'x', B = {file = '/b'}, C = {file = '/c'}}")
    two = write(tmp_path / "2", "agents.claude.env = {A = {file = '/a'}, B = 'x', C = {credential = 'c'}}")
    loaded = config.load([one, two])
    assert loaded.configuration.agents["claude"].env == {
        "A": config.SecretReference(file="/a"),
        "B": "x",
        "C": config.SecretReference(credential="c"),
    }
    assert loaded.sources == dict.fromkeys([f"agents.claude.env.{name}" for name in "ABC"], two)


def test_sources_name_the_file_that_won(tmp_path: Path) -> None:
    one = write(tmp_path / "1", "limits = {sessions = 1, clients = 1}\n[containers.'my.box']")
    two = write(tmp_path / "2", "limits.sessions = 2\nagents.claude.env.A = 'x'")
    assert config.load([one, str(two)]).sources == {
        "limits.sessions": two,
        "limits.clients": one,
        'containers."my.box"': one,
        "agents.claude.env.A": two,
    }


def test_references_may_cross_files(tmp_path: Path) -> None:
    one = write(tmp_path / "1", "default_agent = 'mine'\n[containers.box]\nagents = ['mine']")
    two = write(tmp_path / "2", "agents.mine.command = ['mine']")
    assert config.load([one, two]).configuration.agent("mine").command == ("mine",)


def test_a_conflict_between_files_names_the_one_to_look_into(tmp_path: Path) -> None:
    one = write(tmp_path / "1", "limits.sessions = 1\n[containers.box2]\nagents = ['zzz']")
    two = write(tmp_path / "2", "[containers.box]\nruntime = 'host'")
    problems = problems_of(one, two)
    assert problems[0].startswith(f"{one}: containers.box2.agents: no agent is called zzz")
    assert problems[1].startswith(f"{two}: containers.box.directory: is missing")


# Which agent


def test_a_known_agent_needs_no_configuration() -> None:
    assert config.Configuration().agent("gemini") == config.Agent(command=("gemini", "--acp"))


def test_env_alone_keeps_the_built_in_command(tmp_path: Path) -> None:
    configuration = loads(tmp_path, "agents.claude.env.A = 'x'")
    assert configuration.agent("claude") == config.Agent(command=("claude-agent-acp",), env={"A": "x"})


def test_a_command_replaces_the_built_in_one(tmp_path: Path) -> None:
    configuration = loads(tmp_path, "agents.claude.command = ['mine']")
    assert configuration.agent("claude") == config.Agent(command=("mine",))


def test_a_server_has_no_built_in_command(tmp_path: Path) -> None:
    configuration = loads(tmp_path, "agents.claude = {transport = 'tcp', port = 4096}")
    assert configuration.agent("claude") == config.Agent(transport="tcp", port=4096)


def test_an_unknown_agent_is_answered_with_those_there_are(tmp_path: Path) -> None:
    configuration = loads(tmp_path, "agents.mine.command = ['mine']")
    with pytest.raises(errors.NoSuchAgent, match="no agent is called mien; did you mean `mine`") as caught:
        configuration.agent("mien")
    assert caught.value.data["agents"] == sorted([*KNOWN.split(", "), "mine"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default_agent = 'codex'\n[containers.box]\nagents = ['goose', 'claude']", "goose"),
        ("default_agent = 'codex'\n[containers.box]", "codex"),
        ("default_agent = 'codex'", "codex"),
        ("agents.mine.command = ['mine']", "mine"),
    ],
)
def test_the_preferred_agent_is_the_default(tmp_path: Path, text: str, expected: str) -> None:
    configuration = loads(tmp_path, text)
    assert configuration.preferred_agent("box") == configuration.default_agent_for("box") == expected


@pytest.mark.parametrize("text", ["", "[agents.codex]\n[agents.claude]"])
def test_without_a_default_the_error_says_what_to_configure(tmp_path: Path, text: str) -> None:
    configuration = loads(tmp_path, text)
    assert configuration.preferred_agent("my.box") is None
    with pytest.raises(errors.NoSuchAgent) as caught:
        configuration.default_agent_for("my.box")
    assert "set default_agent in agentd.toml" in caught.value.message
    assert '[containers."my.box"]' in caught.value.message


def test_agent_of_takes_the_named_one_or_the_default(tmp_path: Path) -> None:
    configuration = loads(
        tmp_path, "default_agent = 'goose'\n[containers.box]\nagents = ['codex', 'claude']"
    )
    assert configuration.agent_of("box", None) == ("codex", config.KNOWN_AGENTS["codex"])
    assert configuration.agent_of("box", "claude") == ("claude", config.KNOWN_AGENTS["claude"])
    assert configuration.agent_of("other", "qwen") == ("qwen", config.KNOWN_AGENTS["qwen"])
    assert configuration.agent_of("other", None) == ("goose", config.KNOWN_AGENTS["goose"])


def test_a_container_that_lists_agents_offers_no_others(tmp_path: Path) -> None:
    configuration = loads(tmp_path, "[containers.box]\nagents = ['codex']")
    assert (configuration.offered("box"), configuration.offered("other")) == (("codex",), ())
    with pytest.raises(errors.NoSuchAgent, match="container box offers codex, and no agent called claude"):
        configuration.agent_of("box", "claude")


# What agents may do


def test_a_container_overrides_single_permissions(tmp_path: Path) -> None:
    configuration = loads(
        tmp_path,
        "permissions = {read = 'allow', edit = 'allow', other = 'allow'}\n"
        "containers.box.permissions = {edit = 'ask', other = 'reject'}",
    )
    kinds = ("read", "edit", "execute", "other", "telepathy", "__class__", "")
    said = {name: [configuration.permission(name, kind) for kind in kinds] for name in ("box", "elsewhere")}
    assert said["box"] == ["allow", "ask", "ask", "reject", "reject", "reject", "reject"]
    assert said["elsewhere"] == ["allow", "allow", "ask", "allow", "allow", "allow", "allow"]


def test_every_kind_can_be_overridden() -> None:
    general, own = map(msgspec.structs.asdict, (config.Permissions(), config.ContainerPermissions()))
    assert own == dict.fromkeys(general)


# How much they may do


def test_a_container_overrides_single_limits_of_the_budget(tmp_path: Path) -> None:
    configuration = loads(
        tmp_path,
        "budget = {turns_per_minute = 5, turns_per_day = 50}\n"
        "containers.box.budget = {turns_per_minute = 9, session_turns_per_day = 3}",
    )
    assert configuration.budget_of("box") == config.Budget(
        turns_per_minute=9, turns_per_day=50, session_turns_per_day=3
    )
    assert configuration.budget_of("elsewhere") == configuration.budget
    assert config.Configuration().budget_of("box") == config.Budget()


# Between processes

SHARED = """
default_agent = "mine"
selector = "agent:model"
runtimes = ["docker"]
access = { users = ["alice"] }
limits.drain_sec = 3
permissions = { edit = "allow" }
budget = { turns_per_day = 50 }
[agents.mine]
command = ["agent"]
env = { KEY = "hunter2", TOKEN = { credential = "hunter2" } }
isolation = "session"
[agents.claude.env]
KEY = "hunter2"
[agents.server]
transport = "tcp"
port = 4096
[containers.box]
agents = ["mine"]
user = "dev"
users = ["bob"]
share_sessions = true
paths = { "/home/bob" = "/src" }
permissions = { read = "reject" }
budget = { turns_per_minute = 9 }
[containers.other]
runtime = "podman"
workdir = "/src"
[containers.here]
runtime = "host"
directory = "/srv"
"""


def sent(data: dict[str, object]) -> config.Configuration:
    """What another process makes of it, once it has come over the link."""
    return config.from_portable(msgspec.msgpack.decode(msgspec.msgpack.encode(data)))


def test_a_worker_gets_all_but_what_is_about_other_containers(tmp_path: Path) -> None:
    whole = loads(tmp_path, SHARED)
    mine = sent(config.portable(whole, "box"))
    assert mine == msgspec.structs.replace(whole, containers={"box": whole.containers["box"]})
    assert mine.agent_of("box", None)[1].env == {
        "KEY": "hunter2",
        "TOKEN": config.SecretReference(credential="hunter2"),
    }
    assert mine.budget_of("box") == config.Budget(turns_per_minute=9, turns_per_day=50)
    assert sent(config.portable(whole, "unheard-of")).containers == {}


def test_the_watcher_gets_what_it_needs_to_find_containers_and_no_secret(tmp_path: Path) -> None:
    whole = loads(tmp_path, SHARED)
    data = config.portable_without_agents(whole)
    assert "hunter2" not in repr(data)
    seen = sent(data)
    assert seen == config.Configuration(
        runtimes=whole.runtimes,
        limits=whole.limits,
        containers={
            "box": config.Container(),
            "other": config.Container(runtime="podman"),
            "here": config.Container(runtime="host", directory="/srv"),
        },
    )


def test_defaults_survive_the_way() -> None:
    for data in (
        config.portable(config.Configuration(), "box"),
        config.portable_without_agents(config.Configuration()),
        {},
    ):
        assert sent(data) == config.Configuration()


def test_what_a_newer_manager_knows_besides_is_ignored() -> None:
    data: dict[str, object] = {
        "telepathy": True,
        "limits": {"drain_sec": 3, "thoughts": 7},
        "agents": {"mine": {"command": ["x"], "mood": {"good": 1}, "env": {"mood": "good"}}},
        "containers": {"box": {"user": "dev", "colour": "red", "permissions": {"dream": "ask"}}},
    }
    assert sent(data) == config.Configuration(
        limits=config.Limits(drain_sec=3.0),
        agents={"mine": config.Agent(command=("x",), env={"mood": "good"})},
        containers={"box": config.Container(user="dev")},
    )


def test_what_a_newer_reference_says_besides_is_ignored() -> None:
    env = {"KEY": {"file": "/key", "cached": True}}
    agent = sent({"agents": {"mine": {"command": ["x"], "env": env}}}).agent("mine")
    assert agent.env == {"KEY": config.SecretReference(file="/key")}


@pytest.mark.parametrize(
    "data",
    [{"limits": {"sessions": "many"}}, {"limits": 3}, {"containers": ["box"]}, {"runtimes": ["lxc"]}],
)
def test_a_value_that_this_version_does_not_take_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(
        errors.ConfigurationInvalid, match=r"^the manager's configuration is not understood: "
    ):
        sent(data)


# Names and secrets


@pytest.mark.parametrize("name", ["a", "0", "my-box_1.2", "a" * 128])
def test_valid_names(name: str) -> None:
    assert config.valid_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "_a", "..", "a/b", "a b", "a@b", "a\n", "é", "a" * 129, "a\0"]
)
def test_invalid_names(name: str) -> None:
    assert not config.valid_name(name)


def test_secrets_are_the_long_values_longest_first(tmp_path: Path) -> None:
    text = (
        "agents.claude.env = {A = 'secret', B = 'secret-longer', C = 'short', E = {file = '/secret/file'}}\n"
        "agents.qwen.env.D = 'secret'"
    )
    assert config.secrets(loads(tmp_path, text)) == ["secret-longer", "secret"]


@pytest.mark.parametrize(
    "text", ["plain", 'a"b\\c', "tab\t nul\0 esc\x1b del\x7f", "é 🦀", "a\u0085\u2028b", ""]
)
def test_quoted_strings_are_toml_on_one_line(text: str) -> None:
    quoted = schema.quoted(text)
    assert quoted.isprintable()
    assert tomllib.loads(f"x = {quoted}") == {"x": text}
