# SPDX-License-Identifier: Apache-2.0
"""Every error agentd gives to anybody: one family, with a reason for programs and a sentence for people.

The same error is seen in three places, and each has its own spelling of it:

- on an ACP connection: a JSON-RPC error with `code`, and `data.reason`;
- on D-Bus: `org.agentd1.Error.<ClassName>`;
- from `agentctl`: an exit status (those of sysexits.h).
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes 5 ms, and this module is on the way to an editor's first byte
if TYPE_CHECKING:
    from typing import ClassVar

DBUS_PREFIX = "org.agentd1.Error."

# JSON-RPC and ACP codes
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
NOT_FOUND = -32002
REQUEST_CANCELLED = -32800

# exit statuses, from sysexits.h
EX_USAGE = 64
EX_DATAERR = 65
EX_NOINPUT = 66
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_CANTCREAT = 73
EX_TEMPFAIL = 75
EX_NOPERM = 77
EX_CONFIG = 78


class AgentdError(Exception):
    """The family. `message` is a sentence that says what, where and what to do; `data` goes to programs."""

    reason: ClassVar[str] = "internal"
    code: ClassVar[int] = INTERNAL_ERROR
    exit_status: ClassVar[int] = EX_SOFTWARE
    dbus_name: ClassVar[str] = DBUS_PREFIX + "Internal"

    def __init_subclass__(cls) -> None:
        if "dbus_name" not in cls.__dict__:
            cls.dbus_name = DBUS_PREFIX + cls.__name__

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class Internal(AgentdError):
    """Something of ours broke; the journal has the details, the caller does not."""


# What was asked for is not there


class NoSuchContainer(AgentdError):
    reason, code, exit_status = "no_such_container", NOT_FOUND, EX_NOINPUT


class NoSuchAgent(AgentdError):
    reason, code, exit_status = "no_such_agent", NOT_FOUND, EX_NOINPUT


class NoSuchSession(AgentdError):
    reason, code, exit_status = "no_such_session", NOT_FOUND, EX_NOINPUT


class NoSuchPermission(AgentdError):
    """Nobody asks for it any more: it was decided, or the turn has ended."""

    reason, code, exit_status = "no_such_permission", NOT_FOUND, EX_NOINPUT


class NoSuchTarget(AgentdError):
    reason, code, exit_status = "no_such_target", NOT_FOUND, EX_NOINPUT


class NoSuchJob(AgentdError):
    reason, code, exit_status = "no_such_job", NOT_FOUND, EX_NOINPUT


class AmbiguousContainer(AgentdError):
    """Two runtimes know a container of that name, or no container was named and there are several."""

    reason, code, exit_status = "ambiguous_container", INVALID_PARAMS, EX_USAGE


# It is there, but not now


class NotRunning(AgentdError):
    reason, exit_status = "not_running", EX_UNAVAILABLE


class Draining(AgentdError):
    reason, exit_status = "draining", EX_TEMPFAIL


class ShuttingDown(AgentdError):
    reason, exit_status = "shutting_down", EX_TEMPFAIL


class LimitReached(AgentdError):
    reason, exit_status = "limit_reached", EX_TEMPFAIL


class TooManyConnections(LimitReached):
    """Of one account, with their first line still to come."""

    reason = "too_many_connections"


class TooManyClients(LimitReached):
    """Of a container, or of one account in it."""

    reason = "too_many_clients"


class TooManySessions(LimitReached):
    reason = "too_many_sessions"


class TooManyRequests(LimitReached):
    """Without an answer, on one connection."""

    reason = "too_many_requests"


class BudgetExhausted(LimitReached):
    """As many turns have begun as may in a minute, or a day. `data`: retry_after_sec."""

    reason = "budget_exhausted"


class TimeLimit(LimitReached):
    """Of a scheduled prompt."""

    reason = "time_limit"


class QueueFull(LimitReached):
    """Of prompts in a session."""

    reason = "queue_full"


class AgentFixed(AgentdError):
    """A session that has begun stays with its agent."""

    reason, code, exit_status = "agent_fixed", INVALID_PARAMS, EX_USAGE


class RequestCancelled(AgentdError):
    """Whoever asked does not want to know any more."""

    reason, code, exit_status = "request_cancelled", REQUEST_CANCELLED, EX_TEMPFAIL


class ManagerUnreachable(AgentdError):
    reason, exit_status = "manager_unreachable", EX_UNAVAILABLE


class AlreadyRunning(AgentdError):
    """Another manager has the directory or the bus name, or another worker the container."""

    reason, exit_status = "already_running", EX_CANTCREAT


class InProgress(AgentdError):
    """It takes longer than anybody should have to wait for an answer; it goes on all the same."""

    reason, exit_status = "in_progress", EX_TEMPFAIL


class AlreadyDraining(AgentdError):
    """With another deadline than the one that is asked for now."""

    reason, exit_status = "already_draining", EX_TEMPFAIL


class NotDraining(AgentdError):
    reason, exit_status = "not_draining", EX_USAGE


# It was tried and failed


class WorkerFailed(AgentdError):
    reason, exit_status = "worker_failed", EX_UNAVAILABLE


class WorkerOutdated(AgentdError):
    """The worker runs an older agentd, which cannot do this."""

    reason, exit_status = "worker_outdated", EX_UNAVAILABLE


class CredentialUnavailable(AgentdError):
    """A variable of an agent's environment could not be read from where the configuration says."""

    reason, exit_status = "credential_unavailable", EX_UNAVAILABLE


