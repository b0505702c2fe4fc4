# SPDX-License-Identifier: Apache-2.0
"""A round of `agentctl top` as a screen of any size, or as plain tables. Imported late: rich is slow."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from agentd.ctl import screen
from agentd.ctl.screen import plain, word
from agentd.ctl.text import size, span
from agentd.ctl.top.activity import Round, Row, SessionRow, Status, Totals
from agentd.ctl.top.sparkline import SPAN_SEC, ZERO, Trend, sparkline

UNKNOWN = "-"
ROOMY = 110
"""From so many characters a line on, columns are two apart."""
FRAMES_FULL, CPU_FULL = 10.0, 25.0
"""Frames a second, and percents, at the top of a sparkline where nothing is higher."""
BAR, DIM, LIVELY, ALARM = "bold reverse", "dim", "bold green", "bold yellow"
BETWEEN = " · "
NO_CONTAINERS = "no container has opted in"


class Trends(NamedTuple):
    """Of a container."""

    frames: Trend
    cpu: Trend


@dataclass(frozen=True)
class View:
    """All there is to show. `problem`: why there is nothing newer, "" where there is."""

    status: Status
    round: Round
    sessions: Sequence[SessionRow]
    trends: Mapping[str, Trends]
    every: float
    problem: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """As a screen: as many lines as the terminal has, and none is longer than it is wide."""
        for line in drawn(self, options.max_width, options.height or console.height):
            line.truncate(options.max_width, overflow="ellipsis")
            yield line


# Words and numbers


def short(count: float | None) -> str:
    """Bytes, in five characters."""
    if count is None:
        return UNKNOWN
    text = size(count)
    return text if len(text) <= 5 else f"{float(text[:-1]):.0f}{text[-1]}"


def number(value: float | None) -> str:
    """With a decimal where there are few digits."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 99.95 or value == int(value) else f"{value:.1f}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _dim_zero(text: str, style: str = "") -> Text:
    return Text(text, DIM if text in ("0", "0B", UNKNOWN) else style)


# Columns


class Column(NamedTuple):
    """`draw` makes a cell of an item, in so many characters. `rank`: the highest is left out first.

    `most`: how wide it becomes where there is room, 0 for not wider than `width`.
    """

    header: str
    width: int
    rank: int
    draw: Callable[[Any, int], Text]
    left: bool = False
    most: int = 0


class Cells(NamedTuple):
    """What the columns of a container are drawn from."""

    row: Row
    trends: Trends | None


def _frames_trend(of: Cells, width: int) -> Text:
    return _trend(of.trends.frames, width, FRAMES_FULL, "cyan") if of.trends else Text()


def _cpu_trend(of: Cells, width: int) -> Text:
    return _trend(of.trends.cpu, width, CPU_FULL, "magenta") if of.trends else Text()


def _trend(trend: Trend, width: int, full: float, style: str) -> Text:
    line = Text(sparkline(trend.cells(width), full=full), style)
    line.highlight_regex(f"{ZERO}+", DIM)
    return line


CONTAINERS = (
    Column("NAME", 12, 0, lambda of, _: plain(of.row.name, "bold"), left=True, most=32),
    Column("STATE", 8, 1, lambda of, _: word(of.row.state), left=True),
    Column("CLIENTS", 7, 10, lambda of, _: _dim_zero(f"{of.row.clients:,}")),
    Column("SESSIONS", 8, 6, lambda of, _: _dim_zero(f"{of.row.sessions:,}")),
    Column("TURNS", 5, 2, lambda of, _: _dim_zero(f"{of.row.turns:,}", LIVELY)),
    Column("FRAMES/S", 8, 3, lambda of, _: _dim_zero(number(of.row.frames_per_sec))),
    Column("", 8, 7, _frames_trend, left=True, most=48),
    Column("MEM", 5, 5, lambda of, _: _dim_zero(short(of.row.memory_bytes))),
    Column("CPU%", 5, 4, lambda of, _: _dim_zero(number(of.row.cpu_percent))),
    Column("", 8, 11, _cpu_trend, left=True, most=48),
    Column("NET↓", 5, 8, lambda of, _: _dim_zero(short(of.row.received_per_sec))),
    Column("NET↑", 5, 9, lambda of, _: _dim_zero(short(of.row.sent_per_sec))),
)
SESSIONS = (
    Column("CONTAINER", 12, 0, lambda of, _: plain(of.container), left=True, most=32),
    Column("SESSION", 12, 2, lambda of, _: plain(of.session.id, "bold"), left=True, most=36),
    Column("AGENT", 8, 3, lambda of, _: plain(of.session.agent), left=True, most=12),
    Column("STATE", 10, 1, lambda of, _: word(of.session.state), left=True),
    Column("QUEUED", 6, 4, lambda of, _: _dim_zero(f"{of.session.queued:,}", ALARM)),
    Column("ASKING", 6, 5, lambda of, _: _dim_zero(f"{of.session.permissions:,}", ALARM)),
    Column("TITLE", 10, 6, lambda of, _: plain(of.session.title), left=True, most=120),
)


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """Those that a line has room for, as wide as they are in it; the most important one is always there."""
    gap = gap_of(width)
    room, kept = width + gap, set[int]()
    for each in sorted(columns, key=lambda each: each.rank):
        if kept and each.width + gap > room:
            break
        room -= each.width + gap
        kept.add(each.rank)
    return _grown([each for each in columns if each.rank in kept], room)


