# SPDX-License-Identifier: Apache-2.0
"""Waiting for what can't be awaited: short polls, and always a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.02


def wait_for(predicate: Callable[[], T | None], timeout: float, what: str = "the condition") -> T:
    """The first true value of predicate(); TimeoutError, naming `what`, after timeout seconds without."""
    end = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(INTERVAL)
    return value
