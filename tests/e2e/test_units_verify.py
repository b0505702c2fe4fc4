# SPDX-License-Identifier: Apache-2.0
"""systemd itself has nothing to say against our units: not 257, and not 252."""

import pytest

from .machine import Machine

FOLDERS = {"--system": "/usr/lib/systemd/system", "--user": "/usr/lib/systemd/user"}


def units(machine: Machine, manager: str) -> list[str]:
    """Templates by an instance of theirs."""
    listed = machine.run("sh", "-c", f"ls {FOLDERS[manager]}/agentd*").stdout.split()
    return [unit.replace("@.", "@box.") for unit in listed]


def verified(machine: Machine, manager: str, *names: str) -> tuple[int, str, str]:
    """A user's manager wants a runtime folder: it is left as if nobody had been here."""
    folder = machine.run("mktemp", "--directory").stdout.strip()
    argv = ("systemd-analyze", manager, "verify", "--man=no", *names)
    done = machine.run(*argv, check=False, env={"XDG_RUNTIME_DIR": folder})
    machine.run("rm", "-r", folder)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("manager", FOLDERS)
def test_units_verify_without_a_word(installed: Machine, manager: str) -> None:
    names = units(installed, manager)
    assert len(names) >= 8
    assert verified(installed, manager, *names) == (0, "", "")


@pytest.mark.parametrize("manager", FOLDERS)
def test_a_setting_that_is_unknown_would_be_said(installed: Machine, manager: str) -> None:
    wrong = "/tmp/agentd-wrong.service"
    text = "[Service]\\nExecStart=/bin/true\\nNoSuchSetting=yes\\n"
    installed.run("sh", "-c", f"printf '{text}' >{wrong}")
    assert "NoSuchSetting" in verified(installed, manager, wrong)[2]
    installed.run("rm", wrong)
