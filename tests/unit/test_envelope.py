# SPDX-License-Identifier: Apache-2.0

import json

import msgspec
import pytest

from agentd import errors
from agentd.acp import envelope

# Reading


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (b'{"id":1,"method":"m"}', "request"),
        (b'{"id":null,"method":"m","params":{}}', "request"),
        (b'{"id":"1","method":"m","params":[1]}', "request"),
        (b'{"method":"m"}', "notification"),
        (b'{"method":"m","params":null}', "notification"),
        (b'{"id":1,"result":null}', "response"),
        (b'{"id":1,"result":{}}', "response"),
        (b'{"id":1,"error":{"code":1}}', "response"),
        (b'{"error":{"code":1}}', "response"),
        (b'{"id":1}', "nothing"),
        (b"{}", "nothing"),
    ],
)
def test_a_frame_is_one_kind_of_message(frame: bytes, kind: str) -> None:
    message = envelope.decode(frame)
    kinds = {
        "request": message.is_request,
        "notification": message.is_notification,
        "response": message.is_response,
    }
    assert [name for name, is_one in kinds.items() if is_one] == ([kind] if kind != "nothing" else [])


@pytest.mark.parametrize("raw_id", [b"1", b'"1"', b"null", b"-7", b"1.5", '"é"'.encode(), b'"\\u00e9"'])
def test_an_id_keeps_its_bytes(raw_id: bytes) -> None:
    assert envelope.decode(b'{"id": ' + raw_id + b' ,"method":"m"}').raw_id == raw_id


def test_no_id_counts_as_null() -> None:
    assert envelope.decode(b'{"method":"m"}').raw_id == b"null"


@pytest.mark.parametrize(
    ("params", "session"),
    [
        (b'{"sessionId":"s1","more":[1,{"sessionId":"x"}]}', "s1"),
        (b'{"sessionId":null}', None),
        (b'{"sessionId":7}', None),
        (b"{}", None),
        (b"null", None),
        (b'["s1"]', None),
        (b'"s1"', None),
    ],
)
def test_the_session_is_read_where_it_is_one(params: bytes, session: str | None) -> None:
    message = envelope.decode(b'{"id":1,"method":"m","params":' + params + b"}")
    assert (message.session, message.method, message.raw_id) == (session, "m", b"1")


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (b'{"requestId":"7"}', b'"7"'),
        (b'{"requestId":7}', b"7"),
        (b'{"requestId":null}', b"null"),
        (b"{}", b""),
    ],
)
def test_the_request_a_cancel_names_is_raw(params: bytes, expected: bytes) -> None:
    message = envelope.decode(b'{"method":"$/cancel_request","params":' + params + b"}")
    assert isinstance(message.params, envelope.Params)
    assert message.params.raw_request_id == expected


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (b"", errors.ParseError),
        (b"hello", errors.ParseError),
        (b'{"id":1', errors.ParseError),
        (b'{"id":1} {"id":2}', errors.ParseError),
        (b'{"method":"\xff"}', errors.ParseError),
        (b"[]", errors.BatchRefused),
        (b' [{"id":1,"method":"m"}]', errors.BatchRefused),
        (b"7", errors.InvalidRequest),
        (b'"m"', errors.InvalidRequest),
        (b"null", errors.InvalidRequest),
        (b'{"method":7}', errors.InvalidRequest),
        (b'{"method":null,"id":1}', errors.InvalidRequest),
    ],
)
def test_what_is_no_message_has_an_error_that_says_so(frame: bytes, error: type[errors.AgentdError]) -> None:
    with pytest.raises(error) as caught:
        envelope.decode(frame)
    assert type(caught.value) is error


@pytest.mark.parametrize("frame", [b'{"a":"\xff"}', b"\xff", b'{"a":"\xc3"}'])
def test_bytes_that_are_not_utf8_are_refused(frame: bytes) -> None:
    with pytest.raises(errors.ParseError, match="UTF-8 at byte"):
        envelope.require_utf8(frame)
    envelope.require_utf8('{"a":"é"}'.encode())


DEEP = b"[" * 30_000 + b"]" * 30_000


def test_what_is_nested_too_deeply_is_refused_and_breaks_nothing() -> None:
    frame = b'{"id":1,"method":"m","params":{"a":' + DEEP + b"}}"
    with pytest.raises(errors.ParseError, match="nested too deeply"):
        envelope.decode(frame)
    with pytest.raises(errors.ParseError, match="nested too deeply"):
        envelope.decode(b'{"id":1,"method":"m","params":' + DEEP + b"}")
    assert envelope.decode_block(frame + b"\n") is None
    assert envelope.members(frame) == {}
    assert envelope.text(msgspec.Raw(DEEP)) is None
    assert envelope.first_id(frame + b"\n") == b"null"


# Blocks


def test_a_block_is_decoded_line_by_line() -> None:
    messages = envelope.decode_block(b'{"method":"a"}\n{"id":2,"result":{"x":"\\n{"}}\n')
    assert messages is not None
    assert [(message.method, message.raw_id) for message in messages] == [
        ("a", b"null"),
        (msgspec.UNSET, b"2"),
    ]


