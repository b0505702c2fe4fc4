# SPDX-License-Identifier: Apache-2.0
"""`agentctl prompt --schedule NAME`: the prompt of a file, as agentd-prompt@NAME.service runs it.

The answer goes to stdout, and what came of it is logged as PROMPT_ENDED or PROMPT_SKIPPED. Exit statuses
are those of `agentctl prompt`; besides, 75 where the time was up, 78 where the file is wrong, and 0 where
nothing was done because the last run of the same prompt had not ended.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import re
import stat
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agentd.acp.peer import Params
from agentd.advice import systemctl
from agentd.bus import Bus
from agentd.config import AGENT_NAME, AgentName, ContainerName, Directory, Seconds, Text, dotted
from agentd.ctl.places import candidates, front_door, unreachable
from agentd.ctl.prompt import Order, Turn, show, status_of
from agentd.errors import (
    AccessDenied,
    AgentdError,
    AlreadyRunning,
    ConfigurationInvalid,
    InvalidArgs,
    ManagerUnreachable,
    TimeLimit,
)
from agentd.lock import only_one
from agentd.paths import Mode, Paths
from agentd.schema import Problem, problems
from agentd.systemd.events import Event
from agentd.systemd.journal import setup_logging
from agentd.systemd.timers import came_due_meanwhile, started_by

FILE_BYTES = 1 << 20
"""Of a prompt's TOML, and of the text file that it may name."""
BUS_SEC = 10.0
"""For systemd to tell when the timer came due."""
REASON_CHARS = 64
"""Of a stop reason, which is the agent's own word."""

log = logging.getLogger(__name__)

Choice = Annotated[Literal["allow", "reject"], Meta(description='"allow" or "reject"')]


class Prompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be written in prompts/NAME.toml.

    Exactly one of `text` and `file` (UTF-8, at most 1 MiB) is set. `agent`: None for the default one.
    `permission`: what is answered to every question of the agent's, for nobody is there to be asked.
    `timeout_sec`: for the whole run, the start of the agent included. `cwd`: a directory of this host that
    the container shares; without it, the session is where the container's processes start.
    """

    container: ContainerName
    agent: AgentName | None = None
    text: Text | None = None
    file: Directory | None = None
    permission: Choice = "reject"
    timeout_sec: Seconds = 3600.0
    cwd: Directory | None = None


@dataclass(frozen=True)
class Schedule:
    """A prompt that is to be run: its name, the agentd it is for, and what is asked, for how long."""

    name: str
    paths: Paths
    order: Order
    limit: float


# Running


def run(options: argparse.Namespace) -> int:
    setup_logging("agentctl")
    return Run(options).to_its_end()


class Run:
    """One run, and what is logged of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._name: str = options.schedule
        self._began = time.monotonic()
        self._turn: Turn | None = None
        self._about: dict[str, str] = {"prompt": self._name}

    def to_its_end(self) -> int:
        """Returns the exit status."""
        try:
            return self._whole()
        except AgentdError as exc:
            if isinstance(exc, AlreadyRunning) and self._turn is None:  # later it is an agent that says so
                self._log(logging.WARNING, "was skipped", exc.message, event=Event.PROMPT_SKIPPED)
                return 0
            self._about["error"] = exc.reason
            self._log_end(logging.ERROR, "failed", exc.message)
            return exc.exit_status

    def _whole(self) -> int:
        schedule = find(self._options)
        self._about["container"] = schedule.order.container
        with alone(schedule):
            return self._ended(schedule, asyncio.run(self._prompt(schedule)))

    async def _prompt(self, schedule: Schedule) -> Params | None:
        if await overlaps(schedule):
            raise AlreadyRunning("it came due while its last run had not ended")
        self._turn = Turn(schedule.order, show(self._options))
        return await self._turn.run(front_door(only(schedule.paths, self._options)), limit=schedule.limit)

    def _ended(self, schedule: Schedule, result: Params | None) -> int:
        """What is logged of a turn that has ended. Raises TimeLimit where that was for its time limit."""
        reason = "cancelled" if result is None else str(result.get("stopReason"))[:REASON_CHARS]
        self._about["stop_reason"] = reason
        if self._turn and self._turn.late and reason != "end_turn":
            raise TimeLimit(f"it was cancelled after {schedule.limit:g} s, its timeout_sec")
        level = logging.INFO if reason == "end_turn" else logging.WARNING
        self._log_end(level, "ended", reason)
        return status_of(result)

    def _log_end(self, level: int, how: str, why: str) -> None:
        took = time.monotonic() - self._began
        self._about["duration_usec"] = str(round(took * 1e6))
        if self._turn:
            self._about |= {"session": self._turn.session, "agent": self._turn.agent}
        self._log(level, f"{how} after {took:.1f} s", why, event=Event.PROMPT_ENDED)

    def _log(self, level: int, what: str, why: str, *, event: Event) -> None:
        line = why.replace("\n", "; ")
        log.log(level, "prompt %s %s: %s", self._name, what, line, extra={**self._about, "event": event})


# One at a time


