# SPDX-License-Identifier: Apache-2.0
"""Socket activation: the sockets that systemd listens on, or has kept for us, by name."""

import logging
import os
import socket
from collections.abc import MutableMapping

logger = logging.getLogger(__name__)

FIRST = 3
VARIABLES = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")
UNNAMED = "unknown"  # systemd's own word


def listen_sockets(
    environ: MutableMapping[str, str], *, first: int = FIRST
) -> dict[str, list[socket.socket]]:
    """The sockets passed to this process, non-blocking; none if they are meant for another one.

    The variables are taken out of `environ`: what we start must not think that they are its own.
    """
    pid, _, count, names = (environ.pop(name, "") for name in VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    labels = names.split(":") if names else []
    labels += [UNNAMED] * (int(count) - len(labels))
    sockets: dict[str, list[socket.socket]] = {}
    for fd, label in zip(range(first, first + int(count)), labels, strict=False):
        if (sock := _take(fd, label)) is not None:
            sockets.setdefault(label, []).append(sock)
    return sockets


def _take(fd: int, label: str) -> socket.socket | None:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        logger.warning("descriptor %d, %s, from systemd is no socket: %s", fd, label, error)
        return None
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock
