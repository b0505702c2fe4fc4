# SPDX-License-Identifier: Apache-2.0
"""What agentctl completes, before a manager that is played; with shells and a real one: test_completion."""

import argparse
import asyncio
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agentd.ctl import complete, options
from agentd.ctl.complete import COMPLETERS, Choices, Line, Look, Manager, harmless, install, plain

BOX, SHED = ("box", "podman", "serving", 1, 2, "/c/box"), ("box2", "", "stopped", 0, 0, "/c/box2")
SESSION = ("s1", "box", "claude", "prompting", "Mend the door", 0, "/s/1")
AGENT = {"name": "claude", "state": "ready"}
STATUS = {
    "containers": [
        {"name": "box", "state": "drained", "drained": ["box#s1"], "agents": [AGENT]},
        {"name": "box2", "state": "stopped", "drained": [], "agents": []},
    ]
}


class Played:
    """A manager with two containers, one session and one agent that runs."""

    def __init__(self, config_files: tuple[str, ...] = ()) -> None:
        self._config_files = config_files

    async def ask(self, member: str, signature: str = "", *args: Any) -> Any:
        answers: dict[str, Any] = {
            "ListContainers": [BOX, SHED],
            "ListSessions": [SESSION] if args in (("",), ("box",)) else [],
            "GetContainer": f"/c/{args[0] if args else ''}",
        }
        return answers[member]

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        return {"ConfigFiles": list(self._config_files), path: interface}

    async def status(self) -> dict[str, Any]:
        return STATUS


def look(what: Look, word: str = "", *, manager: Played | None = None, **said: Any) -> Choices:
    """What there is to choose from, where the words before have said that."""
    line = Line(word, argparse.Namespace(**said))
    return asyncio.run(complete_of(what, manager or Played(), line))


async def complete_of(what: Look, manager: Played, line: Line) -> Choices:
    return await what(cast(Manager, manager), line)


# What there is


def test_containers_come_with_their_state_and_not_twice() -> None:
    assert look(complete.containers) == {"box": "serving, podman", "box2": "stopped, no runtime"}
    assert list(look(complete.containers, containers=["box"])) == ["box2"]


def test_a_session_goes_by_its_id_where_the_container_is_named() -> None:
    assert look(complete.sessions) == {"box#s1": "claude, prompting: Mend the door"}
    assert list(look(complete.sessions, container="box")) == ["s1"]
    assert look(complete.session_ids, container="box2") == {}


def test_targets_are_containers_until_one_is_meant() -> None:
    assert list(look(complete.targets)) == ["box", "box2"]
    assert list(look(complete.targets, "box")) == ["box", "box2"]
    assert list(look(complete.targets, "box/")) == ["box", "box2", "box/claude", "box#s1"]
    assert list(look(complete.targets, "box#s")) == ["box", "box2", "box/claude", "box#s1"]
    assert list(look(complete.targets, "box2")) == ["box", "box2"]


def test_only_what_is_drained_can_be_undrained() -> None:
    assert look(complete.drained) == {"box#s1": "drained"}


def test_agents_are_those_that_run_and_those_that_are_configured(tmp_path: Path) -> None:
    file = tmp_path / "agentd.toml"
    file.write_text('[containers.box]\nagents = ["codex", "claude"]\n')
    manager = Played((str(file),))
    assert look(complete.agents, manager=manager, container="box") == {"codex": "", "claude": "ready"}
    assert "gemini" in look(complete.agents, manager=manager, container="box2")


def test_agents_that_run_are_known_without_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "agentd.toml"
    file.write_text("not TOML")
    assert look(complete.agents, manager=Played((str(file),)), container="box") == {"claude": "ready"}


@pytest.mark.parametrize(
    ("target", "path", "interface"),
    [("", "/org/agentd1", "Manager"), ("box", "/c/box", "Container"), ("box#s1", "/s/1", "Session")],
)
def test_properties_are_those_of_the_target(target: str, path: str, interface: str) -> None:
    assert look(complete.properties, target=target) == {"ConfigFiles": "", path: ""}


