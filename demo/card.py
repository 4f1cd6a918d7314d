"""The demo checkpoint's model card, from what `evaluate.py` measured."""

from __future__ import annotations

from typing import Any

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# FastV Edge demo

A stock `LlavaForConditionalGeneration` of {millions:.1f} million parameters that answers questions about drawn scenes:
coloured shapes and handwritten digits on a textured canvas. It exists to show and to test visual token pruning where a
real checkpoint cannot go. It knows nothing of photographs.

CLIP tower of {tower_layers} layers ({image_size} x {image_size} pixels, patches of {patch_size}: {visual} visual
tokens), two-layer projector, Llama decoder of {layers} layers, width {width}, {heads} heads. The tokenizer is a
byte-level BPE of {vocabulary} tokens: any text goes in, every word of the questions is one token.

## Training

`make train` (`demo/train.py`) draws every scene itself from a seed; the digits are scikit-learn's bundled
`load_digits`, a part of which is held out. First the tower and projector learn to name what is on each patch, in the
decoder's own text embeddings; then the decoder learns to answer, tower and projector fixed. These weights: {training}.

The second phase has auxiliary losses on attention (`attention_losses` in `demo/answering.py`). They help a decoder this
small to find out how to look things up, and they put the looking where large models have it: the last prompt row of the
first layers points at what the question is about, and the picture is read from layer 2 on. **So this model was taught
the property that FastV exploits.** That makes it a good test of a pruning pipeline, and no evidence of what pruning
costs a real model: measure that on the real model.

## Accuracy

Exact match of the greedy answer, whole, on {samples} held-out questions (scenes of a seed that neither training nor
the choice of the checkpoint used, digits in handwriting that training never saw), through bundles exported for ONNX
Runtime. Made by `make evaluate` with {versions}. `random` keeps as many visual tokens, chosen without looking.
`make calibrate` compares all rankers (`docs/benchmarks/calibration.md`).

{overall}

### By kind of question

{by_kind}

With {samples} questions the 95% interval of a share is about {interval:.1f} points wide on either side at 90%, and
wider for a single kind ({per_kind} questions each).
"""


def model_card(config: dict[str, Any], training: dict[str, Any], parameters: int, evaluation: dict[str, Any]) -> str:
    """README.md of the checkpoint.

    config, training: its config.json and training.json. evaluation: what `evaluate.py` writes.
    """
    results = evaluation["results"]
    text, vision = config["text_config"], config["vision_config"]
    side = vision["image_size"] // vision["patch_size"]
    kinds = [kind for kind in results[0]["accuracy"] if kind != "all"]
    samples = evaluation["samples"]
    return CARD.format(
        millions=parameters / 1e6,
        tower_layers=vision["num_hidden_layers"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        visual=side * side,
        layers=text["num_hidden_layers"],
        width=text["hidden_size"],
        heads=text["num_attention_heads"],
        vocabulary=text["vocab_size"],
        training=_training(training),
        samples=f"{samples:,}",
        versions=", ".join(f"{name} {value}" for name, value in evaluation["versions"].items()),
        overall=_overall(results),
        by_kind=_by_kind(results, kinds),
        interval=100 * 1.96 * (0.9 * 0.1 / samples) ** 0.5,
        per_kind=samples // len(kinds),
    )


def _training(record: dict[str, Any]) -> str:
    steps, minutes = record["steps"], record["minutes"]
    return (
        f"seed {record['seed']}, {steps['see']:,} steps in {minutes['see']:.0f} minutes and "
        f"{steps['answer']:,} steps in "
        f"{minutes['answer']:.0f} minutes on two shared CPU cores, drawing apart; "
        f"{100 * record['validation_exact_match']:.1f}% exact match on the validation questions that chose them"
    )


def _overall(results: list[dict[str, Any]]) -> str:
    """One row per K and ranker, one column per keep."""
    keeps = sorted({each["keep"] for each in results}, reverse=True)
    found = {(each["layer"], each["ranker"], each["keep"]): each["accuracy"]["all"] for each in results}
    rows = []
    for layer in sorted({each["layer"] for each in results}):
        for ranker in ("fastv", "random"):
            # With everything kept there is nothing to rank; one measurement serves both rows.
            values = [found.get((layer, ranker, keep), found.get((layer, "fastv", keep))) for keep in keeps]
            rows.append([f"{layer}", ranker, *map(_percent, values)])
    return _table(["K", "ranker", *(f"keep {keep:g}" for keep in keeps)], rows)


def _by_kind(results: list[dict[str, Any]], kinds: list[str]) -> str:
    rows = [
        [
            str(each["layer"]),
            "any" if each["keep"] == 1 else each["ranker"],
            f"{each['keep']:g}",
            *(_percent(each["accuracy"][kind]) for kind in kinds),
        ]
        for each in results
    ]
    return _table(["K", "ranker", "keep", *kinds], rows)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
