# SPDX-License-Identifier: Apache-2.0
"""Whether a program was not there, by what engines, nsenter and shells say: each has words of its own.

They all end with one of the shells' two exit statuses then, but engines do so for much else as well: a
directory that is not there, a capability that they lack, a file that is no program. The program itself may
do so too, and without a word: podman at times loses what one says that ends at once.
"""

import re

REFUSED, CANNOT_RUN, NOT_FOUND = 125, 126, 127
"""Exit statuses of an engine's exec that has started nothing."""
QUOTE = "['\"`\N{RIGHT SINGLE QUOTATION MARK}]?"
FAULT = r":? (?:executable file |stat \S+ |command )?(?:not found|no such file or directory)"


def is_missing(program: str, status: int, said: str) -> bool:
    """`said`: all that was said on the way."""
    named = rf"(?<![\w.-]){re.escape(program)}{QUOTE}{FAULT}"
    return status in (CANNOT_RUN, NOT_FOUND) and re.search(named, said, re.IGNORECASE) is not None


def reason(status: int, said: str) -> str:
    """The last line of what was said, where that is an engine's word on why it has started nothing."""
    return said.rpartition("\n")[2] if status in (REFUSED, CANNOT_RUN, NOT_FOUND) else ""
