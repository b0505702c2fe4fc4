# SPDX-License-Identifier: Apache-2.0
"""What people see on a terminal of 80 and of 200 columns, compared with the screens kept in tests/golden.

AGENTD_GOLDEN=write writes them anew, to be looked at by eye before they are kept.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.embedded import Embedded, Start, eventually
from support.screen import Screen

GOLDEN = Path(__file__).parents[1] / "golden"
ROWS, END = 60, b"THE END\r\n"
CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")
MORE = """
[containers.quiet]
runtime = "host"
directory = "{folder}"
[containers.drained]
runtime = "host"
directory = "{folder}"
[containers.lost]
runtime = "host"
directory = "{folder}/lost"
"""
VARIES = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "01234567-89ab-cdef-0123-456789abcdef"),
    (r"[A-Z][a-z]{2} \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z0-9+-]+", "Tue 2025-06-03 14:02:11 UTC"),
    (r"\bagentd \d+[.0-9a-z]+", "agentd 0.1.0"),
    (r"\bcut off in (\d+s|1min( \d+s)?)", "cut off in 59s"),
    (r"(PID:?) \d+", r"\1 12345"),
    (r"(Leader|Network): .*", r"\1: it has"),
)
"""What no two runs have in common, and what stands for it."""
AGO = re.compile(r"\b(\d+min )?\d+(s|min) ago *")


class Glass:
    """What a terminal shows in the end: text, and the few orders that bars give."""

    def __init__(self) -> None:
        self._lines = [""]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        for order in CONTROL.finditer(text):
            number, letter, start, down, shown = order.groups()
            if shown:
                self._put(shown)
            elif start:
                self._column = 0
            elif down or letter == "A":
                self._move(1 if down else -int(number or 1))
            elif letter == "K":
                self._lines[self._row] = "" if number == "2" else self._lines[self._row][: self._column]

    def _put(self, text: str) -> None:
        line = self._lines[self._row].ljust(self._column)
        self._lines[self._row] = line[: self._column] + text + line[self._column + len(text) :]
        self._column += len(text)

    def _move(self, rows: int) -> None:
        self._row = max(0, self._row + rows)
        self._lines += [""] * (self._row + 1 - len(self._lines))

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._lines]


class Terminal:
    """agentctl, on a terminal of that many columns."""

    def __init__(self, agentd: Embedded, columns: int) -> None:
        self._agentd = agentd
        self._columns = columns

    def start(self, *arguments: str) -> Screen:
        script = f'stty cols {self._columns} rows {ROWS}; "$@"; echo THE END'
        environment = {**self._agentd.environment, "TERM": "xterm-256color", "PAGER": "cat", "TZ": "UTC"}
        for name in ("COLUMNS", "NO_COLOR", "SYSTEMD_PAGER", "FORCE_COLOR"):
            environment.pop(name, None)
        return Screen(["sh", "-c", script, "sh", *self._agentd.agentctl_command(*arguments)], environment)

    def shown(self, screen: Screen) -> list[str]:
        """What it shows now, with what varies replaced."""
        glass = Glass()
        glass.feed(screen.shown.decode())
        return [self._settled(line) for line in glass.lines() if line != "THE END"]

    def run(self, *arguments: str) -> list[str]:
        with self.start(*arguments) as screen:
            screen.until(END)
            return self.shown(screen)

    def _settled(self, line: str) -> str:
        line = line.replace(str(self._agentd.folder), "/tmp/agentd")
        for pattern, instead in VARIES:
            line = re.sub(pattern, instead, line)
        return AGO.sub(lambda found: "3s ago".ljust(len(found[0])), line).rstrip()


def compare(name: str, columns: int, shown: list[str]) -> None:
    """Fails where a line is too long, or is not as it was."""
    assert max(map(len, shown)) <= columns, "it does not fit"
    file = GOLDEN / f"{name}-{columns}.txt"
    text = "\n".join(shown).rstrip() + "\n"
    if os.environ.get("AGENTD_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()


class Busy:
    """An agentd with sessions that work, rest and ask, and containers that rest, or are in trouble."""

    def __init__(self, agentd: Embedded, stack: ExitStack) -> None:
        self.agentd = agentd
        done, self.asking, self.working, lost = (stack.enter_context(agentd.client()) for _ in range(4))
        done.open(agent="codex").turn("say What does the login page do when the password is wrong?")
        self.asking.open(agent="claude").prompt("ask May I edit main.py?")
        self.question = self.asking.until("session/request_permission")["id"]
        self.working.open(agent="claude").prompt("say on it", "cancelled")
        self.working.until_text("on it")
        lost.attach("lost")
        agentd.agentctl("drain", "drained", "--wait")
        eventually(self._is_known, "the manager has been told of all")

    def _is_known(self) -> bool:
        found = {each["name"]: each for each in self.agentd.status()["containers"]}
        seen = [each["permissions"] for each in found["here"]["sessions"]]
        return found["here"]["turns"] == 2 and 1 in seen and bool(found["quiet"]["runtime"])

    def answer(self) -> None:
        outcome = {"outcome": "selected", "optionId": "yes"}
        self.asking.send({"id": self.question, "result": {"outcome": outcome}})

    def rest(self) -> None:
        """End all turns, or its end would wait for them."""
        self.asking.cancel()
        self.working.cancel()


@pytest.fixture
def busy(several: Start, tmp_path: Path) -> Iterator[Busy]:
    here = "[containers.here.budget]\nturns_per_minute = 50\nturns_per_day = 1000"
    agents = {"claude": "--count-sessions", "codex": "--count-sessions"}
    agentd = several(agents, bus="private", here=here + MORE.format(folder=tmp_path))
    with ExitStack() as stack:
        busy = Busy(agentd, stack)
        yield busy
        busy.rest()


def test_screens(busy: Busy) -> None:
    screens = {
        "status": ("status",),
        "status-here": ("status", "here"),
        "list": ("list",),
        "sessions": ("sessions",),
    }
    for columns in (80, 200):
        for name, arguments in screens.items():
            compare(name, columns, Terminal(busy.agentd, columns).run(*arguments))


@pytest.mark.parametrize("columns", [80, 200])
def test_a_drain_as_it_goes_on_and_when_it_has_ended(busy: Busy, columns: int) -> None:
    terminal = Terminal(busy.agentd, columns)
    with terminal.start("drain", "here", "--wait", "--timeout", "60") as screen:
        screen.until(b"2 turns left")
        busy.answer()
        screen.until(b"1 turn left \x1b[2mcut off in 5")
        compare("drain", columns, terminal.shown(screen))
        busy.rest()
        screen.until(END)
        compare("drained", columns, terminal.shown(screen))
