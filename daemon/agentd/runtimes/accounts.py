# SPDX-License-Identifier: Apache-2.0
"""Who a user of a machine is, by the machine's own files: none of its programs is run for that."""

import os
import stat
from typing import NamedTuple

from agentd.errors import AgentFailed

FILE_BYTES = 1 << 20
"""As much of a file as is read: what lies behind it is not there."""

ID_DIGITS = 10


class Account(NamedTuple):
    uid: int
    gid: int
    name: str = ""
    home: str = "/"


ROOT = Account(0, 0, "root", "/root")


def account(leader: int, user: str | None) -> Account:
    """The account that `user`, by name or number or None for root, or `user:group`, means in a machine.

    A number without an entry is a user of its own, in a group of the same number. Raises AgentFailed where
    there is no such name.
    """
    if user is None:
        return ROOT
    name, _, group = user.partition(":")
    found = _user(leader, name)
    return found._replace(gid=_group(leader, group)) if group else found


def _user(leader: int, name: str) -> Account:
    for entry in _entries(leader, "passwd"):
        if len(entry) >= 6 and name in (entry[0], entry[2]) and _is_id(entry[2]) and _is_id(entry[3]):
            return Account(int(entry[2]), int(entry[3]), entry[0], entry[5] or "/")
    uid = _number(name, "user")
    return Account(uid, uid)


def _group(leader: int, name: str) -> int:
    for entry in _entries(leader, "group"):
        if len(entry) >= 3 and entry[0] == name and _is_id(entry[2]):
            return int(entry[2])
    return _number(name, "group")


def _number(name: str, kind: str) -> int:
    if not _is_id(name):
        raise AgentFailed(f"the machine has no {kind} {name}; add it there, or correct it in agentd.toml")
    return int(name)


def _is_id(text: str) -> bool:
    return text.isdecimal() and len(text) <= ID_DIGITS


def _entries(leader: int, file: str) -> list[list[str]]:
    """The lines of a file in the machine's /etc; none where it is anything else than a plain file."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(f"/proc/{leader}/root/etc/{file}", flags)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        text = os.read(descriptor, FILE_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)
    return [line.split(":") for line in text.replace("\0", "").splitlines()]
