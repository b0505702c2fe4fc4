# SPDX-License-Identifier: Apache-2.0
"""What `agentctl top` makes of what it sees, and how that is drawn. tests/integration has the real one."""

import asyncio
import io
import json
from argparse import Namespace
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from rich.console import Console

from agentd.bus import DISCONNECTED, NO_REPLY
from agentd.ctl import top
from agentd.ctl.top.activity import (
    Container,
    Network,
    Row,
    Sample,
    Session,
    Status,
    busiest,
    compared,
    rate,
    subject,
)
from agentd.ctl.top.dashboard import CONTAINERS, SESSIONS, View, fitted, gap_of, number, pages, shares, short
from agentd.ctl.top.gauges import Subject, Usage
from agentd.ctl.top.live import Memory
from agentd.ctl.top.sparkline import SPAN_SEC, Trend, sparkline
from agentd.errors import AccessDenied, AgentdError, ManagerUnreachable, ShuttingDown
from agentd.interface import BusError
from unit.loop import run, skip

BOX = Container(name="box", state="serving", worker_pid=10, leader=20, frames=100, network=Network(1000, 50))


def sample(at: float, *containers: Container, **usage: Usage) -> Sample:
    status = Status(version="1.0", state="running", started_usec=0, containers=list(containers))
    return Sample(at, 1e9 + at, status, usage)


def changed(container: Container, **facts: object) -> Container:
    return msgspec.structs.replace(container, **facts)


def row(before: Sample | None, now: Sample) -> Row:
    [row] = compared(before, now).containers
    return row


# Rates


def test_counters_become_rates_over_the_time_that_has_really_passed() -> None:
    now = changed(BOX, frames=150, network=Network(6000, 100))
    before = sample(5.0, BOX, box=Usage(1.0, 10))
    seen = row(before, sample(7.5, now, box=Usage(2.0, 30)))
    assert (seen.frames_per_sec, seen.received_per_sec, seen.sent_per_sec) == (20.0, 2000.0, 20.0)
    assert (seen.cpu_percent, seen.memory_bytes) == (40.0, 30)


def test_the_first_round_knows_no_rates() -> None:
    seen = row(None, sample(1.0, changed(BOX, clients=1, sessions_open=2, turns=3), box=Usage(1.0, 10)))
    assert (seen.name, seen.state, seen.clients, seen.sessions, seen.turns) == ("box", "serving", 1, 2, 3)
    assert seen.memory_bytes == 10
    assert {seen.frames_per_sec, seen.cpu_percent, seen.received_per_sec, seen.sent_per_sec} == {None}


@pytest.mark.parametrize(
    ("before", "now", "seconds", "expected"),
    [(1, 3, 2.0, 1.0), (3, 1, 2.0, 0.0), (None, 1, 2.0, None), (1, None, 2.0, None), (1, 3, 0.0, None)],
)
def test_a_counter_that_has_gone_back_makes_no_negative_rate(
    before: float | None, now: float | None, seconds: float, expected: float | None
) -> None:
    assert rate(before, now, seconds) == expected


@pytest.mark.parametrize("anew", [{"worker_pid": 11}, {"leader": 21}])
def test_who_was_replaced_has_no_rate_made_of_two_pasts(anew: dict[str, int]) -> None:
    before = sample(1.0, BOX, box=Usage(1.0, 10))
    seen = row(before, sample(2.0, changed(BOX, frames=10_000, **anew), box=Usage(1000.0, 10)))
    assert (seen.frames_per_sec, seen.cpu_percent) == (None, None)


def test_a_new_worker_does_not_make_the_network_unknown_but_a_new_container_does() -> None:
    before = sample(1.0, BOX)
    now = changed(BOX, network=Network(2000, 50))
    assert row(before, sample(2.0, changed(now, worker_pid=11))).received_per_sec == 1000.0
    assert row(before, sample(2.0, changed(now, leader=21))).received_per_sec is None
    assert row(before, sample(2.0, changed(now, network=None))).received_per_sec is None


