"""What an export says that rounding costs, against transformers on the checkpoint and ONNX Runtime on the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from fastv_export.cli import summary
from fastv_export.execution import stored_weights
from fastv_export.execution.last_rows import with_last_rows
from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.verify.quantization_cost import BEARABLE, divergence, warning
from fastv_export.verify.question import ANSWER, QUESTION, SIZE
from fastv_runtime import Pipeline
from fastv_runtime.config.bundle import QuantizationCost
from fastv_runtime.config.cuts import one_cut
from fastv_runtime.config.plan import DialectName, Plan, Weights
from tests.conftest import noise_image

TOKENS = 8
"""Of the answer."""
INT4, INT8, BLOCKS = Weights(bits=4, block=32), Weights(bits=8, block=None), Weights(bits=8, block=32)


@pytest.mark.parametrize("weights", [INT4, INT8, BLOCKS], ids=["int4", "int8", "int8-blocks"])
def test_what_is_recorded_is_the_distance_from_the_unrounded_checkpoint(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Weights
) -> None:
    """Beside equally rounded weights two fifths of it would be left in int8, half a hundredth in int4; without rounded
    activations two thirds in int8."""
    monkeypatch.setattr(stored_weights, "WEIGHT", 1 << 10)  # else no weight were read as those of large models are
    notes: list[str] = []
    progress = Progress(None)
    progress.note = notes.append  # type: ignore[method-assign]
    options = Options(prune=False, max_new_tokens=TOKENS, weights=weights)
    manifest = export_bundle(tiny_llava, tmp_path / "out.fastv", options, progress)
    recorded = manifest.quantization
    assert recorded is not None

    theirs, answer = unrounded_logits(tiny_llava)
    ours = bundle_logits(tmp_path / "out.fastv", answer)
    kl = torch.nn.functional.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="batchmean")
    assert recorded.asked == TOKENS + 1
    assert recorded.same == int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    assert recorded.kl == pytest.approx(float(kl), rel=0.02)
    error = ((ours - theirs).square().sum(-1) / theirs.square().sum(-1)).mean().sqrt()
    assert recorded.logits == pytest.approx(float(error), rel=0.02)

    warned = [note for note in notes if note.startswith("warning: quantization changes what this model says")]
    assert len(warned) == (recorded.kl > BEARABLE)
    assert f"quantization itself costs: {recorded.same} of 9 tokens as unquantized, KL {recorded.kl:.2g}" in summary(
        manifest
    )


@torch.no_grad()
def unrounded_logits(checkpoint: Path) -> tuple[torch.Tensor, list[int]]:
    """[1+T, V] by transformers' own forward, and the answer's tokens."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = LlavaProcessor.from_pretrained(checkpoint, backend="pil")
    text = f"<s>USER: <image>\n{QUESTION} ASSISTANT:"
    inputs = processor(images=noise_image(0, SIZE[::-1]), text=text, return_tensors="pt", add_special_tokens=False)
    answer = processor.tokenizer(ANSWER, add_special_tokens=False)["input_ids"][:TOKENS]
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer])], 1)
    return model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0, -TOKENS - 1 :], answer


def bundle_logits(bundle: Path, answer: list[int]) -> torch.Tensor:
    """The same by the runtime, token after token."""
    pipeline = Pipeline.load(bundle, threads=1)
    pipeline.generate([noise_image(0, SIZE[::-1])], QUESTION, max_new_tokens=1)
    logits = [pipeline.logits.copy()]
    table, decoder = pipeline.bundle.embedding(), pipeline.decoder
    for token in answer:
        decoder.following.rows(0, 1).write(table[[token]].astype(np.float32))
        decoder.step()
        logits.append(pipeline.logits.copy())
    return torch.from_numpy(np.stack(logits))


def test_the_divergence_is_that_of_torch() -> None:
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.kl_div(logits[1].log_softmax(-1), logits[0].softmax(-1), reduction="sum")
    assert divergence(*logits.numpy()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "dialect", "calibrated", "tries"),
    [
        (INT8, "ort", False, "`calibration`, `block` 64 or `precision` fp32"),
        (INT8, "ort", True, "`block` 64 or `precision` fp32"),
        (Weights(bits=8, block=128), "ort", False, "`calibration`, `block` 32 or `precision` fp32"),
        (Weights(bits=4, block=64), "ort", False, "`calibration`, `block` 32 or `precision` int8"),
        (Weights(bits=4, block=32), "trt", True, "`precision` int8"),
        (INT8, "trt", False, "`precision` fp16"),
        (
            INT8.model_copy(update={"static": True}),
            "trt",
            True,
            "`precision` fp16 or leave out `calibration`, by which activ",
        ),
    ],
    ids=str,
)
def test_a_warning_says_what_to_try(weights: Weights, dialect: DialectName, calibrated: bool, tries: str) -> None:
    plan = Plan(
        cuts=one_cut(None, 1),
        length="exact",
        precision="float32" if dialect == "ort" else "float16",
        weights=weights,
        max_text=128,
        max_visual=144,
        max_new_tokens=8,
    )
    bearable = QuantizationCost(asked=49, same=40, kl=BEARABLE, logits=0.1)
    assert warning(bearable, plan, dialect, calibrated=calibrated) is None
    line = warning(bearable.model_copy(update={"kl": 0.74}), plan, dialect, calibrated=calibrated)
    assert line is not None
    assert "40 of 49 tokens as unquantized, KL 0.74, above 0.15: try " + tries in line
    assert warning(bearable.model_copy(update={"kl": float("nan")}), plan, dialect, calibrated=calibrated) is not None


def test_a_graph_without_a_head_has_no_logits_of_more_rows(tiny_bundle: Path) -> None:
    model = onnx.load(tiny_bundle / "onnx" / "prefix.onnx", load_external_data=False)
    with pytest.raises(ValueError, match="no node of this graph takes its last row"):
        with_last_rows(model, 4)
