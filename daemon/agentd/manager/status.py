# SPDX-License-Identifier: Apache-2.0
"""The whole state at one moment, as Status() gives it: stable keys, new ones may be added.

{version, mode, state, pid, draining, watcher: {connected, engines: {name: problem}},
 containers: [{name, runtime, state, unit, worker_pid, worker_version, outdated, clients, turns, last_error,
               sessions: [{id, agent, state, queued}], agents: [{name, state, pid, version}]}],
 jobs: [{id, kind, target, state, remaining, drained, deadline_usec}]}

`outdated`: its worker runs another version of agentd than the manager.
"""

import msgspec

from agentd import __version__
from agentd.link import AgentInfo, SessionInfo
from agentd.manager.container import Container
from agentd.manager.jobs import Job


class WatcherStatus(msgspec.Struct, kw_only=True):
    connected: bool
    engines: dict[str, str]


class ContainerStatus(msgspec.Struct, kw_only=True):
    name: str
    runtime: str
    state: str
    unit: str
    worker_pid: int
    worker_version: str
    outdated: bool
    clients: int
    turns: int
    last_error: str
    sessions: list[SessionInfo]
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
    watcher: WatcherStatus
    containers: list[ContainerStatus]
    jobs: list[JobStatus]


def of_container(container: Container, unit: str) -> ContainerStatus:
    worker, snapshot = container.worker, container.snapshot
    return ContainerStatus(
        name=container.name,
        runtime=container.runtime or snapshot.runtime,
        state=container.state,
        unit=unit,
        worker_pid=worker.pid if worker else 0,
        worker_version=worker.code if worker else "",
        outdated=worker is not None and worker.code != __version__,
        clients=snapshot.clients,
        turns=snapshot.turns,
        last_error=container.last_error,
        sessions=snapshot.sessions,
        agents=snapshot.agents,
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
