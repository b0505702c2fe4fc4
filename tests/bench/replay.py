# SPDX-License-Identifier: Apache-2.0
"""A session of 10,000 frames shown again: from memory and disk by the worker that recorded it, and by the
next one from disk alone, beside the same bytes over a bare socket."""

import contextlib
import os
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ways import Embedded, Wire, agentd, client, eventually

FRAMES, BYTES = 10_000, 250
ROUNDS = 5
GOAL_MS = 500.0


def shown(wire: Wire, session: str) -> float:
    """Milliseconds from the request to the answer, which comes after the last frame."""
    began = time.perf_counter()
    wire.send("session/load", {"sessionId": session, "cwd": "/", "mcpServers": []})
    lines, last = 0, b""
    while b'"result"' not in last:
        size = wire.take()
        lines += wire.buffer.count(b"\n", 0, size)
        last = bytes(wire.buffer[max(0, size - 4096) : size])
    assert lines > FRAMES, lines
    return 1000 * (time.perf_counter() - began)


def over_a_socket() -> float:
    """Milliseconds for the same number of bytes, in pieces of 64 KiB, from one thread to another."""
    ours, theirs = socket.socketpair()
    piece, left = b"x" * 65_536, FRAMES * BYTES
    with ours, theirs:
        sender = threading.Thread(
            target=lambda: [ours.sendall(piece) for _ in range(left // len(piece) + 1)]
        )
        began = time.perf_counter()
        sender.start()
        while left > 0:
            left -= len(theirs.recv(1 << 18))
        taken = 1000 * (time.perf_counter() - began)
        sender.join()
    return taken


def by_the_same(daemon: Embedded, session: str) -> float:
    with client(daemon) as wire:
        return shown(wire, session)


def by_the_next(daemon: Embedded, session: str) -> float:
    (worker,) = daemon.workers()
    os.kill(worker, signal.SIGTERM)
    eventually(lambda: worker not in daemon.workers(), "the worker is gone")
    return by_the_same(daemon, session)


def main() -> list[str]:
    """Print the table and return the goals that were missed."""
    ways: dict[str, Callable[[Embedded, str], float]] = {
        "by the worker that recorded it": by_the_same,
        "by the next worker, from disk": by_the_next,
    }
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        daemon = stack.enter_context(agentd(folder, transcripts="full"))
        with client(daemon) as wire:
            session = wire.open()
            wire.rate(FRAMES, BYTES)
        taken = {name: [way(daemon, session) for _ in range(ROUNDS)] for name, way in ways.items()}
    bare = statistics.median(over_a_socket() for _ in range(ROUNDS))
    print(f"\n{FRAMES:,} frames of {BYTES} bytes shown again, up to the answer; median and worst, ms")
    print(f"{'the bytes over a bare socket':34}{bare:8.1f}")
    for name, each in taken.items():
        print(f"{name:34}{statistics.median(each):8.1f}{max(each):8.1f}")
    slow = [name for name, each in taken.items() if statistics.median(each) > GOAL_MS]
    return [f"replay: {name} takes more than {GOAL_MS:g} ms" for name in slow]


if __name__ == "__main__":
    raise SystemExit("\n".join(main()) or 0)
