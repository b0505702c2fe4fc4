# SPDX-License-Identifier: Apache-2.0
"""`agentctl doctor`: what keeps agentd from working, and what to do about it.

With --json {"place": mode, "problems": count, "findings": [{"check", "state", "what", "advice"}]}; `state`
is ok, note or problem, `advice` "" where there is nothing to be done. Ends with 1 where there is a problem.
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.text import Text

from agentd import schema
from agentd.advice import systemctl
from agentd.bus import Bus
from agentd.config import Configuration
from agentd.ctl.control import MANAGER, NAME, ROOT
from agentd.ctl.doctor import bus_checks
from agentd.ctl.doctor import local_checks as local
from agentd.ctl.doctor.bus_checks import ANSWER_SEC
from agentd.ctl.doctor.findings import Finding, Health, aside, fine, looked, note, problem
from agentd.ctl.meant import place
from agentd.ctl.screen import page, plain
from agentd.ctl.text import count
from agentd.errors import AgentdError, ConfigurationInvalid
from agentd.interface import PROPERTIES, BusError
from agentd.paths import Mode, Paths

OF = {Mode.SYSTEM: "this host", Mode.USER: "your account", Mode.EMBEDDED: "that directory"}
MARKS = {Health.OK: ("✓", "green"), Health.NOTE: ("!", "yellow"), Health.PROBLEM: ("✗", "bold red")}

Found = dict[str, list[Finding]]
"""By the name of the check."""


def run(options: argparse.Namespace) -> int:
    mode, found = look(options)
    problems = sum(each.state is Health.PROBLEM for findings in found.values() for each in findings)
    if options.json:
        print(as_json(mode, found, problems))
    else:
        page(options, *lines(mode, found, problems))
    return 1 if problems else 0


def look(options: argparse.Namespace) -> tuple[Mode, Found]:
    """An account without a place for agentd has that for a finding."""
    try:
        paths = place(options)
    except ConfigurationInvalid as error:
        advice = "log in as that account, as with machinectl shell USER@: su makes no such directory"
        return Mode.USER, {"login": [problem(error.message, advice)]}
    return paths.mode, asyncio.run(examine(paths))


def as_json(mode: Mode, found: Found, problems: int) -> str:
    findings = [{"check": check, **each._asdict()} for check, findings in found.items() for each in findings]
    return json.dumps({"place": str(mode), "problems": problems, "findings": findings})


def lines(mode: Mode, found: Found, problems: int) -> Iterator[Text]:
    for each in (each for findings in found.values() for each in findings):
        mark, style = MARKS[each.state]
        first, *rest = each.what.splitlines() or [""]
        yield Text.assemble((mark, style), " ", plain(first))
        yield from (plain(f"  {line}") for line in rest)
        if each.advice:
            yield plain(f"  → {each.advice}")
    found_in_all = count(problems, "problem") if problems else "no problem"
    yield plain(f"{found_in_all} found with the agentd of {OF[mode]}")


# Examining


class Told(NamedTuple):
    """The manager's properties, and its Status: {} for what it does not tell."""

    properties: dict[str, Any]
    status: dict[str, Any]


async def examine(paths: Paths) -> Found:
    """Do all checks that there are for this mode. Never fails."""
    try:
        bus = await Bus.connect(paths.bus_address, timeout=ANSWER_SEC)
    except BusError as error:
        return {"bus": [_no_bus(paths, error)], **await _all(_by_looking(paths, Told({}, {})))}
    async with bus:
        told = Told({}, {})
        found = {"bus": [fine(f"the bus of {OF[paths.mode]} is there")]}
        found["manager"] = await looked("manager", _manager(bus, paths, told))
        return {**found, **await _all(_over_the_bus(bus, paths) | _by_looking(paths, told))}


async def _all(checks: dict[str, Awaitable[Iterable[Finding]]]) -> Found:
    """All at once: each has as long as `looked` gives it."""
    found = await asyncio.gather(*(looked(name, check) for name, check in checks.items()))
    return dict(zip(checks, found, strict=True))


def _no_bus(paths: Paths, error: BusError) -> Finding:
    advice = {
        Mode.SYSTEM: "systemctl start dbus.socket",
        Mode.USER: "log in, as with machinectl shell USER@, so that there is a session bus: su makes none",
        Mode.EMBEDDED: f"agentd serve --runtime-dir {paths.runtime_dir}",
    }
    return problem(error.message, advice[paths.mode])


async def _manager(bus: Bus, paths: Paths, told: Told) -> list[Finding]:
    """Fills `told`. Does not start a manager that is not there."""
    if not await bus_checks.is_running(bus):
        return [bus_checks.absent(paths.mode, paths.runtime_dir)]
    command = systemctl(paths.mode)
    try:
        [values] = await bus.call(NAME, ROOT, PROPERTIES, "GetAll", "s", MANAGER, timeout=ANSWER_SEC)
    except BusError as error:
        return [
            problem(f"the manager does not answer: {error.message}", f"{command} restart agentd.service")
        ]
    told.properties.update(values)
    return [*bus_checks.manager(values, command), *await _status(bus, paths, told)]


async def _status(bus: Bus, paths: Paths, told: Told) -> list[Finding]:
    try:
        [text] = await bus.call(NAME, ROOT, MANAGER, "Status", timeout=ANSWER_SEC)
    except AgentdError as error:
        return [note(f"what its containers do is not told to you: {error.message}")]
    told.status.update(json.loads(text))
    return [*bus_checks.watcher(told.status, paths.mode), *bus_checks.containers(told.status, paths.mode)]


def _over_the_bus(bus: Bus, paths: Paths) -> dict[str, Awaitable[Iterable[Finding]]]:
    if paths.mode is Mode.EMBEDDED:
        return {}
    checks: dict[str, Awaitable[Iterable[Finding]]] = {"units": bus_checks.units(bus, paths.mode)}
    if paths.mode is Mode.SYSTEM:
        checks |= {"activation": bus_checks.activation(bus), "polkit": bus_checks.polkit(bus)}
    return checks


def _by_looking(paths: Paths, told: Told) -> dict[str, Awaitable[Iterable[Finding]]]:
    """Each in a thread of its own, and several of them read the configuration."""
    schema.learn(Configuration)

    def files() -> Sequence[str]:
        """Only the manager knows those that it was started with by hand."""
        return told.properties.get("ConfigFiles", ()) if paths.mode is Mode.EMBEDDED else paths.config_files

    read_usec = told.properties.get("ConfigTimestamp", 0)
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "front-door": lambda: local.front_door(paths, running=bool(told.properties)),
        "link": lambda: local.link_socket(paths, running=bool(told.properties)),
        "directories": lambda: local.directories(paths),
        "disk": lambda: local.disk(paths.state_dir),
        "configuration": lambda: [local.configuration(paths, files(), read_usec)],
        "engines": lambda: _engines(files(), told, paths.mode),
        "account": lambda: [local.account(paths, local.caller(), local.readable(files()))],
        "packages": local.packages,
    }
    if paths.mode is Mode.SYSTEM:
        checks = {"systemd": local.systemd, **checks}
    if paths.mode is Mode.USER:
        podman = "podman" in local.installed()
        checks["login"] = lambda: local.login(local.caller(), podman=podman)
    return {name: aside(check) for name, check in checks.items()}


def _engines(files: Sequence[str], told: Told, mode: Mode) -> Iterable[Finding]:
    configured = local.readable(files)
    if configured is None:
        return [note("which container engines are needed is not known: the configuration cannot be read")]
    followed = told.status.get("watcher", {}).get("engines", {})
    return local.engines(local.needed_engines(configured), followed, local.installed(), mode)
