# SPDX-License-Identifier: Apache-2.0
"""The packages of this checkout, built once for all processes that run tests."""

import subprocess
from pathlib import Path

import pytest

from support import packages
from support.needs import obstacle

TOOLS = (
    "debootstrap",
    "unshare",
    "setpriv",
    "chroot",
    "make",
    "git",
    "dpkg-deb",
    "rpm",
    "rpmbuild",
    "rpmlint",
    "rpm2cpio",
    "cpio",
)
MODULES = ("pip", "setuptools", "wheel")
"""Of the distribution's Python, which the rpms are built with."""


def has_module(name: str) -> bool:
    return subprocess.run(("/usr/bin/python3", "-c", f"import {name}"), capture_output=True).returncode == 0


@pytest.fixture(scope="session", autouse=True)
def builder() -> None:
    what = "packages are built and tried in a Debian of their own"
    lacking = [f"python3-{name}" for name in MODULES if not has_module(name)]
    if (reason := obstacle(what, TOOLS, "tests/packages/host-packages", lacking)) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def debs(builder: None) -> list[Path]:
    return sorted(packages.built_debs().glob("*.deb"))


@pytest.fixture(scope="session")
def rpms(builder: None) -> list[Path]:
    return sorted(packages.built_rpms().glob("*.noarch.rpm"))


@pytest.fixture(scope="session")
def unpacked_debs(debs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("debs")
    packages.unpack_debs(debs, root)
    return root


@pytest.fixture(scope="session")
def unpacked_rpms(rpms: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rpms")
    packages.unpack_rpms(rpms, root)
    return root
