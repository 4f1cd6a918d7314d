"""Progress of an export, for people: a line per step, a bar by bytes where weights move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console


class Progress:
    """Draws on `console`; silent when there is none."""

    def __init__(self, console: Console | None):
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description:<34}"),
            rich.progress.BarColumn(bar_width=30),
            rich.progress.TextColumn("{task.fields[amount]:>18}"),
            rich.progress.TimeElapsedColumn(),
            console=console,
            disable=console is None,
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """One line that stays, above the bars."""
        if not self._bars.disable:
            self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def step(self, description: str) -> Iterator[None]:
        """Work whose length is not known."""
        task = self._bars.add_task(description, total=None, amount="")
        yield
        self._bars.update(task, total=1, completed=1)

    @contextmanager
    def weights(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Work measured in bytes; yields the function that reports how many more are done."""
        task = self._bars.add_task(description, total=max(total, 1), amount="")
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._bars.update(task, completed=done, amount=f"{done / 2**20:,.0f} MiB")

        yield advance
        self._bars.update(task, completed=max(total, 1))
