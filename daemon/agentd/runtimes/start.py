# SPDX-License-Identifier: Apache-2.0
"""What is started on this host: an argument vector, and an environment of which nobody sees a value.

Where systemd does the starting, no value is in a property of a unit either: those are shown to every
account, and written to a file that all of them may read. A shell reads them off its standard input.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agentd.errors import EngineFailed
from agentd.process import Child, Pipes, Size, close_all, spawn_on_terminal, spawn_piped

READ_ENVIRONMENT = """\
while IFS= read -r AGENTD_ENTRY; do
    [ -n "$AGENTD_ENTRY" ] || { unset AGENTD_ENTRY; exec "$@"; }
    AGENTD_ENTRY=$(printf '%b.' "$AGENTD_ENTRY")
    export "${AGENTD_ENTRY%.}"
done
exit 1
"""
"""Takes variables off standard input up to an empty line, and not a byte more: a shell reads bytewise."""


class Start(NamedTuple):
    """What to start, and what to write to its standard input before anything else.

    On a terminal, one with a preamble reads it off a pipe, and makes the terminal its own after that.
    """

    argv: list[str]
    env: Mapping[str, str]
    preamble: bytes = b""


def by_service_manager(options: Sequence[str], argv: Sequence[str]) -> list[str]:
    """systemd-run for a service that has our streams, and reads its environment off the first."""
    modes = ("--pipe", "--quiet", "--collect", "--wait", "--service-type=exec")
    shell = ("/bin/sh", "-c", READ_ENVIRONMENT, "sh", *argv)
    return ["systemd-run", *modes, *options, "--", *(word.replace("$", "$$") for word in shell)]


def preamble(env: Mapping[str, str]) -> bytes:
    """Variables as READ_ENVIRONMENT takes them, one a line."""
    entries = (f"{key}={value}".replace("\\", "\\\\").replace("\n", "\\n") for key, value in env.items())
    return "".join(f"{entry}\n" for entry in (*entries, "")).encode()


def piped(start: Start) -> tuple[Child, Pipes]:
    """Start it with pipes on its streams. Raises OSError where it cannot be executed, and EngineFailed."""
    child, pipes = spawn_piped(start.argv, env=start.env)
    try:
        feed(pipes.stdin, start.preamble)
    except EngineFailed:
        close_all(pipes)  # the shell sees the end of its input
        raise
    return child, pipes


def on_terminal(start: Start, size: Size) -> tuple[Child, int]:
    """Start it on a terminal, whose other end is returned. Errors as of `piped`."""
    if not start.preamble:
        return spawn_on_terminal(start.argv, env=start.env, size=size)
    reading, writing = os.pipe()
    try:
        feed(writing, start.preamble)
        return spawn_on_terminal(start.argv, env=start.env, size=size, stdin=reading)
    finally:
        close_all((reading, writing))


def feed(pipe: int, data: bytes) -> None:
    """Write to a new pipe, which is made to hold it all: this never waits. Raises EngineFailed."""
    try:
        if len(data) > fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, len(data))
        os.write(pipe, data)
    except BrokenPipeError:
        pass  # it has ended already, and its status says why
    except OSError as exc:
        raise EngineFailed(
            f"an environment of {len(data)} bytes cannot be passed on: {exc.strerror}"
        ) from None
