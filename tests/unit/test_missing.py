# SPDX-License-Identifier: Apache-2.0
"""What engines, nsenter and shells say of a program that they cannot start: whether it is there."""

import pytest

from agentd.runtimes.missing import is_missing, reason

CRUN, RUNC = "Error: crun: ", "Error: runc: exec failed: unable to start container process: "
DOCKER = "OCI runtime exec failed: exec failed: unable to start container process: "
UNFOUND = "No such file or directory: OCI runtime attempted to invoke a command that was not found"
DENIED = "Operation not permitted: OCI permission denied"
OPEN, CLOSE = "\N{LEFT SINGLE QUOTATION MARK}", "\N{RIGHT SINGLE QUOTATION MARK}"


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        ("claude", 127, f"{CRUN}executable file `claude` not found in $PATH: {UNFOUND}"),
        ("/opt/claude", 127, f"{CRUN}executable file `/opt/claude` not found: {UNFOUND}"),
        ("./claude", 127, f"{CRUN}executable file `/./claude` not found: {UNFOUND}"),
        ("claude", 127, f'{RUNC}exec: "claude": executable file not found in $PATH: OCI runtime …'),
        ("/opt/claude", 127, f'{RUNC}exec: "/opt/claude": stat /opt/claude: no such file or directory'),
        ("claude", 126, f'{DOCKER}exec: "claude": executable file not found in $PATH: unknown'),
        ("claude", 127, "nsenter: failed to execute claude: No such file or directory"),
        ("claude", 127, "sh: 1: exec: claude: not found"),
        ("claude", 127, "sh: line 5: /opt/claude: No such file or directory"),
        ("claude", 127, "sh: line 5: claude: command not found"),
        ("claude", 127, "env: 'claude': No such file or directory"),
        ("claude", 127, f"env: {OPEN}claude{CLOSE}: No such file or directory"),
        ("a.b+c", 127, "a warning before\nsh: 1: exec: a.b+c: not found"),
    ],
)
def test_a_program_is_missing_where_somebody_says_so_of_it(program: str, status: int, said: str) -> None:
    assert is_missing(program, status, said)


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        ("claude", 126, f"{CRUN}capset: {DENIED}"),
        ("claude", 126, f"{CRUN}setns `mnt`: {DENIED}"),
        ("/etc/passwd", 126, f"{CRUN}the path `/etc/passwd` exists but it is not executable: {DENIED}"),
        ("/tmp", 126, f"{CRUN}the path `/tmp` is not a regular file: {DENIED}"),
        ("claude", 127, f"{CRUN}chdir to `/nowhere`: {UNFOUND}"),
        ("claude", 127, f"{CRUN}chdir to `/opt/claude/work`: {UNFOUND}"),
        ("claude", 126, f'{DOCKER}exec: "claude": permission denied: unknown'),
        ("claude", 127, "claude: 3: node: not found"),
        ("sh", 127, "sh: 1: nosuch: not found"),
        ("claude", 127, "sh: 1: exec: my-claude: not found"),
        ("claude", 127, ""),
        ("claude", 1, "sh: 1: exec: claude: not found"),
    ],
)
def test_a_program_is_there_whatever_else_was_not_found_or_allowed(
    program: str, status: int, said: str
) -> None:
    assert not is_missing(program, status, said)


@pytest.mark.parametrize("status", [125, 126, 127])
def test_the_reason_is_the_last_line_of_an_engine_that_has_started_nothing(status: int) -> None:
    assert reason(status, "a warning\nError: crun: capset") == "Error: crun: capset"
    assert reason(status, "") == ""


@pytest.mark.parametrize("status", [0, 1, 255, -9])
def test_what_a_program_has_said_itself_is_no_such_reason(status: int) -> None:
    assert reason(status, "Traceback") == ""
