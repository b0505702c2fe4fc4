# SPDX-License-Identifier: Apache-2.0
"""What busctl and gdbus print, as somebody types them; in transcripts, … stands for anything in a line."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.acp_client import Client
from support.control import busctl
from support.embedded import Embedded, Start, eventually

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def agentd(start: Start) -> Embedded:
    return start(bus="private")


@pytest.fixture
def client(agentd: Embedded) -> Iterator[Client]:
    """A client with a session in which something was said."""
    with agentd.client() as client:
        client.open().turn("say hello")
        state = (
            "get-property",
            "org.agentd1",
            "/org/agentd1/session/here_1",
            "org.agentd1.Session",
            "State",
        )
        eventually(lambda: busctl(agentd, *state, check=False).stdout == 's "idle"\n', "the turn has ended")
        yield client


def steps(name: str) -> list[tuple[str, str]]:
    """The commands of a transcript, and what each prints."""
    parts = re.split(r"^\$ (.*)\n", (GOLDEN / name).read_text(), flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def printed(agentd: Embedded, command: str) -> str:
    tool, verb, *rest = shlex.split(command)
    bus = f"unix:path={agentd.runtime_dir}/bus"
    where = [f"--address={bus}", verb] if tool == "busctl" else [verb, "--address", bus]
    done = subprocess.run([tool, *where, *rest], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def pattern(expected: str) -> str:
    return ".*".join(map(re.escape, expected.split("…")))


@pytest.mark.parametrize("name", ["busctl.txt", "gdbus.txt"])
def test_transcript(name: str, agentd: Embedded, client: Client) -> None:
    for command, expected in steps(name):
        found = printed(agentd, command)
        assert re.fullmatch(pattern(expected), found), f"$ {command}\n{found}"


def test_monitor_shows_what_happens(agentd: Embedded, client: Client, tmp_path: Path) -> None:
    command = ["busctl", f"--address=unix:path={agentd.runtime_dir}/bus", "monitor", "org.agentd1"]
    seen = tmp_path / "seen"
    with seen.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as monitor:
        eventually(lambda: "Monitoring bus message stream" in seen.read_text(), "it has begun")
        assert agentd.agentctl("drain", "here", "--wait").returncode == 0
        for member in ("Member=Drain", "Member=JobNew", "Member=PropertiesChanged", "Member=JobRemoved"):
            eventually(lambda member=member: member in seen.read_text(), member)  # type: ignore[misc]
        monitor.terminate()
