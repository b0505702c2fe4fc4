# SPDX-License-Identifier: Apache-2.0
"""Logging: to the journal with fields of ours where stderr is the journal, else as plain lines on stderr.

A record may say what it is about: `extra={"container": …, "agent": …, "session": …, "client": …}`, and which
`Event` it is; that of a scheduled prompt also says which it was and what came of it. Whoever logs never
waits: a thread of ours does, and drops what it cannot keep up with.
"""

import copy
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from agentd.printable import LINES, TABS, printable

RESULT = ("prompt", "stop_reason", "error", "duration_usec")
CONTEXT = ("container", "agent", "session", "client", *RESULT)
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LEVEL_VARIABLE = "AGENTD_LOG"
QUEUE_MAX = 10_000
CLOSE_TIMEOUT = 2.0
BREATH_SEC = 0.01

Send = Callable[..., object]

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_TRACES = logging.Formatter()


def priority(level: int) -> int:
    """syslog's number for one of logging's."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def context(record: logging.LogRecord) -> dict[str, str]:
    return {name: str(value) for name in CONTEXT if (value := getattr(record, name, None))}


def trace(record: logging.LogRecord) -> str:
    """The traceback that belongs to the record, or nothing."""
    if record.exc_text is None and record.exc_info:
        record.exc_text = _TRACES.formatException(record.exc_info)
    return record.exc_text or ""


# Where records go


class JournalHandler(logging.Handler):
    """Sends chosen fields and no others: arguments and locals of ours may hold secrets.

    journalctl shows no entry that has control characters in it, so they are escaped, as are line breaks.
    """

    def __init__(self, identifier: str, send: Send) -> None:
        super().__init__()
        self._identifier = identifier
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(**self._fields(record))
        except Exception:  # anything at all: the journal is away, and the record must not be lost with it
            _write_line(sys.stderr, plain_text(record))

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {
            "MESSAGE": record.getMessage(),
            "PRIORITY": str(priority(record.levelno)),
            "SYSLOG_IDENTIFIER": self._identifier,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_FUNC": record.funcName or "",
            "MESSAGE_ID": str(getattr(record, "event", "")),
            "EXCEPTION": trace(record),
        }
        fields |= {"AGENTD_" + name.upper(): value for name, value in context(record).items()}
        sent = {
            name: printable(value, keep=LINES if name == "EXCEPTION" else TABS)
            for name, value in fields.items()
            if value
        }
        return sent | {"CODE_LINE": record.lineno}


class PlainHandler(logging.Handler):
    """Lines for a person; `prefix` puts systemd's <priority> before each, for a journal that reads them."""

    def __init__(self, stream: TextIO, *, prefix: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"<{priority(record.levelno)}>" if self._prefix else ""
        for line in plain_text(record).split("\n"):
            _write_line(self._stream, prefix + line)


def plain_text(record: logging.LogRecord) -> str:
    """`LEVEL name: message [container=box agent=claude]`, and a traceback indented below, all printable."""
    about = " ".join(f"{name}={value}" for name, value in context(record).items())
    text = f"{record.levelname} {record.name}: {record.getMessage()}" + (f" [{about}]" if about else "")
    below = (f"  {line}" for line in trace(record).split("\n") if line)
    return "\n".join(printable(line, keep=TABS) for line in (text, *below))


def _write_line(stream: TextIO, line: str) -> None:
    try:
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):
        pass  # stderr is closed or full, and there is nowhere left to say so


class Background(logging.Handler):
    """Hands records to another handler on a thread of its own. When that falls behind they are dropped."""

    def __init__(self, target: logging.Handler, *, size: int = QUEUE_MAX) -> None:
        super().__init__()
        self._target = target
        self._queue: queue.Queue[logging.LogRecord | None] = queue.Queue(size)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if record.exc_info:
                trace(record)
                record = copy.copy(record)  # other handlers need what is taken away from it here
            record.msg, record.args = record.getMessage(), None  # as it is now: arguments may change
            record.exc_info = None  # or what the frames refer to would live on
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Wait for what is queued, for a while; logging calls this at exit."""
        try:
            self._queue.put(None, timeout=CLOSE_TIMEOUT)
            self._thread.join(CLOSE_TIMEOUT)
        except queue.Full:
            pass  # the target hangs; the thread is a daemon and does not keep the process
        super().close()

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            self._target.handle(record)
            if self._queue.empty():
                self._own_up()
                time.sleep(
                    BREATH_SEC
                )  # not to be woken for each record of many: whoever logs has work to do

    def _own_up(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._target.handle(_drops(dropped))


def _drops(count: int) -> logging.LogRecord:
    text = "%d log records were dropped: the journal did not keep up"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (count,), None)


# Setting up


def setup_logging(identifier: str, environ: Mapping[str, str] | None = None) -> None:
    """Send every record where it belongs. AGENTD_LOG is the level of ours: debug, info, warning or error."""
    environ = os.environ if environ is None else environ
    wanted = environ.get(LEVEL_VARIABLE, "").lower() or "info"
    logging.basicConfig(
        handlers=[Background(_handler(identifier, environ))], level=logging.WARNING, force=True
    )
    logging.getLogger("agentd").setLevel(LEVELS.get(wanted, logging.INFO))
    if wanted not in LEVELS:
        logging.getLogger(__name__).warning("%s=%s is none of %s", LEVEL_VARIABLE, wanted, ", ".join(LEVELS))


def _handler(identifier: str, environ: Mapping[str, str]) -> logging.Handler:
    journal = is_journal(sys.stderr, environ)
    send = _journal_send() if journal else None
    return JournalHandler(identifier, send) if send else PlainHandler(sys.stderr, prefix=journal)


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether systemd connected this very stream to the journal: the variable alone may be inherited."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _journal_send() -> Send | None:
    try:
        from systemd import journal
    except ImportError:
        return None
    send: Send = journal.send
    return send
