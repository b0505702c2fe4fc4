# SPDX-License-Identifier: Apache-2.0

import os
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from agentd.ctl import pager as module
from agentd.ctl.pager import LESS, Pager, commands, is_coloured
from unit.loop import run


@pytest.mark.parametrize(
    ("environ", "first"),
    [
        ({}, list(LESS)),
        ({"PAGER": "more -s"}, ["more", "-s"]),
        ({"PAGER": "more", "SYSTEMD_PAGER": "most 'a b'"}, ["most", "a b"]),
        ({"PAGER": "'more"}, list(LESS)),
    ],
)
def test_the_environment_names_the_pager(environ: Mapping[str, str], first: list[str]) -> None:
    assert commands(environ)[0] == first
    assert commands(environ)[-1] == list(LESS)


@pytest.mark.parametrize("environ", [{"PAGER": ""}, {"PAGER": "cat"}, {"PAGER": "x", "SYSTEMD_PAGER": ""}])
def test_the_environment_can_want_none(environ: Mapping[str, str]) -> None:
    assert commands(environ) == []


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_screen", lambda environ: True)


def paged(pager: str, *texts: str) -> None:
    """Write these texts to that pager, and wait for its end."""
    with Pager(wanted=True, environ={"PAGER": pager}) as output:
        for text in texts:
            run(output.write(text))


def script(code: str, *arguments: object) -> str:
    return shlex.join([sys.executable, "-c", code, *map(str, arguments)])


COPIES = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"


@pytest.mark.usefixtures("at_a_terminal")
def test_the_pager_has_read_everything_when_it_is_left(tmp_path: Path) -> None:
    paged(script(COPIES, tmp_path / "read"), "one\n", "zwölf\n")
    assert (tmp_path / "read").read_text() == "one\nzwölf\n"


@pytest.mark.usefixtures("at_a_terminal")
def test_without_a_word_there_is_no_pager(tmp_path: Path) -> None:
    paged(script(COPIES, tmp_path / "read"), "")
    assert not (tmp_path / "read").exists()


@pytest.mark.usefixtures("at_a_terminal")
def test_who_quits_the_pager_has_seen_enough() -> None:
    with Pager(wanted=True, environ={"PAGER": "true"}) as output:
        for _ in range(1000):
            run(output.write("x" * 10_000))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("at_a_terminal")
def test_a_pager_that_is_not_there_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LESS", shlex.split(script(COPIES, tmp_path / "read")))
    paged("/nowhere/pager", "one\n")
    assert (tmp_path / "read").read_text() == "one\n"


@pytest.mark.usefixtures("at_a_terminal")
def test_without_any_pager_there_is_stdout(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LESS", ("/nowhere/less",))
    paged("/nowhere/pager", "one\n")
    assert capfd.readouterr().out == "one\n"


@pytest.mark.usefixtures("at_a_terminal")
def test_ctrl_c_is_for_the_pager(tmp_path: Path) -> None:
    with Pager(wanted=True, environ={"PAGER": script(COPIES, tmp_path / "read")}) as output:
        run(output.write("one\n"))
        os.kill(os.getpid(), signal.SIGINT)
        run(output.write("two\n"))
    assert (tmp_path / "read").read_text() == "one\ntwo\n"


@pytest.mark.usefixtures("at_a_terminal")
def test_an_error_is_told_after_the_pager() -> None:
    with pytest.raises(LookupError), Pager(wanted=True, environ={"PAGER": script("")}) as output:
        run(output.write("one\n"))
        raise LookupError


def test_a_file_gets_no_pager_and_no_colour(capfd: pytest.CaptureFixture[str]) -> None:
    with Pager(wanted=True, environ={"PAGER": "false"}) as output:
        run(output.write("one\n"))
    assert capfd.readouterr().out == "one\n"
    assert not is_coloured({"TERM": "xterm"})


def test_colours_are_for_terminals_that_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert is_coloured({"TERM": "xterm"})
    assert not is_coloured({"TERM": "dumb"}) and not is_coloured({})
    assert not is_coloured({"TERM": "xterm", "NO_COLOR": "1"})
