# SPDX-License-Identifier: Apache-2.0
"""Many callers of one D-Bus service in one process, which costs next to nothing: bytes in, bytes out.

Each has a connection of its own, and one call under way at a time.
`callers.py PATH COUNT SECONDS PACE [Ping]` prints a line of JSON: how long calls took, and how many
connections were lost.
"""

import json
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Sequence

HEADER = struct.Struct("<BBBBII")
REPLY, ERROR = 2, 3
LOOKS = (
    ("org.agentd1.Manager", "Status", ""),
    ("org.agentd1.Manager", "ListContainers", ""),
    ("org.agentd1.Manager", "ListSessions", "s"),
)
PINGS = (("org.freedesktop.DBus.Peer", "Ping", ""),)


def call(destination: str, path: str, interface: str, member: str, signature: str = "") -> bytes:
    """A method call, of serial 0, with an empty string as its argument where it takes one."""
    fields = [(1, "o", path), (2, "s", interface), (3, "s", member), (6, "s", destination)]
    fields += [(8, "g", signature)] if signature else []
    data = b""
    for code, kind, text in fields:
        data += b"\0" * (-len(data) % 8) + struct.pack("<BBc", code, 1, kind.encode()) + b"\0"
        length = struct.pack("<B" if kind == "g" else "<I", len(text))
        data += length + text.encode() + b"\0"
    body = struct.pack("<I", 0) + b"\0" if signature else b""
    head = HEADER.pack(ord("l"), 1, 0, 1, len(body), 0) + struct.pack("<I", len(data)) + data
    return head + b"\0" * (-len(head) % 8) + body


def numbered(message: bytes, serial: int) -> bytes:
    return message[:8] + struct.pack("<I", serial) + message[12:]


class Caller:
    """One connection to the bus."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.sock.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        assert self.sock.recv(256).startswith(b"OK")
        self.sock.sendall(b"BEGIN\r\n")
        self._got = bytearray()
        self._serial = 0
        self.began = 0.0
        self.due = 0.0
        self.waiting = False
        self.turn = 0
        daemon = "org.freedesktop.DBus"
        self.send(call(daemon, "/org/freedesktop/DBus", daemon, "Hello"))
        while not self.answered():
            pass

    def send(self, message: bytes) -> None:
        self._serial += 1
        self.began, self.waiting = time.perf_counter(), True
        self.sock.sendall(numbered(message, self._serial))

    def answered(self) -> bool:
        """Read what is there; whether the answer is complete. Raises ConnectionError, or what went wrong."""
        data = self.sock.recv(1 << 20)
        if not data:
            raise ConnectionResetError("the bus has hung up")
        self._got += data
        done = False
        while len(self._got) >= 16 and len(self._got) >= (size := self._length()):
            kind, body = self._got[1], bytes(self._got[:size])
            del self._got[:size]
            if kind == ERROR:
                raise RuntimeError(body[-200:])
            done = done or kind == REPLY
        self.waiting = self.waiting and not done
        return done

    def _length(self) -> int:
        body, fields = struct.unpack_from("<I4xI", self._got, 4)
        return 16 + fields + (-fields % 8) + int(body)


def hammer(
    path: str, count: int, seconds: float, pace: float, calls: Sequence[tuple[str, str, str]]
) -> dict[str, object]:
    """`pace`: seconds from one call of a caller to its next, 0 for as soon as it has its answer."""
    messages = [call("org.agentd1", "/org/agentd1", *each) for each in calls]
    callers = [Caller(path) for _ in range(count)]
    selector = selectors.DefaultSelector()
    began = time.perf_counter()
    for number, caller in enumerate(callers):
        selector.register(caller.sock, selectors.EVENT_READ, caller)
        caller.due, caller.turn = began + pace * number / count, number
    taken: list[float] = []
    lost = 0
    while (now := time.perf_counter()) < began + seconds:
        for caller in callers:
            if not caller.waiting and caller.due <= now:
                caller.due += pace
                caller.turn += 1
                caller.send(messages[caller.turn % len(messages)])
        for key, _ in selector.select(0.002):
            try:
                if key.data.answered():
                    taken.append(time.perf_counter() - key.data.began)
            except ConnectionError:
                lost += 1
                selector.unregister(key.fileobj)
                callers.remove(key.data)
    taken.sort()
    at = [1000 * taken[int(len(taken) * share)] for share in (0.5, 0.99)] if taken else [0.0, 0.0]
    return {"calls": len(taken), "median_ms": at[0], "p99_ms": at[1], "lost": lost}


if __name__ == "__main__":
    asked = PINGS if sys.argv[5:] else LOOKS
    numbers = int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    print(json.dumps(hammer(sys.argv[1], *numbers, asked)))
