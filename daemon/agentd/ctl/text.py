# SPDX-License-Identifier: Apache-2.0
"""Text on a terminal: tables, and other people's words made harmless."""

from collections.abc import Sequence


def printable(text: str, *, lines: bool = True) -> str:
    """Text with nothing in it that a terminal obeys. `lines`: line breaks and tabs may stay."""
    kept = "\n\t" if lines else ""
    return "".join(char if char.isprintable() or char in kept else "\ufffd" for char in text)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    cells = [list(header), *([printable(str(cell), lines=False) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )
