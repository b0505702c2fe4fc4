# SPDX-License-Identifier: Apache-2.0
"""Scheduled prompts: what may be in their files, which of them is meant, and one run at a time."""

import argparse
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.ctl.options import parse
from agentd.ctl.prompt import LEFT, Order, agent_of, scheduled, status_of
from agentd.ctl.prompt.scheduled import FILE_BYTES, Schedule, alone, find, load
from agentd.errors import (
    EX_DATAERR,
    AccessDenied,
    AlreadyRunning,
    ConfigurationInvalid,
    InvalidArgs,
    ManagerUnreachable,
)
from agentd.paths import Mode, Paths, paths_for
from agentd.systemd.timers import started_by

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes on other accounts, which only root may")
ASK = 'container = "box"\ntext = "Look around."\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An account's own place, with the directories of an agentd in user mode."""
    for variable, name in (("XDG_RUNTIME_DIR", "run"), ("XDG_CONFIG_HOME", "config")):
        (tmp_path / name / "agentd").mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / name))
    (tmp_path / "config/agentd/prompts").mkdir()
    return tmp_path


def write(home: Path, text: str, name: str = "nightly") -> str:
    file = home / f"config/agentd/prompts/{name}.toml"
    file.write_text(text)
    return str(file)


def options(*arguments: str, mode: str = "--user") -> argparse.Namespace:
    return parse([*mode.split(), "prompt", "--schedule", *(arguments or ("nightly",))])


def problems(home: Path, text: str) -> list[str]:
    """What is wrong with a prompt's file, without the file's name."""
    file = write(home, text)
    with pytest.raises(ConfigurationInvalid) as caught:
        load(file)
    assert caught.value.exit_status == 78
    lines = caught.value.message.splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    return [line.removeprefix(f"{file}: ") for line in lines]


# What may be in a file


def test_a_prompt_needs_a_container_and_a_text_and_has_defaults_for_the_rest(home: Path) -> None:
    write(home, ASK)
    schedule = find(options())
    assert schedule.order == Order(
        container="box", text="Look around.", agent="", cwd="", anywhere=True, permission="reject"
    )
    assert (schedule.name, schedule.paths.mode, schedule.limit) == ("nightly", Mode.USER, 3600.0)


def test_everything_can_be_said(home: Path) -> None:
    (home / "text").write_text("Ask ü\nand more.\n")
    write(
        home,
        f'container = "box"\nagent = "claude"\nfile = "{home}/text"\npermission = "allow"\n'
        'timeout_sec = 90\ncwd = "/srv/src"\n',
    )
    schedule = find(options())
    assert schedule.order == Order(
        container="box",
        text="Ask ü\nand more.\n",
        agent="claude",
        cwd="/srv/src",
        anywhere=False,
        permission="allow",
    )
    assert schedule.limit == 90.0


def test_all_that_is_wrong_is_told_at_once(home: Path) -> None:
    assert problems(home, 'contaner = "box"\npermission = "ask"\ntimeout_sec = 0\ntext = ""\n') == [
        "contaner: unknown key; did you mean `container`?",
        'permission: must be "allow" or "reject", not "ask"',
        "timeout_sec: must be a number of seconds above 0, at most 1000000, not 0",
        'text: must be a non-empty string, not ""',
        "container: is missing: name the container to be prompted",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('text = "b"\nfile = "/a"', "text: either this or `file` must be set, not both"),
        ("", "text: either this or `file` must be set"),
        ('file = "text"', 'file: must be an absolute path, not "text"'),
        ('text = "b"\nagent = "../x"', "agent: must be an agent's name: letters, "),
        ('text = "b"\ncwd = "src"', 'cwd: must be an absolute path, not "src"'),
        ('text = "b\\u0000"', "text: must be a non-empty string"),
        ("text = 5", "text: must be a non-empty string, not 5"),
    ],
)
def test_each_key_says_what_it_must_be(home: Path, line: str, words: str) -> None:
    [problem] = problems(home, f'container = "box"\n{line}\n')
    assert problem.startswith(words)


def test_what_is_not_toml_says_where(home: Path) -> None:
    assert "line 2" in problems(home, 'container = "box"\ntext = \n')[0]


# Files


def refused_text(home: Path, path: Path) -> str:
    write(home, f'container = "box"\nfile = "{path}"\n')
    with pytest.raises(ConfigurationInvalid) as caught:
        find(options())
    return caught.value.message.removeprefix(f"{path}: ")


def test_a_text_file_has_to_be_one(home: Path) -> None:
    text = home / "text"
    assert "No such file" in refused_text(home, text)
    os.mkfifo(text)
    assert refused_text(home, text) == "is not a regular file"
    text.unlink()
    text.write_bytes(b"a\nb\xff")
    assert refused_text(home, text) == "line 2 is not UTF-8"
    text.write_text("")
    assert refused_text(home, text) == "is empty, and there is nothing to ask"


def test_a_text_has_a_bound(home: Path) -> None:
    text = home / "text"
    text.write_text("x" * FILE_BYTES)
    write(home, f'container = "box"\nfile = "{text}"\n')
    assert len(find(options()).order.text) == FILE_BYTES
    text.write_text("x" * (FILE_BYTES + 1))
    assert refused_text(home, text) == f"has more than {FILE_BYTES} bytes"


# Which prompt is meant


@pytest.mark.parametrize("name", ["../nightly", "a/b", ".hidden", "a b", "x" * 65, "a\n", "-a", "ü"])
def test_a_name_is_no_path(home: Path, name: str) -> None:
    write(home, ASK)
    asked = argparse.Namespace(**{**vars(options()), "schedule": name})
    with pytest.raises(InvalidArgs, match="can't be a prompt's name"):
        find(asked)


def test_system_and_user_have_folders_of_their_own(home: Path) -> None:
    def file(mode: Mode) -> str:
        return paths_for(mode, environ=os.environ).prompt_file("nightly")

    assert file(Mode.SYSTEM) == "/etc/agentd/prompts/nightly.toml"
    assert file(Mode.USER) == f"{home}/config/agentd/prompts/nightly.toml"


def test_without_a_mode_the_first_that_has_the_prompt_is_meant(home: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"no prompt is called nightly.*config/agentd/prompts"):
        find(options(mode=""))
    write(home, ASK)
    found = find(options(mode=""))
    assert found.paths.mode is Mode.USER
    only = scheduled.only(found.paths, options(mode=""))
    assert (only.user, only.system, only.runtime_dir) == (True, False, None)


def test_an_agentd_with_a_directory_of_its_own_has_no_schedules(home: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="say --system or --user"):
        find(options(mode=f"--runtime-dir {home}"))


@pytest.mark.parametrize("more", [["box"], ["box", "text"], ["--agent", "a"], ["--permission", "allow"]])
def test_what_the_file_says_is_not_said_twice(home: Path, more: list[str]) -> None:
    write(home, ASK)
    with pytest.raises(InvalidArgs, match="they are in its file"):
        find(options("nightly", *more))


# One at a time


def schedule(runtime_dir: Path) -> Schedule:
    paths = Paths(Mode.SYSTEM, str(runtime_dir), "/nowhere")
    return Schedule("nightly", paths, Order(container="box", text="x"), 60.0)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        alone(schedule(tmp_path)),
        pytest.raises(AlreadyRunning, match="another run of it is running already"),
        alone(schedule(tmp_path)),
    ):
        pass
    with alone(schedule(tmp_path)):
        pass
    assert stat.S_IMODE((tmp_path / "prompts").stat().st_mode) == 0o700


def test_there_has_to_be_an_agentd(tmp_path: Path) -> None:
    with (
        pytest.raises(ManagerUnreachable, match="no-such/prompts: No such file"),
        alone(schedule(tmp_path / "no-such")),
    ):
        pass


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """A runtime directory that others can get to, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@as_root
def test_root_leaves_a_lock_that_the_account_of_the_unit_can_take(runtime_dir: Path) -> None:
    os.chown(runtime_dir, NOBODY, NOBODY)
    with alone(schedule(runtime_dir)):
        assert os.geteuid() == 0
        lock = (runtime_dir / "prompts/nightly.lock").stat()
        assert (lock.st_uid, (runtime_dir / "prompts").stat().st_uid) == (NOBODY, NOBODY)


