# SPDX-License-Identifier: Apache-2.0
"""A disk that outlives its machine: what was written until the power was cut is there for the next one."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import roots
from .machine import NSPAWN, NSPAWN_ENVIRONMENT, Machine

# As machine.BOOT, but on a folder that is there already: overlayfs wants its own work folder empty.
BOOT = """\
set -eu
mnt=$1 layers=$2 store=$3
shift 3
rm -rf "$mnt/work"
mkdir -p "$mnt/upper" "$mnt/work" "$mnt/root" "$mnt/containers" "$mnt/home"
mount -t overlay -o "lowerdir=$layers,upperdir=$mnt/upper,workdir=$mnt/work" agentd-test "$mnt/root"
mkdir -p /run/systemd/nspawn
mount -t tmpfs agentd-test /run/systemd/nspawn
exec systemd-nspawn --directory="$mnt/root" \\
    --bind="$mnt/containers:/var/lib/containers" --bind="$mnt/home:/home" --bind-ro="$store:$STORE" "$@"
"""


class DiskMachine(Machine):
    """A machine that writes to `disk`."""

    def __init__(self, suite: str, disk: Path, *, layers: Sequence[Path] = ()) -> None:
        super().__init__(suite, layers=layers)
        self._disk = disk

    def _spawn(self, cgroup: list[str]) -> subprocess.Popen[bytes]:
        layers = ":".join(map(str, (*self._layers, roots.machine_root(self.suite))))
        boot = ("sh", "-c", BOOT, "boot", self._disk, layers, roots.image_store(self.suite), *NSPAWN)
        spaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
        return subprocess.Popen(
            ("setpriv", "--pdeathsig=KILL", *cgroup, *spaces, *boot),
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            env=NSPAWN_ENVIRONMENT,
            start_new_session=True,
        )

    def cut_power(self) -> None:
        """Nobody in it gets to say another word."""
        self._kill()


@contextmanager
def new_disk(folder: Path) -> Iterator[Path]:
    """A disk in memory: the file system of the checkout need not be one that overlays can write to."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "mode=0755", "agentd-test", disk), check=True)
    try:
        yield disk
    finally:
        subprocess.run(("umount", "--lazy", disk), check=True)
