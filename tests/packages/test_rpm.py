# SPDX-License-Identifier: Apache-2.0
"""The rpms, as they come out of packaging/build-rpm, and how their files differ from Debian's."""

import re
import subprocess
from pathlib import Path

import pytest

from support import packages

ROOT = Path(__file__).parents[2]

# What is only in the rpm, or differs there, in the words of packages.differences(), and why.
EXPECTED = {
    "> /usr/lib/agentd/python/dbus_fast/": "Fedora's own is too old for agentd",
    "> /usr/lib/agentd/python/sdnotify/": "not every distribution with rpm has it",
    "! PYTHON/agentd/__init__.py": "it is where Python is told of these two",
    "> /usr/lib/systemd/system-preset/90-agentd.preset": "on Debian, debhelper enables units",
    "> /usr/lib/systemd/user-preset/90-agentd.preset": "on Debian, users' are left alone",
}


def query(rpm: Path, *options: str) -> str:
    return subprocess.run(
        ("rpm", "--query", *options, "--package", rpm), check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="module")
def dumps(rpms: list[Path]) -> list[list[str]]:
    """Of each file: path, size, mtime, digest, mode, owner, group, isconfig, isdoc, rdev, symlink."""
    return [line.split() for rpm in rpms for line in query(rpm, "--dump").splitlines()]


# Building


def test_rpmlint_finds_no_error(rpms: list[Path]) -> None:
    source = rpms[0].parent.glob("*.src.rpm")
    config = ROOT / "packaging/rpm/rpmlint.toml"
    argv = ("rpmlint", "--config", config, *rpms, *source, ROOT / "packaging/rpm/agentd.spec")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "3 packages and 1 specfiles checked; 0 errors" in done.stdout, (
        done.stdout
    )


def test_the_same_tree_gives_the_same_bytes() -> None:
    """Built for real twice, the second time in other surroundings."""
    folder = packages.built_rpms()
    made = sorted(folder.glob("*.rpm"))
    assert len(made) == 3
    assert [
        each.name for each in made if each.read_bytes() != (folder / "again" / each.name).read_bytes()
    ] == []


# Files


def test_files_are_debians_but_for_what_is_explained(unpacked_debs: Path, unpacked_rpms: Path) -> None:
    found = packages.differences(packages.tree(unpacked_debs), packages.tree(unpacked_rpms))
    assert [line for line in found if not line.startswith(tuple(EXPECTED))] == []
    assert [entry for entry in EXPECTED if not any(line.startswith(entry) for line in found)] == []


def test_the_module_that_differs_does_by_its_end(unpacked_debs: Path, unpacked_rpms: Path) -> None:
    ((theirs,), (ours,)) = (
        root.glob("usr/lib/python3*/dist-packages/agentd/__init__.py")
        for root in (unpacked_debs, unpacked_rpms)
    )
    added = (ROOT / "packaging/rpm/bundled.py").read_text().partition("\n")[2]
    assert ours.read_text() == f"{theirs.read_text()}\n{added}"


def test_units_are_debians_byte_for_byte(unpacked_debs: Path, unpacked_rpms: Path) -> None:
    debians, its = (
        {path.relative_to(root): path.read_bytes() for path in root.glob("usr/lib/systemd/[su]*[mr]/*")}
        for root in (unpacked_debs, unpacked_rpms)
    )
    assert its == debians
    assert {path.name for path in its} == {path.name for path in (ROOT / "units").rglob("agentd*")}


def test_an_administrator_edits_one_file(rpms: list[Path], dumps: list[list[str]]) -> None:
    assert [query(rpm, "--configfiles").split() for rpm in rpms] == [[], ["/etc/agentd/agentd.toml"]]
    etc = sorted(path for path, *_ in dumps if path.startswith("/etc/"))
    assert etc == [f"/etc/agentd{rest}" for rest in ("", "/agentd.toml", "/agentd.toml.d", "/prompts")]


def test_no_file_is_in_both(dumps: list[list[str]]) -> None:
    paths = [path for path, *_ in dumps]
    assert sorted(paths) == sorted(set(paths))


def test_nothing_is_for_a_desktop_or_a_kind_of_machine(dumps: list[list[str]]) -> None:
    assert [
        path for path, *_ in dumps if re.search(r"\.(desktop|so)$|/applications/|/autostart/", path)
    ] == []


def test_root_owns_everything_and_nobody_else_may_write(dumps: list[list[str]]) -> None:
    for path, _, _, _, mode, owner, group, *_ in dumps:
        assert (owner, group) == ("root", "root"), path
        assert mode in ("040755", "0100755" if path.startswith("/usr/bin/") else "0100644"), (path, mode)
