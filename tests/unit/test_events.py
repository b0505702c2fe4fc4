# SPDX-License-Identifier: Apache-2.0
"""`agentctl events`: what signals are told as, and output that waits for its reader without end or harm."""

import asyncio
import os
import re
import select
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentd.bus import Signal
from agentd.ctl import events
from agentd.ctl.events import Known
from agentd.ctl.events.changes import Event, event_of, label_name, sentence, session_container
from agentd.ctl.events.outlet import Outlet

from .loop import run

BOX, SESSION, JOB = "/org/agentd1/container/box", "/org/agentd1/session/box_7", "/org/agentd1/job/3"
MANAGER = "org.agentd1.Manager"
NOON = int(time.mktime((2026, 1, 2, 12, 0, 0, 0, 0, -1))) * 1_000_000


def signal(member: str, *args: Any, path: str = "/org/agentd1", interface: str = MANAGER) -> Signal:
    return Signal(":1.5", path, interface, member, list(args))


def changed(path: str, kind: str, values: dict[str, Any], *invalid: str) -> Signal:
    return signal(
        "PropertiesChanged", f"org.agentd1.{kind}", values, [*invalid], path=path, interface="x.Properties"
    )


def told(news: Signal) -> dict[str, Any]:
    """As JSON has it, without the time."""
    event = event_of(news, NOON, {SESSION: "sess"})
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event))
    assert found.pop("time_usec") == NOON
    return found


def said(news: Signal, before: str = "") -> str:
    """As a line has it, without the time."""
    event = event_of(news, NOON, {SESSION: "sess"})
    assert event
    return sentence(event, before).removeprefix("12:00:00 ")


# Signals

SAMPLES = [
    (
        signal("ContainerNew", "box", BOX),
        {"event": "container_new", "container": "box"},
        "container box: new",
    ),
    (
        signal("ContainerRemoved", "box", BOX),
        {"event": "container_removed", "container": "box"},
        "container box: removed",
    ),
    (
        signal("SessionNew", "box", "sess", SESSION),
        {"event": "session_new", "container": "box", "session": "sess"},
        "session sess of box: new",
    ),
    (
        signal("SessionRemoved", "box", "sess", SESSION),
        {"event": "session_removed", "container": "box", "session": "sess"},
        "session sess of box: removed",
    ),
    (signal("JobNew", 3, JOB), {"event": "job_new", "job": 3}, "job 3 begins"),
    (
        signal("JobRemoved", 3, JOB, "", "done"),
        {"event": "job_removed", "job": 3, "target": "", "result": "done"},
        "job 3: drain of everything: done",
    ),
    (
        signal("Progress", 1, ["sess"], path=JOB, interface="org.agentd1.Job"),
        {"event": "job_progress", "job": 3, "remaining": 1, "drained": ["sess"]},
        "job 3: 1 turn left",
    ),
    (signal("Reloading", False), {"event": "reloading", "active": False}, "configuration: has been read"),
    (
        signal("NameOwnerChanged", "org.agentd1", ":1.5", ""),
        {"event": "manager_gone"},
        "manager: gone",
    ),
    (signal("NameOwnerChanged", "org.agentd1", "", ":1.9"), {"event": "manager_here"}, "manager: here"),
    (
        changed("/org/agentd1", "Manager", {"Draining": True, "NTurns": 2}),
        {"event": "changed", "changes": {"Draining": True, "NTurns": 2}},
        "manager: Draining yes, NTurns 2",
    ),
    (
        changed("/org/agentd1/container/my_2dbox", "Container", {"State": "idle", "LastError": ""}),
        {"event": "changed", "container": "my-box", "changes": {"State": "idle", "LastError": ""}},
        "container my-box: State idle, LastError -",
    ),
    (
        changed(SESSION, "Session", {"Queued": 1}, "Title"),
        {"event": "changed", "container": "box", "session": "sess", "changes": {"Queued": 1, "Title": None}},
        "session sess of box: Queued 1, Title has changed",
    ),
    (
        changed("/org/agentd1/session/box_8", "Session", {"State": "idle"}),
        {"event": "changed", "container": "box", "session": "", "changes": {"State": "idle"}},
        "session ? of box: State idle",
    ),
    (
        changed(JOB, "Job", {"Remaining": 0}),
        {"event": "changed", "job": 3, "changes": {"Remaining": 0}},
        "",
    ),
]


