# SPDX-License-Identifier: Apache-2.0
"""agentd's Debian packages on a machine, as an administrator has them who has the files."""

from pathlib import Path

from support.packages import built_debs

from .machine import Machine

SUITE = "trixie"
"""The Debian that they are for."""
APT_TIMEOUT = 300.0
SERVICES = ("agentd.socket", "agentd-link.socket", "agentd.service", "agentd-watch.service")


def apt(machine: Machine, *arguments: str) -> str:
    """Run apt-get, which may ask nobody anything; what it said. Raises CommandError."""
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    return machine.run("apt-get", "--yes", *arguments, env=quiet, timeout=APT_TIMEOUT).stdout


def install(machine: Machine, version: str | None = None) -> str:
    """Install the packages of this checkout, or upgrade to them, as of another version if one is given."""
    folder = "/opt/packages"
    machine.run("rm", "-rf", folder)
    machine.copy(built_debs(version), folder)
    files = machine.run("sh", "-c", f"ls {folder}/*.deb").stdout.split()
    said = apt(machine, "install", "--no-install-recommends", *files)
    machine.run("rm", "-rf", folder)
    return said


def make_layer(folder: Path) -> None:
    """Fill the empty folder with what an installation by apt writes on a machine that has just booted."""
    with Machine(SUITE) as machine:
        install(machine)
        machine.run("systemctl", "stop", *SERVICES)
        machine.copy_written(folder)
