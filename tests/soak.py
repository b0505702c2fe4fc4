# SPDX-License-Identifier: Apache-2.0
"""Minutes of random kills, and of restarts of the manager, under eight clients: nothing may be lost.

Exits with 1 where anything was; the folder with all logs is kept then.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from support.embedded import Embedded
from support.races import Races
from support.trial import Trial

MOST = 50
"""Violations that are told one by one."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of random kills")
    parser.add_argument("--restarts", type=float, default=60.0, help="seconds of restarts every 2 s")
    parser.add_argument("--orders", type=float, default=60.0, help="seconds of orders that cross each other")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def table(trial: Trial) -> list[tuple[str, object]]:
    """What there was, line by line."""
    outcomes, killed = trial.ledger.outcomes, trial.killer.killed
    return [
        ("prompts", len(trial.ledger.prompts)),
        *((f"  {outcome}", count) for outcome, count in outcomes.most_common()),
        ("killed", killed.total()),
        *((f"  {kind}", count) for kind, count in killed.most_common()),
        ("connections tried again", trial.ledger.refused.total()),
        *((f"  {what}", count) for what, count in trial.ledger.refused.most_common()),
        ("slowest answer, s", f"{trial.ledger.slowest:.2f}"),
        *((f"open in {name}", opened(trial, name)) for name in trial.before.open),
        ("violations", len(trial.ledger.problems)),
    ]


def opened(trial: Trial, name: str) -> str:
    """A process's descriptors and threads, before and after."""
    before, after = (
        f"{each.open[name].total()}/{each.threads[name]}" for each in (trial.before, trial.after)
    )
    return f"{before} {after}"


def race(folder: Path, seconds: float, seed: int) -> list[str]:
    """Have callers give orders at random for so long. Returns what has come out wrong."""
    folder.mkdir()
    names = [f"c{number}" for number in range(1, 4)]
    entries = [f'[containers.{name}]\nruntime = "host"\ndirectory = "{folder}"\n' for name in names]
    limits = "[limits]\ndrain_sec = 2.0\nagent_stop_sec = 1.0\n"
    agentd = Embedded(folder, f"runtimes = []\n{limits}{''.join(entries)}", bus="private")
    races = Races(agentd, names, seed)
    agentd.start()
    try:
        asyncio.run(races.run(rounds_of(seconds), orders=6))
    finally:
        agentd.clean_up()
    print(f"orders: {races.answers.total()}, of which done: {done(races)}")
    return races.problems


def rounds_of(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def done(races: Races) -> int:
    return sum(count for answer, count in races.answers.items() if answer.endswith("done"))


def main() -> int:
    asked = options()
    folder, began = Path(tempfile.mkdtemp(prefix="soak")), time.monotonic()
    with Trial(folder, asked.seed) as trial:
        trial.restarts(asked.restarts)
        trial.random_faults(asked.seconds)
        trial.close()
    trial.ledger.problems.extend(race(folder / "orders", asked.orders, asked.seed))
    print(f"seed {asked.seed}, {time.monotonic() - began:.0f} s")
    for name, value in table(trial):
        print(f"{name:32}{value:>12}")
    for problem in trial.ledger.problems[:MOST]:
        print(f"VIOLATION: {problem}")
    if trial.ledger.problems:
        print(f"see: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
