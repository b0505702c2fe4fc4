# SPDX-License-Identifier: Apache-2.0
"""What doctor finds out by looking around: sockets, directories, disk, configuration, programs, account."""

import grp
import importlib.util
import os
import pwd
import shutil
import socket
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from agentd import bus, check, config
from agentd.advice import systemctl
from agentd.ctl.doctor.findings import Finding, fine, note, problem
from agentd.errors import ConfigurationInvalid
from agentd.paths import Mode, Paths

GROUP = "agentd"
CONNECT_SEC = 2.0
FREE_LEAST = 0.05
"""How much of a disk has to be free."""
LINGER = "/var/lib/systemd/linger"
PROGRAMS = {"podman": "podman", "docker": "docker", "machined": "machinectl"}
FAST = "dbus_fast"
PACKAGES = {
    "uvloop": "the processes need more CPU for each message",
    FAST: "dbus-next is used instead, which is slower",
    "pyroute2": "addresses and counters of containers' networks are not known, nor agents reached by TCP",
    "systemd": "records in the journal have no fields, and sockets are not kept over a restart",
    "prometheus_client": "there are no metrics",
    "argcomplete": "shells complete nothing",
}
"""What may be missing, and what that costs."""

BOOTED = "/run/systemd/system"
"""sd_booted(3): this is there where systemd runs the host."""


def systemd() -> Iterator[Finding]:
    if not os.path.isdir(BOOTED):
        yield note(
            "systemd does not run this host", "start agentd by hand: agentd serve; it brings its own bus"
        )


# Sockets


def front_door(paths: Paths, *, running: bool) -> Iterator[Finding]:
    """`running`: there is a manager. One that is not is not to be started by a look."""
    where, again = paths.front_door, _begin(paths, "agentd.socket", "restart")
    found = _socket(where)
    if found is None:
        yield problem(f"there is no front door {where}", _begin(paths, "agentd.socket"))
        return
    mode = stat.S_IMODE(found.st_mode)
    if paths.mode is Mode.SYSTEM and mode != 0o666:
        yield problem(f"{where} has mode {mode:04o}, not 0666: not everybody can connect", again)
    elif running and (reason := _refusal(where)):
        yield problem(f"nobody can connect to {where}: {reason}", again)
    else:
        yield fine(f"front door {where}")


def link_socket(paths: Paths, *, running: bool) -> Iterator[Finding]:
    """Where systemd does not hold it, it is only there while a manager is."""
    found = _socket(paths.link)
    if found is None and not running and paths.mode is not Mode.SYSTEM:
        return
    if found is None:
        text = f"there is no {paths.link}: workers cannot reach the manager"
        yield problem(text, _begin(paths, "agentd-link.socket"))
        return
    mode = stat.S_IMODE(found.st_mode)
    if paths.mode is Mode.SYSTEM and (mode, _group(found.st_gid)) != (0o660, GROUP):
        text = f"{paths.link} has mode {mode:04o} and group {_group(found.st_gid)}, not 0660 and agentd"
        yield problem(text, _begin(paths, "agentd-link.socket", "restart"))
    else:
        yield fine(f"link socket {paths.link}")


def _socket(path: str) -> os.stat_result | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found if stat.S_ISSOCK(found.st_mode) else None


def _refusal(path: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONNECT_SEC)
        try:
            sock.connect(path)
        except TimeoutError:
            return "too many wait there already"
        except OSError as error:
            return str(error.strerror)
    return ""


# Directories


class Place(NamedTuple):
    """`mode`: what it may be open to at most, and, where it is `public`, at least."""

    path: str
    owner: str
    mode: int
    public: bool = False


def directories(paths: Paths) -> Iterator[Finding]:
    again = "systemd-tmpfiles --create" if paths.mode is Mode.SYSTEM else "chmod or chown it"
    expected = places(paths)
    wrong = [text for place in expected if (text := amiss(place))]
    for text in wrong:
        yield problem(text, again)
    if expected and not wrong:
        yield fine(f"owners and modes of {', '.join(place.path for place in expected)}")


