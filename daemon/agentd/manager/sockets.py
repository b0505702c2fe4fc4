# SPDX-License-Identifier: Apache-2.0
"""The listening sockets: systemd's where it gave us some, our own elsewhere, and one for every container."""

import errno
import logging
import os
import socket
import stat

from agentd.errors import AgentdError, AlreadyRunning, ConfigurationInvalid
from agentd.manager.container import Container
from agentd.manager.front_door import FrontDoor
from agentd.paths import Paths, check_socket_path
from agentd.systemd.notify import Notifier

FRONT_DOOR, LINK = "front-door", "link"
"""FileDescriptorName= of the two socket units."""
STORED = "container."
"""Prefix of the names under which systemd keeps containers' sockets for us."""
BACKLOG = 1024
EVERYBODY, OWNER_AND_GROUP = 0o666, 0o660

log = logging.getLogger(__name__)

Inherited = dict[str, list[socket.socket]]


def take_or_bind(
    inherited: Inherited, name: str, path: str, kind: socket.SocketKind, mode: int
) -> socket.socket:
    """The socket systemd listens on for us under that name, else one of our own. Raises AlreadyRunning."""
    given = inherited.pop(name, [])
    for extra in given[1:]:
        extra.close()
    return given[0] if given else bind(path, kind, mode)


def bind(path: str, kind: socket.SocketKind, mode: int) -> socket.socket:
    """A listening Unix socket with exactly that mode from its first moment.

    What a dead process left is replaced. Raises AlreadyRunning where somebody listens, ConfigurationInvalid
    where the path cannot be a socket's.
    """
    check_socket_path(path)
    _clear_away(path, kind)
    sock = socket.socket(socket.AF_UNIX, kind)
    before = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise ConfigurationInvalid(f"{path} cannot be listened on: {exc.strerror}") from None
    finally:
        os.umask(before)
    return sock


def _clear_away(path: str, kind: socket.SocketKind) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigurationInvalid(f"{path} is there already, and is no socket; move it away")
        status = _probe(path, kind)
        if status == errno.ECONNREFUSED:
            os.unlink(path)
        elif status != errno.ENOENT:  # a full backlog or a closed door has somebody behind it
            detail = os.strerror(status) if status else "somebody listens"
            raise AlreadyRunning(f"{path} is in use already: {detail}")
    except FileNotFoundError:
        pass  # nothing is in the way
    except OSError as exc:
        raise ConfigurationInvalid(f"{path} cannot be looked at: {exc.strerror}") from None


def _probe(path: str, kind: socket.SocketKind) -> int:
    """What connecting says: 0 or an errno."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path)


class ContainerSockets:
    """containers/NAME.sock for every container, kept by systemd while we are restarted."""

    def __init__(self, paths: Paths, door: FrontDoor, notifier: Notifier, inherited: Inherited) -> None:
        self._paths = paths
        self._door = door
        self._notifier = notifier
        self._kept = {
            name.removeprefix(STORED): inherited.pop(name)[0]
            for name in list(inherited)
            if name.startswith(STORED)
        }
        self._sockets: dict[str, socket.socket] = {}

    def add(self, container: Container) -> None:
        """Listen for a container. One whose name is too long for a socket's path has the front door only."""
        try:
            sock = self._kept.pop(container.name, None) or self._bind_and_keep(container.name)
        except AgentdError as exc:
            log.warning("%s gets no socket of its own: %s", container.name, exc.message)
            return
        self._sockets[container.name] = sock
        self._door.listen(sock, container.name)

    def remove(self, container: Container) -> None:
        if sock := self._sockets.pop(container.name, None):
            self._door.unlisten(sock)
            self._drop(container.name, sock)

    def drop_unclaimed(self) -> None:
        """Containers that were here before our restart and are no more."""
        while self._kept:
            self._drop(*self._kept.popitem())

    def close(self, *, remove: bool) -> None:
        """`remove` takes the paths away too: nobody will listen there any more."""
        for name, sock in self._sockets.items():
            sock.close()
            if remove:
                _unlink(self._paths.container_socket(name))

    def _bind_and_keep(self, name: str) -> socket.socket:
        path = self._paths.container_socket(name)
        sock = bind(path, socket.SOCK_STREAM, EVERYBODY)
        self._notifier.store_fd(STORED + name, sock.fileno())
        return sock

    def _drop(self, name: str, sock: socket.socket) -> None:
        sock.close()
        self._notifier.remove_fd(STORED + name)
        _unlink(self._paths.container_socket(name))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # somebody tidied up before us
