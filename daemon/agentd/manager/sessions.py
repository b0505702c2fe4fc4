# SPDX-License-Identifier: Apache-2.0
"""The open sessions of all containers, as their workers tell of them."""

from collections.abc import Callable, Iterable, Iterator

from agentd.errors import NoSuchSession
from agentd.link import SessionInfo
from agentd.manager.container import Container


class Session:
    """One of them. `info` is its worker's last word on it."""

    def __init__(self, container: Container, info: SessionInfo) -> None:
        self.container = container
        self.info = info

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def key(self) -> tuple[str, int]:
        """The container's name, and the session's number there, which stays the same while it is kept."""
        return self.container.name, self.info.key


class Sessions:
    """By container and number. `on_new`, `on_removed` and `on_change` tell whoever shows them (the bus)."""

    def __init__(self) -> None:
        self._sessions: dict[str, dict[int, Session]] = {}
        self.on_new: list[Callable[[Session], None]] = []
        self.on_removed: list[Callable[[Session], None]] = []
        self.on_change: list[Callable[[Session], None]] = []

    def __iter__(self) -> Iterator[Session]:
        for sessions in self._sessions.values():
            yield from sessions.values()

    def of(self, container: str) -> Iterable[Session]:
        """Those of a container."""
        return self._sessions.get(container, {}).values()

    def find(self, container: str, session_id: str) -> Session:
        """By the id that clients know. Raises NoSuchSession."""
        for session in self.of(container):
            if session.id == session_id:
                return session
        raise NoSuchSession(
            f"no session {session_id} is open in {container}; see: agentctl sessions {container}",
            sessionId=session_id,
        )

    # What workers tell

    def told(self, container: Container) -> None:
        """A container is not as it was: take over what its worker says of its sessions."""
        known = self._sessions.setdefault(container.name, {})
        there = {info.key: info for info in container.snapshot.sessions if info.key}  # 0: a worker too old
        for key in known.keys() - there.keys():
            self._tell(self.on_removed, known.pop(key))
        for key, info in there.items():
            self._one(container, known, key, info)
        if not known:
            del self._sessions[container.name]

    def _one(self, container: Container, known: dict[int, Session], key: int, info: SessionInfo) -> None:
        session = known.get(key)
        if session is None:
            session = known[key] = Session(container, info)
            self._tell(self.on_new, session)
        elif session.info != info:
            session.info = info
            self._tell(self.on_change, session)

    def _tell(self, listeners: list[Callable[[Session], None]], session: Session) -> None:
        for tell in listeners:
            tell(session)
