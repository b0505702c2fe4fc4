# SPDX-License-Identifier: Apache-2.0
"""Which manager is meant by verbs that must do their work where none answers, too: logs, events, doctor."""

import argparse
import os
import socket

from agentd.ctl.places import candidates
from agentd.paths import Mode, Paths, paths_for


def place(options: argparse.Namespace) -> Paths:
    """As the command line says, else the first that has a front door, else the host's.

    Errors: ConfigurationInvalid.
    """
    found = candidates(options)
    if options.runtime_dir or options.system or options.user:
        return found[0]
    return next(filter(_has_a_door, found), paths_for(Mode.SYSTEM, environ=os.environ))


def _has_a_door(paths: Paths) -> bool:
    """systemd's sockets count with nobody behind them; one of embedded mode may have been left behind."""
    if paths.mode is not Mode.EMBEDDED:
        return os.path.exists(paths.front_door)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(paths.front_door)
        except BlockingIOError:
            return True  # it listens, and has too much to do
        except OSError:
            return False
    return True