@contextlib.contextmanager
def alone(schedule: Schedule) -> Iterator[None]:
    """Keep other runs of the prompt away, whoever starts them.

    Raises AlreadyRunning, AccessDenied, or ManagerUnreachable where agentd has no place yet.
    """
    paths = schedule.paths
    folder = os.path.join(paths.runtime_dir, "prompts")
    try:
        with _as_owner_of(paths.runtime_dir):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            lock = only_one(os.path.join(folder, f"{schedule.name}.lock"), "another run of it")
    except PermissionError:
        raise AccessDenied(
            f"your account may not write to {folder}, which it takes to run scheduled prompts; "
            f"have systemd do it: {systemctl(paths.mode, 'start', f'agentd-prompt@{schedule.name}')}"
        ) from None
    except OSError as exc:
        raise ManagerUnreachable(unreachable([f"{folder}: {exc.strerror}"], paths)) from None
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _as_owner_of(folder: str) -> Iterator[None]:
    """root leaves nothing in the folder that its owner, the account of the unit, could not use after it."""
    owner = os.stat(folder).st_uid
    if os.geteuid() != 0 or owner == 0:
        yield
        return
    os.seteuid(owner)
    try:
        yield
    finally:
        os.seteuid(0)


async def overlaps(schedule: Schedule) -> bool:
    """Whether it was a timer that started this run, and it came due while the last run was going on."""
    if not (timer := started_by(os.environ)):
        return False
    try:
        async with asyncio.timeout(BUS_SEC), await Bus.connect(schedule.paths.bus_address) as bus:
            return await came_due_meanwhile(bus, timer)
    except (AgentdError, TimeoutError) as exc:
        log.warning("systemd does not tell when %s came due, so it is now: %s", timer, exc)
        return False


# Finding what to run


def find(options: argparse.Namespace) -> Schedule:
    """The prompt that the options name. Raises InvalidArgs or ConfigurationInvalid."""
    name = options.schedule
    if options.container or options.text or options.agent or options.cwd or options.permission:
        raise InvalidArgs("--schedule goes without container, text and other options: they are in its file")
    if not re.match(AGENT_NAME, name):
        raise InvalidArgs(
            f"{name!r} can't be a prompt's name: "
            "letters, digits and _ . -, a letter or digit first, at most 64"
        )
    paths, file = _place(options, name)
    prompt = load(file)
    text = prompt.text if prompt.file is None else _read(prompt.file)
    if not text:
        raise ConfigurationInvalid(f"{prompt.file}: is empty, and there is nothing to ask")
    order = Order(
        container=prompt.container,
        text=text,
        agent=prompt.agent or "",
        cwd=prompt.cwd or "",
        anywhere=prompt.cwd is None,
        permission=prompt.permission,
    )
    return Schedule(name, paths, order, prompt.timeout_sec)


def _place(options: argparse.Namespace, name: str) -> tuple[Paths, str]:
    """The agentd that is meant and its file of that name: where none is named, the first one that has it."""
    named = options.system or options.user or options.runtime_dir
    places = [each for each in candidates(options) if named or each.mode is not Mode.EMBEDDED]
    files = [(paths, paths.prompt_file(name)) for paths in places]
    for paths, file in files:
        if os.path.lexists(file):
            return paths, file
    looked = " and no ".join(file for _, file in files) or "folder of an agentd to look in"
    raise ConfigurationInvalid(f"no prompt is called {name}: there is no {looked}")


def only(paths: Paths, options: argparse.Namespace) -> argparse.Namespace:
    """The options of somebody who means this agentd and no other."""
    mode = {"system": paths.mode is Mode.SYSTEM, "user": paths.mode is Mode.USER}
    return argparse.Namespace(**{**vars(options), **mode, "runtime_dir": None})


def load(file: str) -> Prompt:
    """Raises ConfigurationInvalid, one problem a line."""
    try:
        table = tomllib.loads(_read(file))
    except (ValueError, RecursionError) as exc:
        raise ConfigurationInvalid(f"{file}: not TOML: {exc}") from None
    found = [f"{file}: {dotted(key)}: {text}" for key, text in (*problems(table, Prompt, ()), *_gaps(table))]
    if found:
        raise ConfigurationInvalid("\n".join(found), problems=found)
    return msgspec.convert(table, Prompt)


def _gaps(table: dict[str, Any]) -> Iterator[Problem]:
    if "container" not in table:
        yield ("container",), "is missing: name the container to be prompted"
    if ("text" in table) == ("file" in table):
        yield ("text",), "either this or `file` must be set" + (", not both" if "text" in table else "")


def _read(path: str) -> str:
    """A text file, whole. Raises ConfigurationInvalid."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO may have no writer
        with open(descriptor, "rb") as source:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            content = source.read(FILE_BYTES + 1) if regular else b""
    except OSError as exc:
        raise ConfigurationInvalid(f"{path}: can't be read: {exc.strerror}") from None
    if not regular:
        raise ConfigurationInvalid(f"{path}: is not a regular file")
    if len(content) > FILE_BYTES:
        raise ConfigurationInvalid(f"{path}: has more than {FILE_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ConfigurationInvalid(f"{path}: line {line} is not UTF-8") from None