def _grown(columns: Sequence[Column], room: int) -> list[Column]:
    """Give the room that is left to those that take it, in even shares."""
    takers = sum(each.most > each.width for each in columns)
    found = []
    for each in columns:
        more = 0
        if each.most > each.width:
            more = max(0, min(each.most - each.width, room // takers))
            room, takers = room - more, takers - 1
        found.append(each._replace(width=each.width + more))
    return found


def gap_of(width: int) -> int:
    """How far columns are apart in a line of that width."""
    return 2 if width >= ROOMY else 1


def sized(columns: Sequence[Column], items: Sequence[Any]) -> list[Column]:
    """None becomes wider than the longest text that it has."""
    return [_sized(each, items) if each.header and each.most else each for each in columns]


def _sized(column: Column, items: Sequence[Any]) -> Column:
    longest = max((column.draw(each, column.most).cell_len for each in items), default=0)
    return column._replace(most=min(column.most, longest))


# Tables


def table(columns: Sequence[Column], items: Sequence[Any], width: int, lines: int) -> Iterator[Text]:
    """A header, and the items in so many lines; where they do not fit, the last one counts the others."""
    shown, space = fitted(sized(columns, items), width), " " * gap_of(width)
    yield Text(space.join(map(_header, shown)).ljust(width), BAR)
    fit = len(items) if len(items) <= lines else max(0, lines - 1)
    for item in items[:fit]:
        yield Text(space).join([_cell(each, item) for each in shown])
    if fit < len(items):
        yield Text(f"… and {len(items) - fit:,} more", DIM)


def _header(column: Column) -> str:
    return column.header.ljust(column.width) if column.left else column.header.rjust(column.width)


def _cell(column: Column, item: Any) -> Text:
    cell = column.draw(item, column.width)
    cell.truncate(column.width, overflow="ellipsis")
    cell.align("left" if column.left else "right", column.width)
    return cell


# The screen


def drawn(view: View, width: int, height: int) -> list[Text]:
    """The lines of a screen, from top to bottom: exactly so many."""
    head = [_who(view, width), _sums(view.round.totals, width), plain(view.problem, "bold red")]
    foot = Text(f"q quits · every {view.every:g} s · trends over {span(SPAN_SEC)}", DIM)
    rows, sessions = shares(len(view.round.containers), len(view.sessions), height - len(head) - 1)
    lines = [*head, *_containers(view, width, rows)]
    if sessions:
        lines += [Text(), *table(SESSIONS, view.sessions, width, sessions)]
    lines += [Text()] * (height - 1 - len(lines))
    return [*lines[: height - 1], foot]


def _containers(view: View, width: int, rows: int) -> Iterator[Text]:
    items = [Cells(each, view.trends.get(each.name)) for each in view.round.containers]
    yield from table(CONTAINERS, items, width, rows)
    if not items:
        yield Text(NO_CONTAINERS, DIM)


def shares(containers: int, sessions: int, height: int) -> tuple[int, int]:
    """How many lines of so many containers get, and sessions, besides their headers.

    Each gets what it needs where the other does not need it, else half; few lines are for containers alone.
    """
    room = height - 1
    if not sessions or room - 2 < 4:
        return max(0, room), 0
    room -= 2
    rows = min(max(1, containers), room - min(sessions, room // 2))
    return rows, min(sessions, room - rows)


def _who(view: View, width: int) -> Text:
    """The manager, and at the other end of the line the time."""
    up = span(view.round.time - view.status.started_usec / 1e6)
    line = Text.assemble(
        (f"agentd {view.status.version}", "bold"), "  ", word(view.status.state), f"  up {up}"
    )
    clock = time.strftime("%H:%M:%S", time.localtime(view.round.time))
    line.append("  " + clock.rjust(width - line.cell_len - 2), DIM)
    return line


def _sums(totals: Totals, width: int) -> Text:
    """As much of it as is known, and fits into the line."""
    parts = [
        _counted(totals.containers, "container"),
        _counted(totals.clients, "client"),
        _counted(totals.sessions, "session"),
        _counted(totals.turns, "turn"),
    ]
    cpu = totals.cpu_percent
    parts += [
        each
        for each, known in (
            (f"{number(totals.frames_per_sec)} frames/s", totals.frames_per_sec),
            (f"{cpu or 0:.0f}% CPU", cpu),
            (short(totals.memory_bytes), totals.memory_bytes),
            (f"↓ {short(totals.received_per_sec)}/s", totals.received_per_sec),
            (f"↑ {short(totals.sent_per_sec)}/s", totals.sent_per_sec),
        )
        if known is not None
    ]
    while len(parts) > 1 and len(BETWEEN.join(parts)) > width:
        parts.pop()
    return Text(BETWEEN.join(parts))


# Plain tables


def pages(view: View) -> Iterator[RenderableType]:
    """The same for what is no screen: nothing is cut off, and what came before stays."""
    yield _who(view, 0)
    yield _sums(view.round.totals, screen.WIDE)
    yield Text()
    columns = [each for each in CONTAINERS if each.header]
    yield _whole(columns, [Cells(each, None) for each in view.round.containers])
    if view.sessions:
        yield Text()
        yield _whole(SESSIONS, view.sessions)
    yield Text()


def _whole(columns: Sequence[Column], items: Sequence[Any]) -> RenderableType:
    right = [number for number, each in enumerate(columns) if not each.left]
    rows = [[each.draw(item, each.width) for each in columns] for item in items]
    return screen.table([each.header for each in columns], rows, right=right)
