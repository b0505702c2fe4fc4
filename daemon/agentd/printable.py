# SPDX-License-Identifier: Apache-2.0
"""Other people's words on a terminal, or in a log: the one place that says what of them is shown as what.

What a terminal obeys, what breaks or turns a line around, and what nobody sees is shown as an escape, as
systemd shows it: `\\x1b`, `\\u202e`. All other characters stay as they are, emoji and combining ones too.
"""

import re

TABS = "\t"
"""Stay in a line of a log."""
LINES = "\n\t\u200c\u200d"
"""Stay in running text; its joiners too, which may stand at its ends where it comes in pieces."""

_HARM = (
    "\x00-\x1f\x7f-\x9f"  # orders to terminals, which take one character or many
    "\xad\u180e\u200b-\u200d\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # what nobody sees
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # what has text run the other way
    "\u2028\u2029"  # ends of lines and paragraphs
    "\ud800-\udfff"  # halves of characters, which no stream takes
)
_JOINED = f"[^\x00-\x7f{_HARM}]"
"""What a joiner may join: parts of emoji, letters of scripts that have joiners, and no ASCII."""
_FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]+\U000e007f"
"""As that of Wales, which is spelled with characters that nobody sees."""
_HARMFUL = re.compile(f"((?<={_JOINED})[\u200c\u200d](?={_JOINED})|{_FLAG})|\r\n|[{_HARM}]")


def printable(text: str, *, keep: str = "") -> str:
    """Text that does nothing to a terminal; one line, unless `keep` says that line breaks stay."""

    def shown(found: re.Match[str]) -> str:
        harmful = found[0]
        if found[1] or harmful in keep:
            return harmful
        if harmful == "\r\n" and "\n" in keep:
            return "\n"
        return harmful.encode("unicode_escape").decode()

    return _HARMFUL.sub(shown, text)


def indented(message: str) -> str:
    """An error's message, after the name of a program: its further lines say nothing of their own."""
    return printable(message, keep=LINES).replace("\n", "\n  ")
