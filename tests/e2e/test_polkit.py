# SPDX-License-Identifier: Apache-2.0
"""Who may give orders over D-Bus: every action, tried by root, a session's owner, one whom [access] lets in,
and a stranger; with polkit and without it.
"""

import contextlib
import json
import os
import re
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from .machine import CommandError, Machine
from .test_agentd import CONFIGURATION, MANAGER, Editor, Host

AGENTS = Path(__file__).parents[1] / "agents"
OWNER, MEMBER, STRANGER = "olga", "mimi", "stan"
SESSION = "org.agentd1.Session"
REFUSALS = r"[Aa]ccess|[Aa]uthenticat|polkit|password"


class Site(Host):
    """A host with three people on it, of whom one has a session."""

    session = ""
    editor_of_owner: Editor

    def people(self) -> None:
        for name in (OWNER, MEMBER, STRANGER):
            self.run("useradd", "--create-home", name)
        self.machine.write(
            "/etc/agentd/agentd.toml", f'{CONFIGURATION}[access]\nusers = ["{OWNER}", "{MEMBER}"]\n'
        )

    @contextlib.contextmanager
    def with_session(self) -> Iterator[None]:
        dialogue = self.machine.dialogue(
            "agentctl", "--system", "attach", "box", "--agent", "scripted", user=OWNER
        )
        with dialogue:
            self.editor_of_owner = Editor(dialogue).open()
            self.machine.wait_for(lambda: self.listed_sessions(), 20, "the session to be listed")
            [self.session] = self.listed_sessions()
            yield

    def listed_sessions(self, user: str | None = None) -> list[str]:
        done = self.run("busctl", "--json=short", "call", *MANAGER, "ListSessions", "s", "box", user=user)
        return [each[-1] for each in json.loads(done.stdout)["data"][0]]

    def orders(self) -> dict[str, tuple[str, ...]]:
        """A call for every action of polkit's, that changes nothing that another call needs."""
        return {
            "inspect": (*MANAGER, "Status"),
            "attach": (*MANAGER, "OpenContainer", "sa{sv}", "box", "0"),
            "drain": (*MANAGER, "Undrain", "s", "box"),
            "reload": (*MANAGER, "Reload"),
            "manage-containers": (*MANAGER, "StartContainer", "s", "box"),
            "manage-sessions": ("org.agentd1", self.session, SESSION, "ListPermissions"),
            "drain of a session": ("org.agentd1", self.session, SESSION, "Undrain"),
        }

    def may(self, user: str | None) -> set[str]:
        """What somebody may do."""
        return {name for name, order in self.orders().items() if self._lets(user, order)}

    def _lets(self, user: str | None, order: tuple[str, ...]) -> bool:
        """Whether an order is considered: nobody is refused for who they are, whatever comes of it."""
        done = self.run(
            "busctl", "--allow-interactive-authorization=no", "call", *order, user=user, check=False
        )
        return done.returncode == 0 or re.search(REFUSALS, done.stderr) is None


@pytest.fixture
def site(fresh: Machine) -> Iterator[Site]:
    site = Site(fresh)
    fresh.copy(AGENTS, "/srv/agents")
    site.people()
    site.start_box()
    site.machine.start_agentd()
    fresh.wait_for(lambda: "box" in site.listed(), 20, "the watcher to tell of box")
    with site.with_session():
        yield site


EVERYTHING = {
    *("inspect", "attach", "drain", "reload", "manage-containers", "manage-sessions", "drain of a session")
}


def test_everybody_may_do_what_is_theirs(site: Site) -> None:
    """Nobody here sits at the machine: for polkit that is the least trusted way to be there."""
    assert site.may(None) == EVERYTHING
    assert site.may("agentd") == EVERYTHING
    assert site.may(OWNER) == {"inspect", "attach", "manage-sessions", "drain of a session"}
    assert site.may(MEMBER) == {"inspect", "attach"}
    assert site.may(STRANGER) == set()
    site.run("systemctl", "mask", "--now", "polkit.service")
    assert site.may(None) == EVERYTHING
    assert site.may(OWNER) == {"inspect", "attach", "manage-sessions", "drain of a session"}
    assert site.may(STRANGER) == set()


RULE = """\
polkit.addRule(function (action, subject) {
    if (subject.user === "stan" && action.id.indexOf("org.agentd1.") === 0)
        return action.lookup("container") === "other" ? polkit.Result.NO : polkit.Result.YES;
});
"""


def test_polkit_may_let_in_whomever_it_likes_and_is_told_about_what(site: Site) -> None:
    site.machine.write("/etc/polkit-1/rules.d/10-stan.rules", RULE)
    site.run("systemctl", "restart", "polkit.service")
    assert site.may(STRANGER) == EVERYTHING
    with pytest.raises(CommandError, match=REFUSALS):
        site.call("StartContainer", "s", "other", user=STRANGER)


def test_titles_are_told_to_those_whose_they_are(site: Site) -> None:
    editor = site.editor_of_owner
    editor.answer(editor.prompt("say a-secret-title"))
    site.machine.wait_for(lambda: "a-secret-title" in title(site, None), 10, "the title to be known")
    assert "a-secret-title" in title(site, OWNER)
    for user in (MEMBER, STRANGER):
        assert title(site, user) == ""
    everything = site.run(
        "busctl", "call", "org.agentd1", "/org/agentd1", "org.freedesktop.DBus.ObjectManager",
        "GetManagedObjects", user=STRANGER,
    )  # fmt: skip
    assert site.session in everything.stdout and "a-secret-title" not in everything.stdout
    status = site.run("busctl", "call", *MANAGER, "Status", user=MEMBER).stdout
    assert "scripted" in status and "a-secret-title" not in status
    assert "a-secret-title" in site.run("busctl", "call", *MANAGER, "Status", user=OWNER).stdout


def title(site: Site, user: str | None) -> str:
    done = site.run(
        "busctl", "--json=short", "get-property", "org.agentd1", site.session, SESSION, "Title", user=user
    )
    return str(json.loads(done.stdout)["data"])


def test_who_knows_roots_password_is_asked_for_it_on_the_terminal(site: Site) -> None:
    site.run("sh", "-c", "echo root:only-for-this-test | chpasswd")
    login = f"su --pty --login --command='agentctl --system drain box' {STRANGER}"
    command = ("script", "-qec", login, "/dev/null")
    with site.machine.popen(*command, text=False) as terminal:
        assert terminal.stdin is not None and terminal.stdout is not None
        asked = until(terminal.stdout, b"assword:")
        assert b"org.agentd1.drain" in asked
        typed(terminal.stdin, terminal.stdout)
        terminal.stdin.close()
    assert site.property("/org/agentd1/container/box", "Container", "Drained") == ["box"]


def typed(keys: IO[bytes], output: IO[bytes]) -> None:
    """Type the password, once more where that was too early: what comes before the echo is off is lost."""
    for _ in range(5):
        keys.write(b"only-for-this-test\n")
        keys.flush()
        with contextlib.suppress(TimeoutError):
            until(output, b"draining", seconds=5)
            return
    raise AssertionError("nobody took the password")


def until(output: IO[bytes], words: bytes, seconds: float = 30) -> bytes:
    """Read on until these words have come."""
    seen, end = b"", time.monotonic() + seconds
    while words not in seen:
        if not select.select((output,), (), (), max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError(seen)
        data = os.read(output.fileno(), 4096)
        assert data, seen
        seen += data
    return seen
