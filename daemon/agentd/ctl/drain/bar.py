# SPDX-License-Identifier: Apache-2.0
"""The bar that shows how far a drain is."""

from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from agentd.ctl.screen import console
from agentd.ctl.text import count, span
from agentd.printable import printable

WIDTH = 30


class Left(ProgressColumn):
    """When turns that still run are cut off."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def render(self, task: Task) -> Text:
        left = self._seconds - (task.elapsed or 0.0)
        return Text("" if task.finished else f"cut off in {span(left)}", "dim")


class Bar:
    """Turns that have ended, of all that ran. `seconds`: until those that still run are cut off."""

    def __init__(self, target: str, seconds: float) -> None:
        self._progress = Progress(
            TextColumn("Draining {task.description}", markup=False),
            BarColumn(WIDTH),
            TextColumn("{task.fields[turns]}", markup=False),
            Left(seconds),
            console=console(stderr=True),
        )
        self._task = self._progress.add_task(printable(target), total=None, turns="")
        self._at_first = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def remaining(self, turns: int) -> None:
        self._at_first = max(self._at_first, turns)
        self._show(self._at_first - turns, self._at_first or None, f"{count(turns, 'turn')} left")

    def ended(self, job: dict[str, Any]) -> None:
        self._at_first = max(self._at_first, 1)  # or a drain of nothing would look as if it went on
        self.remaining(job["remaining"])

    def _show(self, done: int, total: int | None, turns: str) -> None:
        self._progress.update(self._task, completed=done, total=total, turns=turns, refresh=True)
