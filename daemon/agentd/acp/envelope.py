# SPDX-License-Identifier: Apache-2.0
"""The outside of a frame: what agentd must know to route a message, and nothing more.

A frame is one JSON-RPC 2.0 message, UTF-8, without its newline. Only the envelope is decoded (`id`,
`method`, `params.sessionId`, …); whoever forwards a frame forwards its bytes. Where a member has to change,
the others keep the very bytes they came with.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from agentd.errors import AgentdError, AgentRefused, BatchRefused, InvalidRequest, ParseError

NULL = b"null"


class Params(msgspec.Struct, gc=False):
    """The members of `params` that decide where a message goes."""

    sessionId: str | None = None
    requestId: Raw | UnsetType = UNSET

    @property
    def raw_request_id(self) -> bytes:
        """What `$/cancel_request` names, as JSON text; b"" where it names nothing."""
        return b"" if self.requestId is UNSET else bytes(self.requestId)


class Envelope(msgspec.Struct, gc=False):
    """A decoded envelope. `id` is raw JSON: 1, "1" and null are three different ids."""

    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Params | UnsetType | None = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET

    @property
    def is_notification(self) -> bool:
        return self.id is UNSET and self.method is not UNSET

    @property
    def is_request(self) -> bool:
        return self.id is not UNSET and self.method is not UNSET

    @property
    def is_response(self) -> bool:
        return self.method is UNSET and (self.result is not UNSET or self.error is not UNSET)

    @property
    def raw_id(self) -> bytes:
        """The id as JSON text; `null` where there is none, as in an answer to what could not be read."""
        return NULL if self.id is UNSET else bytes(self.id)

    @property
    def session(self) -> str | None:
        return self.params.sessionId if isinstance(self.params, Params) else None


class _PromptParams(msgspec.Struct, gc=False):
    prompt: list[Raw] = []


class _Prompt(msgspec.Struct, gc=False):
    params: _PromptParams


class _TurnResult(msgspec.Struct, gc=False):
    stopReason: str


class _TurnEnd(msgspec.Struct, gc=False):
    result: _TurnResult


_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""An escape in a string; the group is half of a character without its other half."""


class _Loose(msgspec.Struct, gc=False):
    """An envelope whose `params` is of any shape: such messages are forwarded, not understood."""

    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_strict = msgspec.json.Decoder(Envelope)
_loose = msgspec.json.Decoder(_Loose)
_members = msgspec.json.Decoder(dict[str, Raw])
_prompt = msgspec.json.Decoder(_Prompt)
_turn_end = msgspec.json.Decoder(_TurnEnd)
encode = msgspec.json.Encoder().encode
"""The JSON text of a value; Raw goes in as it is."""


# Reading


def decode(frame: bytes) -> Envelope:
    """Decode one frame. Raises ParseError, BatchRefused or InvalidRequest."""
    try:
        return _strict.decode(frame)
    except (msgspec.ValidationError, UnicodeDecodeError):
        return _decode_loosely(frame)
    except msgspec.DecodeError as exc:
        if (mended := whole_characters(frame)) != frame:
            return decode(mended)
        raise ParseError(f"not a JSON message: {exc}") from None
    except RecursionError:
        raise ParseError("not a JSON message: nested too deeply") from None


def decode_block(block: bytes) -> list[Envelope] | None:
    """Decode a block of newline-ended frames in one go, or None where any of them needs a closer look."""
    try:
        messages = _strict.decode_lines(block)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # decode_lines takes "{}{}" for two messages, and one on two lines for one: every line must be an object
    whole = block.startswith(b"{") and block.endswith(b"}\n") and block.count(b"\n") == len(messages)
    apart = whole and (len(messages) == 1 or block.count(b"}\n{") == len(messages) - 1)
    return messages if apart else None


def _decode_loosely(frame: bytes) -> Envelope:
    try:
        loose = _loose.decode(frame)
    except UnicodeDecodeError:
        raise ParseError("not a JSON message: not UTF-8") from None
    except msgspec.ValidationError as exc:
        if frame.lstrip()[:1] == b"[":
            raise BatchRefused("JSON-RPC batches are not part of ACP: send one message a line") from None
        raise InvalidRequest(f"not a JSON-RPC message: {exc}") from None
    except msgspec.DecodeError as exc:
        raise ParseError(f"not a JSON message: {exc}") from None
    except RecursionError:
        raise ParseError("not a JSON message: nested too deeply") from None
    return Envelope(loose.id, loose.method, UNSET, loose.result, loose.error)