def test_totals_are_sums_of_what_is_known() -> None:
    there = [changed(BOX, clients=1, sessions_open=2, turns=3), changed(BOX, name="b", clients=4)]
    before = sample(1.0, BOX, box=Usage(1.0, 10))
    totals = compared(before, sample(2.0, *there, box=Usage(1.5, 10), b=Usage(5.0, 7))).totals
    assert (totals.containers, totals.clients, totals.sessions, totals.turns) == (2, 5, 2, 3)
    assert (totals.memory_bytes, totals.cpu_percent, totals.frames_per_sec) == (17, 50.0, 0.0)
    assert compared(None, sample(1.0)).totals.memory_bytes is None


def test_who_does_most_comes_first() -> None:
    there = [
        Container(name="b"),
        Container(name="a"),
        Container(name="visited", clients=1),
        Container(name="turning", turns=1),
        changed(BOX, frames=200),
    ]
    seen = compared(sample(1.0, BOX), sample(2.0, *there)).containers
    assert [each.name for each in seen] == ["turning", "box", "visited", "a", "b"]


def test_sessions_that_wait_for_somebody_come_first_then_those_that_work() -> None:
    sessions = [
        Session(id="old", state="idle", updated_usec=1),
        Session(id="new", state="idle", updated_usec=2),
        Session(id="busy", state="prompting"),
        Session(id="asking", state="prompting", permissions=1),
        Session(id="busier", state="prompting", queued=2),
    ]
    status = Status(version="1", state="running", containers=[Container(name="box", sessions=sessions)])
    assert [each.session.id for each in busiest(status)] == ["asking", "busier", "busy", "new", "old"]
    assert {each.container for each in busiest(status)} == {"box"}


def test_status_is_read_as_the_manager_writes_it() -> None:
    text = b"""{"version": "1", "state": "running", "new": {"key": 1}, "containers": [
        {"name": "box", "id": "x", "unit": "u", "worker_pid": 1, "leader": 2, "network": null,
         "agents": [{"name": "a", "state": "ready", "pid": 3}, {"name": "b", "pid": 0}]}]}"""
    status = msgspec.json.decode(text, type=Status)
    assert subject(status.containers[0]) == Subject("box", "x", "u", 1, 2, (3,))


# Trends


def test_a_trend_has_the_means_of_stretches_of_its_time() -> None:
    trend = Trend()
    for at, value in ((0.0, 5.0), (30.0, 1.0), (31.0, 3.0), (90.0, 7.0)):
        trend.add(at, value)
    assert trend.cells(4) == [5.0, 2.0, 2.0, 7.0]  # of 30 s each; nothing was seen in the third
    assert Trend().cells(2) == [None, None]


def test_what_a_trend_has_shown_moves_and_does_not_change() -> None:
    trend = Trend()
    for second in range(100, 160):
        trend.add(float(second), float(second % 7))
    before = trend.cells(12)
    for second in range(160, 170):
        trend.add(float(second), 1.0)
    assert trend.cells(12)[:-1] == before[1:]  # one stretch of 10 s later


def test_a_trend_forgets() -> None:
    trend = Trend()
    trend.add(0.0, 1.0)
    trend.add(SPAN_SEC + 1, 2.0)
    assert trend.cells(3) == [None, None, 2.0]
    for at in range(100_000):
        trend.add(200 + at / 1000, 1.0)
    assert len(trend._points) < 2000


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        ([None, 0.0, 8.0], " ·█"),
        ([1.0, 2.0, 4.0, 7.9, 8.0], "▂▃▅██"),
        ([0.001], "▁"),
        ([16.0, 8.0], "█▅"),
        ([], ""),
    ],
)
def test_a_sparkline(cells: list[float | None], line: str) -> None:
    assert sparkline(cells, full=8.0) == line


# Drawing


def busy_view(containers: int = 3, sessions: int = 3, problem: str = "") -> View:
    there = [changed(BOX, name=f"box{number}", clients=number) for number in range(containers)]
    told = [Session(id=f"id-{number}", title="To be") for number in range(sessions)]
    there[:1] = [changed(each, sessions=told) for each in there[:1]]
    now = sample(1.0, *there)
    view = Memory().view(now, compared(sample(0.0, *there), now), 1.0)
    return replace(view, problem=problem)


