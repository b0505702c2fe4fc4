# SPDX-License-Identifier: Apache-2.0

import json
import logging

import pytest

from agentd.log import HIDDEN, Context, Redactor


@pytest.mark.parametrize(
    ("secrets", "text", "expected"),
    [
        ([], "nothing to hide", "nothing to hide"),
        (["hunter2"], "a hunter2, and hunter2!", f"a {HIDDEN}, and {HIDDEN}!"),
        (["hunter2"], "hunter22", f"{HIDDEN}2"),
        (["hunter2"], "Hunter2", "Hunter2"),
        (["abc", "abcdef"], "abcdef abc", f"{HIDDEN} {HIDDEN}"),
        (["abcdef", "abc"], "abcdef abc", f"{HIDDEN} {HIDDEN}"),
        (["a.c", "(x"], "a.c abc (x", f"{HIDDEN} abc {HIDDEN}"),
        (["a|b"], "a|b a b", f"{HIDDEN} a b"),
        (["\\d"], "7 \\d", f"7 {HIDDEN}"),
        (["one\ntwo"], "one\ntwo one", f"{HIDDEN} one"),
        ([""], "abc", "abc"),
        (["", "b"], "abc", f"a{HIDDEN}c"),
    ],
)
def test_secrets_are_hidden_whole_and_nothing_else_is(secrets: list[str], text: str, expected: str) -> None:
    assert Redactor(secrets)(text) == expected


@pytest.mark.parametrize("secret", ['a"b"c', "a\\b", "one\ntwo", "p\u00e4ss"])
def test_secrets_are_hidden_as_json_spells_them_too(secret: str) -> None:
    text = json.dumps({"key": secret, "plain": "x"})
    assert json.loads(Redactor([secret])(text)) == {"key": HIDDEN, "plain": "x"}


def test_what_hides_is_no_secret_itself() -> None:
    assert Redactor(["redacted", "secret"])("secret") == HIDDEN


def test_a_record_carries_what_its_logger_is_about(caplog: pytest.LogCaptureFixture) -> None:
    log = Context(logging.getLogger("test"), {"container": "box", "agent": "none"}).about(agent="claude")
    log.warning("%s happened", "it", extra={"event": "E", "agent": "codex"})
    log.warning("and more")
    first, second = (vars(record) for record in caplog.records)
    assert (first["container"], first["agent"], first["event"]) == ("box", "codex", "E")
    assert (second["container"], second["agent"], "event" in second) == ("box", "claude", False)
    assert caplog.messages == ["it happened", "and more"]


def test_knowing_more_does_not_change_the_one_that_knew_less(caplog: pytest.LogCaptureFixture) -> None:
    log = Context(logging.getLogger("test"))
    log.about(session="s")
    log.warning("x")
    assert "session" not in vars(caplog.records[0])
