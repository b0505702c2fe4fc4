# SPDX-License-Identifier: Apache-2.0
"""Cached file systems: the Debian that a machine boots, and the container image that podman finds in it."""

import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import cache

IMAGE = "localhost/agentbox"
IMAGE_SUITE = "trixie"
IMAGE_PACKAGES = ("python3", "procps")
IMAGE_STORE = "/usr/lib/containers/storage"
SDK = "agent-client-protocol>=0.12,<0.13"

# What is built is what this file says: a change to it makes new roots.
RECIPE = Path(__file__).read_text()

# debootstrap resolves no virtual packages: polkitd's is libpam-systemd, podman's is netavark.
MACHINE_PACKAGES = (
    "systemd",
    "systemd-container",
    "systemd-sysv",
    "libpam-systemd",
    "dbus",
    "dbus-bin",
    "dbus-user-session",
    "polkitd",
    "procps",
    "python3",
    "python3-argcomplete",
    "python3-dbus-next",
    "python3-prometheus-client",
    "python3-pyroute2",
    "python3-rich",
    "python3-sdnotify",
    "python3-systemd",
    "podman",
    "catatonit",
    "netavark",
    "uidmap",
)

STORAGE_CONF = f"""\
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"

[storage.options]
additionalimagestores = ["{IMAGE_STORE}"]
"""

# Podman's default limit on processes needs the pids controller, which no machine can have whose host has
# it on cgroup v1. Without the limit, containers get scopes of their own there too.
CONTAINERS_CONF = """\
[containers]
pids_limit = 0

[engine]
runtime = "%s"
"""


@dataclass(frozen=True)
class Suite:
    """A Debian release: the packages a machine of it gets, and the wheels for what it does not package."""

    name: str
    runtime: str
    packages: tuple[str, ...]
    wheels: tuple[str, ...] = ()

    @property
    def containers_conf(self) -> str:
        return CONTAINERS_CONF % self.runtime


SUITES = {
    suite.name: suite
    for suite in (
        Suite("trixie", "crun", (*MACHINE_PACKAGES, "crun", "passt", "python3-msgspec")),
        # Its crun, 1.8, raises the limit on locked memory, which root may lack the capability for.
        Suite("bookworm", "runc", (*MACHINE_PACKAGES, "runc", "slirp4netns"), ("msgspec>=0.18",)),
    )
}


# Running the tools


