# SPDX-License-Identifier: Apache-2.0
"""Secrets reach the agent that they are for, and no log, command line, error or other agent."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.acp_client import Client, reason, texts
from support.embedded import Embedded, Start, command_lines, eventually

FILED, GIVEN = "a-key-from-a-file-nobody-sees", "a-key-from-systemd-nobody-sees"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "filed").write_text(FILED + "\n")
    (folder / "given").write_text(GIVEN)
    return folder


def environment(folder: Path) -> str:
    return f"""
[agents.alpha.env]
FILED = {{ file = "{folder}/filed" }}
GIVEN = {{ credential = "given" }}
PLAIN = "plain"
"""


@pytest.fixture
def agentd(several: Start, secrets: Path) -> Embedded:
    """Traces everything."""
    return several(
        {"alpha": "", "beta": ""},
        limits=environment(secrets),
        AGENTD_LOG="debug",
        CREDENTIALS_DIRECTORY=str(secrets),
    )


@pytest.fixture
def alpha(agentd: Embedded) -> Iterator[Client]:
    with agentd.client() as client:
        yield client.open(agent="alpha")


def test_values_of_files_and_of_credentials_reach_the_agent(alpha: Client) -> None:
    said = alpha.turn("env FILED", "env GIVEN", "env PLAIN", "env CREDENTIALS_DIRECTORY")[1]
    assert said == [f"FILED={FILED}", f"GIVEN={GIVEN}", "PLAIN=plain", "CREDENTIALS_DIRECTORY=(unset)"]


def test_they_reach_no_other_agent(agentd: Embedded) -> None:
    with agentd.client() as client:
        assert client.open(agent="beta").turn("env FILED", "env GIVEN")[1] == [
            "FILED=(unset)", "GIVEN=(unset)"
        ]  # fmt: skip


def test_they_are_in_no_trace(agentd: Embedded, alpha: Client) -> None:
    alpha.turn("env FILED", "env GIVEN", f"stderr {FILED} {GIVEN}", f"raw {FILED}", f"raw {GIVEN}")
    alpha.call("_echo", {"x": [FILED, GIVEN]})
    eventually(lambda: agentd.log().count("[redacted]") >= 4, "the traces are written")
    assert FILED not in agentd.log() and GIVEN not in agentd.log()


def test_they_are_in_no_command_line(alpha: Client) -> None:
    alpha.turn("child")
    assert not [line for line in command_lines().values() if FILED in line or GIVEN in line]


def test_they_are_in_no_error(agentd: Embedded, alpha: Client) -> None:
    answer = alpha.turn(f"stderr {FILED} and {GIVEN}", "exit 1")[0]
    assert answer["error"]["data"]["stderr_tail"] == "[redacted] and [redacted]"
    assert FILED not in json.dumps(answer) and FILED not in agentd.log()


def test_a_client_sees_its_agents_words_as_they_are(agentd: Embedded, alpha: Client) -> None:
    """What is hidden from logs is the owner's own; a transcript that changed it would not be one."""
    alpha.turn("env FILED")
    with agentd.client() as other:
        other.greet()
        assert texts(other.load(alpha.session)[1]) == [f"FILED={FILED}"]


def test_a_file_that_was_written_anew_is_read_by_the_next_agent(
    agentd: Embedded, alpha: Client, secrets: Path
) -> None:
    (secrets / "filed").write_text("another-key-nobody-sees")
    assert reason(alpha.turn("exit 1")[0]) == "agent_exited"
    assert alpha.turn("env FILED", "stderr another-key-nobody-sees")[1] == ["FILED=another-key-nobody-sees"]
    eventually(lambda: "[redacted]" in agentd.log())
    assert "another-key-nobody-sees" not in agentd.log()


@pytest.mark.parametrize("lost", ["filed", "given"])
def test_a_value_that_is_not_there_is_told_by_its_name(agentd: Embedded, secrets: Path, lost: str) -> None:
    (secrets / lost).unlink()
    with agentd.client() as client:
        client.attach("here", "alpha")
        error = client.call("initialize", {"protocolVersion": 1})
        assert reason(error) == "credential_unavailable"
        assert lost.upper() in error["error"]["message"]
        assert FILED not in json.dumps(error) and GIVEN not in json.dumps(error)
    with agentd.client() as client:
        assert client.open(agent="beta").turn("say fine")[1] == ["fine"]


def test_without_a_credentials_directory_it_says_what_to_do(several: Start, secrets: Path) -> None:
    agentd = several({"alpha": ""}, limits=environment(secrets))
    with agentd.client() as client:
        client.attach("here", "alpha")
        error = client.call("initialize", {"protocolVersion": 1})["error"]
        assert error["data"]["reason"] == "credential_unavailable"
        assert "LoadCredential=given:" in error["message"]


def test_check_shows_where_they_come_from_and_not_what_they_are(agentd: Embedded) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentd", "check", *agentd.places()],
        capture_output=True, text=True, timeout=60, check=True, env=agentd.environment,
    )  # fmt: skip
    assert "given" in done.stdout and FILED not in done.stdout and GIVEN not in done.stdout
