# SPDX-License-Identifier: Apache-2.0
"""What people see: tables, states in colour, and the pager. Imported by verbs that show these: rich is slow.

What comes from others is made harmless in cells of `table`, in `plain`, and in the strings that `page` gets.
In a Text of a verb's own making it has to be made so there.
"""

import argparse
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from agentd.ctl.pager import Pager, is_coloured
from agentd.printable import LINES, printable

WIDE = 1 << 20
"""Columns of what is no terminal: nothing is as long."""
GAP = "  "
LABEL = 11
"""Columns of the labels of facts."""
WIDE_CELL, NARROW_CELL = 16, 8
"""How narrow columns become, where there is too little room, before others do."""
STYLES = {
    "green": ("running", "serving", "ready", "prompting", "active", "connected", "done", "ok"),
    "yellow": (
        "starting", "draining", "reloading", "stopping", "cancelling", "resuming", "needs-login", "timeout",
        "canceled", "warning",
    ),
    "bold red": ("failed", "failing", "missing", "error"),
    "dim": ("stopped", "drained", "kept", "exited", "unknown", "closed"),
}  # fmt: skip
STYLE_OF = {state: style for style, states in STYLES.items() for state in states}


def console(stderr: bool = False) -> Console:
    """Coloured on a terminal, unless NO_COLOR says otherwise; elsewhere so wide that nothing is cut."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        color_system="auto" if terminal and is_coloured(os.environ, stream) else None,
        width=None if terminal else WIDE,
        markup=False,
        emoji=False,
        highlight=False,
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, right: Collection[int] = ()) -> Table:
    """Columns as wide as their widest cell, two spaces apart, cut with … where the terminal is narrow.

    `right`: the columns, by number, that are aligned to the right. A cell that is no Text is made harmless.
    """
    columns = Columns(box=None)
    for number, name in enumerate(header):
        columns.add_column(Text(name, "bold"), justify="right" if number in right else "left")
    for row in rows:
        columns.add_row(*map(plain, row))
    return columns


def plain(value: object, style: str = "") -> Text:
    """A cell, or a line: other people's words, made harmless. A Text is taken as it is."""
    return value if isinstance(value, Text) else Text(printable(str(value)), style)


def word(state: str) -> Text:
    """A state, in the colour that systemctl would give it."""
    return plain(state, STYLE_OF.get(state, ""))


def dot(state: str) -> Text:
    """The sign that systemctl puts before a unit in such a state."""
    style = STYLE_OF.get(state, "")
    return Text({"bold red": "\N{MULTIPLICATION SIGN}", "dim": "○", "": "○"}.get(style, "●"), style)


class Columns(Table):
    """A table without lines: what its columns take is settled here, and nothing ends in blanks."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        cells = [list(map(plain, (column.header, *column.cells))) for column in self.columns]
        widths = fitting([max(cell.cell_len for cell in each) for each in cells], options.max_width)
        for row in zip(*cells, strict=True):
            yield self._line(row, widths)

    def _line(self, row: Sequence[Text], widths: Sequence[int]) -> Text:
        line = Text(no_wrap=True, overflow="ellipsis")
        for number, (column, cell, width) in enumerate(zip(self.columns, row, widths, strict=True)):
            shown = cell.copy()
            shown.truncate(width, overflow="ellipsis")
            shown.align("right" if column.justify == "right" else "left", width)
            line.append(GAP if number else "").append_text(shown)
        line.rstrip()
        return line


def fitting(widths: Sequence[int], room: int) -> list[int]:
    """How wide columns become where there is so much room for them and what is between them."""
    fit = list(widths)
    excess = sum(fit) + len(GAP) * (len(fit) - 1) - room
    for number, floor in _steps(len(fit)):
        cut = max(0, min(excess, fit[number] - floor))
        fit[number] -= cut
        excess -= cut
    return fit


def _steps(columns: int) -> Iterator[tuple[int, int]]:
    """Which column gives way, how far: the last, then the others from the right, the first in the end."""
    yield columns - 1, NARROW_CELL
    for floor in (WIDE_CELL, NARROW_CELL):
        yield from ((number, floor) for number in range(columns - 2, 0, -1))
    yield 0, NARROW_CELL
    yield from ((number, 1) for number in reversed(range(columns)))


class Facts:
    """What is known of one thing, as `systemctl status` has it: labels, and values one below the other.

    A value that is too long for the terminal goes on below itself. One that is "" is left out.
    """

    def __init__(self, facts: Iterable[tuple[str, str | Text]]) -> None:
        self._facts = [(label, plain(value)) for label, value in facts if value]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for label, value in self._facts:
            room = max(options.max_width - LABEL - len(GAP), LABEL)
            for number, line in enumerate(value.wrap(console, room, no_wrap=False, overflow="fold")):
                line.rstrip()
                yield Text(f"{label:>{LABEL}}: " if number == 0 else " " * (LABEL + 2)).append_text(line)


# Printing


def page(options: argparse.Namespace, *what: RenderableType) -> None:
    """Print it, through a pager where a person would not see it all. To be called outside of the loop."""
    shown = console()
    with shown.capture() as captured:
        for each in what:
            shown.print(printable(each, keep=LINES) if isinstance(each, str) else each, soft_wrap=True)
    text = captured.get()
    wanted = shown.is_terminal and not options.no_pager and not fits(text, shown.width, shown.height)
    with Pager(wanted=wanted) as pager:
        pager.put(text)


def fits(text: str, columns: int, rows: int) -> bool:
    """Whether a terminal of that size shows all of a text, and a prompt below."""
    lines = text.splitlines()
    if len(lines) >= rows:
        return False
    return sum(max(1, -(-cell_len(Text.from_ansi(line).plain) // columns)) for line in lines) < rows