@as_root
@pytest.mark.parametrize("made", [False, True])
def test_others_are_sent_to_systemd(runtime_dir: Path, made: bool) -> None:
    if made:
        with alone(schedule(runtime_dir)):
            pass
    os.seteuid(NOBODY)
    try:
        with (
            pytest.raises(AccessDenied, match="systemctl start agentd-prompt@nightly"),
            alone(schedule(runtime_dir)),
        ):
            pass
    finally:
        os.seteuid(0)


def test_only_a_timer_is_a_timer() -> None:
    assert started_by({"TRIGGER_UNIT": "agentd-prompt@a.timer"}) == "agentd-prompt@a.timer"
    assert started_by({"TRIGGER_UNIT": "a.path"}) == started_by({}) == ""


# What comes of it


def test_how_a_turn_ended_is_the_exit_status() -> None:
    assert status_of({"stopReason": "end_turn"}) == 0
    assert status_of({"stopReason": "cancelled"}) == status_of(None) == LEFT
    assert status_of({"stopReason": "max_tokens"}) == status_of({}) == EX_DATAERR


def test_the_agent_that_was_chosen_is_the_one_of_the_session() -> None:
    chosen = {"id": "agentd.agent", "currentValue": "claude"}
    assert agent_of({"configOptions": [7, {"id": "model"}, chosen]}) == "claude"
    assert agent_of({"configOptions": None}) == agent_of({}) == ""
