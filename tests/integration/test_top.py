# SPDX-License-Identifier: Apache-2.0
"""`agentctl top` with several containers at work, for people and for scripts.

Golden files are made from a real run, with AGENTD_GOLDEN=write; what changes from run to run is # there. The
picture in packaging/pictures is made by tests/picture.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agentd.ctl.top.dashboard import CONTAINERS, fitted, gap_of
from support.busy import Busy
from support.embedded import Embedded, Start, eventually
from support.screen import Screen

GOLDEN = Path(__file__).parents[1] / "golden"
ALTERNATE, NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"
SHOW_CURSOR = b"\x1b[?25h"
AGENTS = ("claude", "codex")
NUMBERS = ("frames_per_sec", "memory_bytes", "cpu_percent", "received_per_sec", "sent_per_sec")


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busy]:
    """Containers with more and less to do, and one with nothing."""
    there = {"web-shop": 2000, "data-pipeline": 1000, "docs": 500}
    with Busy(tmp_path_factory.mktemp("busy"), there, dict.fromkeys(AGENTS, "--count-sessions")) as busy:
        shop = busy.client("web-shop", "claude")
        shop.prompt(titled("Fix the flaky checkout test"), "tally a 0 1000000 10")
        shop.prompt("say this one waits")
        busy.client("web-shop", "claude").prompt(titled("Add pages to the list of orders"), "hold")
        busy.client("data-pipeline", "claude").prompt(titled("Why is the nightly job slow?"), "ask May I?")
        busy.client("docs", "codex").turn(titled("Write the release notes"))
        eventually(lambda: is_at_work(busy.agentd), "everybody does what he is to do")
        yield busy


def titled(title: str) -> str:
    return "update " + json.dumps({"sessionUpdate": "session_info_update", "title": title})


def is_at_work(agentd: Embedded) -> bool:
    """Whether all turns have begun, and ended, and are known of; and networks have been measured."""
    there = [agentd.container(name) for name in ("web-shop", "data-pipeline", "docs")]
    turns = [each["turns"] for each in there]
    asking = [session["permissions"] for session in there[1]["sessions"]]
    return (turns, asking) == ([2, 1, 0], [1]) and all(each["network"] for each in there)


def rounds(agentd: Embedded, *arguments: str) -> list[dict[str, Any]]:
    done = agentd.agentctl("top", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


# For scripts


def test_lines_of_json_say_what_goes_on(busy: Busy) -> None:
    first, *_, last = rounds(busy.agentd, "-n", "3")
    assert [each["name"] for each in last["containers"]] == ["web-shop", "data-pipeline", "docs", "scratch"]
    shop, pipeline, _, scratch = last["containers"]
    assert list(shop) == ["name", "state", "clients", "sessions", "turns", *NUMBERS]
    assert [shop[key] for key in ("state", "clients", "sessions", "turns")] == ["serving", 2, 2, 2]
    assert 5 < shop["frames_per_sec"] < 200  # one message each 10 ms, as fast as the machine is
    assert pipeline["frames_per_sec"] == 0
    assert 20 << 20 < shop["memory_bytes"] < 1 << 30
    assert 0 < shop["cpu_percent"] < 400
    assert shop["sent_per_sec"] > 5000 and shop["received_per_sec"] > 5000
    assert [scratch[key] for key in NUMBERS] == [0, None, None, None, None]
    assert first["totals"]["frames_per_sec"] is None
    assert list(last["totals"]) == ["containers", "clients", "sessions", "turns", *NUMBERS]
    assert (last["totals"]["containers"], last["totals"]["turns"]) == (4, 3)
    assert last["totals"]["sent_per_sec"] > shop["sent_per_sec"]


def test_time_goes_on_from_round_to_round(busy: Busy) -> None:
    times = [each["time"] for each in rounds(busy.agentd, "-n", "3", "--delay", "0.2")]
    assert all(0.2 <= later - sooner < 20 for sooner, later in pairwise(times))


def test_status_has_the_containers_own_addresses(busy: Busy) -> None:
    there = {name: busy.agentd.container(name) for name in ("docs", "scratch")}
    assert there["docs"]["addresses"] == ["10.88.0.1"]
    assert there["docs"]["network"]["sent"] > 0
    assert (there["scratch"]["addresses"], there["scratch"]["network"]) == ([], None)


def test_without_a_terminal_tables_follow_each_other(busy: Busy) -> None:
    done = busy.agentd.agentctl("top", "-n", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.count("NAME ") == done.stdout.count("CONTAINER ") == 2
    [first, second] = re.findall(r"^web-shop +serving +2 +2 +2 +(\S+)", done.stdout, re.MULTILINE)
    assert first == "-" and float(second) > 0
    assert re.search(r"^data-pipeline +0 +claude +prompting +0 +1 +Why is", done.stdout, re.MULTILINE)


def test_whoever_has_read_enough_ends_it(busy: Busy) -> None:
    command = busy.agentd.agentctl_command("top", "--json", "-d", "0.1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def test_a_manager_that_never_was_there_is_an_error(tmp_path: Path) -> None:
    nobody = Embedded(tmp_path, "")
    done = nobody.agentctl("top", "-n", "1")
    nobody.clean_up()
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("agentctl: no agentd answers")


def test_rich_is_loaded_for_people_only() -> None:
    program = "import sys, agentd.ctl.top; sys.exit(any(name.startswith('rich') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# On a terminal


@pytest.fixture
def screen(busy: Busy) -> Iterator[Screen]:
    environment = {**busy.agentd.environment, "TERM": "xterm"}
    with Screen(busy.agentd.agentctl_command("top", "-d", "0.2"), environment) as screen:
        screen.until(b"q quits")
        yield screen


def is_given_back(screen: Screen) -> bool:
    screen.until(NORMAL)
    return screen.is_as_it_was and SHOW_CURSOR in screen.shown


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x03"])
def test_a_screen_lives_until_a_key_ends_it_and_leaves_the_terminal_as_it_was(
    screen: Screen, key: bytes
) -> None:
    assert ALTERNATE in screen.shown
    assert not screen.is_as_it_was
    screen.type(b"x\x1b[A")
    screen.shown = b""
    screen.until(b"web-shop")  # goes on
    screen.type(key)
    assert screen.end() == 0
    assert is_given_back(screen)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was_too(screen: Screen, number: signal.Signals) -> None:
    screen.process.send_signal(number)
    assert screen.end() == 128 + number
    assert is_given_back(screen)


def test_a_screen_that_has_become_wider_is_drawn_anew(screen: Screen) -> None:
    assert b"SESSIONS TURNS" in screen.shown
    screen.resize(200, 10)
    screen.process.send_signal(signal.SIGWINCH)
    screen.until(b"SESSIONS  TURNS")


def test_the_shell_has_its_terminal_while_it_is_suspended(screen: Screen) -> None:
    screen.type(b"\x1a")
    screen.until(NORMAL)
    eventually(lambda: screen.is_as_it_was, "the settings are the shell's")
    eventually(lambda: state_of(screen.process.pid) == "T", "it is stopped")
    screen.shown = b""
    screen.process.send_signal(signal.SIGCONT)
    screen.until(ALTERNATE)
    screen.until(b"q quits")
    assert not screen.is_as_it_was
    screen.type(b"q")
    assert screen.end() == 0
    assert is_given_back(screen)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_manager_that_goes_away_and_comes_back(start: Start) -> None:
    agentd = start(bus="private")
    with Screen(
        agentd.agentctl_command("top", "-d", "0.2"), {**agentd.environment, "TERM": "xterm"}
    ) as screen:
        screen.until(b"here")
        assert agentd.stop() == 0
        screen.until(b"waiting for the manager")
        agentd.start()
        screen.shown = b""
        eventually(lambda: repainted(screen), "the screen says nothing of it any more")
        agentd.kill()
        screen.until(b"waiting for the manager")
        screen.type(b"q")
        assert screen.end() == 0
        assert is_given_back(screen)


def repainted(screen: Screen) -> bool:
    screen.shown = b""
    screen.until(b"q quits")
    return b"waiting" not in screen.shown


# As it looks


def shown(busy: Busy, columns: int) -> list[str]:
    """The last of three rounds on a terminal of that many columns."""
    script = f'stty cols {columns} rows 20; exec "$@"'
    command = ["sh", "-c", script, "sh", *busy.agentd.agentctl_command("top", "-n", "3")]
    environment = {**busy.agentd.environment, "TERM": "xterm-256color"}
    with Screen(command, environment) as screen:
        screen.until(NORMAL)
    frame = screen.shown.partition(NORMAL)[0].split(b"\x1b[H")[-1].decode()
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", frame).split("\r\n" if "\r" in frame else "\n")


def settled(lines: Sequence[str], columns: int) -> list[str]:
    """With # for what changes from run to run, and ~ for trends."""
    first = re.sub(r"^agentd \S+", "agentd #.#.#", lines[0].rstrip())
    first = re.sub(r" up .*", " up #", first).ljust(columns - 8) + "##:##:##"
    second = re.sub(r"\d[\d.,]* frames.*", "# …", lines[1])
    end = next(number for number, line in enumerate(lines) if number > 3 and not line.strip())
    rows = [_settled_row(line, columns) for line in lines[4:end]]
    return [line.rstrip() for line in (first, second, *lines[2:4], *rows, *lines[end:])]


def _settled_row(line: str, columns: int) -> str:
    cells, start = [], 0
    name, *others = CONTAINERS
    for column in fitted([name._replace(most=len("data-pipeline")), *others], columns):
        cell = line[start : start + column.width]
        start += column.width + gap_of(columns)
        if not column.header:
            cell = "~" * column.width
        elif column.header in CHANGES and cell.strip() != "-":
            cell = "#" * column.width
        cells.append(cell)
    return (" " * gap_of(columns)).join(cells)


CHANGES = ("FRAMES/S", "MEM", "CPU%", "NET↓", "NET↑")


@pytest.mark.parametrize("columns", [80, 200])
def test_a_screen_of_80_and_of_200_columns(busy: Busy, columns: int) -> None:
    lines = shown(busy, columns)
    assert max(map(len, lines)) <= columns
    file = GOLDEN / f"top-{columns}.txt"
    text = "\n".join(settled(lines, columns)) + "\n"
    if os.environ.get("AGENTD_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()
