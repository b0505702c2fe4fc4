# SPDX-License-Identifier: Apache-2.0
"""Where log records go."""

import io
import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.systemd.events import Event
from agentd.systemd.journal import (
    Background,
    JournalHandler,
    PlainHandler,
    is_journal,
    setup_logging,
)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger that goes nowhere but to what a test adds."""
    logger = logging.Logger("agentd.test", logging.DEBUG)
    yield logger
    for handler in logger.handlers:
        handler.close()


@pytest.fixture
def sent(logger: logging.Logger) -> list[dict[str, Any]]:
    """The fields of what is logged, as they go to the journal."""
    sent: list[dict[str, Any]] = []
    logger.addHandler(JournalHandler("agentd", lambda **fields: sent.append(fields)))
    return sent


@pytest.fixture
def lines(logger: logging.Logger) -> io.StringIO:
    """What a person reads of what is logged."""
    stream = io.StringIO()
    logger.addHandler(PlainHandler(stream))
    return stream


def fail(logger: logging.Logger, text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("it failed")


# The journal


def test_chosen_fields_and_no_others(logger: logging.Logger, sent: list[dict[str, Any]]) -> None:
    secret = {"token": "secret"}
    logger.warning("%d turns", 3, extra={"container": "box", "agent": "claude", "request": secret})
    [fields] = sent
    assert Path(fields.pop("CODE_FILE")).name == "test_journal.py" and fields.pop("CODE_LINE") > 0
    assert fields == {
        "MESSAGE": "3 turns",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "agentd",
        "LOGGER": "agentd.test",
        "CODE_FUNC": "test_chosen_fields_and_no_others",
        "AGENTD_CONTAINER": "box",
        "AGENTD_AGENT": "claude",
    }


def test_an_event_is_the_message_id(logger: logging.Logger, sent: list[dict[str, Any]]) -> None:
    logger.info("ready", extra={"event": Event.MANAGER_READY, "session": "s1", "client": "c1"})
    assert sent[0]["MESSAGE_ID"] == Event.MANAGER_READY.value
    assert (sent[0]["AGENTD_SESSION"], sent[0]["AGENTD_CLIENT"]) == ("s1", "c1")


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")],
)
def test_levels(logger: logging.Logger, sent: list[dict[str, Any]], level: str, priority: str) -> None:
    getattr(logger, level)("x")
    assert sent[0]["PRIORITY"] == priority


def test_a_traceback_has_its_own_field(logger: logging.Logger, sent: list[dict[str, Any]]) -> None:
    fail(logger, "odd")
    assert sent[0]["MESSAGE"] == "it failed"
    assert sent[0]["EXCEPTION"].startswith("Traceback") and sent[0]["EXCEPTION"].endswith("ValueError: odd")


def test_an_entry_has_nothing_that_keeps_journalctl_from_showing_it(
    logger: logging.Logger, sent: list[dict[str, Any]]
) -> None:
    """Which shows no message with control characters in it, but how long it is."""
    logger.info("red \x1b[31m\x9b\u202e\rone\ntwo\tü", extra={"session": "s\x1b]0;x\x07"})
    assert sent[0]["MESSAGE"] == "red \\x1b[31m\\x9b\\u202e\\rone\\ntwo\tü"
    assert sent[0]["AGENTD_SESSION"] == r"s\x1b]0;x\x07"
    fail(logger, "odd\x07")
    assert sent[1]["EXCEPTION"].startswith("Traceback")
    assert sent[1]["EXCEPTION"].endswith("\n" + r"ValueError: odd\x07")


def test_a_record_that_the_journal_refuses_goes_to_stderr(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**fields: object) -> None:
        raise OSError("no journal")

    logger.addHandler(JournalHandler("agentd", refuse))
    logger.info("not lost", extra={"container": "box"})
    assert capsys.readouterr().err == "INFO agentd.test: not lost [container=box]\n"


def test_the_real_library_takes_our_fields(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = pytest.importorskip("systemd.journal", reason="systemd-python is not installed")
    lines: list[Any] = []
    monkeypatch.setattr(journal, "sendv", lambda *args: lines.extend(args))
    logger.addHandler(JournalHandler("agentd", journal.send))
    logger.info("surrogate \ud800", extra={"event": Event.BUS_LOST})
    assert {r"MESSAGE=surrogate \ud800", f"MESSAGE_ID={Event.BUS_LOST.value}", "PRIORITY=6"} < set(lines)


def test_event_ids_are_ids_and_differ() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", event.value) for event in Event)
    assert len({event.value for event in Event}) == len(Event.__members__)


# Plain text


def test_a_line_says_what_it_is_about(logger: logging.Logger, lines: io.StringIO) -> None:
    logger.info("started", extra={"agent": "claude", "container": "box", "client": ""})
    assert lines.getvalue() == "INFO agentd.test: started [container=box agent=claude]\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("one\ntwo\r", r"one\ntwo\r"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202eevil", r"\u202eevil"),
        ("\ud800", r"\ud800"),
        ("tab\tüber 😀", "tab\tüber 😀"),
    ],
)
def test_nothing_reaches_the_terminal_but_text(
    logger: logging.Logger, lines: io.StringIO, text: str, shown: str
) -> None:
    logger.error("%s", text, extra={"agent": text})
    assert lines.getvalue() == f"ERROR agentd.test: {shown} [agent={shown}]\n"


def test_a_traceback_is_printable_lines(logger: logging.Logger, lines: io.StringIO) -> None:
    fail(logger, "odd \x1b[2J")
    first, second, *_, last = lines.getvalue().splitlines()
    assert first == "ERROR agentd.test: it failed" and second.startswith("  Traceback")
    assert last == r"  ValueError: odd \x1b[2J"


def test_a_traceback_forges_no_record(logger: logging.Logger, lines: io.StringIO) -> None:
    fail(logger, "odd\nERROR agentd.test: forged\u2028ERROR agentd.test: forged")
    assert [line for line in lines.getvalue().splitlines() if line.startswith("ERROR")] == [
        "ERROR agentd.test: it failed"
    ]


def test_every_line_has_its_priority_for_a_journal_that_reads_lines(logger: logging.Logger) -> None:
    logger.addHandler(PlainHandler(stream := io.StringIO(), prefix=True))
    fail(logger, "odd")
    assert all(line.startswith("<3>") for line in stream.getvalue().splitlines())


def test_a_closed_stderr_is_no_error(logger: logging.Logger) -> None:
    stream = io.StringIO()
    logger.addHandler(PlainHandler(stream))
    stream.close()
    logger.info("to nobody")


# In the background


class Slow(logging.Handler):
    """A journal that hangs until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.busy = threading.Event()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.busy.set()
        self.go.wait(10)
        self.texts.append(record.getMessage())