def test_prompts_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "agentd" / "prompts").mkdir(parents=True)
    (tmp_path / "agentd" / "prompts" / "review.toml").touch()
    user = argparse.Namespace(user=True)
    assert COMPLETERS["schedule"](prefix="", parsed_args=user) == {"review": ""}


def test_directories_are_those_below_what_is_typed(tmp_path: Path) -> None:
    for name in ("one", "two", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert list(complete.directories(f"{tmp_path}/")) == [f"{tmp_path}/one/", f"{tmp_path}/two/"]
    assert f"{tmp_path}/.hidden/" in complete.directories(f"{tmp_path}/.h")
    assert complete.directories(f"{tmp_path}/nowhere/") == {}


def test_directories_that_no_line_can_have_are_left_out(tmp_path: Path) -> None:
    for name in ("\x1b]0;x\x07", "a\nb", "\x9b2J", "bo\u202ex", "fine"):
        (tmp_path / name).mkdir()
    assert list(complete.directories(f"{tmp_path}/")) == [f"{tmp_path}/fine/"]


# What can go wrong


def test_words_of_others_are_made_harmless() -> None:
    assert harmless({"a\nb": "", "-rf": "", "ok": "\x1b[2Jtitle" + "!" * 99}) == {
        "ok": r"\x1b[2Jtitle" + "!" * 48
    }


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[argparse.Namespace]:
    """The options that mean a manager whose bus never says a word."""
    monkeypatch.setattr(complete, "DEADLINE", 0.05)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "bus"))
        sock.listen()
        yield argparse.Namespace(runtime_dir=str(tmp_path))


ASKING = [name for name, each in COMPLETERS.items() if each.__name__ == "complete"]


@pytest.mark.parametrize("name", ASKING)
def test_nobody_waits_for_a_manager_that_hangs(name: str, silent: argparse.Namespace) -> None:
    assert COMPLETERS[name](prefix="", parsed_args=silent) == {}


@pytest.mark.parametrize("name", ASKING)
def test_errors_are_not_told(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = argparse.Namespace(runtime_dir=str(tmp_path))
    assert COMPLETERS[name](prefix="", parsed_args=nobody) == {}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", [*ASKING, "schedule"])
def test_this_host_knows_nothing_of_another_one(name: str) -> None:
    assert COMPLETERS[name](prefix="", parsed_args=argparse.Namespace(host="far", user=True)) == {}


def test_without_argcomplete_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    with pytest.raises(SystemExit, match="1"):
        complete.answer(options.parser())


# The line


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("agentctl drain box#s1", r"agentctl drain box\#s1"),
        (r"agentctl drain box\#s1", r"agentctl drain box\#s1"),
        ("agentctl drain 'box#s1", "agentctl drain 'box#s1"),
        ('agentctl drain "box#s1" x#', r'agentctl drain "box#s1" x\#'),
        (r'agentctl "a\"#" b#', r'agentctl "a\"#" b\#'),
    ],
)
def test_a_hash_begins_no_comment(line: str, wanted: str) -> None:
    assert plain(line, len(line)) == wanted


def test_what_comes_after_the_cursor_does_not_count() -> None:
    assert plain("agentctl drain box#s1 --wait", 18) == "agentctl drain box"


def arguments(parser: argparse.ArgumentParser, verb: str = "") -> Iterator[tuple[str, argparse.Action]]:
    """Every argument, with its verb."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                yield from arguments(each, name)
        else:
            yield verb, action


def test_every_completer_is_that_of_an_argument() -> None:
    there = {
        name
        for verb, action in arguments(options.parser())
        for name in (action.dest, f"{verb} {action.dest}")
    }
    assert set(COMPLETERS) <= there


def test_whatever_names_something_that_there_is_is_completed() -> None:
    parser = options.parser()
    install(parser)
    without = {
        action.dest for _, action in arguments(parser)
        if action.nargs != 0 and not action.choices and not hasattr(action, "completer")
    }  # fmt: skip
    assert without == {
        "host", "text", "login", "method", "lines", "since", "until", "delay", "iterations", "timeout",
    }  # fmt: skip
