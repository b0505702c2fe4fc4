# SPDX-License-Identifier: Apache-2.0
"""One process of a kind at a time: a lock on a file, which the kernel takes back however its holder ends."""

import fcntl
import os

from agentd.errors import AlreadyRunning


def only_one(path: str, who: str) -> int:
    """Take the lock, or raise AlreadyRunning. It is held until the descriptor that is returned is closed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunning(f"{who} is running already: it holds {path}") from None
    return descriptor
