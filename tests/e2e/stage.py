# SPDX-License-Identifier: Apache-2.0
"""The stage: what `make install` of a checkout puts on a system, in a folder of its own."""

import subprocess
from pathlib import Path

PYTHON_DIR = "/usr/lib/python3/dist-packages"
MAKE_TIMEOUT = 120.0

# Links into /usr on Debian: a folder of that name on the stage would hide the machine's own libraries.
LINKS = ("bin", "lib", "lib64", "sbin")

COMPILE = """\
set -eu
mount --bind "$1" "$2/mnt"
exec chroot "$2" python3 -m compileall -q -s /mnt "/mnt$3"
"""


def fill(stage: Path, source: Path, root: Path) -> None:
    """Install the checkout at `source` onto the empty folder `stage`, for the Debian in `root`.

    Modules are compiled with that Debian's Python, as its package manager would do.
    """
    _make("install", source, f"DESTDIR={stage}", "PREFIX=/usr", f"PYTHON_DIR={PYTHON_DIR}")
    stage.chmod(0o755)  # it is the root folder of a layer
    clash = [name for name in LINKS if (stage / name).exists()]
    if clash:
        raise RuntimeError(
            f"make install wrote to /{clash[0]}, which is a link on Debian: say /usr/{clash[0]}"
        )
    if (stage / PYTHON_DIR.lstrip("/")).exists():
        _run("unshare", "--mount", "sh", "-c", COMPILE, "compile", stage, root, PYTHON_DIR)


def _make(target: str, source: Path, *variables: str) -> None:
    _run("make", "--no-print-directory", f"--directory={source}", target, *variables)


def _run(*argv: str | Path) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=MAKE_TIMEOUT)
    if done.returncode != 0:
        command = " ".join(map(str, argv[:4]))
        raise RuntimeError(f"{command} … failed with status {done.returncode}:\n{done.stdout}{done.stderr}")
