# SPDX-License-Identifier: Apache-2.0
"""What a person is told to type is right for the agentd that it is about."""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.advice import analyze, journalctl, systemctl
from agentd.ctl import places
from agentd.errors import ConfigurationInvalid, ManagerUnreachable
from agentd.paths import Mode

DAEMON = Path(__file__).parents[2] / "daemon"
COMMAND = re.compile(
    r"\bsystemctl (?!(start|reload|restart) (dbus|polkit))|\bjournalctl (-|$)|\bsystemd-analyze "
)
"""But for those units which only the host has."""


@pytest.mark.parametrize("mode", [Mode.SYSTEM, Mode.EMBEDDED])
def test_the_hosts_systemd_is_meant_where_nothing_is_said(mode: Mode) -> None:
    assert systemctl(mode, "start", "x") == "systemctl start x"
    assert journalctl(mode, "-u", "x") == "journalctl -u x"
    assert analyze(mode, "verify", "x") == "systemd-analyze verify x"


def test_the_systemd_of_an_account_has_an_option() -> None:
    assert systemctl(Mode.USER, "start", "x") == "systemctl --user start x"
    assert journalctl(Mode.USER, "-u", "x") == "journalctl --user -u x"
    assert analyze(Mode.USER, "verify", "x") == "systemd-analyze --user verify x"


def spoken(tree: ast.AST) -> Iterator[str]:
    """The strings of a module that are no documentation."""
    documentation = {
        id(each.value)
        for each in ast.walk(tree)
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
    }
    for each in ast.walk(tree):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in documentation:
            yield each.value


def test_nobody_else_spells_such_a_command() -> None:
    """A sentence with one of its own would be wrong for the agentd of an account."""
    spelled = [
        f"{file.relative_to(DAEMON)}: {text}"
        for file in DAEMON.rglob("*.py")
        for text in spoken(ast.parse(file.read_text()))
        if COMMAND.search(text)
    ]
    assert spelled == []


# Where no manager answers


def options(**where: object) -> argparse.Namespace:
    return argparse.Namespace(**{"runtime_dir": None, "system": False, "user": False, **where})


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An account without any agentd: nothing listens in its folders."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(places, "client_candidates", lambda environ: [])
    return tmp_path


OF_HOST, OF_ACCOUNT = "systemctl start agentd.socket", "systemctl --user enable --now agentd.socket"


@pytest.mark.parametrize(
    ("where", "how"),
    [
        ({"user": True}, f"{OF_ACCOUNT}, or agentd serve --user"),
        ({"runtime_dir": "/nowhere/at-all"}, "agentd serve --runtime-dir /nowhere/at-all"),
        ({}, f"{OF_HOST}, for your account alone {OF_ACCOUNT}, or agentd serve"),
    ],
)
def test_the_one_that_was_meant_is_to_be_started(nowhere: Path, where: dict[str, object], how: str) -> None:
    with pytest.raises(ManagerUnreachable) as refused:
        places.front_door(options(**where))
    assert refused.value.message.endswith(f"). Start one: {how}")


def test_that_of_the_host_is_started_by_its_own_systemd() -> None:
    meant = places.named(options(system=True))
    assert places.unreachable([], meant).endswith(f"Start one: {OF_HOST}")


def test_an_account_without_a_place_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(ConfigurationInvalid, match="XDG_RUNTIME_DIR"):
        places.candidates(options(user=True))