@pytest.mark.parametrize(
    "block",
    [
        b'{"method":"a"}{"method":"b"}\n',
        b'{"method":"a"}{"method":"b"}\n\n',
        b'{"method":"a"}\n\n',
        b'\n{"method":"a"}\n',
        b'{"method":\n"a"}\n',
        b'{"jsonrpc":"2.0","id":1,"result":\n{"x":1}}{"method":"a"}\n',
        b'{"id":1,"result":\n{"x":{}\n}}{"method":"a"}{"method":"b"}\n',
        b'{"method":"a"}\nhello\n',
        b'{"method":"a"}\n[]\n',
        b'{"method":7}\n',
        b'{"method":"a","params":[]}\n',
        b'{"method":"\xff"}\n',
    ],
)
def test_a_block_with_anything_odd_needs_a_closer_look(block: bytes) -> None:
    assert envelope.decode_block(block) is None


# Parts


def test_members_keep_their_bytes() -> None:
    found = envelope.members(b'{"a": 1.50, "b": {"c" : "\\u00e9"}, "n":null}')
    assert {key: bytes(raw) for key, raw in found.items()} == {
        "a": b"1.50",
        "b": b'{"c" : "\\u00e9"}',
        "n": b"null",
    }


@pytest.mark.parametrize("frame", [b"[1]", b"7", b"null", b"", b'{"a"', b'{"\xff":1}'])
def test_what_is_no_object_has_no_members(frame: bytes) -> None:
    assert envelope.members(frame) == {}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(b'"a\\n"', "a\n"), (b"7", None), (b"null", None), (b'{"a":1}', None), (b'"\xff"', None)],
)
def test_text_is_a_string_or_nothing(raw: bytes, expected: str | None) -> None:
    assert envelope.text(msgspec.Raw(raw)) == expected
    assert envelope.text(None) is None


@pytest.mark.parametrize(
    ("raw_id", "number"),
    [
        (b"0", 0),
        (b"42", 42),
        (b'"42"', None),
        (b"-1", None),
        (b"4.0", None),
        (b"null", None),
        (b"9" * 19, None),
    ],
)
def test_only_plain_numbers_can_be_ids_of_ours(raw_id: bytes, number: int | None) -> None:
    assert envelope.integer(raw_id) == number


# Rewriting

ODD = (
    b'{"jsonrpc":"2.0", "id" : "x","method":"m","_meta":{"a": 1.0},'
    b'"params":{"requestId":5,"text":"\\u00e9 ","n":1e2}}'
)


def test_a_new_id_leaves_the_rest_as_it_was() -> None:
    changed = envelope.members(envelope.with_id(ODD, b"17"))
    wanted = envelope.members(ODD)
    assert bytes(changed.pop("id")) == b"17"
    assert bytes(wanted.pop("id")) == b'"x"'
    assert {key: bytes(raw) for key, raw in changed.items()} == {k: bytes(raw) for k, raw in wanted.items()}


def test_a_new_param_leaves_the_others_as_they_were() -> None:
    changed = envelope.members(envelope.with_param(ODD, "requestId", b'"y"'))
    assert bytes(changed["_meta"]) == b'{"a": 1.0}'
    assert bytes(changed["id"]) == b'"x"'
    params = {key: bytes(raw) for key, raw in envelope.members(changed["params"]).items()}
    assert params == {"requestId": b'"y"', "text": b'"\\u00e9 "', "n": b"1e2"}


# Writing


def test_messages_of_our_own() -> None:
    assert json.loads(envelope.request(3, "m", {"a": 1})) == {
        "jsonrpc": "2.0",
        "id": 3,
        "method": "m",
        "params": {"a": 1},
    }
    assert json.loads(envelope.notification("m", {})) == {"jsonrpc": "2.0", "method": "m", "params": {}}
    assert json.loads(envelope.result(b'"x"', [1])) == {"jsonrpc": "2.0", "id": "x", "result": [1]}


def test_an_error_carries_code_reason_and_data() -> None:
    frame = envelope.failure(b"null", errors.NoSuchSession("gone", sessionId="s"))
    assert json.loads(frame) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {
            "code": errors.NOT_FOUND,
            "message": "gone",
            "data": {"reason": "no_such_session", "sessionId": "s"},
        },
    }


@pytest.mark.parametrize(
    ("data", "raw_id"),
    [
        (b'{"id":"a","method":"m"}\n{"id":2}\n', b'"a"'),
        (b'{"id":4,"method":"m"}', b"4"),
        (b'{"method":"m"}\n', b"null"),
        (b"nonsense\n", b"null"),
        (b"[]\n", b"null"),
        (b"", b"null"),
    ],
)
def test_a_refusal_finds_the_id_it_answers(data: bytes, raw_id: bytes) -> None:
    assert envelope.first_id(data) == raw_id


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (rb'"\ud83d"', rb'"\ufffd"'),
        (rb'"\uDE00 x"', rb'"\ufffd x"'),
        (rb'"\ud83d\ude00"', rb'"\ud83d\ude00"'),
        (rb'"\ud83d\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
        (rb'"\\ud83d"', rb'"\\ud83d"'),
        (rb'"\\\ud83d"', rb'"\\\ufffd"'),
    ],
)
def test_halves_of_characters_are_mended_and_nothing_else(text: bytes, mended: bytes) -> None:
    assert envelope.whole_characters(text) == mended
