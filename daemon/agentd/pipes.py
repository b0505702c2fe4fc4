# SPDX-License-Identifier: Apache-2.0
"""Pipes as event loops want them: as file objects, each closed by one side only."""

import asyncio
import os
from typing import IO


def reading_end(descriptor: int) -> IO[bytes]:
    """For connect_read_pipe, which takes over the descriptor."""
    return os.fdopen(descriptor, "rb", 0, closefd=_loop_leaves_it_open())


def writing_end(descriptor: int) -> IO[bytes]:
    """For connect_write_pipe, which takes over the descriptor."""
    return os.fdopen(descriptor, "wb", 0, closefd=_loop_leaves_it_open())


def _loop_leaves_it_open() -> bool:
    """asyncio closes the file object; uvloop closes the descriptor, and then the file object as well.

    By then another thread may have been given the same number, and would lose what it has just opened.
    """
    return not type(asyncio.get_running_loop()).__module__.startswith("uvloop")
