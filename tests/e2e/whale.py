# SPDX-License-Identifier: Apache-2.0
"""docker as another layer of machines: few need it, and all would start its daemon."""

import json
import subprocess
from pathlib import Path

from . import cache, roots
from .machine import Machine, pipe

PACKAGES = {"trixie": "docker.io docker-cli", "bookworm": "docker.io"}

# Its data goes where podman's goes, which is no overlay. Machines have no kernel modules for its networks.
DAEMON = {"data-root": "/var/lib/containers/docker", "bridge": "none", "iptables": False, "ip6tables": False}

# What apt writes over the machine's root is the layer.
INSTALL = """\
set -eu
root=$1 layer=$2 mnt=$3 packages=$4
mount -t tmpfs -o mode=0755 agentd-test "$mnt"
mkdir "$mnt/root"
mkdir "$layer/upper" "$layer/work"
mount -t overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" agentd-test "$mnt/root"
for fs in proc sys dev; do mount --rbind "/$fs" "$mnt/root/$fs"; done
cp /etc/resolv.conf "$mnt/root/etc/"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
chroot "$mnt/root" apt-get -qq update
chroot "$mnt/root" apt-get -qq install --no-install-recommends $packages >&2
chroot "$mnt/root" apt-get clean
rm -r "$mnt"/root/var/lib/apt/lists/* "$mnt/root/etc/resolv.conf"
"""


def layer(suite: str) -> Path:
    """For machines of that suite, below that of agentd."""
    root = roots.machine_root(suite)
    recipe = cache.key(INSTALL + PACKAGES[suite] + json.dumps(DAEMON))
    return (
        cache.cached(f"docker-{root.name}-{recipe}", lambda place: _install(place, root, PACKAGES[suite]))
        / "upper"
    )


def _install(place: Path, root: Path, packages: str) -> None:
    steps = ("sh", "-c", INSTALL, "install", root, place, cache.subfolder("mnt"), packages)
    guarded = ("setpriv", "--pdeathsig=KILL", "unshare", "--mount", *steps)
    done = subprocess.run(guarded, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"docker cannot be installed for tests: {done.stderr[-3000:]}")
    (place / "upper/etc/docker").mkdir(parents=True, exist_ok=True)
    (place / "upper/etc/docker/daemon.json").write_text(json.dumps(DAEMON))


def start(machine: Machine) -> None:
    """Have the daemon run, and know the image that podman has."""
    machine.run("groupadd", "--system", "--force", "docker")  # another layer's accounts lie above it
    machine.run("systemctl", "restart", "docker.service")
    pipe(machine.command("podman", "save", roots.IMAGE), machine.command("docker", "load"))
