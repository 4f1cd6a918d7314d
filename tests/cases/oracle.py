"""Whether a bundle answers as transformers does: its own processor and `generate`, fp32, eager."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.exporting import export_bundle
from fastv_export.families import family_of
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.verify.reference import load_model, pruned
from fastv_runtime import Pipeline
from tests.conftest import noise_image
from tests.families.row import stock_inputs
from tests.plans import with_keeps

NEW_TOKENS = 4
QUESTION = "What color is the circle?"
LAYER = 2
Inputs = Callable[[Path, list[Image.Image], str], dict[str, Any]]


def answers_as_transformers(
    source: Path, folder: Path, *, keeps: tuple[float, ...] = (1.0, 0.5), inputs: Inputs = stock_inputs, **options: Any
) -> None:
    """Export a checkpoint, once, and compare an answer at each keep: tokens, logits and what was kept.

    inputs: what the stock model's `generate` takes, from the checkpoint, an image and a question.
    """
    chosen = {"layer": LAYER, "keep": 1.0, "max_text": 64, "max_new_tokens": 8} | options
    layer = chosen["layer"]
    made = folder / "made.fastv"
    export_bundle(source, made, Options(**chosen), Progress(None))
    checkpoint = Checkpoint(source)
    family = family_of(checkpoint.model_type(), str(source))
    model, image = load_model(source, family), noise_image(1)
    given = inputs(source, [image], QUESTION)
    visual = given["input_ids"][0] == family.image_token_id(family.config(checkpoint))
    length, count = visual.numel(), int(visual.sum())
    for keep in keeps:
        kept = torch.arange(length)
        with torch.no_grad():
            if keep == 1.0:
                expected = _generate(model, given)
            else:
                with pruned(family.decoder(model), layer, visual, length - count + round(keep * count)) as pruning:
                    expected = _generate(model, given)
                kept = pruning.keep
        pipeline = Pipeline(with_keeps(made, [keep] if chosen.get("prune", True) else []), threads=1)
        generation = pipeline.stream([image], QUESTION, max_new_tokens=NEW_TOKENS, ignore_stop=True)
        logits, answer = pipeline.logits.copy(), generation.answer
        for _ in generation:
            pass
        assert (answer.prompt_tokens, answer.visual_tokens) == (length, count)
        assert answer.kept_visual_tokens == (torch.cumsum(visual, 0) - 1)[kept[visual[kept]]].tolist()
        theirs = expected.logits[0][0].numpy()
        np.testing.assert_allclose(logits, theirs, rtol=0, atol=1e-4 * max(1.0, float(np.abs(theirs).max())))
        assert answer.token_ids == expected.sequences[0, length:].tolist()


def _generate(model: Any, inputs: dict[str, Any]) -> Any:
    model.generation_config.eos_token_id = None
    return model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
