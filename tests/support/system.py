# SPDX-License-Identifier: Apache-2.0
"""agentd in system mode, where other accounts may come: on a bus of its own, with a systemd that is none."""

import socket
import subprocess
import sys
from pathlib import Path

from support.acp_client import Client
from support.embedded import Embedded
from support.private_bus import Daemon

CONNECT = """
import os, socket, sys
account = int(sys.argv[1])
os.setgroups([]), os.setgid(account), os.setuid(account)
sock = socket.socket(socket.AF_UNIX)
sock.connect("agentd.sock")
socket.send_fds(socket.socket(fileno=0), [b"."], [sock.fileno()])
"""


class System(Embedded):
    """`systemctl` may be asked for nothing here; units are started when they are needed."""

    def __init__(self, folder: Path, configuration: str, **environment: str) -> None:
        self._daemon = Daemon(folder)
        bus = {"DBUS_SYSTEM_BUS_ADDRESS": self._daemon.address}
        support = {"PYTHONPATH": str(Path(__file__).parents[1])}
        super().__init__(folder, configuration, bus="system", **bus, **support, **environment)
        self._systemd: subprocess.Popen[bytes] | None = None

    def places(self) -> list[str]:
        return [*super().places(), "--state-dir", str(self.runtime_dir / "state")]

    def start(self) -> None:
        command = [sys.executable, "-m", "support.systemd", self._daemon.address, *self.places()]
        with self.log_file.open("ab") as log:
            self._systemd = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self.environment
            )
        assert self._systemd.stdout is not None
        assert self._systemd.stdout.readline() == b"ready\n", self.log()
        super().start()

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        if self._systemd is not None:
            self._systemd.communicate(timeout=60)
        self._daemon.kill()
        super().clean_up()

    def client_of(self, account: int) -> Client:
        """A connection that another account has made. Needs root."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            subprocess.run(
                [sys.executable, "-IS", "-c", CONNECT, str(account)],
                cwd=self.runtime_dir,
                stdin=theirs,
                timeout=30,
                check=True,
            )
            _, [descriptor], _, _ = socket.recv_fds(ours, 1, 1)
        return Client(socket.socket(fileno=descriptor))