def _tool(*argv: str | Path) -> str:
    """Run a build step and return its standard output; what it printed is the error's text when it fails."""
    done = subprocess.run(
        argv, capture_output=True, text=True, errors="replace", timeout=cache.BUILD_DEADLINE
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise RuntimeError(f"{' '.join(map(str, argv))} failed with status {done.returncode}:\n{tail}")
    return done.stdout


def _debootstrap(root: Path, suite: str, packages: tuple[str, ...]) -> None:
    """Its mounts are made in a namespace of their own, and so are gone when it is killed."""
    mirror = os.environ.get("AGENTD_TEST_MIRROR")
    options = (
        "--variant=minbase",
        f"--include={','.join(packages)}",
        f"--cache-dir={cache.subfolder('debs')}",
    )
    argv = ("debootstrap", *options, suite, root, *((mirror,) if mirror else ()))
    _tool("setpriv", "--pdeathsig=KILL", "unshare", "--mount", *argv)
    _trim(root)


def _trim(root: Path) -> None:
    """Drop what only a later apt would read: half of the container image otherwise."""
    for path in (*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*_*")):
        path.unlink()


def _python_version(root: Path) -> str:
    return _tool(
        "chroot", root, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"
    ).strip()


def _install_wheels(root: Path, wheels: tuple[str, ...]) -> None:
    """Put wheels for the root's own Python into it, with the pip of the Python that runs the tests."""
    version, arch = _python_version(root), os.uname().machine
    packages = root / f"usr/local/lib/python{version}/dist-packages"
    platforms = (f"--platform={tag}_{arch}" for tag in ("manylinux_2_28", "manylinux2014"))
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:")
    _tool(*pip, f"--target={packages}", f"--python-version={version}", *platforms, *wheels)
    _tool("chroot", root, "python3", "-m", "compileall", "-q", Path("/") / packages.relative_to(root))


# The machine's root


def machine_root(name: str) -> Path:
    """The Debian of that name, ready to boot. It is shared by all machines and is never written to."""
    suite = SUITES[name]
    return cache.cached(f"{name}-{cache.key(RECIPE)}", lambda root: _build_machine(root, suite))


def _build_machine(root: Path, suite: Suite) -> None:
    _debootstrap(root, suite.name, suite.packages)
    for path in ("var/lib/containers", IMAGE_STORE.lstrip("/"), "etc/containers"):
        (root / path).mkdir(parents=True, exist_ok=True)
    (root / "etc/hostname").write_text("agentd-test\n")
    (root / "etc/containers/storage.conf").write_text(STORAGE_CONF)
    (root / "etc/containers/containers.conf").write_text(suite.containers_conf)
    if suite.wheels:
        _install_wheels(root, suite.wheels)


# The container image


def image_root() -> Path:
    """The files of the container image: Python, the PyPI SDK of ACP, and its examples in /opt/agent."""
    return cache.cached(f"image-{cache.key(RECIPE)}", _build_image)


def _build_image(root: Path) -> None:
    _debootstrap(root, IMAGE_SUITE, IMAGE_PACKAGES)
    _install_wheels(root, (SDK,))
    _unpack_examples(root / "opt/agent")


def _unpack_examples(target: Path) -> None:
    target.mkdir(parents=True)
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:")
    with tempfile.TemporaryDirectory() as scratch:
        _tool(*pip, f"--dest={scratch}", SDK)
        (sdist,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            _extract_examples(archive, target)


def _extract_examples(archive: tarfile.TarFile, target: Path) -> None:
    for member in archive:
        path = Path(member.name)
        file = archive.extractfile(member)
        if file is not None and path.parent.name == "examples" and path.suffix == ".py":
            (target / path.name).write_bytes(file.read())


# Podman's store with the image in it

# The machine's own podman writes the store, in a throw-away copy of the machine that need not boot.
IMPORT = """\
set -eu
root=$1 image=$2 store=$3 mnt=$4 name=$5
mount -t tmpfs -o mode=0755 agentd-test "$mnt"
mkdir "$mnt/upper" "$mnt/work" "$mnt/root"
mount -t overlay -o "lowerdir=$root,upperdir=$mnt/upper,workdir=$mnt/work" agentd-test "$mnt/root"
mkdir "$mnt/root/opt/image"
mount --bind "$store" "$mnt/root/var/lib/containers"
mount --bind "$image" "$mnt/root/opt/image"
for fs in proc sys dev; do mount --rbind "/$fs" "$mnt/root/$fs"; done
mount -t tmpfs agentd-test "$mnt/root/run"
chroot "$mnt/root" sh -c 'tar -C /opt/image -c . | podman --cgroup-manager=cgroupfs import - "$0"' "$name"
"""


def image_store(name: str) -> Path:
    """A read-only podman store that holds the image, for machines of the suite of that name."""
    root, image = machine_root(name), image_root()
    store = cache.cached(f"store-{root.name}", lambda place: _import(place, root, image))
    return store / "storage"


def _import(store: Path, root: Path, image: Path) -> None:
    script = ("sh", "-c", IMPORT, "import", root, image, store, cache.subfolder("mnt"), IMAGE)
    _tool("setpriv", "--pdeathsig=KILL", "unshare", "--mount", *script)


if __name__ == "__main__":
    for argument in sys.argv[1:] or ["trixie"]:
        print(machine_root(argument), image_store(argument), sep="\n")
