# SPDX-License-Identifier: Apache-2.0
"""What holds in every ring: with --no-skips, a test that does not run is a test that has failed."""

import os
import signal
from collections.abc import Generator

import pytest

pytest_plugins = ["support.private_bus"]  # here, for some modules import it as well


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail where something is skipped, as CI does")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be: {report.longrepr}"
    return report


@pytest.fixture(autouse=True, scope="session")
def size_as_of_the_terminal() -> None:
    """Who starts us may say a size, and whatever tests start on a terminal of their own would believe it."""
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True, scope="session")
def signals_as_in_a_terminal() -> None:
    """Under nohup, or behind a shell's &, some are ignored, and whatever tests start would inherit it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
