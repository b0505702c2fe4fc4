# SPDX-License-Identifier: Apache-2.0
"""64 callers of Status and lists, with 1,000 containers and a live session: nobody waits long for an answer.

Each caller has a connection of its own and asks four times a second; then all of them as fast as they get
answers, which is shown beside the same of an empty call, the physical limit here. Exits with 1 where a goal
is missed.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


from footprint import agentd

from support.acp_client import Client
from support.embedded import Embedded

CONTAINERS, CALLERS, SECONDS, PACE = 1000, 64, 30.0, 0.25
FLAT_OUT_SEC = 10.0
MEDIAN_MS_GOAL, SLOWER_GOAL = 20.0, 0.10
UPDATES = 2000
"""Of a turn whose time is measured."""
TURNS = 9
HAMMER = str(Path(__file__).parent / "callers.py")


def callers(daemon: Embedded, seconds: float, pace: float, *what: str) -> "subprocess.Popen[str]":
    command = [sys.executable, HAMMER, f"{daemon.runtime_dir}/bus", str(CALLERS), str(seconds), str(pace)]
    return subprocess.Popen([*command, *what], stdout=subprocess.PIPE, text=True)


def result(running: "subprocess.Popen[str]") -> dict[str, float]:
    text, _ = running.communicate(timeout=120)
    assert running.returncode == 0
    return dict(json.loads(text))


def turn(client: Client) -> float:
    """Seconds that a turn takes."""
    began = time.perf_counter()
    client.turn(f"{UPDATES} 200")
    return time.perf_counter() - began


def turns(client: Client, count: int = TURNS) -> float:
    return statistics.median(turn(client) for _ in range(count))


def show(name: str, found: dict[str, float], seconds: float) -> None:
    rate = found["calls"] / seconds
    print(
        f"{name:34}{rate:9.0f} calls/s, median {found['median_ms']:6.1f} ms, "
        f"99 % within {found['p99_ms']:6.1f} ms, {found['lost']:.0f} connections lost"
    )


def main() -> int:
    with agentd(CONTAINERS, bus="private") as daemon, daemon.client() as client:
        client.open()
        turns(client, 3)
        alone = turns(client)
        running = callers(daemon, SECONDS, PACE)
        time.sleep(1.0)
        beside = turns(client)
        paced = result(running)
        flat_out = result(callers(daemon, FLAT_OUT_SEC, 0.0))
        empty = result(callers(daemon, FLAT_OUT_SEC, 0.0, "Ping"))
    show(f"{CALLERS} callers, {1 / PACE:g} calls a second each", paced, SECONDS)
    show(f"{CALLERS} callers, flat out", flat_out, FLAT_OUT_SEC)
    show("the same of Ping", empty, FLAT_OUT_SEC)
    slower = beside / alone - 1
    print(f"{'a turn beside the paced callers':34}{1000 * alone:9.1f} ms alone, {slower:+.1%} beside them")
    met = paced["median_ms"] < MEDIAN_MS_GOAL and not (paced["lost"] or flat_out["lost"])
    met = met and slower < SLOWER_GOAL
    goals = f"median under {MEDIAN_MS_GOAL:g} ms, nobody cut off, turns at most {SLOWER_GOAL:.0%} slower"
    print(f"goals: {goals}: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
