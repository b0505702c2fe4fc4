# SPDX-License-Identifier: Apache-2.0
"""A permission that an agent asks for: put to everybody in the session, decided by the first answer."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from agentd.acp import envelope, methods
from agentd.errors import AgentdError, ClientGone, InvalidArgs
from agentd.link import PermissionInfo, PermissionOption
from agentd.log import Context
from agentd.systemd.events import Event
from agentd.worker.calls import Asker, Call

Decision = Literal["ask", "allow", "reject"]
CHOICES = {"allow": ("allow_once",), "reject": ("reject_once", "reject_always")}
"""The kinds of option a policy may choose: it never allows more than this once."""

TEXT = 256
"""Characters of a title, or a name, in what is told of a question. Agents make them as long as they like."""

NOTICE = envelope.notification(methods.CANCEL_REQUEST, {"requestId": None})


class Addressee(Protocol):
    """Whoever may be asked."""

    def ask(self, frame: bytes, call: Call) -> None:
        """Send a request; the call is answered or failed, unless it is retracted. Raises AgentdError."""

    def retract(self, owner: object, raw_id: bytes, notice: bytes) -> None:
        """Take a request of this owner's back, if it is still open, by a `$/cancel_request`."""


class Question:
    """One session/request_permission. `raw_id` is the id by which the agent knows it."""

    def __init__(
        self,
        agent: Asker,
        call: Call,
        frame: bytes,
        *,
        wait_sec: float,
        on_settled: Callable[["Question"], None],
        log: Context,
    ) -> None:
        self.raw_id = call.raw_id
        self.settled = False
        self.outcome = ""
        """The id of the option that was chosen, or "cancelled"; "" where nobody has decided."""
        self.number = 0
        """What the store calls it."""
        self.at = 0.0
        """When it was put to people, in Unix time; 0 where the configuration has decided it."""
        self._agent = agent
        self._call = call
        self.frame = frame
        """As clients are asked it, but for the id."""
        self._wait_sec = wait_sec
        self._on_settled = on_settled
        self._log = log
        self._asked: list[Addressee] = []
        self._patience: asyncio.TimerHandle | None = None
        self._wait_for_somebody()

    # Asking

    def put_to(self, client: Addressee) -> None:
        """Ask a client too, or once more. One that cannot be asked now is left out."""
        if client in self._asked:
            self._asked.remove(client)
            client.retract(self, self.raw_id, NOTICE)
        method, copy = methods.REQUEST_PERMISSION, Copy(self, client)
        try:
            client.ask(self.frame, Call(copy, self.raw_id, method, self._call.session, self))
        except AgentdError as exc:
            self._log.warning("a permission could not be asked for: %s", exc.message)
            return
        self._asked.append(client)
        self._disarm()

    def left(self, client: Addressee) -> None:
        """A client has gone: with nobody left, the question waits for the next one to come."""
        if client in self._asked:
            self._asked.remove(client)
            self._wait_for_somebody()

    def _wait_for_somebody(self) -> None:
        if not self._asked and not self.settled and self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(self._wait_sec, self._nobody_came)

    def _nobody_came(self) -> None:
        self._log.warning("nobody came to answer a request for permission within %g s", self._wait_sec)
        self.cancel()

    # Answers

    def answered(self, client: Addressee, frame: bytes) -> None:
        """The first one counts; an error only where nobody else could still say something better."""
        if "error" in envelope.members(frame) and self._asked != [client]:
            self._log.warning("a client answered a request for permission with an error")
            self.left(client)
        else:
            self._settle(frame)

    def failed(self, error: AgentdError) -> None:
        if not isinstance(error, ClientGone):  # of that, `left` tells
            self._settle(envelope.result(self.raw_id, {"outcome": {"outcome": "cancelled"}}))

    def decide(self, policy: Callable[[str], Decision]) -> bool:
        """Answer by the configuration, where it has an answer. Returns whether it had."""
        params = self._params()
        kind = _kind(params)
        decision = policy(kind)
        option = _option(params, CHOICES.get(decision, ()))
        if option is None:
            return False
        self._log.info("%s: %s, as configured", kind, decision, extra={"event": Event.PERMISSION_DECIDED})
        self._select(option)
        return True

    def resolve(self, option: str, uid: int) -> None:
        """Somebody decides who was not asked, "" to cancel. Raises InvalidArgs for what is not offered."""
        params = self._params()
        offered = [each.id for each in _offered(params)]
        if option and option not in offered:
            text = f"there is no option {option}; this permission offers {', '.join(offered) or 'none'}"
            raise InvalidArgs(text, options=offered)
        told, kind = {"event": Event.PERMISSION_DECIDED, "client": f"uid {uid}"}, _kind(params)
        self._log.info("%s: %s, by uid %d", kind, option[:TEXT] or "cancelled", uid, extra=told)
        if option:
            self._select(option)
        else:
            self.cancel()

    def _select(self, option: str) -> None:
        self._settle(envelope.result(self.raw_id, {"outcome": {"outcome": "selected", "optionId": option}}))

    def cancel(self, notice: bytes = b"") -> None:
        """Nobody is to decide this any more, as `notice` says; the agent does not get it."""
        self._settle(envelope.result(self.raw_id, {"outcome": {"outcome": "cancelled"}}), notice)

    def _settle(self, frame: bytes, notice: bytes = b"") -> None:
        if self.settled:
            return
        self.outcome = _outcome(frame)
        self.close(notice)
        self._agent.answer(self._call, frame)

    def close(self, notice: bytes = b"") -> None:
        """The agent is no longer there to be answered, or has been; who was asked need not answer."""
        self.settled = True
        self._disarm()
        for client in self._asked:
            client.retract(self, self.raw_id, notice or NOTICE)
        self._on_settled(self)

    # What it is about

    def info(self) -> PermissionInfo:
        params = self._params()
        return PermissionInfo(
            id=str(self.number),
            title=_title(params),
            kind=_kind(params),
            asked_usec=int(self.at * 1e6),
            options=_offered(params),
        )

    def _params(self) -> Any:
        return msgspec.json.decode(envelope.members(self.frame)["params"])

    def _disarm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class Copy(NamedTuple):
    """A question as one client was asked it (Asker)."""

    question: Question
    client: Addressee

    def answer(self, call: Call, frame: bytes) -> None:
        self.question.answered(self.client, frame)

    def fail(self, call: Call, error: AgentdError) -> None:
        self.question.failed(error)


