# SPDX-License-Identifier: Apache-2.0
"""The two ways into a machine: its own systemd, or its first process's namespaces.

No value of an environment is in an argument vector, here or there, nor in a property of a unit.
"""

import os
import shutil
from pathlib import Path

from agentd.errors import EngineFailed, EngineMissing, NotRunning
from agentd.link import ContainerInfo
from agentd.process import engine_environment
from agentd.proctree import MARKER
from agentd.runtimes import Command
from agentd.runtimes.accounts import account
from agentd.runtimes.start import Start, by_service_manager, preamble

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

JOIN = 'umask 022; echo 0 >"$1" && shift && exec "$@"'
"""Puts itself into a control group, and then is another program."""

LOADER = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT")
"""Variables that would change the tools on the way in too; none is a secret."""


def runs_systemd(container: ContainerInfo) -> bool:
    """Whether the first process of the machine is systemd, which names itself so. Raises NotRunning."""
    return _about(container, "comm").strip() == "systemd"


# By its systemd


def by_systemd(container: ContainerInfo, command: Command) -> Start:
    """As a service of the machine. Only the mark is given by name; a shell inside reads the rest."""
    user, _, group = (command.user or "root").partition(":")  # without a user there would be no HOME
    options = [f"--machine={container.name}", f"--uid={user}"]
    options += [f"--gid={group}"] if group else []
    options += [f"--working-directory={command.workdir}"] if command.workdir else []
    options += [f"--setenv={MARKER}"] if MARKER in command.env else []
    argv = by_service_manager([*options, "--description=agent of agentd"], command.argv)
    mark = {key: value for key, value in command.env.items() if key == MARKER}
    rest = {key: value for key, value in command.env.items() if key != MARKER}
    return Start(argv, {**engine_environment(), **mark}, preamble(rest))


# By its namespaces


def by_namespaces(container: ContainerInfo, command: Command) -> Start:
    """As a process among those of the machine, with its limits and no more capabilities than it has.

    The capabilities are dropped, and the control group entered, before anything of the machine is run.
    """
    who = account(container.pid, command.user)
    namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root"]
    namespaces += ["--user"] if _has_own_users(container) else []
    inside = [f"--wdns={command.workdir or '/'}", f"--setuid={who.uid}", f"--setgid={who.gid}"]
    loader = [f"{key}={value}" for key, value in command.env.items() if key in LOADER]
    argv = [
        *(_tool("sh"), "-c", JOIN, "sh", _control_group(container)),
        *(_tool("setpriv"), "--inh-caps=-all", f"--bounding-set={_capabilities(container)}", "--"),
        *(_tool("nsenter"), f"--target={container.pid}", *namespaces, *inside, "--"),
        *(("env", *loader) if loader else ()),
        *command.argv,
    ]
    own = {"PATH": PATH, "HOME": who.home} | ({"USER": who.name, "LOGNAME": who.name} if who.name else {})
    return Start(argv, own | {key: value for key, value in command.env.items() if key not in LOADER})


def _tool(name: str) -> str:
    """By our own PATH: the one that is set for the program inside may be any."""
    if (path := shutil.which(name)) is None:
        raise EngineMissing(f"{name} is not installed, or not on the PATH of agentd")
    return path


def _has_own_users(container: ContainerInfo) -> bool:
    try:
        return not os.path.samefile(f"/proc/{container.pid}/ns/user", "/proc/self/ns/user")
    except OSError as exc:
        raise NotRunning(f"{container.name} cannot be entered: {exc.strerror}") from None


def _control_group(container: ContainerInfo) -> str:
    """The file that a process of ours writes itself into, to be bound as the machine is."""
    for line in _about(container, "cgroup").splitlines():
        if line.startswith("0::"):
            return f"/sys/fs/cgroup{line.removeprefix('0::').rstrip('/')}/cgroup.procs"
    raise EngineFailed(f"{container.name} has no control group of version 2 to start an agent in")


def _capabilities(container: ContainerInfo) -> str:
    """The machine's bounding set, as setpriv takes it; what root may inherit would come on top of it."""
    status = _about(container, "status")
    bits = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:"))
    return ",".join(["-all", *(f"+cap_{bit}" for bit in range(bits.bit_length()) if bits >> bit & 1)])


def _about(container: ContainerInfo, file: str) -> str:
    """A file of the kernel's about the first process of the machine."""
    try:
        return Path(f"/proc/{container.pid}/{file}").read_text(errors="replace")
    except OSError:
        raise NotRunning(f"{container.name} has ended; start it and connect again") from None