def places(paths: Paths) -> list[Place]:
    """As agentd.tmpfiles has them; elsewhere they are the account's own, and made by the manager."""
    if paths.mode is not Mode.SYSTEM:
        mine = [
            Place(paths.runtime_dir, _user(os.geteuid()), 0o755),
            Place(paths.state_dir, _user(os.geteuid()), 0o755),
        ]
        return [place for place in mine if os.path.exists(place.path)]
    return [
        Place(paths.runtime_dir, "agentd", 0o755, public=True),
        Place(os.path.join(paths.runtime_dir, "containers"), "agentd", 0o755, public=True),
        Place(paths.state_dir, "root", 0o755),
        Place(paths.manager_state, "agentd", 0o700),
        Place(os.path.join(paths.state_dir, "containers"), "root", 0o700),
    ]


def amiss(place: Place) -> str:
    """What is wrong with it, "" for nothing."""
    try:
        found = os.stat(place.path)
    except FileNotFoundError:
        return f"there is no directory {place.path}"
    mode, owner = stat.S_IMODE(found.st_mode), _user(found.st_uid)
    if owner != place.owner:
        return f"{place.path} belongs to {owner}, not to {place.owner}"
    if mode & 0o777 & ~place.mode or (place.public and place.mode & ~mode):
        return f"{place.path} has mode {mode:04o}, not {place.mode:04o}"
    return ""


def disk(path: str) -> Iterator[Finding]:
    """Where state is kept. `path`, or the first directory above it that exists."""
    there = next(each for each in (Path(path), *Path(path).parents) if each.exists())
    yield free(path, os.statvfs(there))


def free(path: str, found: os.statvfs_result) -> Finding:
    bytes_ = found.f_bavail / found.f_blocks if found.f_blocks else 1.0
    files = found.f_favail / found.f_files if found.f_files else 1.0
    least, what = min((bytes_, "disk"), (files, "room for files"))
    if least < FREE_LEAST:
        text = (
            f"only {least:.1%} of the {what} of {path} is free: sessions will soon not be kept, nor served"
        )
        return problem(text, "make room, or lower [store] keep_days and keep_bytes")
    return fine(f"{least:.0%} of the {what} of {path} is free")


# Configuration


