# SPDX-License-Identifier: Apache-2.0

import io
import sys
import tomllib
from pathlib import Path

import pytest

from agentd import check, config
from agentd.paths import Mode, Paths, paths_for

TEXT = """
default_agent = "mine"
limits.sessions = 3
[access]
users = ["alice"]
[agents.claude.env]
TOKEN = "hunter2-hunter2"
[agents.mine]
command = ["mine", "--say", 'a "b" \\ é']
[agents.server]
transport = "tcp"
port = 4096
[agents.codex]
isolation = "session"
frame_bytes = 1000
[agents.codex.env]
TOKEN = { credential = "openai" }
OTHER = { file = '/srv/a "b"' }
[permissions]
read = "allow"
[budget]
turns_per_day = 500
[containers.box]
[containers."my.box"]
runtime = "podman"
agents = ["mine"]
unmapped_cwd = "workdir"
share_sessions = true
permissions = { edit = "reject" }
budget = { turns_per_minute = 9 }
[containers."my.box".paths]
"/home/alice/src" = "/workspace"
"""


def given(tmp_path: Path, text: str) -> Paths:
    (tmp_path / "agentd.toml").write_text(text, encoding="utf-8")
    return paths_for(Mode.EMBEDDED, runtime_dir="/run/x", config=str(tmp_path / "agentd.toml"), environ={})


def lines_of(output: str) -> dict[str, str]:
    """What stands before a comment, and the comment."""
    pairs = (line.split("  # ") for line in output.splitlines() if "  # " in line)
    return {left.rstrip(): right for left, right in pairs}


def test_every_value_has_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(given(tmp_path, TEXT)) == 0
    lines, file = lines_of(capsys.readouterr().out), str(tmp_path / "agentd.toml")
    assert lines["sessions = 3"] == lines['default_agent = "mine"'] == lines['users = ["alice"]'] == file
    assert lines["clients = 64"] == lines["groups = []"] == lines["drain_sec = 25.0"] == "default"
    assert lines['runtimes = ["podman", "docker"]'] == lines['command = ["claude-agent-acp"]'] == "default"
    assert lines["[containers.box]"] == lines['runtime = "podman"'] == file
    assert lines['read = "allow"'] == lines['permissions.edit = "reject"'] == file
    assert lines['selector = "agent"'] == lines['edit = "ask"'] == lines['isolation = "shared"'] == "default"
    assert lines["turns_per_day = 500"] == lines["budget.turns_per_minute = 9"] == file
    assert lines['paths."/home/alice/src" = "/workspace"'] == lines["share_sessions = true"] == file


def test_what_is_not_set_is_a_comment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.run(given(tmp_path, TEXT))
    output = capsys.readouterr().out
    assert "None" not in output
    budget = output[output.index("[budget]") :].split("\n\n")[0].splitlines()
    assert [line.split("  ")[0] for line in budget[1:]] == [
        "# turns_per_minute is not set",
        "turns_per_day = 500",
        "# session_turns_per_minute is not set",
        "# session_turns_per_day is not set",
    ]


def test_where_a_secret_is_kept_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.run(given(tmp_path, TEXT))
    lines, file = lines_of(capsys.readouterr().out), str(tmp_path / "agentd.toml")
    assert lines['env.TOKEN = { credential = "openai" }'] == file
    assert lines['env.OTHER = { file = "/srv/a \\"b\\"" }'] == file


def test_an_agent_that_is_a_server_has_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check.run(given(tmp_path, "agents.claude = { transport = 'tcp', port = 4096 }"))
    agent = tomllib.loads(capsys.readouterr().out)["agents"]["claude"]
    assert agent == {"isolation": "shared", "transport": "tcp", "port": 4096}


def test_the_report_is_toml_and_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TEXT.replace('TOKEN = "hunter2-hunter2"', 'TOKEN = "…"')
    check.run(given(tmp_path, text))
    (again := tmp_path / "again.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    before = config.load([tmp_path / "agentd.toml"]).configuration
    after = config.load([again]).configuration
    for name in ("claude", "codex"):
        assert after.agents.pop(name) == before.agent(name)
        assert before.agents.pop(name).command == ()
    assert after == before


def test_the_values_of_the_environment_are_masked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check.run(given(tmp_path, TEXT))
    output = capsys.readouterr().out
    assert "hunter2" not in output
    assert "# agents.claude" not in output
    assert lines_of(output)['env.TOKEN = "…"'] == str(tmp_path / "agentd.toml")


def test_no_file_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(Paths(Mode.EMBEDDED, "/r", "/s")) == 0
    output = capsys.readouterr().out
    assert output.startswith("# default_agent is not set\n")
    assert '# agents.gemini.command = ["gemini", "--acp"]' in output
    assert set(lines_of(output).values()) == {"default"}
    tables = {"access", "limits", "permissions", "store", "budget"}
    assert set(tomllib.loads(output)) == {"selector", "runtimes", *tables}
    assert tomllib.loads(output)["budget"] == {}


def test_problems_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(given(tmp_path, "limits.sesions = 3\nlimits.clients = 0")) == 78
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(": ")[1] for line in captured.err.splitlines()] == [
        "limits.sesions",
        "limits.clients",
    ]


def test_a_named_file_that_has_gone_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = given(tmp_path, "")
    (tmp_path / "agentd.toml").unlink()
    assert check.run(paths) == 78
    assert "agentd.toml: the configuration file that was named can't be used" in capsys.readouterr().err


def test_names_too_long_for_a_socket_are_all_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a" * 100, "b" * 101]
    assert check.run(given(tmp_path, "".join(f"[containers.{name}]\n" for name in names))) == 78
    problems = capsys.readouterr().err.splitlines()
    assert [problem.split(": ")[0] for problem in problems] == [f"/run/x/containers/{n}.sock" for n in names]


def test_a_runtime_directory_too_long_for_a_socket_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(Paths(Mode.EMBEDDED, "/" + "r" * 96, "/s")) == 78
    assert [line[97:110] for line in capsys.readouterr().err.splitlines()] == ["/agentd.sock:"]


def test_a_terminal_without_unicode_gets_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    assert check.run(given(tmp_path, TEXT)) == 0
    assert b'env.TOKEN = "\\u2026"' in raw.getvalue()