class AgentMissing(AgentdError):
    """The container has no such program."""

    reason, exit_status = "agent_missing", EX_UNAVAILABLE


class AgentFailed(AgentdError):
    """The agent ended, or answered nothing, before its handshake was done."""

    reason, exit_status = "agent_failed", EX_UNAVAILABLE


class AgentExited(AgentdError):
    """The agent ended with requests unanswered. `data`: agent, exit_status, stderr_tail."""

    reason, exit_status = "agent_exited", EX_UNAVAILABLE


class AgentRefused(AgentdError):
    """The agent answered with an error of its own: `answer` is that message, to be passed on as it came."""

    reason, exit_status = "agent_refused", EX_UNAVAILABLE

    def __init__(self, message: str, answer: bytes) -> None:
        super().__init__(message)
        self.answer = answer


class AgentTimeout(AgentdError):
    """The agent was silent past a deadline."""

    reason, exit_status = "agent_timeout", EX_UNAVAILABLE


class ClientGone(AgentdError):
    """The agent asked a client that is no longer there to answer."""

    reason, exit_status = "client_gone", EX_UNAVAILABLE


class Interrupted(AgentdError):
    """The worker ended in the middle of it. It was not done again; the session goes on."""

    reason, exit_status = "interrupted", EX_TEMPFAIL


class CutOff(AgentdError):
    """The client did not read what it was sent, and has missed the rest: it may load its sessions again."""

    reason, exit_status = "cut_off", EX_UNAVAILABLE


class StoreFailed(AgentdError):
    """What has to be kept cannot be written, or read."""

    reason, exit_status = "store_failed", EX_TEMPFAIL


class StoreFull(StoreFailed):
    """The disk is full. It goes on by itself once there is space."""

    reason = "store_full"


class StoreCorrupt(StoreFailed):
    """The database is damaged."""

    reason, exit_status = "store_corrupt", EX_UNAVAILABLE


class StoreTooNew(StoreFailed):
    """The database was written by a newer agentd."""

    reason, exit_status = "store_too_new", EX_UNAVAILABLE


class NotInstalled(AgentdError):
    """A program or library that is needed for this is not there."""

    reason, exit_status = "not_installed", EX_UNAVAILABLE


class EngineMissing(AgentdError):
    """The container engine's program is not installed."""

    reason, exit_status = "engine_missing", EX_UNAVAILABLE


class EngineFailed(AgentdError):
    """An engine command failed or was too slow."""

    reason, exit_status = "engine_failed", EX_UNAVAILABLE


# It is not allowed, or not understood


class AccessDenied(AgentdError):
    reason, exit_status = "access_denied", EX_NOPERM
    dbus_name = "org.freedesktop.DBus.Error.AccessDenied"


class InvalidArgs(AgentdError):
    reason, code, exit_status = "invalid_args", INVALID_PARAMS, EX_USAGE
    dbus_name = "org.freedesktop.DBus.Error.InvalidArgs"


class UnmappedPath(AgentdError):
    """A path that host and container do not share. `data`: path, mapped (what they do share)."""

    reason, code, exit_status = "unmapped_path", INVALID_PARAMS, EX_USAGE


class ParseError(AgentdError):
    reason, code, exit_status = "parse_error", PARSE_ERROR, EX_DATAERR


class InvalidRequest(AgentdError):
    reason, code, exit_status = "invalid_request", INVALID_REQUEST, EX_DATAERR


class MethodNotFound(AgentdError):
    reason, code, exit_status = "method_not_found", METHOD_NOT_FOUND, EX_DATAERR


class BatchRefused(AgentdError):
    reason, code, exit_status = "batch_refused", INVALID_REQUEST, EX_DATAERR


class FrameTooLarge(AgentdError):
    reason, code, exit_status = "frame_too_large", INVALID_REQUEST, EX_DATAERR


class HandshakeTimeout(AgentdError):
    reason, exit_status = "handshake_timeout", EX_TEMPFAIL


class ConfigurationInvalid(AgentdError):
    reason, exit_status = "configuration_invalid", EX_CONFIG


def _family(cls: type[AgentdError]) -> list[type[AgentdError]]:
    return [cls, *(one for sub in cls.__subclasses__() for one in _family(sub))]


BY_REASON: dict[str, type[AgentdError]] = {cls.reason: cls for cls in _family(AgentdError)[1:]}


def revive(reason: str, message: str) -> AgentdError:
    """The error that another process named: one without a class of ours here becomes Internal."""
    return BY_REASON.get(reason, Internal)(message)
