# SPDX-License-Identifier: Apache-2.0
"""The manager is killed under many workers and started again: how soon it knows and serves all of them.

Beside it the physical limit: as many processes that send the same hello to somebody who only reads it.
Exits with 1 where the goal is missed.
"""

import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from ways import AGENT, over_socket, set_deadline

sys.path.insert(0, str(Path(__file__).parents[1]))

from agentd import __version__, link
from support.embedded import Embedded, eventually

COUNT, ROUNDS = 100, 3
GOAL_SEC = 2.0


@contextlib.contextmanager
def agentd(folder: Path) -> Iterator[Embedded]:
    """An agentd with a bus, and that many containers."""
    command = ", ".join(f"'{word}'" for word in AGENT)
    text = f'default_agent = "fast"\nruntimes = []\n[agents.fast]\ncommand = [{command}]\n'
    for number in range(COUNT):
        text += f'[containers.c{number}]\nruntime = "host"\ndirectory = "{folder}"\n'
    daemon = Embedded(folder, text, bus="private")
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.clean_up()


def linked(daemon: Embedded) -> int:
    """How many workers have linked since the first manager started."""
    return daemon.log().count(" linked")


def restart(daemon: Embedded) -> tuple[float, float]:
    """Kill the manager and start it: seconds from exec until it was ready, and until it knew all workers."""
    before = linked(daemon)
    daemon.kill()
    began = time.perf_counter()
    daemon.start()
    ready = time.perf_counter() - began
    eventually(lambda: linked(daemon) == before + COUNT, "all workers are back", 60)
    return ready, time.perf_counter() - began


# The physical limit


def hello() -> bytes:
    """What a worker with a client says."""
    snapshot = link.Snapshot(state="serving", runtime="host", engine_id="c1", clients=1)
    said = link.Hello(
        version=link.VERSION, pid=os.getpid(), code=__version__, container="c1", snapshot=snapshot
    )
    return msgspec.msgpack.encode(said)


@contextlib.contextmanager
def workers(path: str) -> Iterator[int]:
    """Processes that say hello once something comes out of a pipe; its other end."""
    gate, go = os.pipe()
    children = []
    for _ in range(COUNT):
        if not (pid := os.fork()):
            os.read(gate, 1)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(path)
            sock.send(hello())
            sock.recv(1)
            os._exit(0)
        children.append(pid)
    try:
        yield go
    finally:
        for pid in children:
            os.waitpid(pid, 0)
        os.close(gate)
        os.close(go)


def bare(folder: Path, number: int) -> float:
    """Seconds until somebody who does nothing else has read the hellos of all."""
    path = str(folder / f"bare{number}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening, workers(path) as go:
        listening.bind(path)
        listening.listen(1024)
        began = time.perf_counter()
        os.write(go, b"." * COUNT)
        taken = [listening.accept()[0] for _ in range(COUNT)]
        for each in taken:
            assert each.recv(link.MESSAGE_BYTES)
        seconds = time.perf_counter() - began
        for each in taken:
            each.close()
    return seconds


def main() -> list[str]:
    """Print the table, and return the goals that were missed."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        limits = [bare(folder, number) for number in range(ROUNDS)]
        daemon = stack.enter_context(agentd(folder))
        for number in range(COUNT):
            wire = stack.enter_context(over_socket(daemon.runtime_dir / "agentd.sock"))
            wire.attach(f"c{number}")
        rounds = [restart(daemon) for _ in range(ROUNDS)]
        assert {each["state"] for each in daemon.status()["containers"]} == {"serving"}
    ready, known = (statistics.median(each) for each in zip(*rounds, strict=True))
    print(f"{f'{COUNT} workers, manager killed':44}{'median':>10}{'worst':>10}")
    for row, seconds in (
        ("hellos, from processes to a bare reader", limits),
        ("manager, from its exec until it is ready", [each[0] for each in rounds]),
        ("manager, from its exec until all are back", [each[1] for each in rounds]),
    ):
        print(f"{row:44}{statistics.median(seconds) * 1e3:7.0f} ms{max(seconds) * 1e3:7.0f} ms")
    print(f"all back {(known - ready) * 1e3:.0f} ms after it is ready")
    return [] if known <= GOAL_SEC else [f"all {COUNT} workers back within {GOAL_SEC:g} s"]


if __name__ == "__main__":
    set_deadline()
    missed = main()
    print(f"goal: all back within {GOAL_SEC:g} s: {'MISSED' if missed else 'met'}")
    sys.exit(1 if missed else 0)
