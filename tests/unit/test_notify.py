# SPDX-License-Identifier: Apache-2.0
"""What systemd is told."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.systemd import notify
from agentd.systemd.notify import Notifier

Told = socket.socket


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What a notifier that is made now speaks to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield told


@pytest.fixture
def notifier(systemd: Told) -> Iterator[Notifier]:
    notifier = Notifier()
    yield notifier
    notifier.close()


def test_plain_states(notifier: Notifier, systemd: Told) -> None:
    for send, state in (
        (notifier.ready, b"READY=1"),
        (notifier.stopping, b"STOPPING=1"),
        (notifier.ping, b"WATCHDOG=1"),
        (lambda: notifier.extend_timeout(5_000_000), b"EXTEND_TIMEOUT_USEC=5000000"),
    ):
        assert send()
        assert systemd.recv(4096) == state


def test_reloading_says_since_when(notifier: Notifier, systemd: Told) -> None:
    before = time.monotonic_ns() // 1000
    assert notifier.reloading()
    state, since = systemd.recv(4096).decode().split("\n")
    assert state == "RELOADING=1"
    assert before <= int(since.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("3 turns", b"3 turns"),
        ("Grüße … \U0001f600", b"Gr??e ? ?"),
        ("one\nREADY=1", b"one READY=1"),
        ("\x1b[31mred\x07", b"[31mred"),
        ("\ud800", b"?"),
        ("x" * 9000, b"x" * 500),
    ],
)
def test_a_status_always_arrives_as_one_line(
    notifier: Notifier, systemd: Told, text: str, told: bytes
) -> None:
    assert notifier.status(text)
    assert systemd.recv(20_000) == b"STATUS=" + told


def test_a_descriptor_is_stored_and_removed(notifier: Notifier, systemd: Told) -> None:
    pytest.importorskip("systemd.daemon", reason="systemd-python is not installed")
    ours, theirs = os.pipe()
    assert notifier.store_fd("container-box", ours)
    state, [stored], _, _ = socket.recv_fds(systemd, 4096, 1)
    assert state == b"FDSTORE=1\nFDNAME=container-box"
    os.write(theirs, b"hello")
    assert os.read(stored, 10) == b"hello"
    for fd in (ours, theirs, stored):
        os.close(fd)
    assert notifier.remove_fd("container-box")
    assert systemd.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=container-box"


@pytest.mark.parametrize("name", ["", "a:b", "a\nREADY=1", "ü", "x" * 256])
def test_a_name_that_systemd_would_refuse(notifier: Notifier, name: str) -> None:
    with pytest.raises(ValueError, match="no descriptor called"):
        notifier.store_fd(name, 0)


def test_without_systemd_python_nothing_is_stored(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "systemd", None)
    assert not notifier.store_fd("box", 0)
    assert "install systemd-python" in caplog.text


def test_children_find_no_way_to_speak_for_us(systemd: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    notifier.store_fd("box", 0)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()
    notifier.close()


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", "us", 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("x", None, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_interval(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, interval: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "us" else pid)
    assert Notifier().watchdog_interval == interval


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    assert not any(
        (notifier.ready(), notifier.status("x"), notifier.store_fd("box", 0), notifier.remove_fd("box"))
    )
    assert notifier.watchdog_interval is None


def test_a_manager_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not Notifier().ready()
    assert "cannot be told" in caplog.text


def test_a_manager_that_does_not_listen_is_not_waited_for(
    systemd: Told, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "SEND_TIMEOUT", 0.01)
    notifier = Notifier()
    while notifier.ping():
        pass
    assert "was not told WATCHDOG" in caplog.text
    notifier.close()
