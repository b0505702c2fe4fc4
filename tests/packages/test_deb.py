# SPDX-License-Identifier: Apache-2.0
"""The Debian packages, as they come out of packaging/build-deb."""

import io
import itertools
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from e2e import roots
from support import packages

ROOT = Path(__file__).parents[2]

# Of Debian as well, but on no machine of the tests: agentd can do without them.
NOT_ON_OUR_MACHINES = {"python3-dbus-fast", "python3-uvloop"}

# What debian/rules and its helpers add to what `make install` brings.
ADDED = ["> /etc/agentd/agentd.toml", "> /etc/agentd/agentd.toml.d", "> /etc/agentd/prompts"]
DOCUMENTS = {
    "/usr/share/doc/agentctl/README.md.gz",
    "/usr/share/doc/agentctl/changelog.gz",
    "/usr/share/doc/agentctl/copyright",
    "/usr/share/doc/agentd/README.Debian",
    "/usr/share/doc/agentd/README.md.gz",
    "/usr/share/doc/agentd/changelog.gz",
    "/usr/share/doc/agentd/copyright",
    "/usr/share/lintian/overrides/agentd",
}
METADATA = {"INSTALLER", "METADATA", "WHEEL", "entry_points.txt", "top_level.txt"}


def field(deb: Path, name: str) -> str:
    return subprocess.run(
        ("dpkg-deb", "--field", deb, name), check=True, capture_output=True, text=True
    ).stdout


def control_file(deb: Path, name: str) -> list[str]:
    done = subprocess.run(("dpkg-deb", "--info", deb, name), capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def content(deb: Path) -> list[tarfile.TarInfo]:
    archive = subprocess.run(("dpkg-deb", "--fsys-tarfile", deb), check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getmembers()


@pytest.fixture(scope="module")
def entries(debs: list[Path]) -> dict[Path, list[tarfile.TarInfo]]:
    return {deb: content(deb) for deb in debs}


@pytest.fixture(scope="module")
def files(entries: dict[Path, list[tarfile.TarInfo]]) -> list[str]:
    """The paths of all that is no folder, of both packages."""
    return [entry.name.removeprefix(".") for each in entries.values() for entry in each if not entry.isdir()]


# Building


def test_lintian_passes_it_and_the_same_tree_gives_the_same_bytes(debs: list[Path]) -> None:
    """Built for real twice, the second time in other surroundings, and some time later."""
    again = packages.rebuilt_debs()
    made = sorted((*debs, *debs[0].parent.glob("*.dsc"), *debs[0].parent.glob("*.tar.xz")))
    assert len(made) == 4
    ((one,), (two,)) = (folder.glob("*.buildinfo") for folder in (debs[0].parent, again))
    assert builders(one) == builders(two), (
        "an upgrade of the Debian lies between them: remove both from the cache"
    )
    assert [each.name for each in made if each.read_bytes() != (again / each.name).read_bytes()] == []


def builders(buildinfo: Path) -> str:
    _, _, rest = buildinfo.read_text().partition("\nInstalled-Build-Depends:\n")
    return re.split(r"^(?=\S)", rest, maxsplit=1, flags=re.MULTILINE)[0]


def test_each_override_of_lintian_has_a_reason() -> None:
    found = list((ROOT / "packaging/deb").rglob("*lintian-overrides"))
    lines = [line for file in found for line in ["", *file.read_text().splitlines()]]
    overridden = [(before, line) for before, line in itertools.pairwise(lines) if re.match(r"[^#\s]", line)]
    assert found and overridden
    assert [line for before, line in overridden if not re.match(r"# \w.{20}", before)] == []


# What dpkg is told


def test_needs_nothing_that_debian_does_not_have(debs: list[Path]) -> None:
    """Whether versions will do as well dpkg decides, in test_scriptlets.py."""
    root = roots.machine_root("trixie")
    query = (
        "dpkg-query",
        f"--admindir={root}/var/lib/dpkg",
        "--show",
        "--showformat=${Package}, ${Provides}, ",
    )
    there = {
        item.split()[0]
        for item in subprocess.run(query, check=True, capture_output=True, text=True).stdout.split(", ")
        if item.strip()
    }
    needed = [
        group for deb in debs for name in ("Depends", "Recommends") for group in field(deb, name).split(",")
    ]
    choices = [{re.split(r"[ :(]", each.strip())[0] for each in group.split("|")} for group in needed]
    known = there | NOT_ON_OUR_MACHINES | {"agentctl"}
    assert len(choices) > 10
    assert [names for names in choices if not names & known] == []
    assert not NOT_ON_OUR_MACHINES & there


def test_both_are_of_one_version(debs: list[Path]) -> None:
    client, daemon = debs
    version = field(daemon, "Version").strip()
    assert field(client, "Version").strip() == version
    assert f"agentctl (= {version})" in field(daemon, "Depends")
    assert {field(deb, "Architecture").strip() for deb in debs} == {"all"}


def test_an_administrator_edits_one_file(debs: list[Path], files: list[str]) -> None:
    assert [control_file(deb, "conffiles") for deb in debs] == [[], ["/etc/agentd/agentd.toml"]]
    assert [path for path in files if path.startswith("/etc/")] == ["/etc/agentd/agentd.toml"]


# Files


def test_has_what_make_install_brings_and_little_else(unpacked_debs: Path, tmp_path: Path) -> None:
    packages.make_install(tmp_path)
    assert packages.differences(packages.tree(tmp_path), packages.tree(unpacked_debs)) == ADDED


def test_documents_are_those_of_every_package(files: list[str]) -> None:
    assert {path for path in files if re.match(r"/usr/share/(doc|lintian)/", path)} == DOCUMENTS
    assert {Path(path).name for path in files if ".dist-info/" in path} == METADATA


def test_no_file_is_in_both(files: list[str]) -> None:
    assert sorted(files) == sorted(set(files))


def test_nothing_is_for_a_desktop_or_compiled(files: list[str]) -> None:
    assert [
        path for path in files if re.search(r"\.(desktop|pyc|so)$|/applications/|/autostart/", path)
    ] == []


def test_root_owns_everything_and_nobody_else_may_write(entries: dict[Path, list[tarfile.TarInfo]]) -> None:
    for entry in (entry for each in entries.values() for entry in each):
        assert (entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, "root", "root"), entry.name
        program = entry.isdir() or entry.name.startswith("./usr/bin/")
        assert entry.mode == (0o755 if program else 0o644), entry.name
        assert entry.isdir() or entry.isfile(), f"{entry.name} is a link or worse"
