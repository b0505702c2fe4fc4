# SPDX-License-Identifier: Apache-2.0
"""Who is on the other end of a socket, by the kernel's word, and what that account may do."""

import contextlib
import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from agentd.config import Configuration

SO_PEERGROUPS = 59
SO_PEERPIDFD = 77
GROUPS_BYTES = 1024
"""All that Python's getsockopt takes; an account in more than 256 groups counts by its primary one only."""
AGENTD_GROUP = "agentd"


class Peer(NamedTuple):
    """The process that connected, as it was then. `pidfd` is -1 where the kernel (before 6.5) gives none."""

    pid: int
    uid: int
    groups: frozenset[int]
    pidfd: int = -1


def peer_of(sock: socket.socket, *, with_pidfd: bool = False) -> Peer:
    """Raises OSError where the peer has gone already. The pidfd is the caller's to close."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", credentials)
    return Peer(pid, uid, frozenset((gid, *_more_groups(sock))), _pidfd(sock) if with_pidfd else -1)


def _more_groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _pidfd(sock: socket.socket) -> int:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        return -1


class Access:
    """The access rules of one configuration, names resolved once, so that no look-up blocks a connection."""

    def __init__(self, configuration: Configuration, *, any_account: bool) -> None:
        """`any_account`: other accounts may be let in at all, as in system mode."""
        self._any_account = any_account
        self._uids = {0, os.geteuid()} | _uids(configuration.access.users)
        self._gids = _gids([AGENTD_GROUP]) | _gids(configuration.access.groups)
        self._containers = {
            name: (_uids(entry.users), _gids(entry.groups))
            for name, entry in configuration.containers.items()
        }

    def may(self, peer: Peer, container: str) -> bool:
        """Whether this peer may use this container."""
        if not self._any_account:
            return peer.uid in (0, os.geteuid())
        uids, gids = self._containers.get(container, (set(), set()))
        return peer.uid in self._uids | uids or bool(peer.groups & (self._gids | gids))

    def may_any(self, peer: Peer) -> bool:
        """Whether this peer may use some container, one that is not configured included."""
        return any(self.may(peer, name) for name in ("", *self._containers))


def unknown_names(configuration: Configuration) -> list[str]:
    """A sentence for each account or group that is to be let in and does not exist."""
    places = {"access": configuration.access} | {
        f"containers.{name}": entry for name, entry in configuration.containers.items()
    }
    problems = []
    for key, entry in places.items():
        for what, look_up in (("users", _uids), ("groups", _gids)):
            missing = [name for name in getattr(entry, what) if not look_up([name])]
            problems += [f"{key}.{what}: there is no {name} on this host" for name in missing]
    return problems


def _uids(names: Iterable[str]) -> set[int]:
    """Accounts by name or number; one that does not exist lets nobody in."""
    found = set()
    for name in names:
        with contextlib.suppress(KeyError):
            found.add(int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid)
    return found


def _gids(names: Iterable[str]) -> set[int]:
    found = set()
    for name in names:
        with contextlib.suppress(KeyError):
            found.add(int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid)
    return found
