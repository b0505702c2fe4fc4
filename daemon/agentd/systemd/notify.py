# SPDX-License-Identifier: Apache-2.0
"""Telling systemd how we are: readiness, status, watchdog, and the descriptors it keeps for us."""

import asyncio
import contextlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator

from sdnotify import SystemdNotifier

logger = logging.getLogger(__name__)

SOCKET = "NOTIFY_SOCKET"
SEND_TIMEOUT = 0.5
STATUS_MAX = 500
FDNAME_MAX = 255


class Notifier:
    """Speaks to the service manager that started us, or to nobody.

    NOTIFY_SOCKET and the watchdog's variables are taken out of the environment: an agent that found them
    could speak in our name. Whether a message went is returned; nothing is raised when it did not.
    """

    # Initialization

    def __init__(self) -> None:
        self._address = os.environ.get(SOCKET, "")
        self._plain = _connect() if self._address else None
        self.watchdog_interval = _watchdog_interval()
        """Seconds between two `ping`, or None when nobody watches."""
        for name in (SOCKET, "WATCHDOG_USEC", "WATCHDOG_PID"):
            os.environ.pop(name, None)

    def close(self) -> None:
        if self._plain is not None:
            self._plain.socket.close()
            self._plain = None

    # States

    def ready(self) -> bool:
        return self._send("READY=1")

    def reloading(self) -> bool:
        """To be followed by `ready` when it is done, failed or not."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> bool:
        return self._send("STOPPING=1")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`, in ASCII: sdnotify loses the whole message over anything else."""
        return self._send(f"STATUS={_ascii_line(text)[:STATUS_MAX]}", wait=False)

    def extend_timeout(self, usec: int) -> bool:
        """Starting, reloading or stopping takes that much longer from now."""
        return self._send(f"EXTEND_TIMEOUT_USEC={usec}")

    def ping(self) -> bool:
        return self._send("WATCHDOG=1")

    async def keep_watchdog(self, healthy: Callable[[], bool] = lambda: True) -> None:
        """Ping from the loop that serves, while it turns and `healthy` says so; return if nobody watches."""
        while self.watchdog_interval is not None:
            if healthy():
                self.ping()
            await asyncio.sleep(self.watchdog_interval)

    def _send(self, state: str, *, wait: bool = True) -> bool:
        """`wait`, if need be, for a manager that does not read; not for what it can do without."""
        if self._plain is None:
            return False
        try:
            self._plain.socket.settimeout(SEND_TIMEOUT if wait else 0)
            self._plain.notify(state)
        except OSError as error:
            logger.warning("systemd was not told %s: %s", state.partition("=")[0], error)
            return False
        return True

    # The descriptor store

    def store_fd(self, name: str, fd: int) -> bool:
        """Have systemd keep a copy of `fd` over our restart, to be found by `listen_sockets` as `name`.

        It is dropped when its other side hangs up. False without systemd-python, or without a store.
        """
        return self._notify_fds(f"FDSTORE=1\nFDNAME={_fd_name(name)}", [fd])

    def remove_fd(self, name: str) -> bool:
        return self._send(f"FDSTOREREMOVE=1\nFDNAME={_fd_name(name)}")

    def _notify_fds(self, state: str, fds: list[int]) -> bool:
        if self._plain is None:
            return False
        try:
            from systemd import daemon
        except ImportError:
            logger.warning("descriptors cannot be kept over a restart: install systemd-python")
            return False
        try:
            with self._socket_in_environment():
                return bool(daemon.notify(state, fds=fds))
        except OSError as error:
            logger.warning("systemd does not keep a descriptor: %s", error)
            return False

    @contextlib.contextmanager
    def _socket_in_environment(self) -> Iterator[None]:
        """libsystemd looks nowhere else; nothing of ours runs meanwhile that could start a process."""
        os.environ[SOCKET] = self._address
        try:
            yield
        finally:
            del os.environ[SOCKET]


def _connect() -> SystemdNotifier | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ResourceWarning
            )  # sdnotify drops the socket that does not connect
            plain = SystemdNotifier(debug=True)
    except OSError as error:
        logger.warning("systemd cannot be told anything: %s", error)
        return None
    plain.socket.settimeout(SEND_TIMEOUT)  # a manager that hangs must not hang us
    return plain


def _watchdog_interval() -> float | None:
    """Half of what the watchdog allows, as sd_watchdog_enabled(3) recommends."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(usec) / 2e6 if ours and usec.isdecimal() and int(usec) > 0 else None


def _ascii_line(text: str) -> str:
    line = " ".join(text.split())
    return "".join(char for char in line.encode("ascii", "replace").decode() if char.isprintable())


def _fd_name(name: str) -> str:
    if not name or len(name) > FDNAME_MAX or not name.isascii() or not name.isprintable() or ":" in name:
        raise ValueError(f"systemd takes no descriptor called {name!r}")
    return name
