# SPDX-License-Identifier: Apache-2.0
"""Sockets from systemd."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentd.systemd.activation import listen_sockets

FIRST = 200


@pytest.fixture
def passed(tmp_path: Path) -> Iterator[list[Path]]:
    """Three listening sockets from descriptor FIRST on, as systemd passes them: blocking and inheritable."""
    paths = [tmp_path / name for name in ("a", "b", "c")]
    with ExitStack() as stack:
        for number, path in enumerate(paths):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(path))
            sock.listen()
            fd = fcntl.fcntl(sock, fcntl.F_DUPFD, FIRST + number)
            assert fd == FIRST + number
        yield paths
    for number in range(3):
        try:
            os.close(FIRST + number)
        except OSError:
            pass  # the test took it and closed it


def variables(**more: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "front:box:front", **more}


def each_of(sockets: dict[str, list[socket.socket]]) -> list[socket.socket]:
    return [sock for group in sockets.values() for sock in group]


def test_sockets_come_by_name(passed: list[Path]) -> None:
    sockets = listen_sockets(variables(), first=FIRST)
    found = {name: [each.getsockname() for each in group] for name, group in sockets.items()}
    assert found == {"front": [str(passed[0]), str(passed[2])], "box": [str(passed[1])]}
    for sock in each_of(sockets):
        assert not sock.getblocking() and not sock.get_inheritable()
        sock.close()


def test_the_variables_are_not_left_for_children(passed: list[Path]) -> None:
    environ = variables(PATH="/bin", LISTEN_PIDFDID="7")
    for sock in each_of(listen_sockets(environ, first=FIRST)):
        sock.close()
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "wrong",
    [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "x"}, {"LISTEN_FDS": "-1"}, {"LISTEN_FDS": ""}],
)
def test_what_is_not_for_us_is_not_touched(passed: list[Path], wrong: dict[str, str]) -> None:
    environ = variables(**wrong)
    assert listen_sockets(environ, first=FIRST) == {}
    assert environ == {}
    assert os.get_inheritable(FIRST) and os.get_blocking(FIRST)


def test_nothing_is_passed() -> None:
    assert listen_sockets({}) == {}


@pytest.mark.parametrize(
    ("names", "expected"), [("", {"unknown": 3}), ("front", {"front": 1, "unknown": 2})]
)
def test_sockets_without_a_name(passed: list[Path], names: str, expected: dict[str, int]) -> None:
    sockets = listen_sockets(variables(LISTEN_FDNAMES=names), first=FIRST)
    assert {name: len(group) for name, group in sockets.items()} == expected
    for sock in each_of(sockets):
        sock.close()


def test_what_is_no_socket_is_left_out(
    passed: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), FIRST + 1)
    sockets = listen_sockets(variables(), first=FIRST)
    assert set(sockets) == {"front"} and "box" in caplog.text
    for sock in sockets["front"]:
        sock.close()
