# SPDX-License-Identifier: Apache-2.0
"""What `agentctl doctor` has found: whether it is well, what it is, and what to do about it."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

CHECK_SEC = 10.0
"""For a check to come to an end."""


class Health(StrEnum):
    """A note is no reason to worry; a problem keeps something from working."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """`advice`: what to do, "" where there is nothing to be done."""

    state: Health
    what: str
    advice: str = ""


def fine(what: str) -> Finding:
    return Finding(Health.OK, what)


def note(what: str, advice: str = "") -> Finding:
    return Finding(Health.NOTE, what, advice)


def problem(what: str, advice: str) -> Finding:
    return Finding(Health.PROBLEM, what, advice)


# Looking: whatever goes wrong while it does, a check has an end and says something


async def looked(name: str, check: Awaitable[Iterable[Finding]]) -> list[Finding]:
    """What a check has found, or that it has not come to an end."""
    try:
        async with asyncio.timeout(CHECK_SEC):
            return list(await check)
    except TimeoutError:
        return [note(f"{name}: not found out within {CHECK_SEC:g} s")]
    except Exception as error:  # a check that fails is no reason to keep the others from being told
        return [note(f"{name}: cannot be found out: {error or type(error).__name__}")]


async def aside(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Run a check that may block, on files or names from elsewhere. Nobody waits for its thread."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Finding]] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        if not answer.done():
            settle()

    def look() -> None:
        try:
            found = list(check())
            settle = functools.partial(answer.set_result, found)
        except Exception as error:
            settle = functools.partial(answer.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, settle)

    threading.Thread(target=look, name="doctor", daemon=True).start()
    return await answer
