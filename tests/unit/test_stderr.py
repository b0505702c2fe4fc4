# SPDX-License-Identifier: Apache-2.0
"""What is logged of an agent's stderr, and kept of it for errors."""

import asyncio
import logging

import pytest

from agentd.log import Context, Redactor
from agentd.worker.stderr import Stderr
from unit import loop


def heard(
    caplog: pytest.LogCaptureFixture, *data: bytes, secrets: tuple[str, ...] = ()
) -> tuple[list[str], str]:
    """What is logged, line by line, and the tail."""
    logger = logging.getLogger("agentd.test")
    caplog.set_level(logging.INFO, logger.name)
    stderr = Stderr(Context(logger), Redactor(secrets))

    async def hear() -> None:
        for each in data:
            stderr.data_received(each)
        stderr.connection_lost(None)
        await asyncio.sleep(0)

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
