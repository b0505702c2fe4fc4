# SPDX-License-Identifier: Apache-2.0
"""Drain and Undrain as three interfaces have them."""

from typing import Any

from agentd.errors import InvalidArgs, NoSuchSession
from agentd.manager.bus import paths
from agentd.manager.bus.authority import Action, Authority
from agentd.manager.manager import Manager
from agentd.manager.targets import Target


async def drain(manager: Manager, authority: Authority, target: str, options: dict[str, Any]) -> str:
    """Begin a drain, or join it. Returns the job's path. Raises what Manager.Drain has."""
    await require(manager, authority, Target.parse(target), "drain")
    job = manager.jobs.drain(target, _timeout(options))
    await manager.jobs.kept()
    return paths.of_job(job.id)


async def undrain(manager: Manager, authority: Authority, target: str) -> None:
    """Let turns begin again. Raises what Manager.Undrain has."""
    await require(manager, authority, Target.parse(target), "undrain")
    manager.jobs.undrain(target)
    await manager.jobs.kept()


async def require(manager: Manager, authority: Authority, target: Target, verb: str) -> None:
    """For whoever gives an order about a drain: of a session, its owner may. Raises AccessDenied."""
    if target.session:
        try:
            session = manager.sessions.find(target.container, target.session)
        except NoSuchSession:
            pass  # whoever may drain at all is told so
        else:
            await authority.require_session(session, Action.DRAIN, verb)
            return
    await authority.require(Action.DRAIN, container=target.container, verb=verb)


def _timeout(options: dict[str, Any]) -> float | None:
    """Seconds, None where nobody has said. Raises InvalidArgs for options there are not."""
    if unknown := options.keys() - {"timeout_usec"}:
        raise InvalidArgs(f"Drain has no option {sorted(unknown)[0]}; it has timeout_usec")
    usec = options.get("timeout_usec")
    if usec is None:
        return None
    if not isinstance(usec, int):
        raise InvalidArgs("timeout_usec is a number of microseconds, of type t")
    return usec / 1e6
