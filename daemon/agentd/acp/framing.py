# SPDX-License-Identifier: Apache-2.0
"""Bytes to frames: one message a line, with a bound on its length."""

import re
from collections.abc import Callable
from typing import NamedTuple

EDGE = 4096
"""Bytes kept of either end of a line that is too long, to find its id in."""

_STRING = rb'"(?:[^"\\]|\\.)*"'
_SCALAR = rb"(?:" + _STRING + rb"|-?\d+|true|false|null)"
_MEMBER = re.compile(rb"\s*[{,]\s*(" + _STRING + rb")\s*:\s*(" + _SCALAR + rb")(?=\s*[,}])")
_LAST = re.compile(rb"((?:,\s*" + _STRING + rb"\s*:\s*" + _SCALAR + rb"\s*)+)\}\s*$")


class Torn(NamedTuple):
    """What is still known of a line that was too long: its raw id, if it stood at either end."""

    raw_id: bytes | None
    is_response: bool


class Framer:
    """Cuts a stream into blocks of whole lines. A line over `limit` bytes is skipped and reported."""

    def __init__(self, limit: int, on_oversized: Callable[[Torn], None]) -> None:
        self.limit = limit
        self._on_oversized = on_oversized
        self._carry = bytearray()
        self._size = 0
        self._head = b""

    def feed(self, data: bytes) -> bytes:
        """Take what was read and return the lines it completes, each with its newline; b"" where none."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._keep(data)
            return b""
        if not self._size:
            block = data if end == len(data) else data[:end]
        else:
            block = self._finish_line(data, end)
        if end < len(data):
            self._keep(data[end:])
        return block if len(block) <= self.limit else self._within_limit(block)

    @property
    def pending(self) -> int:
        """Bytes of a line whose end has not come."""
        return self._size

    def _finish_line(self, data: bytes, end: int) -> bytes:
        first = data.find(b"\n") + 1
        self._keep(data[:first])
        line = self._take()
        return line + data[first:end]

    def _keep(self, data: bytes) -> None:
        self._carry += data
        self._size += len(data)
        if self._size > self.limit + 1:  # the newline does not count
            self._shed()

    def _shed(self) -> None:
        """Forget the middle of a line that is too long, whatever more comes of it."""
        self._head = self._head or bytes(self._carry[:EDGE])
        self._carry = self._carry[-EDGE:]

    def _take(self) -> bytes:
        line, head = bytes(self._carry), self._head
        self._carry, self._size, self._head = bytearray(), 0, b""
        if not head:
            return line
        self._on_oversized(torn(head, line))
        return b""

    def _within_limit(self, block: bytes) -> bytes:
        """A block is seldom longer than a line may be; where it is, look at each line."""
        kept = []
        for line in block.split(b"\n")[:-1]:
            if len(line) > self.limit:
                self._on_oversized(torn(line[:EDGE], line[-EDGE:]))
            else:
                kept.append(line + b"\n")
        return b"".join(kept)


def torn(head: bytes, tail: bytes) -> Torn:
    """Read the plain members a message begins and ends with: all that is left of it."""
    members = _plain_members(head)
    if last := _LAST.search(tail):
        members |= _plain_members(last[1] + b"}")
    return Torn(members.get(b'"id"'), b'"method"' not in members)


def _plain_members(text: bytes) -> dict[bytes, bytes]:
    members, at = {}, 0
    while found := _MEMBER.match(text, at):
        members[found[1]] = found[2]
        at = found.end()
    return members
