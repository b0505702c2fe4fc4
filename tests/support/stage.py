# SPDX-License-Identifier: Apache-2.0
"""Agents whose part the test plays itself: every `tests/agents/recorder.py` that starts comes here."""

import json
import queue
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.acp_client import DEADLINE
from support.corpus import frame
from support.embedded import eventually

RECORDER = Path(__file__).parents[1] / "agents" / "recorder.py"

Answer = Callable[[dict[str, Any]], bytes]
"""Makes the whole answer to a request: a frame without its newline."""


class End:
    """One end of a connection, line by line, read from the start whether or not somebody wants to know."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._listen, name="end")
        self._reader.start()

    def _listen(self) -> None:
        with self._sock.makefile("rb") as lines:
            try:
                for line in lines:
                    self._take(line.removesuffix(b"\n"))
            except (ConnectionResetError, BrokenPipeError):
                pass  # whoever waits for a line from here hears nothing, and says so

    def _take(self, line: bytes) -> None:
        self._heard.put(line)

    def say(self, line: bytes) -> None:
        self._sock.sendall(line + b"\n")

    def hear(self, deadline: float = DEADLINE) -> bytes | None:
        """The next line, or None where none has come in time."""
        try:
            return self._heard.get(timeout=deadline)
        except queue.Empty:
            return None

    def hear_all(self, count: int) -> list[bytes]:
        """As many lines, or those up to one that has not come in time."""
        heard: list[bytes] = []
        while len(heard) < count and (line := self.hear()) is not None:
            heard.append(line)
        return heard

    def call(self, method: str, params: dict[str, Any]) -> tuple[bytes, list[bytes]]:
        """Send a request: the answer to it, and what came before."""
        self.say(frame(0, {"id": method, "method": method, "params": params}))
        before: list[bytes] = []
        while (line := self.hear()) is not None:
            if json.loads(line).get("id") == method:
                return line, before
            before.append(line)
        raise AssertionError(f"{method} was not answered, but: {before}"[:1000])

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._sock.close()


class Actor(End):
    """One agent process. It answers by itself, as the stage says, until the test takes its part."""

    def __init__(self, sock: socket.socket, answer: Answer) -> None:
        self.history: list[bytes] = []
        """What it heard while it answered by itself."""
        self._answer = answer
        self._played = False
        super().__init__(sock)

    def _take(self, line: bytes) -> None:
        if self._played:
            super()._take(line)
            return
        self.history.append(line)
        message = json.loads(line)
        if "id" in message and "method" in message:
            self.say(self._answer(message))

    def play(self, played: bool = True) -> None:
        """From here on the test hears and answers; or no more."""
        self._played = played


class Stage:
    """Where the actors come in. `answer` makes what they answer by themselves."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.command = [sys.executable, "-IS", str(RECORDER), str(path)]
        self.actors: list[Actor] = []
        self._answer = answer
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind(str(path))
        self._door.listen()
        self._porter = threading.Thread(target=self._admit, name="stage")
        self._porter.start()

    def _admit(self) -> None:
        while True:
            try:
                sock, _ = self._door.accept()
            except OSError:
                return  # closed
            self.actors.append(Actor(sock, self._answer))

    def actor_told(self, word: str) -> tuple[Actor, bytes]:
        """The one that heard this while it answered by itself, and the line it was in."""
        return eventually(lambda: self._told(word.encode()), f"an agent is told {word}")[0]

    def _told(self, word: bytes) -> list[tuple[Actor, bytes]]:
        return [(actor, line) for actor in self.actors for line in list(actor.history) if word in line]

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._porter.join()
        self._door.close()
        for actor in self.actors:
            actor.close()
