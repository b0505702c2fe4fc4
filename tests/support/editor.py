# SPDX-License-Identifier: Apache-2.0
"""`agentctl attach` as an editor has it: a child process with pipes, whose stdout is pure ACP."""

import subprocess
import threading

from support.acp_client import DEADLINE, Client

PATIENCE = 3 * DEADLINE
"""Seconds until a bridge that neither speaks nor ends is killed; pipes have no deadlines of their own."""


class Editor(Client):
    """Starts a command that speaks ACP over its stdin and stdout."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self._stdin, self._lines, self._stderr = self.process.stdin, self.process.stdout, self.process.stderr
        self._deadline = threading.Timer(PATIENCE, self.process.kill)
        self._deadline.start()
        self._number = 0
        self._kept = []
        self.session = ""

    def raw(self, data: bytes) -> None:
        self._stdin.write(data)
        self._stdin.flush()

    def initialize(self) -> None:
        """What an editor says first; it knows nothing of containers."""
        assert "result" in self.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        self.session = self.new_session()

    def hang_up(self) -> None:
        """Write no more."""
        self._stdin.close()

    def stop_reading(self) -> None:
        """Close the reading end of its stdout."""
        self._lines.close()

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit status and stderr."""
        said = self._stderr.read().decode()
        return self.process.wait(DEADLINE), said

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        self._deadline.cancel()
        self._deadline.join()
        for stream in (self._stdin, self._lines, self._stderr):
            try:
                stream.close()
            except BrokenPipeError:
                pass  # what was still to be written has no reader any more
