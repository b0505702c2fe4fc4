# SPDX-License-Identifier: Apache-2.0

import argparse
import subprocess
import sys

import pytest

from agentd.ctl import options


def verbs(parser: argparse.ArgumentParser) -> set[str]:
    [action] = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return set(action.choices)


def test_every_verb_is_known_by_whoever_describes_it() -> None:
    assert verbs(options.parser()) == {verb for names in options.VERBS.values() for verb in names}
    for names in options.VERBS.values():
        for verb in names:
            assert verbs(options.parser(verb)) == set(names)


def test_where_a_verb_does_not_come_first_all_are_known() -> None:
    assert verbs(options.parser("--user")) == verbs(options.parser()) == verbs(options.parser("attahc"))
    assert options.parse(["-H", "attach", "list"]).host == "attach"


@pytest.mark.parametrize("line", ["--user list", "list --user"])
def test_which_manager_is_meant_may_be_said_before_the_verb_and_after_it(line: str) -> None:
    assert options.parse(line.split()).user


def test_the_command_line_of_an_editor_brings_nothing_slow() -> None:
    slow = "{'asyncio', 'msgspec', 'typing', 'dataclasses', 'pathlib', 'logging', 'rich'}"
    parse = "from agentd.ctl.options import parse; parse(['attach', 'box'])"
    script = f"import sys; {parse}; print({slow} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"


@pytest.mark.parametrize("line", [["list", "\x1b]0;x\x07"], ["\x9b2J"], ["top", "-d", "\x1b[2J\nx"]])
def test_a_line_that_is_wrong_is_not_obeyed_by_the_terminal(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options.parse(line)
    said = capsys.readouterr().err
    assert said.isascii() and said.replace("\n", "").isprintable() and r"\x" in said
