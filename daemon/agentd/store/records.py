# SPDX-License-Identifier: Apache-2.0
"""The rows of the database. Times are seconds of Unix time."""

import enum

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A session. `key` is its own for ever; `id`, the name clients know, is free again when it is deleted.

    `native`: its agent's name for it. `owner`: the uid. `cwd`: as the client said it. `title`: None where
    it has none, or where no content is kept. `prompted`: whether anything was ever said in it.
    """

    key: int
    id: str
    native: str
    agent: str
    owner: int
    state: str
    created: float
    updated: float
    prompted: bool = False
    cwd: str = ""
    title: str | None = None


class Progress(enum.StrEnum):
    """How far a turn is. `interrupted`: the worker ended before it did."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    INTERRUPTED = "interrupted"


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and what became of it.

    `session`: the session's key. `client`: the token of the connection it came by, and `raw_id` its id
    there, as canonical JSON. `said`: what others are shown of the prompt, b"" once it is in the transcript.
    `outcome`: the stop reason, or the error's reason, "" before the end; `answer`: the whole answer, without
    a newline. `at`: when the prompt came; `begun`: when it was its turn, 0 for one that waits, or has waited
    in vain.
    """

    number: int
    session: int
    client: str
    owner: int
    raw_id: bytes
    progress: Progress
    at: float
    said: bytes = b""
    ended: float = 0.0
    outcome: str = ""
    answer: bytes = b""
    begun: float = 0.0


class Begun(msgspec.Struct, frozen=True):
    """When a turn has begun. `session`: the session's key."""

    session: int
    at: float


class Asked(enum.StrEnum):
    """How far a request for permission is."""

    PENDING = "pending"
    ANSWERED = "answered"
    EXPIRED = "expired"


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    """A request for permission. `frame`: as clients were asked; `outcome`: the option's id, or ""."""

    number: int
    session: int
    turn: int
    progress: Asked
    at: float
    frame: bytes = b""
    outcome: str = ""


class Run(msgspec.Struct, frozen=True):
    """Frames of a transcript, each with its newline. `seq`: the number of the first; `count`: how many."""

    seq: int
    count: int
    at: float
    data: bytes

    @property
    def end(self) -> int:
        """The number of the frame after these."""
        return self.seq + self.count
