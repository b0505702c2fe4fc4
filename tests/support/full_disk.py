# SPDX-License-Identifier: Apache-2.0
"""A program that fills the disk its store is on, and makes space again. To be run in a mount namespace.

Its argument is a directory to mount a small file system on.
"""

import asyncio
import subprocess
import sys
from pathlib import Path

from agentd.errors import StoreFull
from support.stored import Watched, frames, rows, session, synced, turn

BALLAST = 300_000
ROUNDS = 20


async def main(folder: Path) -> None:
    watched, path = Watched(), str(folder / "store.db")
    store = await watched.open(path)
    one = session(store)
    assert await synced(store) is None
    (folder / "ballast").write_bytes(bytes(BALLAST))
    sent, errors = b"", []
    for seq in range(ROUNDS):
        frame = b"%d" % (seq % 10) * 30_000 + b"\n"
        store.append(one.key, seq, frame)
        turn(store, one.key, raw_id=b"%d" % seq)
        sent += frame
        errors.append(await synced(store))
    kinds = [type(error) for error in errors]
    assert kinds == sorted(kinds, key=lambda kind: kind is StoreFull), (
        kinds
    )  # once it is full, it stays full
    assert set(kinds) == {type(None), StoreFull}, kinds
    assert watched.troubles == ["store_full"], watched.troubles
    subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
    assert await synced(store) is None
    assert watched.troubles == ["store_full", None], watched.troubles
    assert await frames(store, one.key) == sent
    assert [each.raw_id for each in await store.turns(one.key)] == [b"%d" % seq for seq in range(ROUNDS)]
    await store.close()
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    print("all was written")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], check=True)
    asyncio.run(main(place))
