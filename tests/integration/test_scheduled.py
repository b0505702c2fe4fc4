# SPDX-License-Identifier: Apache-2.0
"""Scheduled prompts run by hand, and what they ask systemd where a timer runs them."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentd.ctl.prompt import Order
from agentd.ctl.prompt.scheduled import Schedule, overlaps
from agentd.interface import Interface, method, prop
from agentd.paths import Mode, Paths
from agentd.systemd.timers import TIMER, came_due_meanwhile
from support.embedded import Embedded, Start

NAME = "nightly"


class House:
    """An agentd that is found as that of the user's own account, and the folder of its prompts."""

    def __init__(self, agentd: Embedded) -> None:
        (agentd.folder / "xdg").mkdir()
        (agentd.folder / "xdg/agentd").symlink_to(agentd.runtime_dir)
        self._prompts = agentd.folder / "config/agentd/prompts"
        self._prompts.mkdir(parents=True)
        places = {"XDG_RUNTIME_DIR": f"{agentd.folder}/xdg", "XDG_CONFIG_HOME": f"{agentd.folder}/config"}
        self._environment = {**agentd.environment, **places}

    def write(self, *script: str, container: str = "here", **keys: Any) -> None:
        """The file of the prompt, with more keys if need be."""
        table = {"container": container, "text": "\n".join(script), **keys}
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in table.items()]
        (self._prompts / f"{NAME}.toml").write_text("".join(lines))

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "agentd.ctl", "--user", "prompt", "--schedule", NAME, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self._environment)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run the prompt to its end: status, stdout and stderr."""
        return ended(self.start(*arguments))


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def told(stderr: str) -> dict[str, str]:
    """The fields of the one record in what was logged."""
    [line] = [each for each in stderr.splitlines() if "agentd.ctl.prompt.scheduled: prompt nightly " in each]
    return dict(field.split("=", 1) for field in re.findall(r"\w+=[^ \]]+", line.rpartition(" [")[2]))


@pytest.fixture
def house(start: Start) -> House:
    return House(start(bus="private"))


# Running


def test_the_answer_is_printed_and_the_result_is_logged(house: House) -> None:
    house.write("say one,", "say two", agent="scripted")
    status, stdout, stderr = house.run()
    assert (status, stdout) == (0, "one,two\n")
    assert re.match(
        r"INFO agentd.ctl.prompt.scheduled: prompt nightly ended after [0-9.]+ s: end_turn \[", stderr
    )
    fields = told(stderr)
    assert int(fields.pop("duration_usec")) > 0 and fields.pop("session").startswith("sess-")
    assert fields == {
        "container": "here",
        "agent": "scripted",
        "prompt": NAME,
        "stop_reason": "end_turn",
    }


def test_the_agent_that_agentd_has_chosen_is_logged(house: House) -> None:
    house.write("say one")
    assert told(house.run()[2])["agent"] == "scripted"


def test_a_text_may_be_in_a_file_of_its_own(house: House, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("say ü\n")
    house._prompts.joinpath(f"{NAME}.toml").write_text(f'container = "here"\nfile = "{tmp_path}/text"\n')
    assert house.run()[:2] == (0, "ü\n")


def test_as_json_it_is_the_lines_of_any_prompt(house: House) -> None:
    house.write("say one")
    lines = [json.loads(line) for line in house.run("--json")[1].splitlines()]
    assert [next(iter(line)) for line in lines] == ["update", "result"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [({}, "no"), ({"permission": "reject"}, "no"), ({"permission": "allow"}, "yes")],
    ids=["default", "reject", "allow"],
)
def test_questions_are_answered_as_the_file_says(house: House, keys: dict[str, str], said: str) -> None:
    house.write("ask May I?", **keys)
    assert house.run()[:2] == (0, f"permission: {said}\n")


def test_the_session_is_where_the_file_says_or_where_the_container_starts(start: Start) -> None:
    agentd = start(bus="private")
    house = House(agentd)
    for keys in ({}, {"cwd": "/usr"}):
        house.write("say x", **keys)
        assert house.run()[0] == 0
    sessions = json.loads(agentd.agentctl("sessions", "here", "--json").stdout)["sessions"]
    assert {each["cwd"] for each in sessions} == {str(agentd.folder), "/usr"}


# Failing


def test_what_keeps_it_from_running_is_logged_with_its_reason(house: House) -> None:
    house.write("say x", container="there")
    status, stdout, stderr = house.run()
    assert (status, stdout) == (66, "")
    assert stderr.startswith("ERROR agentd.ctl.prompt.scheduled: prompt nightly failed after ")
    assert (told(stderr)["error"], told(stderr)["container"]) == ("no_such_container", "there")


def test_a_file_that_is_wrong_is_one_line_with_every_problem(house: House) -> None:
    house.write("say x", container="", permision="allow")
    status, _, stderr = house.run()
    assert status == 78 and stderr.count("\n") == 1
    assert "did you mean `permission`?" in stderr and "container: must be a container's name" in stderr
    assert told(stderr)["error"] == "configuration_invalid"


def test_an_agent_that_breaks_off_fails_the_run(house: House) -> None:
    house.write("exit 3")
    status, _, stderr = house.run()
    assert (status, told(stderr)["error"]) == (69, "agent_exited")


def test_no_agent_can_pass_for_a_run_that_was_skipped(house: House) -> None:
    house.write('fail {"message": "busy", "data": {"reason": "already_running"}}')
    status, _, stderr = house.run()
    assert (status, told(stderr)["error"]) == (73, "already_running")


# Its time limit


def test_a_turn_that_takes_too_long_is_cancelled(house: House) -> None:
    house.write("say started", "cancelled", "say stopped", timeout_sec=4)
    status, stdout, stderr = house.run()
    assert (status, stdout) == (75, "startedstopped\n")
    assert "was cancelled after 4 s, its timeout_sec" in stderr
    assert (told(stderr)["stop_reason"], told(stderr)["error"]) == ("cancelled", "time_limit")


def test_the_limit_holds_before_there_is_a_session(start: Start) -> None:
    house = House(start("--hang", "session/new", bus="private"))
    house.write("say never", timeout_sec=1.0)
    status, stdout, stderr = house.run()
    assert (status, stdout) == (75, "")
    assert "session" not in told(stderr)


# One run at a time


def test_a_run_that_meets_another_is_skipped_and_a_stop_cancels_the_turn(house: House) -> None:
    house.write("say started", "cancelled")
    first = house.start()
    assert first.stdout and first.stdout.read(7) == "started"
    status, stdout, stderr = house.run()
    assert (status, stdout) == (0, "")
    assert stderr.startswith(
        "WARNING agentd.ctl.prompt.scheduled: prompt nightly was skipped: another run of it "
    )
    first.send_signal(signal.SIGTERM)
    status, _, stderr = ended(first)
    assert (status, told(stderr)["stop_reason"]) == (130, "cancelled")


# What systemd is asked where a timer runs it


class Manager(Interface, name="org.freedesktop.systemd1.Manager"):
    @method("s", "o")
    async def get_unit(self, name: str) -> str:
        return PATHS[name]


class Timer(Interface, name=TIMER):
    """Two times in the calendar, the earlier of which has let it go off."""

    due = 1_000

    @prop("a(sst)")
    def timers_calendar(self) -> list[tuple[str, str, int]]:
        return [("OnCalendar", "later", 2**64 - 1), ("OnCalendar", "daily", self.due)]

    @prop("t", name="LastTriggerUSec")
    def last_trigger(self) -> int:
        return 2_000

    @prop("s")
    def unit(self) -> str:
        return "x.service"


class Service(Interface, name="org.freedesktop.systemd1.Unit"):
    ended = 0

    @prop("t")
    def inactive_enter_timestamp(self) -> int:
        return self.ended


PATHS = {name: f"/org/freedesktop/systemd1/unit/{name[2:]}" for name in ("x.timer", "x.service")}
Systemd = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture
def systemd(peers: Any, bus: ModuleType) -> Systemd:
    """A systemd whose timer came due at `due` and went off at 2000, and whose service ended at `ended`."""

    @asynccontextmanager
    async def systemd(ended: int, due: int = 1_000) -> AsyncIterator[Any]:
        async with peers.connected(2) as (manager, ours):
            manager.export("/org/freedesktop/systemd1", Manager())
            timer, service = Timer(), Service()
            timer.due, service.ended = due, ended
            manager.export(PATHS["x.timer"], timer)
            manager.export(PATHS["x.service"], service)
            await manager.request_name("org.freedesktop.systemd1")
            yield ours

    return systemd


@pytest.mark.parametrize(
    ("ended", "due", "late"),
    [
        (0, 1_000, False),  # never ran since the machine was booted
        (999, 1_000, False),
        (1_001, 1_000, True),
        (2_000, 1_000, True),
        (2_001, 1_000, False),  # ended in the future: the clock was put back
        (1_500, 0, False),  # systemd was reloaded between the timer and us, and does not know
    ],
)
async def test_a_timer_that_came_due_before_the_last_run_ended(
    systemd: Systemd, ended: int, due: int, late: bool
) -> None:
    async with systemd(ended, due) as ours:
        assert await came_due_meanwhile(ours, "x.timer") is late


def schedule(folder: Path) -> Schedule:
    return Schedule(NAME, Paths(Mode.USER, str(folder), "/nowhere"), Order(container="box", text="x"), 60.0)


async def test_the_environment_says_that_it_was_a_timer(
    systemd: Systemd, daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", daemon.address)
    async with systemd(1_500):
        assert await overlaps(schedule(tmp_path)) is False
        monkeypatch.setenv("TRIGGER_UNIT", "x.timer")
        assert await overlaps(schedule(tmp_path)) is True


async def test_where_systemd_does_not_tell_the_prompt_runs(
    daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRIGGER_UNIT", "x.timer")
    for address in (daemon.address, "unix:path=/nowhere"):
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        assert await overlaps(schedule(tmp_path)) is False
    assert caplog.text.count("does not tell when x.timer came due") == 2
