"""Decoders in LLaVA that are like Llama but for one thing: exported, and right, or refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, MistralConfig, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.exporting import export_bundle
from fastv_export.families import FAMILIES
from fastv_export.hf import models as hf_models
from fastv_export.hf import probe as hf_probe
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.support import check, check_config
from fastv_runtime.config.bundle import EMBEDDING
from fastv_runtime.config.plan import Weights
from fastv_runtime.errors import UserError
from tests.cases.decoders import EXPORTED, REFUSED, REFUSED_AS_BUILT, SHORT, config
from tests.cases.llava import llava_config, write_llava
from tests.cases.oracle import answers_as_transformers

LLAVA = FAMILIES["llava"]


@pytest.mark.parametrize("what", EXPORTED)
def test_answers_are_those_of_transformers(tmp_path: Path, what: str) -> None:
    name, options = EXPORTED[what]
    answers_as_transformers(write_llava(tmp_path / "source", config(name), options=options), tmp_path)


def test_a_decoder_in_one_piece_scales_embeddings_too(tmp_path: Path) -> None:
    name, options = EXPORTED["embeddings scaled by the decoder"]
    source = write_llava(tmp_path / "source", config(name), options=options)
    answers_as_transformers(source, tmp_path, keeps=(1.0,), prune=False)


def test_a_table_of_few_bits_is_scaled_and_the_head_tied_to_it_is_not(tmp_path: Path) -> None:
    name, options = EXPORTED["embeddings scaled inside their module, tied"]
    source = write_llava(tmp_path / "source", config(name), options=options)
    plan = Options(weights=Weights(bits=8, block=None), max_text=64, max_new_tokens=8)
    made = export_bundle(source, tmp_path / "made.fastv", plan, Progress(None))
    assert made.verified is not None and "end_to_end" in made.verified
    tensors = Checkpoint(source).tensors
    table = next(tensor for name, tensor in tensors.items() if name.endswith("embed_tokens.weight")).read()
    written = np.fromfile(tmp_path / "made.fastv" / EMBEDDING, np.float16).reshape(table.shape)
    np.testing.assert_allclose(written, table * 32**0.5, rtol=2**-10, atol=2**-20)


@pytest.mark.parametrize("what", REFUSED)
def test_a_config_is_refused_before_there_are_weights(tmp_path: Path, what: str) -> None:
    name, options, words = REFUSED[what]
    llava_config(config(name), options=options).save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match=words) as refused:
        export_bundle(tmp_path / "source", tmp_path / "made.fastv", Options(), Progress(None))
    assert "\n" not in str(refused.value) and str(refused.value).endswith(": this model cannot be exported")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("what", REFUSED_AS_BUILT)
def test_a_model_is_refused_before_anything_is_traced(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, options, words = REFUSED_AS_BUILT[what]
    source = write_llava(tmp_path / "source", config(name), options=options)
    monkeypatch.setattr(torch.export, "export", None)
    with pytest.raises(UserError, match=words) as refused:
        export_bundle(source, tmp_path / "made.fastv", Options(max_text=8, max_new_tokens=8), Progress(None))
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("what", SHORT)
def test_a_longer_plan_than_a_decoder_bears_is_refused(tmp_path: Path, what: str) -> None:
    name, options, words = SHORT[what]
    llava_config(config(name), options=options).save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match=words):
        export_bundle(tmp_path / "source", tmp_path / "made.fastv", Options(max_new_tokens=8), Progress(None))


def test_a_limit_is_that_of_the_layers_at_hand() -> None:
    windows: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 48, "num_hidden_layers": 4}
    assert (
        hf_models.position_limit(Qwen2Config(**windows, max_window_layers=9)) is None
    )  # none of them looks through it
    assert hf_models.position_limit(MistralConfig(sliding_window=None)) is None
    limit = hf_models.position_limit(MistralConfig(sliding_window=48))
    assert limit is not None and limit.positions == 48
    for kind in ("linear", "yarn", "llama3"):
        options = {"factor": 4.0, "original_max_position_embeddings": 32, "low_freq_factor": 1, "high_freq_factor": 4}
        rope = LlamaConfig(rope_parameters={"rope_type": kind, "rope_theta": 1e4, **options})
        assert hf_models.position_limit(rope) is None


@pytest.mark.parametrize(
    ("target", "width", "others"),
    [
        ("ort", 20, "openvino or trt-legacy"),
        ("trt", 20, "openvino or trt-legacy"),
        ("trt-rtx", 20, "openvino or trt-legacy"),
        ("trt-rtx", 8, "ort or openvino or trt-legacy"),
        ("trt-rtx", 264, "ort or openvino or trt-legacy"),
    ],
)
def test_a_head_that_a_target_does_not_take_is_refused(tmp_path: Path, target: str, width: int, others: str) -> None:
    llava_config(LlamaConfig, options={"head_dim": width}).save_pretrained(tmp_path / "source")
    words = rf"heads have {width} channels \(head_dim\), which target {target} does not take: use `target` {others}$"
    with pytest.raises(UserError, match=words):
        export_bundle(tmp_path / "source", tmp_path / "made.fastv", Options(target=target), Progress(None))


class _Twice(LlamaDecoderLayer):
    """An MLP of what the attention was given: both at once, under the usual names."""

    @wraps(LlamaDecoderLayer.forward)
    def forward(self, hidden_states: torch.Tensor, **arguments: Any) -> torch.Tensor:
        given = self.input_layernorm(hidden_states)
        attended, _ = self.self_attn(hidden_states=given, **arguments)
        return hidden_states + attended + self.mlp(self.post_attention_layernorm(hidden_states))


class _Scaled(LlamaDecoderLayer):
    """A layer whose output is scaled as a whole."""

    @wraps(LlamaDecoderLayer.forward)
    def forward(self, *args: Any, **arguments: Any) -> torch.Tensor:
        return 0.5 * super().forward(*args, **arguments)


class _Weighted(LlamaDecoderLayer):
    """A layer with a weight of its own."""

    def __init__(self, *args: Any, **arguments: Any):
        super().__init__(*args, **arguments)
        self.gain = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (_Twice, "does not add first its attention and then its MLP in layer 0"),
        (_Scaled, "does not add first its attention and then its MLP in layer 0"),
        (_Weighted, "has gain in layer 0"),
    ],
)
def test_what_a_layer_computes_counts_and_not_what_its_parts_are_called(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, layer: type, words: str
) -> None:
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaDecoderLayer", layer)
    with pytest.raises(UserError, match=words):
        check_config(Checkpoint(tiny_llava), LLAVA)


def _normed(forward: Callable[..., Any], self: Any, **arguments: Any) -> Any:
    arguments["inputs_embeds"] = nn.functional.layer_norm(arguments["inputs_embeds"], [64])
    return forward(self, **arguments)


def _shifted(forward: Callable[..., Any], self: Any, **arguments: Any) -> Any:
    output = forward(self, **arguments)
    output.last_hidden_state = output.last_hidden_state + 1
    return output


def _looping(forward: Callable[..., Any], self: Any, **arguments: Any) -> Any:
    forward(self, **arguments)
    return forward(self, **arguments)


def _seeing(forward: Callable[..., Any], self: Any, **arguments: Any) -> Any:
    return forward(self, **arguments, attention_mask=torch.zeros(1, 1, 3, 3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_normed, "changes its states before layer 0, by more than a factor of embeddings"),
        (_shifted, "changes its states after the last layer and its norm"),
        (_looping, "does not run each of its layers once"),
        (_seeing, "hands layer 0 another mask than the causal one"),
    ],
)
def test_what_a_decoder_does_around_its_layers_is_found(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any], words: str
) -> None:
    forward = LlamaModel.forward

    @wraps(forward)  # its keywords are looked at
    def changed(self: Any, **arguments: Any) -> Any:
        return change(forward, self, **arguments)

    monkeypatch.setattr(LlamaModel, "forward", changed)
    with pytest.raises(UserError, match=words):
        check(Checkpoint(tiny_llava), LLAVA)


def test_embeddings_that_are_no_multiple_of_a_table_are_found(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = nn.Embedding.forward
    monkeypatch.setattr(nn.Embedding, "forward", lambda self, ids: forward(self, ids) + 0.25)
    with pytest.raises(UserError, match="makes more of embeddings than a multiple of what its table has"):
        check(Checkpoint(tiny_llava), LLAVA)


def test_a_plain_decoder_multiplies_nothing(tiny_llava: Path) -> None:
    decoder = LLAVA.decoder(LLAVA.load(Checkpoint(tiny_llava)))
    assert hf_probe.embedding_factor(decoder) == hf_probe.entry_factor(decoder) == 1.0
