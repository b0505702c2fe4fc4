# SPDX-License-Identifier: Apache-2.0
"""`agentctl logs`: which matches journalctl gets; the end-to-end ring shows what they find."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.ctl.logs import UNITS, command
from agentd.ctl.options import parse
from agentd.paths import Mode

JOURNALCTL = '#!/bin/sh\nprintf "%s\\n" "$@"\n'


def options(*words: str) -> argparse.Namespace:
    return parse(["logs", *words])


def argv(*words: str, mode: Mode = Mode.SYSTEM) -> list[str]:
    return command(options(*words), mode)


def agentctl(*words: str, path: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PATH": str(path)}
    command = [sys.executable, "-m", "agentd.ctl", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_everything_is_what_the_units_have_logged() -> None:
    assert argv() == ["journalctl", *(f"--unit={unit}" for unit in UNITS)]
    assert argv(mode=Mode.USER)[:3] == ["journalctl", "--user", f"--user-unit={UNITS[0]}"]


def test_a_container_is_its_unit_what_systemd_says_of_it_and_what_others_do() -> None:
    told, own, systemd = " ".join(argv("box")[1:]).split(" + ")
    assert told == "AGENTD_CONTAINER=box _SYSTEMD_SLICE=agentd.slice"
    assert own == "_SYSTEMD_UNIT=agentd@box.service"
    assert systemd == "UNIT=agentd@box.service _PID=1"


def test_nobody_elses_entries_are_a_container_of_this_account() -> None:
    groups = " ".join(argv("box", mode=Mode.USER)[2:]).split(" + ")
    assert len(groups) == 3 and all(f"_UID={os.geteuid()}" in group for group in groups)


@pytest.mark.parametrize("name", [[], ["box"]])
def test_an_agent_or_a_session_is_only_in_records_that_say_so(name: list[str]) -> None:
    found = argv(*name, "--agent", "claude", "--session", "a b")
    assert {"AGENTD_AGENT=claude", "AGENTD_SESSION=a b"} <= {*found} and "+" not in found


def test_a_session_is_found_as_it_was_logged() -> None:
    assert r"AGENTD_SESSION=s\x1b[2J" in argv("--session", "s\x1b[2J")


def test_the_rest_is_passed_on() -> None:
    found = argv("-f", "-n", "7", "--since=-1h", "--json", "--no-pager")
    assert found[1:6] == ["--follow", "--no-pager", "--output=json", "--lines=7", "--since=-1h"]
    assert argv("-n", "0")[1] == "--lines=0"


@pytest.mark.parametrize("option", ["--since", "--until"])
def test_a_time_may_begin_with_a_dash(option: str) -> None:
    assert argv(option, "-1h", "-f")[1:3] == ["--follow", f"{option}=-1h"]
    assert argv("--user", "box", option, "-1h 30min")[1] == f"{option}=-1h 30min"
    assert options(option, "yesterday", "box").container == "box"
    assert options("--", option[1:]).container == option[1:]


def test_an_option_for_a_time_wants_one() -> None:
    for words in (["--since"], ["box", "--until"], ["--since", "--", "box"]):
        with pytest.raises(SystemExit):
            options(*words)


def test_it_becomes_journalctl(tmp_path: Path) -> None:
    (tmp_path / "journalctl").write_text(JOURNALCTL)
    (tmp_path / "journalctl").chmod(0o755)
    done = agentctl("--system", "logs", "box", "-n", "3", path=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["--lines=3", "AGENTD_CONTAINER=box"]


def test_without_journalctl_it_says_what_to_do(tmp_path: Path) -> None:
    done = agentctl("--system", "logs", path=tmp_path)
    assert done.returncode == 69 and done.stdout == ""
    assert "journalctl cannot be run" in done.stderr and "install systemd" in done.stderr


def test_an_agentd_started_by_hand_has_its_log_on_its_terminal(tmp_path: Path) -> None:
    done = agentctl("--runtime-dir", str(tmp_path), "logs", path=tmp_path)
    assert done.returncode == 69 and "terminal" in done.stderr


@pytest.mark.parametrize("name", ["../box", "a b", "+", "_PID=1", "é"])
def test_what_cannot_be_a_container_is_refused(name: str, tmp_path: Path) -> None:
    assert agentctl("--system", "logs", "--", name, path=tmp_path).returncode == 64
