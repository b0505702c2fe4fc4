# SPDX-License-Identifier: Apache-2.0
"""The whole state at one moment, as Status() gives it: stable keys, new ones may be added.

{version, mode, state, pid, draining, started_usec, configured_usec,
 watcher: {connected, engines: {name: problem}},
 containers: [{name, runtime, id, state, unit, socket, leader, worker_pid, worker_version, outdated,
               active_since_usec, clients, turns, sessions_open, frames, drained, last_error,
               addresses, network: {received, sent} or null,
               budget: {last_minute, last_day, per_minute, per_day} or null,
               sessions: [{id, path, agent, state, title, owner, clients, queued, permissions, drained,
                           created_usec, updated_usec}],
               agents: [{name, state, pid, version}]}],
 jobs: [{id, kind, target, state, remaining, drained, deadline_usec}]}

`outdated`: its worker runs another version of agentd than the manager. `leader`: the container's first
process. `title`: "" for a session that is somebody else's. `per_minute`, `per_day`: 0 for no limit.
"""

import msgspec

from agentd import __version__
from agentd.link import AgentInfo, BudgetInfo
from agentd.manager.container import Container
from agentd.manager.job import Job
from agentd.manager.sessions import Session


class WatcherStatus(msgspec.Struct, kw_only=True):
    connected: bool
    engines: dict[str, str]


class NetworkStatus(msgspec.Struct, kw_only=True):
    """Bytes, of all the container's own interfaces but the loopback."""

    received: int
    sent: int


class SessionStatus(msgspec.Struct, kw_only=True):
    id: str
    path: str
    agent: str
    state: str
    title: str
    owner: int
    clients: int
    queued: int
    permissions: int
    drained: bool
    created_usec: int
    updated_usec: int


class ContainerStatus(msgspec.Struct, kw_only=True):
    name: str
    runtime: str
    id: str
    state: str
    unit: str
    socket: str
    leader: int
    worker_pid: int
    worker_version: str
    outdated: bool
    active_since_usec: int
    clients: int
    turns: int
    sessions_open: int
    frames: int
    drained: list[str]
    last_error: str
    addresses: list[str]
    network: NetworkStatus | None
    budget: BudgetInfo | None
    sessions: list[SessionStatus]
    agents: list[AgentInfo]


class JobStatus(msgspec.Struct, kw_only=True):
    id: int
    kind: str
    target: str
    state: str
    remaining: int
    drained: list[str]
    deadline_usec: int


class Status(msgspec.Struct, kw_only=True):
    version: str
    mode: str
    state: str
    pid: int
    draining: bool
    started_usec: int
    configured_usec: int
    watcher: WatcherStatus
    containers: list[ContainerStatus]
    jobs: list[JobStatus]


def of_container(
    container: Container,
    *,
    unit: str,
    socket: str,
    drained: list[str],
    sessions: list[SessionStatus],
) -> ContainerStatus:
    worker, snapshot, measured = container.worker, container.snapshot, container.measured
    return ContainerStatus(
        name=container.name,
        runtime=container.runtime or snapshot.runtime,
        id=container.info.id if container.info else snapshot.engine_id,
        state=container.state,
        unit=unit,
        socket=socket,
        leader=container.info.pid if container.info else 0,
        worker_pid=worker.pid if worker else 0,
        worker_version=worker.code if worker else "",
        outdated=worker is not None and worker.code != __version__,
        active_since_usec=snapshot.started_usec,
        clients=snapshot.clients,
        turns=snapshot.turns,
        sessions_open=container.sessions_open,
        frames=snapshot.frames,
        drained=drained,
        last_error=container.last_error,
        addresses=measured.addresses if measured else [],
        network=NetworkStatus(received=measured.received, sent=measured.sent) if measured else None,
        budget=snapshot.budget,
        sessions=sessions,
        agents=snapshot.agents,
    )


def of_session(session: Session, *, path: str, drained: bool, title: str) -> SessionStatus:
    info = session.info
    return SessionStatus(
        id=info.id,
        path=path,
        agent=info.agent,
        state=info.state,
        title=title,
        owner=info.owner,
        clients=info.clients,
        queued=info.queued,
        permissions=info.permissions,
        drained=drained,
        created_usec=info.created_usec,
        updated_usec=info.updated_usec,
    )


def of_job(job: Job) -> JobStatus:
    return JobStatus(
        id=job.id,
        kind=job.kind,
        target=job.target,
        state=job.state,
        remaining=job.remaining,
        drained=job.drained,
        deadline_usec=job.deadline_usec,
    )


def as_json(status: Status) -> str:
    return msgspec.json.encode(status).decode()
