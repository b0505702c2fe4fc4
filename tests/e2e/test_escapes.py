# SPDX-License-Identifier: Apache-2.0
"""What code in a container says is text in the journal and on an administrator's terminal, and no more."""

import json
import os
import re
from collections.abc import Iterator

import pytest

from support.screen import Screen

from .machine import Machine
from .test_agentd import AGENTS, Host, attached

EVIL = "<\x1b[2J\x1b]0;title\x07\x9b31m\r\u202ebidi\u2028\x7f>"
SHOWN = r"<\x1b[2J\x1b]0;title\x07\x9b31m\r\u202ebidi\u2028\x7f>"
FORGED = "Jan 01 00:00:00 host systemd[1]: forged"
MARK = json.dumps(json.dumps(EVIL))
CONFIGURATION = f"""\
default_agent = "hostile"
[agents.hostile]
command = ["python3", "/srv/agents/hostile.py", {MARK}, {MARK}]
"""
END = b"THE END\r\n"
ORDER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def host(fresh: Machine) -> Iterator[Host]:
    host = Host(fresh)
    fresh.copy(AGENTS, "/srv/agents")
    fresh.write("/etc/agentd/agentd.toml", CONFIGURATION)
    labels = (f"--label=agentd.note={EVIL}", f"--label=note={EVIL}", f"--label=agentd.{EVIL}=x")
    fresh.start_container("box", "--volume=/srv/agents:/srv/agents:ro", *labels)
    fresh.start_agentd()
    fresh.wait_for(lambda: "box" in host.listed(), 20, "the watcher to tell of box")
    yield host


def shown(host: Host, *arguments: str) -> str:
    """What a terminal gets that has no colours, from agentctl."""
    script = 'stty cols 2000 rows 60; "$@"; echo THE END'
    command = host.machine.command("sh", "-c", script, "sh", "agentctl", *arguments, env={"TERM": "dumb"})
    with Screen(command, os.environ) as screen:
        screen.until(END)
        return screen.shown.decode().replace("\r\n", "\n")


def test_what_an_agent_says_is_text_in_the_journal_and_on_a_terminal(host: Host) -> None:
    editor = attached(host)
    with editor.dialogue:
        editor.answer(editor.prompt("stderr one", f"stderr {FORGED}", "say hello"))
        host.machine.wait_for(lambda: f"one{SHOWN}" in host.run("journalctl", "--output=cat").stdout)
        [said] = [
            each for each in host.machine.journal("AGENTD_CONTAINER=box") if "one<" in str(each["MESSAGE"])
        ]
        assert said["MESSAGE"] == f"one{SHOWN}"
        entries = host.machine.journal("_SYSTEMD_SLICE=agentd.slice", "SYSLOG_IDENTIFIER=agentd")
        assert [each for each in entries if not isinstance(each["MESSAGE"], str)] == []
        looks = {
            words[0]: shown(host, *words)
            for words in (
                ["logs", "box", "--no-pager"], ["status", "box"], ["sessions", "box"], ["show", "box"],
                ["list"], ["prompt", "box", "say hello"],
            )
        }  # fmt: skip
    for name, screen in looks.items():
        assert not ORDER.search(screen), (name, screen)
        assert not re.search(f"^{FORGED}", screen, re.MULTILINE)
    assert all(f"one{SHOWN}" in looks[name] for name in ("logs", "status"))
    assert f"hello{SHOWN}" in looks["prompt"]


def test_the_answer_to_a_scheduled_prompt_is_text_in_the_journal(host: Host) -> None:
    host.machine.write("/etc/agentd/prompts/odd.toml", 'container = "box"\ntext = "say hello"\n')
    host.run("systemctl", "start", "agentd-prompt@odd.service", check=False)  # its turn ends in an odd way
    entries = host.machine.journal("--unit=agentd-prompt@odd.service")
    assert f"hello{SHOWN}" in [each["MESSAGE"] for each in entries]
    assert all(isinstance(each["MESSAGE"], str) for each in entries)