@pytest.mark.parametrize(("news", "json", "line"), SAMPLES, ids=[each[1]["event"] for each in SAMPLES])
def test_every_signal_has_its_event_and_its_line(news: Signal, json: dict[str, Any], line: str) -> None:
    assert (told(news), said(news)) == (json, line)


def test_events_are_those_that_are_documented() -> None:
    documented = set(re.findall(r"\b[a-z]+_[a-z]+\b|\bchanged\b|\breloading\b", events.__doc__ or ""))
    assert {each[1]["event"] for each in SAMPLES} <= documented


def test_a_state_says_what_it_was_where_that_is_known() -> None:
    news = changed(BOX, "Container", {"NTurns": 1, "State": "draining"})
    assert said(news, "serving") == "container box: State serving → draining, NTurns 1"
    assert said(news, "draining") == "container box: State draining, NTurns 1"


def test_what_changes_all_the_time_is_for_programs() -> None:
    news = changed(SESSION, "Session", {"LastActivity": 5})
    assert said(news) == "" and told(news)["changes"] == {"LastActivity": 5}


def test_agents_are_named() -> None:
    news = changed(
        BOX, "Container", {"Agents": [["claude", "ready", 12, "1.0"], ["codex", "exited", 0, ""]]}
    )
    assert said(news) == "container box: Agents claude ready 12 1.0, codex exited"


def test_what_an_agent_calls_its_sessions_does_nothing_to_a_terminal() -> None:
    line = said(signal("SessionNew", "box", "\x1b[2J\nse\u202ess", SESSION))
    assert line.isprintable() and "se" in line


def test_other_interfaces_are_no_news() -> None:
    news = signal("PropertiesChanged", "org.example", {"A": 1}, [], interface="x.Properties")
    assert event_of(news, NOON, {}) is None


@pytest.mark.parametrize(
    ("label", "name"), [("box", "box"), ("my_2dbox_2e1", "my-box.1"), ("a_5fb", "a_b"), ("_2d", "-")]
)
def test_names_come_back_from_their_labels(label: str, name: str) -> None:
    assert label_name(label) == session_container(f"/org/agentd1/session/{label}_12") == name


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KNOWN_MAX", 2)
    known: Known[int] = Known()
    for number, key in enumerate("abac"):
        known[key] = number
    assert known == {"a": 2, "c": 3}


def test_what_was_lost_is_told() -> None:
    assert "12 changes" in sentence(Event(time_usec=NOON, event="lost", lost=12))


# Output


def test_output_waits_for_its_reader() -> None:
    """More than a pipe takes, with a reader that begins late: the loop goes on meanwhile."""
    text = "0123456789" * 20_000

    async def work() -> bytes:
        with Outlet(writing) as out:
            task = asyncio.create_task(out.write(text))
            while select.select([], [writing], [], 0)[1]:
                await asyncio.sleep(0)
            assert not task.done()
            got = b""
            while len(got) < len(text):
                got += os.read(reading, 1 << 16) if select.select([reading], [], [], 0)[0] else b""
                await asyncio.sleep(0)
            await task
            return got

    reading, writing = os.pipe()
    try:
        assert run(work()) == text.encode()
    finally:
        os.close(reading)
        os.close(writing)


def test_output_without_a_reader_is_known_before_anything_is_written() -> None:
    async def work() -> None:
        with Outlet(writing) as out:
            gone = asyncio.create_task(out.wait_gone())
            await asyncio.sleep(0)
            assert not gone.done()
            os.close(reading)
            await gone
            with pytest.raises(BrokenPipeError):
                await out.write("x")

    reading, writing = os.pipe()
    run(work())
    os.close(writing)


def test_output_may_be_a_file(tmp_path: Path) -> None:
    async def work() -> None:
        with file.open("w") as opened, Outlet(opened.fileno()) as out:
            await out.write("é" * 10_000)

    file = tmp_path / "out"
    run(work())
    assert file.read_text() == "é" * 10_000


def test_output_that_is_given_up_leaves_nothing_behind() -> None:
    async def work() -> None:
        with Outlet(writing) as out:
            task = asyncio.create_task(out.write("x" * 1_000_000))
            while select.select([], [writing], [], 0)[1]:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    reading, writing = os.pipe()
    run(work())
    os.close(reading)
    os.close(writing)