def lines(view: View, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    rendered = console.render_lines(view, console.options.update(width=width, height=height), pad=False)
    return ["".join(segment.text for segment in line) for line in rendered]


@pytest.mark.parametrize("height", [1, 2, 3, 5, 24, 100])
@pytest.mark.parametrize("width", [1, 40, 200])
@pytest.mark.parametrize(
    "view", [busy_view(), busy_view(0, 0), busy_view(50, 50), busy_view(problem="gone")]
)
def test_a_screen_has_the_size_of_the_terminal_whatever_it_is(view: View, width: int, height: int) -> None:
    drawn = lines(view, width, height)
    assert len(drawn) == height
    assert all(len(line) <= width for line in drawn)


def headers(columns: Any, width: int) -> list[str]:
    shown = fitted(columns, width)
    assert sum(each.width for each in shown) + gap_of(width) * (len(shown) - 1) <= width
    return [each.header or "trend" for each in shown]


def test_what_matters_least_is_left_out_where_it_is_narrow() -> None:
    rates = ["TURNS", "FRAMES/S", "trend", "MEM", "CPU%"]
    net = ["NET↓", "NET↑"]
    assert headers(CONTAINERS, 20) == ["NAME"]
    assert headers(CONTAINERS, 40) == ["NAME", "STATE", "TURNS", "FRAMES/S"]
    assert headers(CONTAINERS, 80) == ["NAME", "STATE", "SESSIONS", *rates, *net]
    every = ["NAME", "STATE", "CLIENTS", "SESSIONS", *rates, "trend", *net]
    assert headers(CONTAINERS, 200) == every
    assert headers(SESSIONS, 80) == [each.header for each in SESSIONS]


def test_room_that_is_left_goes_to_names_titles_and_trends() -> None:
    widths = [each.width for each in fitted(CONTAINERS, 200)]
    assert widths[0] == 32
    assert sum(widths) + 2 * (len(widths) - 1) == 200
    assert fitted(SESSIONS, 200)[-1].width > 50


@pytest.mark.parametrize(
    ("containers", "sessions", "height", "expected"),
    [
        (3, 3, 30, (3, 3)),
        (50, 3, 23, (17, 3)),
        (3, 50, 23, (3, 17)),
        (50, 50, 23, (10, 10)),
        (50, 0, 23, (22, 0)),
        (3, 3, 5, (4, 0)),
        (0, 0, 1, (0, 0)),
    ],
)
def test_containers_and_sessions_share_the_lines(
    containers: int, sessions: int, height: int, expected: tuple[int, int]
) -> None:
    assert shares(containers, sessions, height) == expected


def test_what_does_not_fit_is_counted() -> None:
    drawn = lines(busy_view(50, 0), 80, 24)
    assert drawn[-2] == "… and 32 more"
    assert sum(line.startswith("box") for line in drawn) == 18


def test_other_peoples_words_are_harmless() -> None:
    evil = "\x1b[2J\r\nrm"
    session = Session(id=evil, title=evil, agent=evil, state=evil)
    now = sample(1.0, Container(name=evil, state=evil, sessions=[session]))
    view = View(now.status, compared(None, now), busiest(now.status), {}, 1.0, problem=evil)
    console = Console(width=200, file=io.StringIO(), color_system=None)
    for each in pages(view):
        console.print(each)
    shown = "\n".join([*lines(view, 200, 20), console.file.getvalue()])  # type: ignore[attr-defined]
    assert "\x1b" not in shown and "\r" not in shown
    assert shown.count(r"\x1b[2") == 15


def test_a_problem_is_said_and_what_was_known_stays() -> None:
    drawn = lines(busy_view(problem="waiting for the manager: it has gone"), 80, 24)
    assert drawn[2] == "waiting for the manager: it has gone"
    assert sum(line.startswith("box") for line in drawn) == 6  # three containers, and three sessions


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (999, "999B"),
        (1024, "1.0K"),
        (10_240, "10.0K"),
        (500 << 20, "500M"),
        (1e15, "910T"),
    ],
)
def test_bytes_in_five_characters(count: float | None, text: str) -> None:
    assert short(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.25, "0.2"),
        (12.34, "12.3"),
        (99.96, "100"),
        (7.0, "7"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_of_few_digits_have_a_decimal(value: float | None, text: str) -> None:
    assert number(value) == text


# Round after round


class Shown:
    """An output that a test looks at."""

    def __init__(self, enough: int = 1000) -> None:
        """`enough`: after how many pauses the user quits."""
        self.rounds: list[Any] = []
        self.complaints: list[str] = []
        self._enough = enough

    def show(self, sample: Sample, result: Any) -> None:
        self.rounds.append(result)

    def complain(self, problem: str) -> None:
        self.complaints.append(problem)

    async def until_quit(self) -> None:
        await asyncio.get_running_loop().create_future()

    def pause(self, seconds: float) -> bool:
        self._enough -= 1
        return self._enough < 0


class Manager:
    """Stands for a connection to the manager, on which there is one answer, or error, after the other."""

    def __init__(self, *connections: list[Any]) -> None:
        self.connections = list(connections)
        self.answers: list[Any] = []
        self.bus = self

    def run(self, options: Namespace, work: Callable[[Any], Awaitable[Any]]) -> Any:
        self.answers = self.connections.pop(0)
        return run(self._run(work))

    async def _run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        if isinstance(self.answers[0], ManagerUnreachable):
            raise self.answers[0]
        return await work(self)

    async def manager(self, member: str) -> list[str]:
        assert member == "Status"
        answer = self.answers.pop(0)
        if isinstance(answer, AgentdError):
            raise answer
        return [json.dumps({"version": "1", "state": "running", "containers": []})]

    async def until(self, pause: Any) -> None:
        pause.close()
        if not self.answers:
            raise BusError(DISCONNECTED, "the connection to the D-Bus is lost")


def watched(
    monkeypatch: pytest.MonkeyPatch, shown: Shown, *connections: list[Any], iterations: int = 0
) -> int:
    monkeypatch.setattr(top, "with_manager", Manager(*connections).run)
    options = Namespace(delay=1.0, iterations=iterations)
    return top.Top(options, shown).run()


OK = object()
GONE = ManagerUnreachable("no agentd answers")


@pytest.mark.parametrize(
    "loss", [BusError(NO_REPLY, "it hangs"), ShuttingDown("it stops"), BusError(DISCONNECTED, "lost")]
)
def test_a_manager_that_goes_away_is_waited_for(monkeypatch: pytest.MonkeyPatch, loss: AgentdError) -> None:
    shown = Shown()
    assert watched(monkeypatch, shown, [OK, OK, loss], [GONE], [OK], [OK], iterations=4) == 0
    assert len(shown.rounds) == 4
    problems = [loss.message, GONE.message, "the connection to the D-Bus is lost"]
    assert shown.complaints == [f"waiting for the manager: {each}" for each in problems]


def test_who_has_waited_enough_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(enough=2)
    assert watched(monkeypatch, shown, [OK], [GONE], [GONE]) == 0
    assert len(shown.complaints) == 3


def test_a_manager_that_never_was_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ManagerUnreachable):
        watched(monkeypatch, Shown(), [GONE])


