# SPDX-License-Identifier: Apache-2.0
"""What is logged of an agent's stderr, and kept of it for errors."""

import logging

import pytest

from agentd.log import Context, Redactor
from agentd.worker.ration import LOGGED_BYTES, LOGGED_SEC, RECORD_BYTES, Ration
from agentd.worker.stderr import Stderr
from unit import loop


def heard(
    caplog: pytest.LogCaptureFixture, *data: bytes, secrets: tuple[str, ...] = (), between: float = 0
) -> tuple[list[str], str]:
    """What is logged, line by line, and the tail. BETWEEN: seconds from one piece to the next."""
    logger = logging.getLogger("agentd.test")
    caplog.set_level(logging.INFO, logger.name)
    allowed = Ration(log := Context(logger))
    stderr = Stderr(log, Redactor(secrets), allowed)

    async def hear() -> None:
        for each in data:
            stderr.data_received(each)
            await loop.skip(between)
        stderr.connection_lost(None)
        allowed.settle()

    loop.run(hear())
    return [record.getMessage() for record in caplog.records], stderr.tail


def test_lines_are_text_that_no_terminal_obeys(caplog: pytest.LogCaptureFixture) -> None:
    lines, tail = heard(
        caplog, b"\x1b]0;owned\x07one\rtwo\r\n", "\x9b2J\u202eevil\u2028x\tü\n".encode(), b"\xff"
    )
    assert lines == [r"\x1b]0;owned\x07one\rtwo", "\\x9b2J\\u202eevil\\u2028x\tü", "\ufffd"]
    assert tail == "\n".join(lines)


def test_colours_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    lines, _ = heard(caplog, b"\x1b[1;38:5:9mERROR\x1b[0m it broke\x1b[m\n", b"\x1b\x1b[0m[2J\n")
    assert lines == ["ERROR it broke", r"\x1b[2J"]


def test_colours_in_a_secret_do_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    lines, tail = heard(caplog, b"key=hunt\x1b[31mer-two\n", secrets=("hunter-two",))
    assert lines == ["key=[redacted]"] and tail == "key=[redacted]"


def test_an_agent_that_writes_without_end_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    many = [b"%05d%s\n" % (number, b"a" * 994) for number in range(1000)]
    lines, tail = heard(caplog, b"".join(many))
    logged = LOGGED_BYTES // (RECORD_BYTES + 999)
    assert lines[:-1] == [line.decode().rstrip() for line in many[:logged]]
    assert lines[-1] == f"{1000 - logged} more lines were not logged: the agent writes too many"
    assert tail.endswith(many[-1].decode().rstrip())


def test_who_has_written_too_much_is_heard_again_later(caplog: pytest.LogCaptureFixture) -> None:
    lines, _ = heard(caplog, (b"a" * 999 + b"\n") * 300, b"later\n", between=LOGGED_SEC)
    assert lines[-2].endswith("more lines were not logged: the agent writes too many")
    assert lines[-1] == "later"
