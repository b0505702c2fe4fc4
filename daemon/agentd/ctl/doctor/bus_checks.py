# SPDX-License-Identifier: Apache-2.0
"""What doctor finds out over D-Bus: from the bus itself, the manager, polkit and systemd."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from agentd import __version__
from agentd.advice import POLKIT as REPAIR_POLKIT
from agentd.advice import analyze, renew, systemctl
from agentd.bus import Bus
from agentd.ctl.control import NAME
from agentd.ctl.doctor.findings import Finding, fine, note, problem
from agentd.ctl.text import count
from agentd.interface import PROPERTIES, BusError
from agentd.paths import Mode

ANSWER_SEC = 5.0
DAEMON, DAEMON_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
POLKIT, POLKIT_PATH = "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority"
SYSTEMD, SYSTEMD_PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
SYSTEMD_MANAGER, SYSTEMD_UNIT = "org.freedesktop.systemd1.Manager", "org.freedesktop.systemd1.Unit"
SHARES = ("/usr/share", "/usr/local/share", "/etc")
POLICY = "dbus-1/system.d/org.agentd1.conf"
RULES = "polkit-1/rules.d/agentd.rules"
VERBS = ("inspect", "attach", "drain", "reload", "manage-containers", "manage-sessions")
ACTIONS = frozenset(f"org.agentd1.{verb}" for verb in VERBS)
UNITS = (
    "agentd.service",
    "agentd.socket",
    "agentd-link.socket",
    "agentd-watch.service",
    "agentd@.service",
    "agentd.slice",
)
SOCKETS = ("agentd.socket", "agentd-link.socket")
WAYS_IN = {Mode.SYSTEM: ("agentd.service",), Mode.USER: ("agentd.socket", "agentd.service")}
"""Units of which one has to be enabled, the usual one first."""
AT_START = ("enabled", "enabled-runtime")
REINSTALL = "install agentd again: its package, or make install"
TOLD_MAX = 10

# The bus


async def activation(bus: Bus) -> Iterator[Finding]:
    """Whether the system bus knows who may be org.agentd1, and what to start for it."""
    [names] = await _daemon(bus, "ListActivatableNames")
    return judge_activation(NAME in names, policy=_installed(POLICY))


def judge_activation(activatable: bool, *, policy: bool) -> Iterator[Finding]:
    if not policy:
        yield problem(f"the bus policy {POLICY} is not installed: the manager cannot be {NAME}", REINSTALL)
    if not activatable:
        advice = "systemctl reload dbus; if that does not help, " + REINSTALL
        yield problem(f"the bus does not know what to start for {NAME}", advice)
    if policy and activatable:
        yield fine("bus policy and activation")


def _installed(name: str) -> bool:
    return any(os.path.exists(os.path.join(share, name)) for share in SHARES)


# The manager


async def is_running(bus: Bus) -> bool:
    """Does not start it."""
    return await bus.has_owner(NAME, timeout=ANSWER_SEC)


def absent(mode: Mode, runtime_dir: str) -> Finding:
    if mode is Mode.EMBEDDED:
        return problem("no manager is on its bus", f"agentd serve --runtime-dir {runtime_dir}")
    if mode is Mode.USER:
        return note("the manager does not run", "agentd serve --user, where it is no service of yours")
    text = "the manager does not run; the next connection, or command, starts it"
    return note(text, f"{systemctl(mode, 'start', 'agentd.service')}, if it should have been")


def manager(properties: Mapping[str, Any], systemctl: str) -> Iterator[Finding]:
    """What the properties of org.agentd1.Manager say."""
    version, state = properties["Version"], properties["State"]
    if version != __version__:
        yield note(
            f"the manager is agentd {version}, and this is agentctl {__version__}",
            f"{systemctl} restart agentd.service: sessions go on meanwhile",
        )
    if state == "draining":
        yield note("everything was ordered to drain: no turn may begin", "agentctl undrain")
    elif state != "running":
        yield note(f"the manager is {state}", "try again in a moment")
    else:
        yield fine(f"the manager, agentd {version}, runs in {properties['Mode']} mode")


def watcher(status: Mapping[str, Any], mode: Mode) -> Iterator[Finding]:
    if not status["watcher"]["connected"]:
        how = "see what agentd has logged"
        if mode is not Mode.EMBEDDED:
            how = f"{systemctl(mode)} restart agentd-watch.service; see: agentctl logs"
        yield problem("the watcher is not there: containers are shown as they were last known", how)


def containers(status: Mapping[str, Any], mode: Mode = Mode.SYSTEM) -> Iterator[Finding]:
    """Workers in trouble, and those on older code."""
    found: Sequence[Mapping[str, Any]] = status["containers"]
    for each in [each for each in found if each["last_error"]][:TOLD_MAX]:
        name, failed = each["name"], each["state"] == "failed"
        text = f"{name}: {each['last_error']}"
        advice = f"agentctl logs {name}" + (f"; when it is mended: agentctl start {name}" if failed else "")
        yield problem(text, advice) if failed else note(text, advice)
    for each in [each for each in found if each["outdated"]][:TOLD_MAX]:
        how = renew(mode, each["name"], each["unit"])
        yield note(
            f"{each['name']}: its worker runs agentd {each['worker_version']}", f"{how}, when it suits"
        )
    if not any(each["last_error"] or each["outdated"] for each in found):
        yield fine(
            f"{count(len(found), 'container')}, none in trouble"
            if found
            else "no container has opted in yet"
        )


# polkit


async def polkit(bus: Bus) -> Iterator[Finding]:
    try:
        [actions] = await bus.call(
            POLKIT, POLKIT_PATH, f"{POLKIT}.Authority", "EnumerateActions", "s", "", timeout=ANSWER_SEC
        )
    except BusError as error:
        text = (
            f"polkit does not answer ({error.message}): agentd can start no worker, and takes from others "
            "than root only orders for which [access] is enough"
        )
        by_hand = systemctl(Mode.SYSTEM, "start", "agentd@NAME")
        return iter([problem(text, f"{REPAIR_POLKIT}; without it, as root: {by_hand}")])
    rules = [_look(os.path.join(share, RULES)) for share in SHARES]
    return judge_polkit({each[0] for each in actions}, rules)


def judge_polkit(actions: set[str], rules: Collection[bool | None]) -> Iterator[Finding]:
    """`rules`: whether the rule is there, for each place that it may be in."""
    if lacking := ACTIONS - actions:
        text = f"polkit does not know {', '.join(sorted(lacking))}"
        yield problem(text, REINSTALL + ", then systemctl restart polkit")
    if True in rules:
        yield from [] if lacking else [fine("polkit, its actions and its rule")]
    elif None in rules:
        yield note("whether polkit's rule for agentd is installed is for root to see")
    else:
        yield problem(f"the polkit rule {RULES} is not installed: agentd cannot start workers", REINSTALL)


def _look(path: str) -> bool | None:
    """Whether it is there; None where this account cannot know."""
    try:
        os.stat(path)
    except PermissionError:
        return None
    except OSError:
        return False
    return True


# systemd


class Unit(NamedTuple):
    """One that is loaded. `stale`: its file has changed since."""

    load: str
    active: str
    stale: bool = False


async def units(bus: Bus, mode: Mode) -> Iterator[Finding]:
    try:
        [files] = await _systemd(bus, "ListUnitFilesByPatterns", "asas", [], ["agentd*"])
        [rows] = await _systemd(bus, "ListUnitsByPatterns", "asas", [], ["agentd*"])
    except BusError as error:
        return iter([note(f"systemd does not answer ({error.message}): its units are not looked at")])
    enabled = {os.path.basename(path): state for path, state in files}
    loaded = {row[0]: Unit(row[2], row[3], await _is_stale(bus, row[6])) for row in rows}
    return judge_units(enabled, loaded, mode)


async def _is_stale(bus: Bus, path: str) -> bool:
    [stale] = await bus.call(
        SYSTEMD, path, PROPERTIES, "Get", "ss", SYSTEMD_UNIT, "NeedDaemonReload", timeout=ANSWER_SEC
    )
    return bool(stale)


def judge_units(enabled: Mapping[str, str], loaded: Mapping[str, Unit], mode: Mode) -> Iterator[Finding]:
    """`enabled`: how systemd calls the state of each unit's file."""
    command = systemctl(mode)
    if lacking := [name for name in UNITS if name not in enabled]:
        if len(lacking) == len(UNITS) and mode is Mode.USER:
            yield note("agentd is no service of this account", "start it with: agentd serve --user")
        else:
            yield problem(
                f"not installed: {', '.join(lacking)}", f"{REINSTALL}, then {command} daemon-reload"
            )
        return
    if mode is Mode.USER and enabled["agentd.socket"] not in AT_START and not _is_used(loaded):
        yield note("agentd is no service of this account yet", f"{command} enable --now agentd.socket")
        return
    amiss = [*_files(enabled, loaded, mode), *_states(loaded, command)]
    yield from amiss
    if not amiss:
        yield fine("units are installed, loaded and enabled")


