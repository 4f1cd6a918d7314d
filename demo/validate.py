"""Exact match of greedy answers on held-out questions, whole or with visual tokens pruned.

`python demo/validate.py` prints accuracy by kind, and by layer, kept share and ranker.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from demo import heldout
from demo.model import Prune, image_features, read_questions
from demo.prompts import IGNORED, Prompter
from demo.questions import Question

ROOT = Path(__file__).resolve().parent.parent
_BATCH = 50
_KEEPS = (1.0, 0.75, 0.5, 0.25, 0.1, 0.0)


@dataclass(frozen=True)
class HeldOut:
    """Held-out questions with the pixel values [N, 3, 168, 168] the processor makes of their pictures."""

    pixels: Tensor
    questions: list[Question]


def held_out_set(processor: LlavaProcessor, count: int) -> HeldOut:
    """The first `count` held-out samples."""
    samples = heldout.samples(count)
    pixels = processor.image_processor([s.image for s in samples], return_tensors="pt")["pixel_values"]
    return HeldOut(pixels, [Question(s.kind, s.question, s.answer, tuple(s.patches)) for s in samples])


@torch.no_grad()
def accuracy_of(
    model: LlavaForConditionalGeneration, prompter: Prompter, held_out: HeldOut, prune: Prune | None = None
) -> dict[str, float]:
    """Share of answers that greedy decoding gets right to the last token, for "all" and per kind.

    Each answer token is predicted after the right answer so far: all of them are right exactly when greedy
    decoding is.
    """
    hits: dict[str, list[bool]] = defaultdict(list)
    embed = model.get_input_embeddings()
    for start in range(0, len(held_out.questions), _BATCH):
        questions = held_out.questions[start : start + _BATCH]
        rows = prompter.batch([[question] for question in questions])
        features = image_features(model, held_out.pixels[start : start + _BATCH])
        opening = embed(prompter.prefix_ids[: prompter.first_visual]).expand(len(features), -1, -1)
        states, _ = read_questions(
            model,
            torch.cat([opening, features], dim=1),
            embed(rows.ids),
            prompter.first_visual,
            prune=prune,
            last=rows.last[:, 0],
        )
        right = (model.lm_head(states).argmax(-1) == rows.targets) | (rows.targets == IGNORED)
        for question, hit in zip(questions, right[:, 0].all(-1).tolist(), strict=True):
            hits["all"].append(hit)
            hits[question.kind].append(hit)
    return {kind: sum(found) / len(found) for kind, found in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "demo" / "checkpoint")
    parser.add_argument("--samples", type=int, default=1000)
    args = parser.parse_args()
    processor = AutoProcessor.from_pretrained(args.checkpoint, backend="pil")
    model = LlavaForConditionalGeneration.from_pretrained(args.checkpoint).eval()
    prompter, held_out = Prompter(processor.tokenizer), held_out_set(processor, args.samples)
    console = Console()
    whole = accuracy_of(model, prompter, held_out)
    console.print(", ".join(f"{kind} {share:.1%}" for kind, share in whole.items()))
    table = Table("K", "ranker", *(f"keep {keep}" for keep in _KEEPS))
    for layer in (1, 2, 3):
        for ranker in ("fastv", "random"):
            row = [accuracy_of(model, prompter, held_out, Prune(layer, keep, ranker))["all"] for keep in _KEEPS]
            table.add_row(str(layer), ranker, *(f"{share:.1%}" for share in row))
    console.print(table)


if __name__ == "__main__":
    main()
