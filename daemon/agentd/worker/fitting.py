# SPDX-License-Identifier: Apache-2.0
"""What is told over the link must fit into a message, however much there is and however long its names."""

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from agentd import link

TOLD_BYTES = link.MESSAGE_BYTES - 32 * 1024
"""Of what may be long, in one message: there is room left for all that is not."""
AGENTS_BYTES = 32 * 1024
DRAINS_BYTES = 48 * 1024
DRAINED_BYTES = 16 * 1024
"""Names of sessions in what is told of one drain."""
PERMISSIONS_BYTES = link.MESSAGE_BYTES // 2

T = TypeVar("T")

encoded = msgspec.msgpack.Encoder().encode


def fitting(things: Iterable[T], most_bytes: int) -> list[T]:
    """The first ones, as many as fit; any that would take more than half of the room alone is left out."""
    kept, left = [], most_bytes
    for thing in things:
        size = len(encoded(thing))
        if size > most_bytes // 2:
            continue
        if size > left:
            break
        kept.append(thing)
        left -= size
    return kept