def _outcome(answer: bytes) -> str:
    match envelope.value(envelope.members(answer).get("result", envelope.NULL)):
        case {"outcome": {"optionId": str(option_id)}}:
            return option_id
    return "cancelled"


def _kind(params: Any) -> str:
    match params:
        case {"toolCall": {"kind": str(kind)}}:
            return kind[:TEXT]
    return "other"


def _title(params: Any) -> str:
    match params:
        case {"toolCall": {"title": str(title)}}:
            return title[:TEXT]
    return ""


def _offered(params: Any) -> list[PermissionOption]:
    """The options that can be chosen; names and kinds are cut, ids never."""
    offered = params.get("options") if isinstance(params, dict) else None
    found = []
    for option in offered if isinstance(offered, list) else ():
        match option:
            case {"optionId": str(option_id)}:
                name, kind = (_text(option.get(key)) for key in ("name", "kind"))
                found.append(PermissionOption(id=option_id, name=name, kind=kind))
    return found


def _text(value: Any) -> str:
    return value[:TEXT] if isinstance(value, str) else ""


def _option(params: Any, kinds: tuple[str, ...]) -> str | None:
    """The id of the first option offered that is of the first kind that is offered."""
    offered = _offered(params)
    return next((each.id for kind in kinds for each in offered if each.kind == kind), None)
