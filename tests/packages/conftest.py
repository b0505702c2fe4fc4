# SPDX-License-Identifier: Apache-2.0
"""The packages of this checkout, built once for all processes that run tests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support import packages

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
)
TOOLS += ("rpm2cpio", "cpio")
MODULES = ("pip", "setuptools", "wheel")
"""Of the distribution's Python, which the rpms are built with."""


def obstacle() -> str | None:
    """Why no packages can be built here, if so."""
    if os.geteuid() != 0:
        return "packages are built and tried in a Debian of their own, which needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    missing += [f"python3-{name}" for name in MODULES if not has_module(name)]
    if missing:
        return f"not installed: {', '.join(missing)}; tests/packages/host-packages lists the packages"
    if subprocess.run(("unshare", "--mount", "true"), capture_output=True).returncode != 0:
        return "root may not mount here: no Debian to build in can be entered"
    return None


def has_module(name: str) -> bool:
    return subprocess.run(("/usr/bin/python3", "-c", f"import {name}"), capture_output=True).returncode == 0


@pytest.fixture(scope="session", autouse=True)
def builder() -> None:
    if (reason := obstacle()) is not None:
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
