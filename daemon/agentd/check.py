# SPDX-License-Identifier: Apache-2.0
"""`agentd check`: what would be used, and which file says so.

The report is TOML whose comments are the sources, so that it can be read by a person, compared with
diff, and used as a configuration, apart from the values of environment variables, which it hides.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

import msgspec

from agentd import config, errors, schema
from agentd.paths import Paths, check_socket_path
from agentd.printable import LINES, printable

MASK = '"…"'
SOURCE_COLUMN = 40

Sources = Mapping[str, Path]


def run(paths: Paths) -> int:
    """Print the configuration in effect on stdout, or its problems on stderr. Returns the exit status."""
    try:
        loaded = config.load(paths.config_files)
        check_sockets(paths, loaded.configuration)
    except errors.ConfigurationInvalid as error:
        _print([error.message], sys.stderr)
        return error.exit_status
    _print(report(loaded), sys.stdout)
    return 0


def check_sockets(paths: Paths, configuration: config.Configuration) -> None:
    """Errors: ConfigurationInvalid if a socket's path would be too long, with a line for each of them."""
    sockets = [paths.front_door, paths.link, *map(paths.container_socket, configuration.containers)]
    problems = [problem for socket in sockets for problem in _socket_problems(socket)]
    if problems:
        raise errors.ConfigurationInvalid("\n".join(problems), problems=problems)


def report(loaded: config.Loaded) -> Iterator[str]:
    """The lines of it. A value that no file sets is agentd's own default."""
    configuration, sources = loaded.configuration, loaded.sources
    yield from (f"# read: {schema.printable(str(file))}" for file in loaded.files)
    yield _value(("default_agent",), configuration.default_agent, sources)
    yield _value(("selector",), configuration.selector, sources)
    yield _value(("runtimes",), configuration.runtimes, sources)
    yield from _table(("access",), configuration.access, sources)
    yield from _table(("limits",), configuration.limits, sources)
    yield from _table(("permissions",), configuration.permissions, sources)
    yield from _table(("store",), configuration.store, sources)
    yield from _table(("budget",), configuration.budget, sources)
    for name in configuration.agents:
        yield from _agent(("agents", name), configuration.agent(name), sources)
    yield from _agents_built_in(configuration)
    for name, container in configuration.containers.items():
        yield from _container(("containers", name), container, sources)


# The parts of the report


def _table(key: schema.Key, table: msgspec.Struct, sources: Sources) -> Iterator[str]:
    yield from _header(key, sources)
    for field, value in msgspec.structs.asdict(table).items():
        yield _value((*key, field), value, sources)


def _agent(key: schema.Key, agent: config.Agent, sources: Sources) -> Iterator[str]:
    """What it has; a literal value is hidden, where another one is read is no secret."""
    yield from _header(key, sources)
    for field, value in msgspec.structs.asdict(agent).items():
        if value and field != "env":
            yield _value((*key, field), value, sources)
    for name, each in agent.env.items():
        shown = MASK if isinstance(each, str) else _inline(each)
        yield _sourced(f"env.{name} = {shown}", (*key, "env", name), sources)


def _agents_built_in(configuration: config.Configuration) -> Iterator[str]:
    yield "\n# built in"
    for name, agent in config.KNOWN_AGENTS.items():
        if name not in configuration.agents:
            yield f"# agents.{name}.command = {_toml(agent.command)}"


def _container(key: schema.Key, container: config.Container, sources: Sources) -> Iterator[str]:
    """Only what a file sets: the default of all the rest is "not set"."""
    yield from _header(key, sources)
    for part, value in _values(container, ()):
        if config.dotted((*key, *part)) in sources:
            yield _sourced(f"{config.dotted(part)} = {_toml(value)}", (*key, *part), sources)


def _values(value: object, key: schema.Key) -> Iterator[tuple[schema.Key, object]]:
    """The values in a table and in those inside it."""
    members = msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else value
    if not isinstance(members, dict):
        yield key, value
        return
    for name, member in members.items():
        yield from _values(member, (*key, name))


# Lines


def _header(key: schema.Key, sources: Sources) -> Iterator[str]:
    """A table's own source is known where a file opened it and set nothing in it."""
    yield ""
    name = config.dotted(key)
    yield _sourced(f"[{name}]", key, sources) if name in sources else f"[{name}]"


def _value(key: schema.Key, value: object, sources: Sources) -> str:
    if value is None:  # which TOML has no word for
        return f"# {key[-1]} is not set"
    return _sourced(f"{key[-1]} = {_toml(value)}", key, sources)


def _sourced(text: str, key: schema.Key, sources: Sources) -> str:
    file = sources.get(config.dotted(key))
    return f"{text:<{SOURCE_COLUMN}}  # {'default' if file is None else schema.printable(str(file))}"


def _toml(value: object) -> str:
    if isinstance(value, str):
        return schema.quoted(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _inline(reference: config.SecretReference) -> str:
    set_ = {name: value for name, value in msgspec.structs.asdict(reference).items() if value is not None}
    return "{ " + ", ".join(f"{name} = {_toml(value)}" for name, value in set_.items()) + " }"


def _socket_problems(socket: str) -> list[str]:
    try:
        check_socket_path(socket)
    except errors.ConfigurationInvalid as error:
        return [error.message]
    return []


def _print(lines: Iterable[str], stream: TextIO) -> None:
    """What a terminal would obey, and what the stream's encoding lacks, is written as an escape."""
    encoding = stream.encoding or "utf-8"
    for line in lines:
        print(printable(line, keep=LINES).encode(encoding, "backslashreplace").decode(encoding), file=stream)
