# SPDX-License-Identifier: Apache-2.0
"""One of two clients of a session never reads: what that costs the worker in memory, and the other in time.

A turn is shorter than what a client may leave unread, and the next begins when the client that reads has it
all: so only the other is ever cut off, in the second turn. What the worker gains is all private memory.
"""

import contextlib
import select
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ways import Wire, agentd, client, collect

from support.embedded import Embedded, memory

TURNS = 8
SIZES = {250: 28_000, 1 << 20: 7}
"""Sizes of updates, and how many a turn has."""
ABSENT, STALLED, READING = KINDS = "alone", "beside one that is stalled", "beside one that reads"
WARM_UP, LOOKS, ROUNDS = 3, 2, 20
BUFFER_GOAL, SLOWER_GOAL = 8 << 20, 0.05


@contextlib.contextmanager
def company(daemon: Embedded, reader: Wire, kind: str) -> Iterator[Wire | None]:
    """The other client, if any: it enters the session where it is now, without a replay."""
    with contextlib.ExitStack() as stack:
        other = None
        if kind != ABSENT:
            other = stack.enter_context(client(daemon))
            other.join(reader.session, "session/resume")
        reader.round_trips(WARM_UP)  # whatever the last company has left behind is done with
        if other is not None:
            collect({other: 2 * WARM_UP})
        yield other


def turns(reader: Wire, other: Wire | None, kind: str, size: int) -> list[float]:
    """Seconds that each turn takes until all of it has come."""
    lines, taken = SIZES[size], []
    for _ in range(TURNS):
        began = time.perf_counter()
        reader.prompt(f"{lines} {size}")
        collect({reader: lines + 1} | ({other: lines + 2} if other and kind == READING else {}))
        taken.append(time.perf_counter() - began)
    return taken


def cut_off(wire: Wire) -> bool:
    """Whether the other side has closed the connection, whatever is still unread."""
    poller = select.poll()
    poller.register(wire.read.fileno(), 0)
    return bool(poller.poll(0))


# Memory


@contextlib.contextmanager
def stage() -> Iterator[tuple[Embedded, Wire]]:
    """A fresh agentd, and a client in a session whose transcript is as long as it gets."""
    with (
        tempfile.TemporaryDirectory() as folder,
        agentd(Path(folder)) as daemon,
        client(daemon) as reader,
    ):
        reader.open()
        for size in SIZES:
            for _ in range(WARM_UP):
                turns(reader, None, ABSENT, size)
        yield daemon, reader


def gain(kind: str, size: int) -> int:
    """Bytes by which a worker's memory is at its highest above what it was before.

    The worker is a fresh one: what an earlier client has left to its allocator would hide the next one's.
    """
    with stage() as (daemon, reader), company(daemon, reader, kind) as other:
        (worker,) = daemon.workers()
        Path(f"/proc/{worker}/clear_refs").write_text("5")  # the highest so far is what it is now
        before = memory(worker, "VmRSS")
        turns(reader, other, kind, size)
        assert other is None or cut_off(other) == (kind == STALLED), f"{kind}: cut off, or not"
        return memory(worker, "VmHWM") - before


# Time


def times(daemon: Embedded, reader: Wire, size: int) -> dict[str, list[list[float]]]:
    """Of each kind the seconds of every turn in every round."""
    found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for number in range(ROUNDS):
        for place in range(len(KINDS)):
            kind = KINDS[(number + place) % len(KINDS)]  # each follows each of the others equally often
            with company(daemon, reader, kind) as other:
                found[kind].append(turns(reader, other, kind, size))
    return found


def slower(found: dict[str, list[list[float]]], kind: str, count: int) -> float:
    """By how much more time than alone the first turns of a run take.

    Of each turn the best round counts: a median of them is off by more than the goal on a busy machine, and
    whatever makes the client wait is in the best round too.
    """
    this, alone = (sum(map(min, *(taken[:count] for taken in found[each]))) for each in (kind, ABSENT))
    return float(this / alone - 1)


def table(size: int) -> list[str]:
    """Print the rows of one size; the goals that were missed."""
    gained = {kind: max(gain(kind, size) for _ in range(LOOKS)) for kind in KINDS}
    with stage() as (daemon, reader):
        found = times(daemon, reader, size)
    for kind in KINDS:
        rate = TURNS * SIZES[size] * size / statistics.median(map(sum, found[kind])) / 1e6
        longer = "".join(f"{slower(found, kind, count):+17.1%}" for count in (2, TURNS))
        print(f"{f'{size} B, {kind}':38}{gained[kind] / (1 << 20):12.1f} MiB{rate:12.0f} MB/s{longer}")
    missed = []
    if gained[STALLED] > BUFFER_GOAL + size:
        missed.append(f"a stalled client costs {gained[STALLED]} bytes, not {BUFFER_GOAL + size}")
    if (costs := slower(found, STALLED, TURNS)) > SLOWER_GOAL:
        missed.append(f"beside a stalled client another takes {costs:.1%} longer, not {SLOWER_GOAL:.0%}")
    return missed


def main() -> list[str]:
    """Print the table; the goals that were missed."""
    print(f"{'a client that reads':38}{'worker gains':>16}{'':17}{'2 turns take':>17}{f'{TURNS} turns':>17}")
    return [miss for size in SIZES for miss in table(size)]
