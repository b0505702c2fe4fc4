# SPDX-License-Identifier: Apache-2.0
"""What a terminal and a log are shown of other people's words."""

import random
import re

import pytest

from agentd.printable import LINES, TABS, printable

CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
DIRECTIONS = [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x2070)]
UNSEEN = [0xAD, 0x180E, 0x200B, *range(0x2060, 0x2065), 0xFEFF, 0xFFF9, 0xFFFB, 0xE0001, 0xE0041, 0xE007F]
BREAKS = [0x2028, 0x2029]
HALVES = [0xD800, 0xDBFF, 0xDC00, 0xDFFF]
HARMFUL = [*CONTROLS, *DIRECTIONS, *UNSEEN, *BREAKS, *HALVES]
SEQUENCES = {
    "colours": "\x1b[31mred\x1b[0m",
    "a screen that is cleared": "\x1b[2J\x1b[H",
    "a title": "\x1b]0;owned\x07",
    "a link": "\x1b]8;;https://example.org\x1b\\here\x1b]8;;\x1b\\",
    "the clipboard": "\x1b]52;c;cm0gLXJmIC8=\x07",
    "a device control string": '\x1bP$q"p\x1b\\',
    "one character for two": "\x9b31m\x9d0;owned\x9c\x90q\x9c\x85",
    "a line that is written over": "harmless\rrm -rf /\b\b\x7f",
}


@pytest.mark.parametrize("keep", ["", TABS, LINES], ids=["a word", "a line of a log", "text"])
@pytest.mark.parametrize("what", SEQUENCES)
def test_a_terminal_gets_no_orders(what: str, keep: str) -> None:
    shown = printable(SEQUENCES[what], keep=keep)
    assert shown.isprintable() and shown.isascii()


@pytest.mark.parametrize("code", HARMFUL, ids=lambda code: f"U+{code:04X}")
def test_what_does_harm_is_shown_as_an_escape(code: int) -> None:
    shown = printable(f"a{chr(code)}b")
    assert re.fullmatch(r"a\\(x..|u....|U........|[nrt])b", shown)
    assert shown.encode().decode("unicode_escape") == f"a{chr(code)}b"


@pytest.mark.parametrize(
    "text",
    [
        "plain text, with a ~ and a \\",
        "Grüße, naïve café, cafe\u0301, Å\u030a",
        "Ελληνικά עברית العربية हिन्दी 日本語 한국어",
        "no\xa0break, wide\u3000space",
        "😀 👍🏽 ❤\ufe0f 1\ufe0f\u20e3 🇪🇺",
        "👩\u200d👩\u200d👧 👩🏽\u200d🚀 🏳\ufe0f\u200d🌈 🏃\u200d♀\ufe0f",
        "🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 क्\u200dष",
        "\ue0b0 of a font of one's own, and \U0001fae9 that is newer than this Python",
        "[bold]no markup[/bold] [link=https://example.org]either[/link] :smile:",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == printable(text, keep=TABS) == printable(text, keep=LINES) == text


def test_lines_and_tabs_stay_where_they_belong() -> None:
    assert printable("one\ntwo\tthree") == r"one\ntwo\tthree"
    assert printable("one\ntwo\tthree", keep=TABS) == "one\\ntwo\tthree"
    assert printable("one\ntwo\tthree", keep=LINES) == "one\ntwo\tthree"


def test_lines_that_end_as_windows_has_them_are_lines() -> None:
    assert printable("one\r\ntwo\rthree\n", keep=LINES) == "one\ntwo\\rthree\n"
    assert printable("one\r\ntwo") == r"one\r\ntwo"


@pytest.mark.parametrize("joiner", ["\u200c", "\u200d"])
def test_a_name_cannot_be_that_of_another_and_a_joiner(joiner: str) -> None:
    for text in (f"bo{joiner}x", f"box{joiner}", f"{joiner}box", joiner, f"ü{joiner}box"):
        assert joiner not in printable(text)


def test_text_in_pieces_keeps_its_joiners() -> None:
    pieces = ["👩", "\u200d", "👩\u200d", "👧"]
    assert "".join(printable(each, keep=LINES) for each in pieces) == "👩\u200d👩\u200d👧"


def test_whatever_it_is_what_is_shown_is_harmless_and_stays_so() -> None:
    """Texts at random: of all characters, and of those that matter."""
    chance = random.Random(6)
    for _ in range(3000):
        codes = [
            chance.choice((chance.choice(HARMFUL), chance.randrange(0x110000), 0x200D, 0x1F3F4))
            for _ in range(9)
        ]
        text = "".join(map(chr, codes))
        shown = printable(text)
        flagless = re.sub("\U0001f3f4[\U000e0020-\U000e007f]+", "", shown)
        assert not {ord(char) for char in flagless} & {*HARMFUL}
        assert len(shown.splitlines()) == 1 and shown.encode()
        assert printable(shown) == shown
        lines = printable(text, keep=LINES)
        assert not {ord(char) for char in lines.replace("\n", "").replace("\t", "")} & {*CONTROLS, *BREAKS}
        assert printable(lines, keep=LINES) == lines
