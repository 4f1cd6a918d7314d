"""An answer on a terminal or as JSON: text as it comes, notes, and one line of figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastv_runtime.console import stderr

if TYPE_CHECKING:
    from fastv_runtime.generation.calls.answer import Answer
    from fastv_runtime.generation.calls.streaming import Generation

PrintNotes = Callable[[Sequence[str]], None]


def print_answer(
    generation: Generation, print_notes: PrintNotes, *, notes: Sequence[str] = (), as_json: bool = False
) -> Answer:
    """Read a generation to its end, streaming its text or as one JSON object a line.

    The text's leading space, with which many models begin, is not printed; JSON has it. notes: of what was shown.
    """
    answer = generation.answer
    answer.notes[:0] = notes
    print_notes(answer.notes)
    noted, begun = len(answer.notes), False
    for piece in generation:
        shown = piece if begun else piece.lstrip()
        begun = begun or bool(shown)
        if shown and not as_json:
            sys.stdout.write(shown)
            sys.stdout.flush()
    print(answer.model_dump_json() if as_json else "", flush=True)
    print_notes(answer.notes[noted:])
    return answer


def print_figures(answer: Answer, *, loaded: float | None = None) -> None:
    """What was kept and how fast it was. loaded: seconds that loading took."""
    timings, after = answer.timings_ms, len(answer.token_ids) - 1
    figures = []
    if answer.visual_tokens:
        figures.append(f"{len(answer.kept_visual_tokens)} of {answer.visual_tokens} visual tokens kept")
    figures.append(f"first token after {timings['ttft']:.0f} ms")
    if after > 0 and timings["decode_per_token"] > 0:
        figures.append(f"{1000 / timings['decode_per_token']:.1f} tokens/s after it")
    if loaded is not None:
        figures.append(f"loaded in {loaded:.2f} s")
    print_dim("; ".join(figures))


def print_dim(line: str) -> None:
    """For people, beside the answers."""
    stderr.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
