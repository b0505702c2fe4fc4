# SPDX-License-Identifier: Apache-2.0

import grp
import os
import pwd
import socket
import struct
from pathlib import Path

import pytest

from agentd import config
from agentd.manager.access import AGENTD_GROUP, Access, Peer, peer_of

STRANGER = 54321
ME = os.geteuid()
SOME_USER = next(each for each in pwd.getpwall() if each.pw_uid not in (0, ME))
SOME_GROUP = next(each for each in grp.getgrall() if each.gr_gid not in (0, os.getegid()))


def access(
    *,
    users: list[str] | None = None,
    groups: list[str] | None = None,
    any_account: bool = True,
    **box: list[str],
) -> Access:
    """Rules with these accounts for all containers, and those in `box` for the container `box` alone."""
    everywhere = config.Access(users=tuple(users or ()), groups=tuple(groups or ()))
    entry = config.Container(users=tuple(box.get("box_users", ())), groups=tuple(box.get("box_groups", ())))
    configuration = config.Configuration(access=everywhere, containers={"box": entry})
    return Access(configuration, any_account=any_account)


def peer(uid: int = STRANGER, *groups: int) -> Peer:
    return Peer(1, uid, frozenset(groups or (STRANGER,)))


# Who may


@pytest.mark.parametrize("container", ["box", "other"])
def test_root_and_the_managers_own_account_always_may(
    container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 777)
    rules = access()
    assert [rules.may(peer(uid), container) for uid in (0, 777, STRANGER)] == [True, True, False]


@pytest.mark.parametrize("name", [SOME_USER.pw_name, str(SOME_USER.pw_uid)])
def test_a_user_may_by_name_and_by_number(name: str) -> None:
    assert access(users=[name]).may(peer(SOME_USER.pw_uid), "other")
    assert not access(users=[name]).may(peer(), "other")


@pytest.mark.parametrize("name", [SOME_GROUP.gr_name, str(SOME_GROUP.gr_gid)])
def test_a_group_may_by_name_and_by_number(name: str) -> None:
    assert access(groups=[name]).may(peer(STRANGER, 5, SOME_GROUP.gr_gid), "other")
    assert not access(groups=[name]).may(peer(STRANGER, 5), "other")


def test_a_number_without_an_account_counts() -> None:
    assert access(users=["54321"]).may(peer(), "box")


def test_a_users_number_is_not_a_groups() -> None:
    assert not access(users=[str(STRANGER)]).may(peer(1, STRANGER), "box")
    assert not access(groups=[str(STRANGER)]).may(peer(STRANGER, 1), "box")


def test_what_a_container_grants_it_grants_for_itself_alone() -> None:
    rules = access(box_users=["54321"], box_groups=["54322"])
    assert [rules.may(peer(), name) for name in ("box", "other")] == [True, False]
    assert [rules.may(peer(1, 54322), name) for name in ("box", "other")] == [True, False]


def test_the_group_of_agentd_may(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {AGENTD_GROUP: SOME_GROUP}
    monkeypatch.setattr(grp, "getgrnam", known.__getitem__)
    assert access().may(peer(STRANGER, SOME_GROUP.gr_gid), "box")


@pytest.mark.parametrize("name", ["no-such-account", "-1", "0x0", " 0", "1e3", "\u00b9"])
def test_a_name_nobody_has_lets_nobody_in(name: str) -> None:
    rules = access(users=[name, "54322"], groups=[name], box_users=[name])
    assert [rules.may(peer(uid), "box") for uid in (STRANGER, 1, 54322)] == [False, False, True]


def test_in_user_mode_only_the_same_account_and_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 777)
    rules = access(users=["54321"], groups=["54321"], box_users=["54321"], any_account=False)
    assert [rules.may(peer(uid), "box") for uid in (777, 0, STRANGER)] == [True, True, False]


# Who it is


def test_a_peer_is_known_by_the_kernels_word() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        who = peer_of(ours)
    assert (who.pid, who.uid, who.pidfd) == (os.getpid(), ME, -1)
    assert who.groups == {os.getegid(), *os.getgroups()}


def test_a_peers_pidfd_is_of_its_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        who = peer_of(ours, with_pidfd=True)
    if who.pidfd < 0:
        assert tuple(map(int, os.uname().release.split(".")[:2])) < (6, 5)
        return
    info = Path(f"/proc/self/fdinfo/{who.pidfd}").read_text(encoding="ascii")
    assert f"Pid:\t{os.getpid()}\n" in info
    assert not os.get_inheritable(who.pidfd)
    os.close(who.pidfd)


def test_the_highest_numbers_are_accounts_like_others() -> None:
    class Connection:
        """The kernel's word on an account with numbers above those of a signed int."""

        def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:
            highest = 3_000_000_000
            credentials = struct.pack("iII", 7, highest, highest + 1)
            return credentials if option == socket.SO_PEERCRED else struct.pack("2I", 5, highest + 2)

    who = peer_of(Connection())  # type: ignore[arg-type]
    assert who == Peer(7, 3_000_000_000, frozenset({5, 3_000_000_001, 3_000_000_002}))
    assert access(users=["3000000000"]).may(who, "box")
    assert access(groups=["3000000002"]).may(who, "box")
