"""Progress of an export, for people: a line per step, a bar by bytes where weights move."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console
from rich.text import Text

logger = logging.getLogger("fastv_export")


class Progress:
    """Draws on `console`, if that is a terminal; without one notes go to the logger `fastv_export`.

    wording: what a note is printed as.
    """

    def __init__(self, console: Console | None, wording: Callable[[str], str] = str):
        self._wording, self._console = wording, console
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description:<34}"),
            rich.progress.BarColumn(bar_width=30),
            rich.progress.TextColumn("{task.fields[amount]:>18}"),
            _Clock(),
            console=console,
            disable=console is None or not console.is_interactive,  # elsewhere rich would leave an empty line
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """One line that stays, above the bars; of level WARNING where it begins so and is logged."""
        if self._console is None:
            logger.log(logging.WARNING if text.startswith("warning: ") else logging.INFO, text)
        else:
            self._console.print(self._wording(text), highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def step(self, description: str) -> Iterator[None]:
        """Work whose length is not known."""
        task = self._bars.add_task(description, total=None, amount="")
        yield
        self._bars.update(task, total=1, completed=1)

    @contextmanager
    def items(self, description: str, total: int) -> Iterator[Callable[[], None]]:
        """Work measured in items; yields what is called after each. The time shown is what is left."""
        task = self._bars.add_task(description, total=total, amount=f"0/{total}", left=True)
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self._bars.update(task, completed=done, amount=f"{done}/{total}")

        yield advance

    @contextmanager
    def weights(self, description: str, total: int = 0) -> Iterator[Bytes]:
        """Work measured in bytes; yields what is called with how many more are done. Done when the context ends."""
        task = self._bars.add_task(description, total=max(total, 1), amount="")
        amount = Bytes(self._bars, task, total)
        yield amount
        amount.finish()


class _Clock(rich.progress.ProgressColumn):
    """Time that a task took so far, or, for one that asks so, has left."""

    def __init__(self) -> None:
        super().__init__()
        self._elapsed, self._left = rich.progress.TimeElapsedColumn(), rich.progress.TimeRemainingColumn()

    def render(self, task: rich.progress.Task) -> Text:
        return self._left.render(task) if task.fields.get("left") and not task.finished else self._elapsed.render(task)


class Bytes:
    """A bar that counts bytes; may be called from any one thread at a time."""

    def __init__(self, bars: rich.progress.Progress, task: rich.progress.TaskID, total: int):
        self._bars, self._task, self._total, self._done = bars, task, total, 0

    def __call__(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        self._bars.update(self._task, completed=self._done, amount=f"{self._done / 2**20:,.0f} MiB")

    def expect(self, count: int) -> None:
        """So many more are to come than was known."""
        self._total += count
        self._bars.update(self._task, total=max(self._total, 1))

    def finish(self) -> None:
        """All are done."""
        self._bars.update(self._task, completed=max(self._total, 1))
