# SPDX-License-Identifier: Apache-2.0
"""Numbers over time as a line of blocks."""

from collections import deque
from collections.abc import Sequence

SPAN_SEC = 120.0
"""What a line shows."""
POINTS = 1200
"""That are kept, at most."""
BLOCKS = "▁▂▃▄▅▆▇█"
NOTHING, ZERO = " ", "·"
"""Where nothing is known yet, and where nothing went on."""


class Trend:
    """A number over the last minutes. Times are seconds of one clock, and only go forward."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=POINTS)

    def add(self, at: float, value: float) -> None:
        self._points.append((at, value))
        while self._points[0][0] < at - SPAN_SEC:
            self._points.popleft()

    def cells(self, count: int) -> list[float | None]:
        """The means in so many stretches of the time, the last one at the end; None before the first point.

        A stretch begins at a multiple of its length: so what has been shown does not change as time goes on.
        """
        length = SPAN_SEC / count
        sums: dict[int, list[float]] = {}
        for at, value in self._points:
            sums.setdefault(int(at // length), []).append(value)
        last = max(sums, default=0)
        found: list[float | None] = []
        for number in range(last - count + 1, last + 1):
            here = sums.get(number)
            before = found[-1] if found else None
            found.append(sum(here) / len(here) if here else before)
        return found


def sparkline(cells: Sequence[float | None], *, full: float) -> str:
    """A character a cell. The highest reaches the top, or where it is lower, `full` would."""
    top = max([full, *(each for each in cells if each is not None)])
    return "".join(_block(each, top) for each in cells)


def _block(value: float | None, top: float) -> str:
    if value is None:
        return NOTHING
    if value <= 0:
        return ZERO
    return BLOCKS[min(int(len(BLOCKS) * value / top), len(BLOCKS) - 1)]
