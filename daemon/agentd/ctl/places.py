# SPDX-License-Identifier: Apache-2.0
"""Where the manager is: where the command line says, else wherever one answers."""

import os
import socket

from agentd.errors import AccessDenied, ManagerUnreachable
from agentd.paths import Mode, Paths, client_candidates, paths_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def candidates(options: "argparse.Namespace") -> list[Paths]:
    """The managers to try, in order. Raises ConfigurationInvalid."""
    if options.runtime_dir:
        return [paths_for(Mode.EMBEDDED, runtime_dir=options.runtime_dir, environ=os.environ)]
    if options.system or options.user:
        return [paths_for(Mode.SYSTEM if options.system else Mode.USER, environ=os.environ)]
    return client_candidates(os.environ)


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
    raise ManagerUnreachable(unreachable(problems))


def unreachable(problems: list[str]) -> str:
    tried = "; ".join(problems) or "no place to look in exists"
    return f"no agentd answers ({tried}). Start one: systemctl start agentd.socket, or agentd serve"
