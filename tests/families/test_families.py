"""Every family against transformers' own forward: embedded prompt, logits, caches and 32 greedy tokens.

Unpruned, and pruned against the masked oracle. The prompts differ in length from the traced one and from each other.
One export serves both, since no graph depends on keep; the unsplit graph is compared where its inputs differ in kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.verify.reference import Pruning, ReferenceCut, load_model, pruned_by
from fastv_runtime import Pipeline
from fastv_runtime.config.bundle import END_TO_END
from fastv_runtime.preprocessing.processor_settings import check_processor
from tests.conftest import MakeBundle, noise_image
from tests.families.conftest import CheckpointOf
from tests.families.row import Row, noise_video
from tests.families.rows import ROWS
from tests.plans import cuts_at, with_keeps

NEW_TOKENS = 32
LAYER = 2
LENGTHS: dict[str, Any] = {"keep": 1.0, "max_text": 128, "max_new_tokens": NEW_TOKENS}
TOLERANCE = 1e-3
DECIDED = 1e-5
"""Of a score: that of fp32 sums in another order is a tenth of it."""
QUESTIONS = ["What is it?", "Where is the red circle, and how many are there of them?", "Describe it, please."]


UNSPLIT = {"llava", "qwen2_5_vl", "qwen3_vl"}
"""Plain positions, M-RoPE, deepstack: every form that the inputs of the unsplit graph have."""

WITHOUT_STOCK_CLASS = {"qwen"}
"""Compared with a reading of its own: Qwen-VL-Chat in `test_qwen_vl_chat`."""


def test_every_family_has_a_row() -> None:
    assert {row.model_type for row in ROWS} | WITHOUT_STOCK_CLASS == set(FAMILIES)


@pytest.fixture(scope="module", params=ROWS, ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


@pytest.fixture(scope="module")
def source(row: Row, checkpoint_of: CheckpointOf) -> Path:
    return checkpoint_of(row)


def test_its_image_processor_is_within_bounds(source: Path) -> None:
    check_processor(source)


@pytest.fixture(scope="module")
def stock(row: Row, source: Path) -> Any:
    """The stock model; stop tokens off, so that every answer has as many tokens."""
    model = load_model(source, FAMILIES[row.model_type])
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("keep", [1.0, 0.5], ids=["unpruned", "pruned"])
def test_a_family_is_what_transformers_computes(
    row: Row, source: Path, stock: Any, make_bundle: MakeBundle, keep: float
) -> None:
    unsplit = keep == 1.0 and row.model_type in UNSPLIT and not row.name
    compare(row, source, stock, make_bundle, [] if unsplit else [(LAYER, keep)])


def compare(
    row: Row, source: Path, stock: Any, make_bundle: MakeBundle, cuts: Sequence[tuple[int, float]], **options: Any
) -> None:
    """All cases of a row. cuts: (K, keep) of each; none is the unsplit decoder, and one that keeps all prunes nothing.

    options: of the export, beside the row's.
    """
    layers, keeps = [layer for layer, _ in cuts], [keep for _, keep in cuts]
    asked: dict[str, Any] = (
        {"cuts": cuts_at(*layers)} if len(layers) > 1 else {"layer": (*layers, None)[0], "prune": bool(layers)}
    )
    # The export verifies all but the unsplit: its golden vectors must hold for every family as well.
    options = {"verify": bool(layers)} | LENGTHS | row.options | asked | options
    bundle = with_keeps(make_bundle(source, **options), keeps)
    assert not options["verify"] or END_TO_END in (bundle.manifest.verified or {})
    # What TensorRT's graphs compute can be seen on ONNX Runtime.
    backend = "ort" if str(options.get("target")).startswith("trt") else None
    pipeline = Pipeline(bundle, threads=1, backend=backend)
    family = FAMILIES[row.model_type]
    decoder = family.decoder(stock)
    config = family.config(Checkpoint(source))
    placeholders = [family.image_token_id(config)] + ([family.video_token_id(config)] if any(row.videos) else [])
    for number, (sizes, frames) in enumerate(zip_longest(row.cases, row.videos, fillvalue=0)):
        question = QUESTIONS[number % len(QUESTIONS)]
        images, videos = [], []
        if frames:
            assert row.video_inputs is not None
            videos = [noise_video(number, sizes[0], frames)]
            inputs = row.video_inputs(source, videos[0], question)
        else:
            images = [noise_image(10 * number + index, size) for index, size in enumerate(sizes)]
            inputs = row.inputs(source, images, question)
        visual = torch.isin(inputs["input_ids"][0], torch.tensor(placeholders))
        length, count = visual.numel(), int(visual.sum())
        left = [torch.arange(length)]
        with torch.no_grad(), _Embedded(decoder) as embedded:
            if set(keeps) <= {1.0}:
                expected = _generate(stock, inputs)
                left += [torch.arange(length) for _ in cuts]
            else:
                lengths = [length - count + round(keep * count) for keep in keeps]
                reference = [ReferenceCut(layer, most) for layer, most in zip(layers, lengths, strict=True)]
                with pruned_by(decoder, visual, reference) as prunings:
                    expected = _generate(stock, inputs)
                for pruning in prunings:
                    check_decided(pruning, visual, left[-1])
                    left.append(pruning.keep)

        generation = pipeline.stream(images, question, videos=videos, max_new_tokens=NEW_TOKENS, ignore_stop=True)
        answer = generation.answer
        assert answer.prompt_tokens == length
        assert answer.visual_tokens == count > 0
        _close(pipeline._slot.decoder.prompt.rows(0, length).array(), embedded.prompt[0])
        order = torch.cumsum(visual, 0) - 1
        kept = [order[rows[visual[rows]]].tolist() for rows in left]
        assert [cut.kept_visual_tokens for cut in answer.cuts] == kept[1:]
        assert answer.kept_visual_tokens == kept[-1]
        _close(pipeline.logits, expected.logits[0][0])
        for _ in generation:
            pass
        assert answer.token_ids == expected.sequences[0, length:].tolist()
        _compare_caches(pipeline, expected.past_key_values, length, left)


def check_decided(pruning: Pruning, visual: torch.Tensor, before: torch.Tensor) -> None:
    """No tie: between the last token kept and the first dropped is more than fp32 sums in another order make of it.

    visual: of the prompt's rows. before: those that came to the cut.
    """
    scores = pruning.scores[visual[before]]
    stays = torch.isin(before[visual[before]], pruning.keep)
    if not stays.all() and stays.any():
        least, most = scores[stays].min(), scores[~stays].max()
        assert least - most > DECIDED * least, "tokens that score alike: another seed is needed"


def _compare_caches(pipeline: Pipeline, cache: Any, length: int, left: list[torch.Tensor]) -> None:
    """Keys and values of every layer: all tokens in the first graph, behind each cut the kept ones, and the decoded."""
    plan, saved = pipeline.bundle.manifest.plan, pipeline._slot.decoder.save().caches
    decoded = torch.arange(length, length + NEW_TOKENS - 1)
    for stage, prompt, ours in zip(plan.stages, left, saved, strict=True):
        rows = torch.cat([prompt, decoded])
        layers = [cache.layers[index] for index in plan.layers(stage.graph, len(cache.layers))]
        for kept, values in zip(ours, (each for layer in layers for each in (layer.keys, layer.values)), strict=True):
            _close(kept[0], values[0][:, rows])


def _close(ours: np.ndarray, theirs: torch.Tensor) -> None:
    """Within 1e-3 of the largest value: fp32 sums in another order, through every layer of the model."""
    expected = theirs.detach().numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(expected).max())))


def _generate(model: Any, inputs: dict[str, Any]) -> Any:
    return model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )


class _Embedded:
    """The first input of a decoder within this context: text embeddings and visual features, in their places."""

    def __init__(self, decoder: Any):
        self._decoder = decoder
        self.prompt = torch.empty(0)

    def __enter__(self) -> _Embedded:
        self._handle = self._decoder.register_forward_pre_hook(self._take, with_kwargs=True)
        return self

    def _take(self, _: Any, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.prompt.numel():
            self.prompt = kwargs["inputs_embeds"].clone()

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