def test_other_errors_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown()
    with pytest.raises(AccessDenied):
        watched(monkeypatch, shown, [OK, AccessDenied("not you")])
    assert len(shown.rounds) == 1


def test_rates_are_over_a_second_at_least_however_often_one_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown()
    rounds = top.Top(Namespace(delay=0.1, iterations=0), shown)
    for at, frames in ((0.0, 0), (0.4, 0), (0.8, 0), (1.2, 120), (1.6, 120), (2.0, 120), (2.4, 240)):
        rounds._take(sample(at, changed(BOX, frames=frames)))
    rates = [each.containers[0].frames_per_sec for each in shown.rounds]
    assert rates == [None, 0.0, 0.0, 100.0, 100.0, 100.0, 100.0]


def test_a_silent_manager_is_complained_about_and_waited_for() -> None:
    class Silent(Manager):
        async def manager(self, member: str) -> list[str]:
            asked.set_result(None)
            await answered
            return await super().manager(member)

    async def test() -> None:
        nonlocal asked, answered
        asked, answered = (asyncio.get_running_loop().create_future() for _ in range(2))
        silent = Silent()
        silent.answers = [OK]
        rounds = top.Top(Namespace(delay=1.0, iterations=1), shown)
        stay = asyncio.ensure_future(rounds._stay(silent))  # type: ignore[arg-type]
        await asked
        await skip(top.SILENT_SEC)
        assert shown.complaints == ["the manager has not answered for 3 s"]
        answered.set_result(None)
        await stay

    asked: asyncio.Future[None]
    answered: asyncio.Future[None]
    shown = Shown()
    run(test())
    assert len(shown.rounds) == 1
