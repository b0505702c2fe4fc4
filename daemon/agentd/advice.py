# SPDX-License-Identifier: Apache-2.0
"""Commands that a person is told to type: each for the systemd that runs the agentd of a mode.

`agentctl attach` imports this on the way to an editor's first byte.
"""

from agentd.paths import Mode

POLKIT = "install it (apt install polkitd, or dnf install polkit) or start it (systemctl start polkit)"
"""For a host where it does not answer."""


def scope(mode: Mode) -> list[str]:
    """The option with which systemd's programs mean that systemd."""
    return ["--user"] if mode is Mode.USER else []


def systemctl(mode: Mode, *words: str) -> str:
    return " ".join(("systemctl", *scope(mode), *words))


def journalctl(mode: Mode, *words: str) -> str:
    return " ".join(("journalctl", *scope(mode), *words))


def renew(mode: Mode, container: str, unit: str) -> str:
    """Has a worker run the code that is installed now. `unit`: "" for one without."""
    if not unit:
        return f"agentctl stop {container}"
    return systemctl(mode, "restart", unit.removesuffix(".service"))


def analyze(mode: Mode, *words: str) -> str:
    return " ".join(("systemd-analyze", *scope(mode), *words))
