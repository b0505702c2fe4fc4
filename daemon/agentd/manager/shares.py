# SPDX-License-Identifier: Apache-2.0
"""What a drain is to one worker: whether it can, what it is told, and what it has told."""

from agentd import link
from agentd.errors import NoSuchSession
from agentd.manager.container import Container, WorkerEnd
from agentd.manager.targets import Target

PARTS_SINCE = 2
"""The version of the link that has drains of an agent or a session; a worker of 1 would drain all it has."""


def can_drain(worker: WorkerEnd, share: Target) -> bool:
    return not share.is_part or worker.version >= PARTS_SINCE


def outdated(worker: WorkerEnd, share: Target) -> str:
    """Why it cannot, and what to do."""
    name = share.container
    return (
        f"the worker of {name} runs agentd {worker.code}, which cannot drain a part of it, as {share}: "
        f"restart it, when it suits: agentctl stop {name}, and agentctl start {name}"
    )


def check_open(container: Container, session: str) -> None:
    """Raises NoSuchSession."""
    name = container.name
    if container.worker is None:
        text = f"{name} has no worker now, and so no session is open in it: load {session} first"
        raise NoSuchSession(text, sessionId=session)
    if session not in [each.id for each in container.snapshot.sessions]:
        text = f"no session {session} is open in {name}; see: agentctl sessions {name}"
        raise NoSuchSession(text, sessionId=session)


def order(share: Target, job: int, timeout: float) -> link.Drain:
    return link.Drain(job=job, timeout=timeout, agent=share.agent, session=share.session)


def told(container: Container) -> dict[Target, link.DrainInfo]:
    """The drains that a container's worker has told of last."""
    name, snapshot = container.name, container.snapshot
    parts = {
        Target(name, session=each.session) if each.session else Target(name, each.agent): each
        for each in snapshot.drains
    }
    return parts | ({} if snapshot.drain is None else {Target(name): snapshot.drain})


def turns(snapshot: link.Snapshot, aim: Target) -> int:
    """Those that run, of what is to be drained. The worker's first report is exact."""
    if not aim.is_part:
        return snapshot.turns
    mine = [
        each
        for each in snapshot.sessions
        if (each.id == aim.session if aim.session else each.agent == aim.agent)
    ]
    return sum(each.state not in ("idle", "closed") for each in mine)
