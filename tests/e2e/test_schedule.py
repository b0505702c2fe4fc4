# SPDX-License-Identifier: Apache-2.0
"""Prompts that systemd's timers run: real clocks, real units, the real journal. All of it in one machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.systemd.events import Event

from .machine import Machine
from .test_agentd import CONFIGURATION, Host

EVERY_5_SEC = "OnCalendar=*:*:0/5"
DUE_DURING_THE_LAST = "it came due while its last run had not ended"


class Schedules:
    """A machine with agentd, a box, and prompts that its timers run."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.run = host.run
        self.wait_for = host.machine.wait_for

    def write(self, name: str, script: str, **keys: str) -> None:
        table = {"container": "box", "agent": "scripted", "text": script, **keys}
        text = "".join(f'{key} = "{value}"\n' for key, value in table.items())
        self.host.machine.write(f"/etc/agentd/prompts/{name}.toml", text)

    def start_timer(self, name: str, calendar: str) -> None:
        """What `systemctl edit` and `systemctl start` do. Its times are kept to, as far as systemd can."""
        lines = ("[Timer]", "OnCalendar=", calendar, "RandomizedDelaySec=0", "AccuracySec=100ms")
        folder = f"/etc/systemd/system/agentd-prompt@{name}.timer.d"
        self.host.machine.write(f"{folder}/override.conf", "\n".join((*lines, "")))
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "start", f"agentd-prompt@{name}.timer")

    def told(self, name: str) -> list[dict[str, Any]]:
        """What was logged of the ends of its runs, by their MESSAGE_ID as journalctl finds it."""
        events = (f"MESSAGE_ID={each}" for each in (Event.PROMPT_ENDED, Event.PROMPT_SKIPPED))
        return self.host.machine.journal(*events, f"AGENTD_PROMPT={name}")

    def ends(self, name: str, count: int) -> list[str]:
        """How so many of its runs have ended, once they have."""
        told = self.wait_for(lambda: self._enough(name, count), 60, f"{count} runs of {name}")
        self.run("systemctl", "stop", f"agentd-prompt@{name}.timer")
        return [str(entry.get("AGENTD_STOP_REASON", entry["MESSAGE"])) for entry in told[:count]]

    def _enough(self, name: str, count: int) -> list[dict[str, Any]]:
        return told if len(told := self.told(name)) >= count else []


@pytest.fixture(scope="module")
def schedules(suite: str, staged: Path) -> Iterator[Schedules]:
    with Machine(suite, layers=[staged]) as machine:
        host = Host(machine).begin(CONFIGURATION)
        host.run("agentctl", "prompt", "box", "--agent", "scripted", "say the worker has started")
        yield Schedules(host)


def test_a_timer_runs_its_prompt_each_time_and_the_journal_has_all_of_it(schedules: Schedules) -> None:
    schedules.write("quick", r"say well,\ntally done 0 10 100")
    schedules.start_timer("quick", EVERY_5_SEC)
    assert schedules.ends("quick", 2) == ["end_turn", "end_turn"]
    entry = schedules.told("quick")[0]
    about = {name: entry[f"AGENTD_{name}"] for name in ("CONTAINER", "AGENT", "PROMPT")}
    assert about == {"CONTAINER": "box", "AGENT": "scripted", "PROMPT": "quick"}
    assert 1_000_000 < int(entry["AGENTD_DURATION_USEC"]) < 30_000_000 and entry["AGENTD_SESSION"]
    assert entry["_SYSTEMD_UNIT"] == "agentd-prompt@quick.service"
    assert entry["_UID"] == schedules.run("id", "-u", "agentd").stdout.strip()
    said = [str(each["MESSAGE"]) for each in schedules.host.machine.journal("--unit=agentd-prompt@quick")]
    assert any(line.startswith("well,done:0done:1") for line in said)
    assert "(Result: " not in schedules.run("systemctl", "status", "agentd-prompt@quick", check=False).stdout


def test_a_run_that_came_due_during_the_last_one_is_skipped_and_logged(schedules: Schedules) -> None:
    schedules.write("slow", "tally t 0 70 100")
    schedules.start_timer("slow", EVERY_5_SEC)
    ends = schedules.ends("slow", 4)
    assert (ends[0], ends[2]) == ("end_turn", "end_turn")
    assert DUE_DURING_THE_LAST in ends[1] and DUE_DURING_THE_LAST in ends[3]
    skipped = schedules.told("slow")[1]
    assert (skipped["MESSAGE_ID"], skipped["PRIORITY"]) == (Event.PROMPT_SKIPPED, "4")
    assert schedules.host.show("agentd-prompt@slow", "Result") == "success"


def test_a_run_that_was_missed_is_made_up_for(schedules: Schedules) -> None:
    """The machine was off at midnight, as far as systemd can tell from its stamp."""
    schedules.write("missed", "say better late")
    stamp = "/var/lib/systemd/timers/stamp-agentd-prompt@missed.timer"
    schedules.run("mkdir", "-p", "/var/lib/systemd/timers")
    schedules.run("touch", "--date=3 days ago", stamp)
    schedules.start_timer("missed", "OnCalendar=daily")
    assert schedules.ends("missed", 1) == ["end_turn"]


def test_the_exit_status_is_the_units_and_a_run_by_hand_meets_the_timers(schedules: Schedules) -> None:
    schedules.write("wrong", "say x", container="nowhere")
    assert schedules.run("systemctl", "start", "agentd-prompt@wrong", check=False).returncode == 1
    status = schedules.run("systemctl", "status", "agentd-prompt@wrong", check=False)
    assert status.returncode == 3 and "status=66" in status.stdout
    assert schedules.host.show("agentd-prompt@wrong", "ExecMainStatus") == "66"
    assert schedules.told("wrong")[0]["AGENTD_ERROR"] == "no_such_container"

    schedules.write("held", r"say started\ncancelled")
    schedules.run("systemctl", "start", "--no-block", "agentd-prompt@held")
    turns = lambda: schedules.host.property("/org/agentd1", "Manager", "NTurns")  # noqa: E731
    schedules.wait_for(lambda: turns() == 1, 30, "the turn")
    by_hand = schedules.run("agentctl", "--system", "prompt", "--schedule", "held")
    assert "was skipped: another run of it is running already" in by_hand.stderr
    refused = schedules.run("agentctl", "prompt", "--schedule", "held", user="nobody", check=False)
    assert refused.returncode == 77 and "systemctl start agentd-prompt@held" in refused.stderr
    schedules.run("systemctl", "stop", "agentd-prompt@held")
    assert schedules.told("held")[0]["AGENTD_STOP_REASON"] == "cancelled"
    assert schedules.run("agentctl", "--system", "prompt", "--schedule", "quick").returncode == 0
    schedules.run("systemctl", "start", "agentd-prompt@quick")
