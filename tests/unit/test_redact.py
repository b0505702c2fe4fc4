# SPDX-License-Identifier: Apache-2.0

import json
import logging

import pytest

from agentd.log import HIDDEN, Context, Redactor, worth_hiding


@pytest.mark.parametrize(
    ("secrets", "text", "expected"),
    [
        ([], "nothing to hide", "nothing to hide"),
        (["hunter2"], "a hunter2, and hunter2!", f"a {HIDDEN}, and {HIDDEN}!"),
        (["hunter2"], "hunter22", f"{HIDDEN}2"),
        (["hunter2"], "Hunter2", "Hunter2"),
        (["abcdef", "abcdefghi"], "abcdefghi abcdef", f"{HIDDEN} {HIDDEN}"),
        (["abcdefghi", "abcdef"], "abcdefghi abcdef", f"{HIDDEN} {HIDDEN}"),
        (["abc.ef", "(xyz12"], "abc.ef abcdef (xyz12", f"{HIDDEN} abcdef {HIDDEN}"),
        (["abc|def"], "abc|def abc def", f"{HIDDEN} abc def"),
        (["\\d\\d\\d"], "777 \\d\\d\\d", f"777 {HIDDEN}"),
        (["one\ntwo"], "one\ntwo one", f"{HIDDEN} one"),
        (["first line \nx\nand the last"], "first line\nx", f"{HIDDEN}\nx"),
        (["spaced "], "spaced", HIDDEN),
        (["short"], "short", "short"),
        ([""], "abcdef", "abcdef"),
        (["", "bcdefg"], "abcdefgh", f"a{HIDDEN}h"),
    ],
)
def test_secrets_are_hidden_whole_and_nothing_else_is(secrets: list[str], text: str, expected: str) -> None:
    assert Redactor(secrets)(text) == expected


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("secret", ['"abc"def', "abc\\def", "one\ntwo", 'p\u00e4ss"word'])
def test_secrets_are_hidden_as_json_spells_them_too(secret: str, ascii_only: bool) -> None:
    text = json.dumps({"key": secret, "plain": "x"}, ensure_ascii=ascii_only)
    assert json.loads(Redactor([secret])(text)) == {"key": HIDDEN, "plain": "x"}


def test_what_hides_is_no_secret_itself() -> None:
    assert Redactor(["redacted", "secret"])("secret") == HIDDEN


def test_a_secret_may_become_known_later() -> None:
    redact = Redactor(["first-secret"])
    redact.add(iter(["a-second-secret", "first-secret-longer"]))
    assert redact("first-secret-longer a-second-secret first-secret") == f"{HIDDEN} {HIDDEN} {HIDDEN}"
    redact.add([])
    assert redact("first-secret") == HIDDEN


def test_the_longest_is_counted_in_bytes_of_any_spelling() -> None:
    redact = Redactor()
    assert redact.longest == 0
    for secret, longest in [("short", 0), ("secret", 6), ('"""""""', 14), ("tokens", 14), ("é" * 6, 36)]:
        redact.add([secret])
        assert redact.longest == longest


def test_values_worth_hiding_are_the_long_ones_longest_first() -> None:
    values = ["secret", "short", "", "secret-longer", "another-one12", "secret"]
    assert worth_hiding(values) == ["another-one12", "secret-longer", "secret"]


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
