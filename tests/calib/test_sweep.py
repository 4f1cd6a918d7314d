"""The sweep against transformers: the prompt, the greedy answer, and every plan's logits by the masked forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastv_calib.inputs import InputMaker
from fastv_calib.rankers import RANKERS
from fastv_calib.sweep import Sweep
from fastv_export.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.reference import load_model, pruned, select
from fastv_export.select_graph import build_select
from fastv_runtime.lengths import kept_count
from tests.conftest import noise_picture
from tests.families.row import Row, stock_inputs
from tests.families.rows import ROWS
from tests.tiny import write_tiny_llava

QUESTION = "Where is the red circle?"
ANSWER = 6
LAYERS = (1, 2, 3)
TOLERANCE = 1e-4
"""Of the largest logit: fp32 sums over other rows, in another order."""

LLAVA = Row("llava", write_tiny_llava, (((64, 48),), ((64, 48), (30, 70))))


@pytest.mark.parametrize("row", [LLAVA, *ROWS], ids=lambda row: "two_pictures" if row is LLAVA else str(row))
def test_reruns_are_the_masked_forward(row: Row, tmp_path: Path) -> None:
    row.write(tmp_path / "checkpoint")
    checkpoint, family = Checkpoint(tmp_path / "checkpoint"), FAMILIES[row.model_type]
    stock, model = (load_model(checkpoint.path, family) for _ in range(2))
    stock.generation_config.eos_token_id = None
    maker = InputMaker(checkpoint, family, model, row.options.get("image_tokens"))
    sweep = Sweep(family.decoder(model), family.head(model), LAYERS)
    sizes = next(
        sizes for sizes, frames in reversed([*zip(row.cases, row.videos or [0] * 9, strict=False)]) if not frames
    )
    pictures = [noise_picture(index, size) for index, size in enumerate(sizes)]
    given = row.inputs(checkpoint.path, pictures, QUESTION)

    inputs = maker(pictures, QUESTION)
    dense = sweep.dense(inputs, frozenset(), ANSWER)

    visual = given["input_ids"][0] == family.image_token_id(family.config(checkpoint))
    assert torch.equal(inputs.visual, visual)
    with torch.no_grad():
        answer = stock.generate(**given, max_new_tokens=ANSWER, do_sample=False)[0, visual.numel() :]
    assert dense.tokens == answer.tolist()
    forced = _with_answer(given, answer[:-1])
    with torch.no_grad():
        _close(dense.logits, stock(**forced).logits[0, -ANSWER:])
    count = int(visual.sum())
    for layer in LAYERS:
        for keep in (0.5, 0.1):
            length = visual.numel() - count + kept_count(count, keep)
            with torch.no_grad(), pruned(family.decoder(stock), layer, visual, length) as pruning:
                expected = stock(**forced).logits[0, -ANSWER:]
            seen = dense.seen(layer)
            _close(seen.scores, pruning.scores)
            # Beside another plan, which must not change it.
            other = select(RANKERS["random"](seen), visual, length)
            _close(sweep.pruned(dense, layer, torch.stack([other, pruning.keep]))[1], expected)
            assert torch.equal(select(RANKERS["fastv"](seen), visual, length), pruning.keep)


def test_attention_by_layer_is_that_of_the_stock_model(tiny_llava: Path) -> None:
    family, picture = FAMILIES["llava"], noise_picture(0)
    model = load_model(tiny_llava, family)
    inputs = InputMaker(Checkpoint(tiny_llava), family, model)([picture], QUESTION)
    shares = Sweep(family.decoder(model), family.head(model), (2,)).dense(inputs, frozenset(), 2).attention()
    with torch.no_grad():
        stock = model(**stock_inputs(tiny_llava, [picture], QUESTION), output_attentions=True)
    expected = [float(weights[0, :, -1][:, inputs.visual].sum(-1).mean()) for weights in stock.attentions]
    np.testing.assert_allclose(shares, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["fastv", "random"])
def test_a_ranker_is_its_select_graph(name: str, tiny_llava: Path) -> None:
    import onnx_ir as ir
    import onnxruntime

    from fastv_calib.rankers import Seen

    count, length = 200, 90
    scores = torch.rand(count, generator=torch.Generator().manual_seed(3))
    visual = torch.arange(count) % 5 > 0

    def value(label: str, dtype: Any, shape: list[int]) -> ir.Value:
        return ir.Value(name=label, type=ir.TensorType(dtype), shape=ir.Shape(shape))

    graph = build_select(
        {
            "hidden": value("hidden", ir.DataType.FLOAT, [1, count, 2]),
            "scores": value("scores", ir.DataType.FLOAT, [1, count]),
            "position_ids": value("position_ids", ir.DataType.INT64, [1, count]),
            "prunable": value("prunable", ir.DataType.BOOL, [1, count]),
            "length": value("length", ir.DataType.INT64, [1]),
        },
        20,
        name,
    )
    graph.ir_version = 10
    session = onnxruntime.InferenceSession(ir.serde.serialize_model(graph).SerializeToString())
    fed = {
        "hidden": np.zeros((1, count, 2), np.float32),
        "scores": scores.numpy()[None],
        "position_ids": np.arange(count)[None],
        "prunable": visual.numpy()[None],
        "length": np.asarray([length]),
    }
    picked = session.run([graph.graph.outputs[2].name], fed)[0][0]
    seen = Seen(scores, torch.zeros(count, 2), visual)
    ours = select(RANKERS[name](seen), visual, length).tolist()
    # The sine of a large angle differs in its last bits from one library to another, and that may swap a token.
    assert len(set(ours) ^ set(picked.tolist())) <= (0 if name == "fastv" else 4)


def _with_answer(given: dict[str, Any], answer: torch.Tensor) -> dict[str, Any]:
    forced = {**given, "input_ids": torch.cat([given["input_ids"], answer[None]], 1)}
    for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in given:
            forced[name] = torch.cat([given[name], torch.full_like(answer[None], fill)], 1)
    return forced


def _close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    expected = theirs.numpy()
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(expected).max())))
