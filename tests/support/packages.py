# SPDX-License-Identifier: Apache-2.0
"""What is in packages: unpacked, and compared with each other and with what `make install` brings.

python tests/support/packages.py dist      # compares the packages there, and says in what they differ
"""

import gzip
import hashlib
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

# Where distributions have the same thing in different places.
PLACES = (
    (re.compile(r"^/usr/lib/python3[^/]*/(dist|site)-packages/"), "PYTHON/"),
    (re.compile(r"^/usr/share/zsh/(vendor-completions|site-functions)/"), "ZSH/"),
    (re.compile(r"(^/usr/share/man/.*)\.gz$"), r"\1"),
)
# What each distribution adds to every package, or makes of it.
THEIRS = re.compile(r"^/usr/share/(doc|licenses|lintian)(/|$)|/__pycache__(/|$)|\.dist-info(/|$)")


class File(NamedTuple):
    mode: int
    content: str
    """Its hash, without compression; a link's target; nothing of a folder."""


def unpack_rpms(packages: Iterable[Path], root: Path) -> None:
    for package in packages:
        with subprocess.Popen(("rpm2cpio", package), stdout=subprocess.PIPE) as rpm:
            cpio = ("cpio", "--extract", "--make-directories", "--preserve-modification-time", "--quiet")
            subprocess.run(cpio, cwd=root, stdin=rpm.stdout, check=True)
        assert rpm.returncode == 0, package


def unpack_debs(packages: Iterable[Path], root: Path) -> None:
    for package in packages:
        subprocess.run(("dpkg-deb", "--extract", package, root), check=True)


def make_install(root: Path) -> None:
    make = (
        "make",
        "--silent",
        "--directory",
        ROOT,
        "install",
        f"DESTDIR={root}",
        f"PYTHON={sys.executable}",
    )
    subprocess.run(make, check=True)


def tree(root: Path) -> dict[str, File]:
    """The files below, and the folders that have none, by names that all distributions have in common."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = f"/{path.relative_to(root)}"
        full = path.is_dir() and not path.is_symlink() and any(path.iterdir())
        if not full and not THEIRS.search(name):
            found[_common(name)] = _file(path)
    return found


def _common(name: str) -> str:
    for place, instead in PLACES:
        name = place.sub(instead, name)
    return name


def _file(path: Path) -> File:
    if path.is_symlink():
        return File(0, str(path.readlink()))
    mode = path.stat().st_mode & 0o7777
    if path.is_dir():
        return File(mode, "")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return File(mode, hashlib.sha256(data).hexdigest())


def differences(left: dict[str, File], right: dict[str, File]) -> list[str]:
    """A line each: `<` is only in the left one, `>` only in the right, `!` has another content or mode."""
    lines = [f"< {name}" for name in left.keys() - right.keys()]
    lines += [f"> {name}" for name in right.keys() - left.keys()]
    lines += [f"! {name}" for name in left.keys() & right.keys() if left[name] != right[name]]
    return sorted(lines, key=lambda line: line[2:])


def main(folder: Path) -> None:
    debs, rpms = sorted(folder.glob("*.deb")), sorted(folder.glob("*.noarch.rpm"))
    trees = {"make install": _unpacked(make_install)}
    if debs:
        trees["deb"] = _unpacked(lambda root: unpack_debs(debs, root))
    if rpms:
        trees["rpm"] = _unpacked(lambda root: unpack_rpms(rpms, root))
    for left, right in itertools.combinations(trees, 2):
        print(f"{left}, {len(trees[left])} files, against {right}, {len(trees[right])}:")
        print("".join(f"  {line}\n" for line in differences(trees[left], trees[right])))


def _unpacked(unpack: Callable[[Path], None]) -> dict[str, File]:
    with tempfile.TemporaryDirectory() as root:
        unpack(Path(root))
        return tree(Path(root))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
