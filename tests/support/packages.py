# SPDX-License-Identifier: Apache-2.0
"""Packages: built once for each state of the tree, unpacked, and compared with each other.

cd tests && python -m support.packages ../dist      # says in what the packages there differ
"""

import gzip
import hashlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from e2e import cache

ROOT = Path(__file__).resolve().parents[2]

# Where distributions have the same thing in different places.
PLACES = (
    (re.compile(r"^/usr/lib/python3[^/]*/(dist|site)-packages/"), "PYTHON/"),
    (re.compile(r"^/usr/share/zsh/(vendor-completions|site-functions)/"), "ZSH/"),
    (re.compile(r"(^/usr/share/man/.*)\.gz$"), r"\1"),
)
# What each distribution adds to every package, or makes of it.
THEIRS = re.compile(r"^/usr/share/(doc|licenses|lintian)(/|$)|/__pycache__(/|$)|\.dist-info(/|$)")


DOCKER_CONTROL = """\
Package: docker
Version: 1
Architecture: all
Maintainer: Us <us@localhost>
Description: docker
"""
BUILD_SEC = 1800.0
"""What builds the Debian packages may first have to make the Debian that it builds in."""


# Building


def built_debs(version: str | None = None) -> Path:
    """The folder with the Debian packages of this checkout, as of another version if one is given."""
    options = ("--version", version) if version else ()
    return made_of_tree("debs", " ".join(options), lambda folder: build_debs(folder, *options))


def rebuilt_debs() -> Path:
    """Those of built_debs() made once more, in other surroundings, and shown to lintian."""
    options = ("--surroundings", "other", "--lintian")
    return made_of_tree("rebuilt-debs", " ".join(options), lambda folder: build_debs(folder, *options))


def built_rpms() -> Path:
    """The folder with the rpms of this checkout, and `again`, with them made anew in other surroundings."""
    return made_of_tree("rpms", "", _build_rpms_twice)


def build_debs(folder: Path, *options: str) -> None:
    _build(sys.executable, ROOT / "packaging/build-deb", *options, folder)


def _build_rpms_twice(folder: Path) -> None:
    build_rpms(folder)
    (elsewhere := folder / "elsewhere").mkdir()
    build_rpms(folder / "again", umask=0o077, TMPDIR=str(elsewhere), LC_ALL="POSIX", TZ="OTHER-13")
    elsewhere.rmdir()


def build_rpms(folder: Path, *, umask: int = -1, **environment: str) -> None:
    _build(ROOT / "packaging/build-rpm", folder, umask=umask, PYTHON=sys.executable, **environment)


def _build(*argv: str | Path, umask: int = -1, **environment: str) -> None:
    done = subprocess.run(
        argv,
        env={**os.environ, **environment},
        umask=umask,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=BUILD_SEC,
    )
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace")[-10000:]
        raise RuntimeError(f"{' '.join(map(str, argv))} ended with status {done.returncode}:\n{said}")


def made_of_tree(kind: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """A folder made of the tree as it is now, filled by `build` where no run has done so before."""
    state = tree_key()

    def fill(folder: Path) -> None:
        build(folder)
        if tree_key() != state:
            raise RuntimeError("the checkout was changed while something was made of it: once more, please")

    return cache.cached(cache.key(recipe + state), fill, shelf=f"packages/{kind}")


def known_files() -> list[str]:
    """What git knows of this checkout, or would, as it is now: packages are made of that."""
    # Root may build what somebody else has checked out.
    git = ("git", "-C", ROOT, "-c", f"safe.directory={ROOT}")
    listing = (*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listing, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0")
    return sorted({name for name in names if name and (ROOT / name).exists()})


def tree_key() -> str:
    """A short name for all that is in this checkout."""
    lines = []
    for name in known_files():
        path = ROOT / name
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{content} {path.stat().st_mode & 0o100:o} {name}\n")
    return cache.key("".join(lines))


def build_docker(deb: Path) -> None:
    """Make a Debian package, somebody else's, that brings a docker without a daemon."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        tree.chmod(0o755)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(DOCKER_CONTROL)
        (program := tree / "usr/bin/docker").parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\necho no daemon >&2\nexit 1\n")
        program.chmod(0o755)
        _build("dpkg-deb", "--root-owner-group", "--build", tree, deb)


# Unpacking


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


# Comparing


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