def test_a_hanging_journal_holds_nobody_up(logger: logging.Logger) -> None:
    slow = Slow()
    logger.addHandler(background := Background(slow, size=2))
    logger.info("0")
    slow.busy.wait(10)
    for number in range(1, 6):
        logger.info("%d", number)
    slow.go.set()
    background.close()
    assert slow.texts == ["0", "1", "2", "3 log records were dropped: the journal did not keep up"]


def test_a_record_is_as_it_was_when_it_was_logged(logger: logging.Logger) -> None:
    slow = Slow()
    logger.addHandler(background := Background(slow))
    logger.info("%s", growing := ["a"])
    growing.append("b")
    slow.go.set()
    background.close()
    assert slow.texts == ["['a']"]


def test_a_traceback_survives_the_queue_for_every_handler(
    logger: logging.Logger, lines: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    logger.handlers.insert(0, background := Background(PlainHandler(stream := io.StringIO())))
    logger.addHandler(caplog.handler)
    fail(logger, "odd")
    background.close()
    assert stream.getvalue() == lines.getvalue() and stream.getvalue().endswith("ValueError: odd\n")
    assert caplog.records[0].exc_info


# Setting up


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root, ours = logging.getLogger(), logging.getLogger("agentd")
    before = root.handlers[:], root.level, ours.level
    root.handlers.clear()
    yield root
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", "d1 i1 w1 w2"),
        ("", "i1 w1 w2"),
        ("WARNING", "w1 w2"),
        ("error", "w2"),
        ("loud", "i1 w1 w2"),
    ],
)
def test_the_environment_chooses_the_level_of_ours(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], level: str, expected: str
) -> None:
    setup_logging("agentd", {"AGENTD_LOG": level})
    ours, theirs = logging.getLogger("agentd.x"), logging.getLogger("library")
    ours.debug("d1")
    ours.info("i1")
    theirs.info("i2")
    ours.warning("w1")
    theirs.warning("w2")
    root.handlers[0].close()
    shown = capsys.readouterr().err
    assert re.findall(r": ([diw]\d)$", shown, re.MULTILINE) == expected.split()
    assert ("loud is none of" in shown) == (level == "loud")


def stream_id(path: Path) -> str:
    return f"{path.stat().st_dev}:{path.stat().st_ino}"


def test_stderr_is_the_journal_only_if_it_is_that_very_stream(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with (tmp_path / "stderr").open("w") as stderr:
        assert is_journal(stderr, {"JOURNAL_STREAM": stream_id(tmp_path / "stderr")})
        assert not is_journal(stderr, {"JOURNAL_STREAM": stream_id(tmp_path / "other")})
        assert not is_journal(stderr, {})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


@pytest.mark.parametrize("library", [True, False])
def test_under_systemd_the_journal_is_used(
    root: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: bool
) -> None:
    journal = pytest.importorskip("systemd.journal", reason="systemd-python is not installed")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(journal, "send", lambda **fields: sent.append(fields))
    if not library:
        monkeypatch.setitem(sys.modules, "systemd", None)
    with (tmp_path / "stderr").open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        setup_logging("agentd", {"JOURNAL_STREAM": stream_id(tmp_path / "stderr")})
        logging.getLogger("agentd.x").info("hello")
        root.handlers[0].close()
    assert [fields["MESSAGE"] for fields in sent] == (["hello"] if library else [])
    assert (tmp_path / "stderr").read_text() == ("" if library else "<6>INFO agentd.x: hello\n")
