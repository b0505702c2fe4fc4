# SPDX-License-Identifier: Apache-2.0
"""Being org.agentd1: its objects, kept in step with the models, and back when the bus has been gone."""

import asyncio
import logging
from collections.abc import Callable

from agentd.bus import Bus
from agentd.errors import AgentdError
from agentd.interface import Interface, ObjectManager
from agentd.manager.bus import container as container_face
from agentd.manager.bus import job as job_face
from agentd.manager.bus import paths
from agentd.manager.bus.authority import Authority
from agentd.manager.bus.container import ContainerFace
from agentd.manager.bus.job import JobFace
from agentd.manager.bus.manager import ManagerFace
from agentd.manager.bus.session import SessionFace
from agentd.manager.container import Container
from agentd.manager.job import Job
from agentd.manager.manager import Manager
from agentd.manager.sessions import Session
from agentd.paths import Mode
from agentd.systemd.events import Event

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0

log = logging.getLogger(__name__)


class Control:
    """The manager's presence on a bus; without one it does nothing."""

    def __init__(
        self, manager: Manager, address: str, bus: Bus | None, on_bus: Callable[[Bus], None]
    ) -> None:
        """`on_bus` tells others who use the connection of the one that replaces it."""
        self._manager = manager
        self._address = address
        self._bus = bus
        self._on_bus = on_bus
        self._closing = False
        self._face: ManagerFace | None = None
        self._containers: dict[str, ContainerFace] = {}
        self._sessions: dict[Session, SessionFace] = {}
        self._jobs: dict[int, JobFace] = {}
        self._listen()

    def _listen(self) -> None:
        registry, sessions, jobs = self._manager.registry, self._manager.sessions, self._manager.jobs
        registry.on_new.append(self._add_container)
        registry.on_removed.append(self._remove_container)
        registry.on_change.append(self._container_changed)
        sessions.on_new.append(self._add_session)
        sessions.on_removed.append(self._remove_session)
        sessions.on_change.append(self._session_changed)
        jobs.on_drained.append(self._drained)
        jobs.on_new.append(self._add_job)
        jobs.on_progress.append(self._job_changed)
        jobs.on_ended.append(self._job_ended)
        jobs.on_removed.append(self._remove_job)
        self._manager.on_change.append(self._changed)

    # Connection

    async def open(self) -> None:
        """Export everything and take the name. Raises AlreadyRunning where somebody else has it."""
        if self._bus is not None:
            self._export(self._bus)
            await self._bus.request_name(paths.NAME)

    async def keep(self) -> None:
        """Come back whenever the bus does. Raises AlreadyRunning where the name was taken meanwhile."""
        if self._bus is None:
            await asyncio.get_running_loop().create_future()
        while self._bus is not None:
            await self._bus.wait_closed()
            if self._closing:
                return
            log.warning(
                "the bus has gone; going on without it until it is back", extra={"event": Event.BUS_LOST}
            )
            self._forget()
            self._bus = await self._reconnect()
            self._on_bus(self._bus)
            await self.open()
            log.info("on the bus again")

    async def _reconnect(self) -> Bus:
        pause = FIRST_PAUSE
        while True:
            try:
                return await Bus.connect(self._address)
            except AgentdError as exc:
                log.debug("%s", exc.message)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def close(self) -> None:
        self._closing = True
        if self._bus is not None:
            await self._bus.close()

    def _export(self, bus: Bus) -> None:
        self._authority = Authority(
            bus, lambda: self._manager.door.access, polkit=self._manager.paths.mode is Mode.SYSTEM
        )
        self._face = ManagerFace(self._manager, self._authority)
        bus.export(paths.ROOT, ObjectManager())
        bus.export(paths.ROOT, self._face)
        for container in self._manager.registry:
            self._add_container(container)
        for session in self._manager.sessions:
            self._add_session(session)
        for job in self._manager.jobs:
            self._add_job(job)

    def _forget(self) -> None:
        self._face = None
        self._containers.clear()
        self._sessions.clear()
        self._jobs.clear()

    def _show(self, path: str, face: Interface) -> None:
        if self._bus is not None:
            self._bus.export(path, face)

    def _hide(self, path: str) -> None:
        if self._bus is not None:
            self._bus.unexport(path)

    # The manager

    def _changed(self) -> None:
        if self._face is not None:
            self._face.refreshed()

    # Containers

    def _add_container(self, container: Container) -> None:
        if self._face is None:
            return
        face = self._containers[container.name] = ContainerFace(container, self._manager, self._authority)
        path = paths.of_container(container.name)
        self._show(path, face)
        self._face.container_new(container.name, path)

    def _remove_container(self, container: Container) -> None:
        if self._face is not None and container.name in self._containers:
            del self._containers[container.name]
            path = paths.of_container(container.name)
            self._hide(path)
            self._face.container_removed(container.name, path)

    def _container_changed(self, container: Container) -> None:
        if face := self._containers.get(container.name):
            face.changed(*container_face.CHANGING)

    # Sessions

    def _add_session(self, session: Session) -> None:
        if self._face is None:
            return
        face = self._sessions[session] = SessionFace(session, self._manager, self._authority)
        path = paths.of_session(session)
        self._show(path, face)
        self._face.session_new(session.container.name, session.id, path)

    def _remove_session(self, session: Session) -> None:
        if self._face is not None and session in self._sessions:
            del self._sessions[session]
            path = paths.of_session(session)
            self._hide(path)
            self._face.session_removed(session.container.name, session.id, path)

    def _session_changed(self, session: Session) -> None:
        if face := self._sessions.get(session):
            face.refreshed()

    def _drained(self) -> None:
        """Something was ordered to drain, or no longer is."""
        for container in self._containers.values():
            container.changed("Drained")
        for session in self._sessions.values():
            session.changed("Drained")

    # Jobs

    def _add_job(self, job: Job) -> None:
        if self._face is None:
            return
        face = self._jobs[job.id] = JobFace(job, self._manager, self._authority)
        self._show(paths.of_job(job.id), face)
        self._face.job_new(job.id, paths.of_job(job.id))

    def _job_changed(self, job: Job) -> None:
        if face := self._jobs.get(job.id):
            face.progress(job.remaining, job.drained)
            face.changed(*job_face.CHANGING)

    def _job_ended(self, job: Job) -> None:
        if self._face is not None:
            self._face.job_removed(job.id, paths.of_job(job.id), job.target, job.state)

    def _remove_job(self, job: Job) -> None:
        if job.id in self._jobs:
            del self._jobs[job.id]
            self._hide(paths.of_job(job.id))
