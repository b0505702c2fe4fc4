# SPDX-License-Identifier: Apache-2.0
"""The machines of the end-to-end ring. AGENTD_TEST_SUITE chooses their Debian, else both."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from support.needs import obstacle
from support.packages import made_of_tree

from . import package, roots, stage
from .machine import Machine

CHECKOUT = Path(__file__).parents[2]
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "unshare", "setpriv", "chroot", "make", "tar")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With each failure, what agentd has logged on the machines: when they are gone, nobody can look."""
    report = yield
    if report.failed:
        for machine in Machine.running:
            report.sections.append((f"agentd on {machine.suite}", machine.last_words()))
    return report


@pytest.fixture(scope="session", params=os.environ.get("AGENTD_TEST_SUITE", "trixie bookworm").split())
def suite(request: pytest.FixtureRequest) -> str:
    """The Debian release of this round: 13 with systemd 257, then 12 with 252."""
    return needs_machines(str(request.param))


def needs_machines(suite: str) -> str:
    reason = obstacle("the end-to-end ring boots machines", TOOLS, "tests/e2e/host-packages")
    if reason is not None:
        pytest.skip(reason)
    return suite


@pytest.fixture(scope="session")
def packaged() -> str:
    """The Debian release that the package is for."""
    return needs_machines(package.SUITE)


@pytest.fixture(scope="session")
def staged(suite: str) -> Path:
    """A layer for machines that have agentd: its package as apt installs it, or else `make install`."""
    root = roots.machine_root(suite)

    def fill(folder: Path) -> None:
        if suite == package.SUITE:
            package.make_layer(folder)
        else:
            stage.fill(folder, CHECKOUT, root)

    return made_of_tree(f"layer-{suite}", root.name, fill)


@pytest.fixture(scope="session")
def machine(suite: str) -> Iterator[Machine]:
    """A machine without agentd, shared by all tests: leave it as you found it."""
    with Machine(suite) as machine:
        yield machine


@pytest.fixture(scope="session")
def installed(suite: str, staged: Path) -> Iterator[Machine]:
    """A machine with agentd, shared by all tests that only look."""
    with Machine(suite, layers=[staged]) as machine:
        yield machine


@pytest.fixture
def fresh(suite: str, staged: Path) -> Iterator[Machine]:
    """A machine with agentd for one test alone: to change, to break, to leave in any state."""
    with Machine(suite, layers=[staged]) as machine:
        yield machine
