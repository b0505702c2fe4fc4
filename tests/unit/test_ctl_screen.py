# SPDX-License-Identifier: Apache-2.0

import argparse
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from agentd.ctl import screen
from agentd.ctl.screen import Facts, dot, fits, fitting, page, table, word

OPTIONS = argparse.Namespace(no_pager=False)


def shown(what: RenderableType, width: int = 1000) -> list[str]:
    """The lines on a terminal without colours, of that width."""
    output = io.StringIO()
    Console(file=output, width=width, markup=False, highlight=False).print(what, soft_wrap=True)
    return output.getvalue().splitlines()


def test_columns_are_as_wide_as_their_widest_cell_and_end_without_blanks() -> None:
    rows = [("a", 7, "x"), ("bbbbbb", 1000, "")]
    assert shown(table(("NAME", "N", "REST"), rows, right=(1,))) == [
        "NAME       N  REST",
        "a          7  x",
        "bbbbbb  1000",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert shown(table(("A", "B"), [])) == ["A  B"]


def test_cells_are_made_harmless_and_markup_means_nothing() -> None:
    assert shown(table(("A",), [("\x1b[31mred\nx",), ("[bold]x[/]",), (":smile:",)])) == [
        "A", r"\x1b[31mred\nx", "[bold]x[/]", ":smile:",
    ]  # fmt: skip


def test_wide_characters_take_two_columns() -> None:
    assert shown(table(("A", "B"), [("漢字", "x"), ("abcd", "y")])) == ["A     B", "漢字  x", "abcd  y"]
    assert shown(table(("A",), [("漢" * 10,)]), width=10)[1] == "漢漢漢漢 …"


@pytest.mark.parametrize(
    ("room", "fit"),
    [
        (200, [36, 30, 9, 50]),
        (120, [36, 30, 9, 39]),
        (80, [36, 21, 9, 8]),
        (60, [30, 8, 8, 8]),
        (39, [9, 8, 8, 8]),
        (10, [1, 1, 1, 1]),
    ],
)
def test_the_last_column_gives_way_first_and_the_first_one_last(room: int, fit: list[int]) -> None:
    assert fitting([36, 30, 9, 50], room) == fit


def test_what_does_not_fit_is_cut() -> None:
    lines = shown(table(("NAME", "TITLE"), [("box", "long " * 20)]), width=30)
    assert lines == ["NAME  TITLE", "box   long long long long lon…"]


def test_a_text_keeps_its_style() -> None:
    assert word("failed").style == "bold red" and word("serving").style == "green"
    assert word("odd\x1b").plain == r"odd\x1b"
    states = ("serving", "starting", "idle", "failed")
    assert [str(dot(state)) for state in states] == [*"●●○", "\N{MULTIPLICATION SIGN}"]


def test_facts_go_on_below_themselves() -> None:
    facts = Facts([("State", word("serving")), ("Unit", ""), ("Error", "one two three")])
    assert shown(facts, width=24) == ["      State: serving", "      Error: one two", "             three"]


# Printing


def test_what_is_no_terminal_is_never_cut(capfd: pytest.CaptureFixture[str]) -> None:
    page(OPTIONS, "x" * 5000, table(("A",), [("y" * 5000,)]), Text("\N{BLACK CIRCLE}", "red"))
    assert capfd.readouterr().out.splitlines() == ["x" * 5000, "A", "y" * 5000, "●"]


def test_a_string_is_made_harmless(capfd: pytest.CaptureFixture[str]) -> None:
    page(OPTIONS, "[red]\x1b[31m :smile:\nx")
    assert capfd.readouterr().out == "[red]\\x1b[31m :smile:\nx\n"


@pytest.mark.parametrize(
    ("text", "is_shown"), [("a\nb\n", True), ("a\nb\nc\n", False), ("x" * 20, True), ("x" * 21, False)]
)
def test_a_prompt_is_to_fit_below(text: str, is_shown: bool) -> None:
    assert fits(text, columns=10, rows=3) is is_shown


@pytest.mark.parametrize(("no_pager", "paged"), [(False, "yes"), (True, "no")])
def test_what_does_not_fit_goes_through_the_pager(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_pager: bool, paged: str
) -> None:
    """`is_screen` and the console's idea of a terminal stand in for one."""
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\nwc -l > {tmp_path}/seen\n")
    pager.chmod(0o755)
    (tmp_path / "seen").write_text("no")
    monkeypatch.setenv("PAGER", str(pager))
    monkeypatch.delenv("SYSTEMD_PAGER", raising=False)
    monkeypatch.setattr("agentd.ctl.pager.is_screen", lambda environ, stream=None: True)
    monkeypatch.setattr(screen, "console", lambda: Console(force_terminal=True, width=80, height=25))
    page(argparse.Namespace(no_pager=no_pager), "line\n" * 100)
    seen = (tmp_path / "seen").read_text().strip()
    assert ("no" if seen == "no" else "yes") == paged


@pytest.mark.parametrize(
    "verb", ["attach", "remote", "drain", "start", "reload", "cancel", "list", "agents"]
)
def test_rich_is_not_loaded_before_something_is_shown(verb: str) -> None:
    script = f"import sys, agentd.ctl.{verb}; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