def whole_characters(frame: bytes) -> bytes:
    """The frame with U+FFFD for each half of a character, as JavaScript leaves it where it cuts a text.

    JSON allows that, and our decoder does not.
    """
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], frame)


def is_utf8(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def require_utf8(frame: bytes) -> None:
    """What is not decoded is not checked either, and some agents die of it. Raises ParseError."""
    try:
        frame.isascii() or frame.decode()
    except UnicodeDecodeError as exc:
        raise ParseError(f"not a JSON message: not UTF-8 at byte {exc.start}") from None


def members(frame: bytes | Raw) -> dict[str, Raw]:
    """The members of a JSON object, each still as its own bytes; {} for what is not an object."""
    try:
        return _fields(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def prompt_blocks(prompt: bytes) -> list[Raw]:
    """The content blocks of a session/prompt, each still as its own bytes; [] for what is no such thing."""
    try:
        return _prompt.decode(prompt).params.prompt
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def stop_reason(answer: bytes) -> str | None:
    """How the turn ended, from the answer to session/prompt; None for an error."""
    try:
        return _turn_end.decode(answer).result.stopReason
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def value(raw: bytes | Raw) -> Any:
    """What a raw member is. Raises InvalidRequest for what nobody can decode."""
    try:
        return msgspec.json.decode(whole_characters(bytes(raw)) if b"\\u" in bytes(raw) else raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"not understood: {exc}") from None


def canonical(raw_id: bytes) -> bytes:
    """An id as any two programs spell it that have decoded it."""
    return raw_id if raw_id.isdigit() else encode(value(raw_id))


def text(raw: Raw | None) -> str | None:
    """A raw member as a string, or None where it is anything else."""
    try:
        return None if raw is None else msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def result_of(answer: bytes) -> Any:
    """The result in an answer. Raises InvalidRequest for what nobody can decode."""
    return value(members(answer).get("result", NULL))


def agent_version(frame: bytes) -> str | None:
    """What an answer to initialize says of the agent's version."""
    info = members(members(members(frame).get("result", b"")).get("agentInfo", b""))
    return text(info.get("version"))


def integer(raw_id: bytes) -> int | None:
    """A raw id as one of the numbers we issue, or None where it cannot be one."""
    return int(raw_id) if raw_id.isdigit() and len(raw_id) < 19 else None


# Rewriting: everything that is not named keeps its bytes


def with_id(frame: bytes, raw_id: bytes) -> bytes:
    """The same message under another id."""
    return with_member(frame, "id", Raw(raw_id))


def with_member(frame: bytes, name: str, value: object) -> bytes:
    """The same message with another value of one member."""
    fields = _fields(frame)
    fields[name] = value
    return encode(fields)


def with_param(frame: bytes, name: str, value: bytes) -> bytes:
    """The same message with one member of `params` replaced by raw JSON."""
    params = _fields(_fields(frame)["params"])
    params[name] = Raw(value)
    return with_member(frame, "params", params)


def _fields(text: bytes | Raw) -> dict[str, Any]:
    try:
        return _members.decode(text)
    except msgspec.DecodeError:
        return _members.decode(whole_characters(bytes(text)))


# Writing messages of our own


def request(request_id: int, method: str, params: object) -> bytes:
    return encode({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def notification(method: str, params: object) -> bytes:
    return encode({"jsonrpc": "2.0", "method": method, "params": params})


def result(raw_id: bytes, value: object) -> bytes:
    return encode({"jsonrpc": "2.0", "id": Raw(raw_id), "result": value})


def failure(raw_id: bytes, error: AgentdError) -> bytes:
    """An error response: `data` holds the reason and whatever else the error carries."""
    if isinstance(error, AgentRefused):
        return with_id(error.answer, raw_id)
    return encode({"jsonrpc": "2.0", "id": Raw(raw_id), "error": error_object(error)})


def error_object(error: AgentdError) -> Mapping[str, object]:
    return {"code": error.code, "message": error.message, "data": {"reason": error.reason, **error.data}}


def first_id(data: bytes) -> bytes:
    """The raw id of the first message in what was read, null where there is none: for refusals."""
    try:
        return decode(data.partition(b"\n")[0]).raw_id
    except AgentdError:
        return NULL
