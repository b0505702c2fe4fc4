# SPDX-License-Identifier: Apache-2.0

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import AgentFailed
from agentd.runtimes import accounts
from agentd.runtimes.accounts import ROOT, Account, account

PASSWD = """\
root:x:0:0:root:/root:/bin/bash

+nis
broken:x:many:0::/:
huge:x:99999999999999999999:0::/:
dev:x:1000:100:Developer,,,:/home/dev:/bin/sh
homeless:x:1001:1001:::
n\0ul:x:1002:1002::/h\0ome:/bin/sh
"""
GROUP = "root:x:0:\nstaff:x:50:dev\nbroken:x:-1:\n"


@pytest.fixture(autouse=True)
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The machine's /etc, in which the account looks instead of a process's."""
    (tmp_path / "passwd").write_text(PASSWD)
    (tmp_path / "group").write_text(GROUP)
    opened = os.open

    def inside(path: str, flags: int) -> int:
        return opened(path.replace("/proc/42/root/etc", str(tmp_path)), flags)

    monkeypatch.setattr(accounts.os, "open", inside)
    yield tmp_path
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("user", "found"),
    [
        (None, ROOT),
        ("dev", Account(1000, 100, "dev", "/home/dev")),
        ("1000", Account(1000, 100, "dev", "/home/dev")),
        ("dev:staff", Account(1000, 50, "dev", "/home/dev")),
        ("dev:7", Account(1000, 7, "dev", "/home/dev")),
        ("4711", Account(4711, 4711)),
        ("4711:staff", Account(4711, 50)),
        ("homeless", Account(1001, 1001, "homeless", "/")),
        ("nul", Account(1002, 1002, "nul", "/home")),
    ],
)
def test_a_user_is_looked_up_in_the_machine(user: str | None, found: Account) -> None:
    assert account(42, user) == found


@pytest.mark.parametrize("user", ["nobody", "broken", "huge", "dev:nobody", "dev:broken", "9" * 5000])
def test_who_is_not_there_is_said(user: str) -> None:
    with pytest.raises(AgentFailed, match=r"^the machine has no (user|group) (nobody|broken|huge|9+);"):
        account(42, user)


@pytest.mark.parametrize("trap", ["absent", "fifo", "link", "directory"])
def test_what_is_no_plain_file_is_not_read(etc: Path, trap: str) -> None:
    (etc / "passwd").rename(etc / "real")
    if trap == "fifo":
        os.mkfifo(etc / "passwd")
    elif trap == "link":
        (etc / "passwd").symlink_to(etc / "real")
    elif trap == "directory":
        (etc / "passwd").mkdir()
    with pytest.raises(AgentFailed):
        account(42, "dev")
    assert account(42, "1000") == Account(1000, 1000)
