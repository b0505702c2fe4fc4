# SPDX-License-Identifier: Apache-2.0
"""Where the manager is: where the command line says, else wherever one answers."""

import os
import socket

from agentd.advice import systemctl
from agentd.errors import AccessDenied, ManagerUnreachable
from agentd.paths import Mode, Paths, client_candidates, paths_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def candidates(options: "argparse.Namespace") -> list[Paths]:
    """The managers to try, in order. Raises ConfigurationInvalid."""
    only = named(options)
    return client_candidates(os.environ) if only is None else [only]


def named(options: "argparse.Namespace") -> Paths | None:
    """The manager that the command line names, if it does. Raises ConfigurationInvalid."""
    if options.runtime_dir:
        return paths_for(Mode.EMBEDDED, runtime_dir=options.runtime_dir, environ=os.environ)
    if options.system or options.user:
        return paths_for(Mode.SYSTEM if options.system else Mode.USER, environ=os.environ)
    return None


def front_door(options: "argparse.Namespace") -> socket.socket:
    """A connection to the first manager that answers. Raises ManagerUnreachable or AccessDenied."""
    problems = []
    for paths in candidates(options):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(paths.front_door)
            return sock
        except PermissionError:
            sock.close()
            raise AccessDenied(f"your account may not open {paths.front_door}") from None
        except OSError as exc:
            sock.close()
            problems.append(f"{paths.front_door}: {exc.strerror}")
    raise ManagerUnreachable(unreachable(problems, named(options)))


def unreachable(problems: list[str], meant: Paths | None = None) -> str:
    """`meant`: the manager that was to answer, None for any."""
    tried = "; ".join(problems) or "no place to look in exists"
    return f"no agentd answers ({tried}). Start one: {_start(meant)}"


def _start(meant: Paths | None) -> str:
    of_host = systemctl(Mode.SYSTEM, "start", "agentd.socket")
    of_account = systemctl(Mode.USER, "enable", "--now", "agentd.socket")
    if meant is None:
        return f"{of_host}, for your account alone {of_account}, or agentd serve"
    if meant.mode is Mode.EMBEDDED:
        return f"agentd serve --runtime-dir {meant.runtime_dir}"
    return of_host if meant.mode is Mode.SYSTEM else f"{of_account}, or agentd serve --user"