def configuration(paths: Paths, files: Sequence[str], read_usec: int) -> Finding:
    """`read_usec`: when the manager read it, 0 where that is not known."""
    if closed := _closed(files):
        return note(f"your account may not read {', '.join(closed)}, so it is not checked")
    try:
        loaded = config.load(files)
        check.check_sockets(paths, loaded.configuration)
    except ConfigurationInvalid as error:
        return problem(error.message, "correct it, and then: agentctl reload")
    newer = [str(file) for file in loaded.files if read_usec and file.stat().st_mtime_ns // 1000 > read_usec]
    if newer:
        return note(f"{', '.join(newer)} has changed since the manager read it", "agentctl reload")
    if not loaded.files:
        return fine("there is no configuration, and all has its default")
    return fine(f"the configuration is valid: {', '.join(map(str, loaded.files))}")


def readable(files: Sequence[str]) -> config.Configuration | None:
    """None where this account may not read it, or it is wrong."""
    if _closed(files):
        return None
    try:
        return config.load(files).configuration
    except ConfigurationInvalid:
        return None  # `configuration` says so


def _closed(files: Sequence[str]) -> list[str]:
    return [file for file in files if os.path.exists(file) and not os.access(file, os.R_OK)]


# Programs and packages


def needed_engines(found: config.Configuration) -> list[str]:
    """Those that are looked through for containers, none where all there is are host containers."""
    named = [each.runtime for each in found.containers.values()]
    if named and all(runtime == "host" for runtime in named):
        return []
    return list(dict.fromkeys((*found.runtimes, *(name for name in named if name not in (None, "host")))))


def engines(
    needed: Sequence[str],
    followed: Mapping[str, str],
    installed: Collection[str],
    mode: Mode = Mode.SYSTEM,
) -> Iterator[Finding]:
    """`followed`: what the watcher says of each that it knows: "", or what is wrong."""
    for name in needed:
        trouble = followed.get(name, "")
        if name in installed and trouble:
            again = "restart agentd" if mode is Mode.EMBEDDED else systemctl(mode, "restart", "agentd-watch")
            works = f"see whether {PROGRAMS[name]} works for the account of agentd"
            yield problem(f"{name}: {trouble}", f"{works}; if it has come just now: {again}")
        elif name in installed:
            yield fine(f"{name} is installed" + (", and followed" if name in followed else ""))
    missing = [name for name in needed if name not in installed]
    if missing and missing == list(needed):
        text = f"no container engine is installed: not {', nor '.join(missing)}"
        yield problem(text, "install podman, or say which there is with runtimes in agentd.toml")
    elif missing:
        yield note(f"not installed, and so not followed: {', '.join(missing)}")


def installed() -> list[str]:
    return [name for name, program in PROGRAMS.items() if shutil.which(program)]


def packages(library: str = bus.LIBRARY) -> Iterator[Finding]:
    """`library`: the one for D-Bus that is in use."""
    missing = {name: cost for name, cost in PACKAGES.items() if importlib.util.find_spec(name) is None}
    for name, cost in missing.items():
        yield note(f"Python's {name} is not installed: {cost}")
    unused = library != FAST and FAST not in missing
    if unused:
        text = f"Python's {FAST} is older than 5, or cannot be loaded: {PACKAGES[FAST]}"
        yield note(text, "install dbus-fast 5 or later")
    if not missing and not unused:
        yield fine("all optional Python packages are there")


# The caller


class Account(NamedTuple):
    """`groups`: their names and numbers."""

    uid: int
    name: str
    groups: frozenset[str]


def caller() -> Account:
    gids = {os.getegid(), *os.getgroups()}
    groups = {name for gid in gids for name in (str(gid), _group(gid))}
    return Account(os.geteuid(), _user(os.geteuid()), frozenset(groups))


def account(paths: Paths, who: Account, found: config.Configuration | None) -> Finding:
    """Which containers they may use, by the rules of [access]; those of others in a mode of one account."""
    if paths.mode is not Mode.SYSTEM:
        return _owner(paths, who)
    if who.uid == 0 or GROUP in who.groups:
        return fine(f"{who.name} may use every container")
    if found is None:
        return note(f"whether {who.name} may use a container is not known: the configuration cannot be read")
    if _named(found.access, who):
        return fine(f"{who.name} may use every container, by [access]")
    if some := [name for name, each in found.containers.items() if _named(each, who)]:
        return fine(f"{who.name} may use {', '.join(some)}")
    advice = (
        f"usermod --append --groups agentd {who.name}, as root, and log in again; or [access] in agentd.toml"
    )
    return note(f"{who.name} may use no container", advice)


def _owner(paths: Paths, who: Account) -> Finding:
    try:
        owner = os.stat(paths.runtime_dir).st_uid
    except FileNotFoundError:
        owner = who.uid
    if who.uid in (0, owner):
        return fine(f"{who.name} may use every container")
    return problem(f"this agentd is {_user(owner)}'s, and nobody else's", f"become {_user(owner)}")


def _named(rule: config.Access | config.Container, who: Account) -> bool:
    return bool({who.name, str(who.uid)} & {*rule.users} or who.groups & {*rule.groups})


def login(who: Account, *, podman: bool) -> Iterator[Finding]:
    """What the service of an account needs. `podman`: its containers may be podman's."""
    if os.path.exists(os.path.join(LINGER, who.name)):
        yield fine(f"services of {who.name} go on after the last logout")
    else:
        text = f"agents of {who.name} end with the last logout"
        yield note(text, f"loginctl enable-linger {who.name}, if they are to go on")
    if podman:
        yield subordinate(who, *(Path(f"/etc/{name}") for name in ("subuid", "subgid")))


def subordinate(who: Account, *files: Path) -> Finding:
    """Whether rootless podman has ids to give to the users in its containers."""
    lacking = [str(file) for file in files if not _has_ids(file, who)]
    if lacking:
        advice = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {who.name}"
        text = f"{who.name} has no ids in {' and '.join(lacking)}, which rootless containers need"
        return note(text, f"{advice}; unless they come from elsewhere")
    return fine(f"{who.name} has ids for rootless containers")


def _has_ids(file: Path, who: Account) -> bool:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return False
    return any(line.partition(":")[0] in (who.name, str(who.uid)) for line in lines)


def _begin(paths: Paths, unit: str, verb: str = "start") -> str:
    """How to have a socket listened on."""
    command = systemctl(paths.mode, verb, unit)
    by_hand = {
        Mode.EMBEDDED: f"agentd serve --runtime-dir {paths.runtime_dir}",
        Mode.USER: f"{command}, or where it is no service: agentd serve --user",
    }
    return by_hand.get(paths.mode, command)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