def _is_used(loaded: Mapping[str, Unit]) -> bool:
    return any(unit.active in ("active", "failed") for unit in loaded.values())


def _files(enabled: Mapping[str, str], loaded: Mapping[str, Unit], mode: Mode) -> Iterator[Finding]:
    command = systemctl(mode)
    for name in [name for name in UNITS if enabled[name] == "masked"]:
        yield problem(f"{name} is masked", f"{command} unmask {name}")
    if not any(enabled[name] in AT_START for name in WAYS_IN[mode]):
        name, when = WAYS_IN[mode][0], "with the system" if mode is Mode.SYSTEM else "when you log in"
        yield note(f"{name} is {enabled[name]}: it does not start {when}", f"{command} enable {name}")
    for name, unit in loaded.items():
        if unit.load not in ("loaded", "masked", "not-found"):
            yield problem(f"systemd could not load {name}: {unit.load}", analyze(mode, "verify", name))
    if stale := [name for name, unit in loaded.items() if unit.stale]:
        yield note(f"changed on disk since they were loaded: {', '.join(stale)}", f"{command} daemon-reload")


def _states(loaded: Mapping[str, Unit], command: str) -> Iterator[Finding]:
    active = {name: unit.active for name, unit in loaded.items()}
    for name in SOCKETS:
        if active.get(name, "inactive") not in ("active", "failed"):
            yield problem(f"{name} is {active.get(name, 'inactive')}", f"{command} start {name}")
    if active.get("agentd.service") == "active" and active.get("agentd-watch.service", "") == "inactive":
        yield problem("agentd-watch.service is inactive", f"{command} start agentd-watch.service")
    failed = [name for name, state in active.items() if state == "failed"]
    for name in failed[:TOLD_MAX]:
        again = f"{command} reset-failed {name}, once it is mended"
        yield problem(f"{name} has failed", f"{command} status {name}; {again}")
    if len(failed) > TOLD_MAX:
        yield problem(f"{len(failed) - TOLD_MAX} more units have failed", f"{command} --failed")


async def _daemon(bus: Bus, member: str, signature: str = "", *args: str) -> list[Any]:
    return await bus.call(DAEMON, DAEMON_PATH, DAEMON, member, signature, *args, timeout=ANSWER_SEC)


async def _systemd(bus: Bus, member: str, signature: str, *args: object) -> list[Any]:
    return await bus.call(
        SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, member, signature, *args, timeout=ANSWER_SEC
    )
