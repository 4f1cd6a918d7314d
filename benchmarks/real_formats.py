"""What the formats of TensorRT's targets cost a pretrained language model, in emulation.

    python benchmarks/real_formats.py [CHECKPOINT] [--json FILE]

SmolLM2-135M-Instruct as the decoder of a LLaVA (`real_llava.py`, its weights off the package's grid), transformers' own
forward in fp32 over `held_out.txt`. The decoder's products are replaced: weights and what they multiply are rounded by
the functions that an export rounds with, in ranges by the exporter's own text.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import machine
from real_llava import write_real_llava
from rich.console import Console
from torch import nn

from fastv_calib.measurement.scaled import LoadedWeight, tied
from fastv_export import hf
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.streamed import stream_model
from fastv_export.families import Family, family_of
from fastv_export.quantization.activations import Activation
from fastv_export.quantization.float_formats import HEADROOM, FloatQuantization, Fp8, Nvfp4
from fastv_export.quantization.scaling import smoothing
from fastv_export.quantization.text_activations import text_activations
from fastv_export.quantization.weights import Quantization
from fastv_runtime.config.bundle import Tokens
from fastv_runtime.generation.prompts.prompt import PromptBuilder

TEXT = Path(__file__).with_name("held_out.txt")
GROUPS = {
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
"""Products that are given the same, under the first of them."""
console = Console(stderr=True)


@dataclass(frozen=True)
class Setting:
    """How products are rounded: weights, and what they multiply in `headroom` times the range that was seen."""

    weights: Quantization | None = None
    headroom: float | None = None
    """None leaves activations as they are."""
    smooth: bool = False
    wide: int = 0
    """So many first layers are fp8."""
    attention: Quantization | None = None
    """Of its products, where that is another."""


SETTINGS = {
    "fp32": Setting(),
    "int8 weights": Setting(Quantization(8, None)),
    "int8, one range": Setting(Quantization(8, None), headroom=1),
    "int8, one range, SmoothQuant": Setting(Quantization(8, None), headroom=1, smooth=True),
    "fp8 weights": Setting(Fp8()),
    "fp8, range as seen": Setting(Fp8(), headroom=1),
    "fp8, range 8 times (the export's)": Setting(Fp8(), headroom=HEADROOM["text"]),
    "fp8, range 64 times": Setting(Fp8(), headroom=64),
    "fp8, range 512 times": Setting(Fp8(), headroom=512),
    "nvfp4 weights": Setting(Nvfp4()),
    "nvfp4, range as seen": Setting(Nvfp4(), headroom=1),
    "nvfp4, range 8 times": Setting(Nvfp4(), headroom=HEADROOM["text"]),
    "nvfp4, range 8 times, attention in fp8": Setting(Nvfp4(), headroom=HEADROOM["text"], attention=Fp8()),
    "nvfp4, range 8 times, attention and two layers in fp8 (the export's)": Setting(
        Nvfp4(), headroom=HEADROOM["text"], wide=2, attention=Fp8()
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="of write_real_llava; made anew by default")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="fp32 always")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.checkpoint or write_real_llava(Path(folder) / "checkpoint", off_grid=True)
        tokens, rows = measured(path, dict.fromkeys(["fp32", *args.settings]))
    report = json.dumps({"machine": machine(), "tokens": tokens, "formats": rows}, indent=2) + "\n"
    if args.json:
        args.json.write_text(report, encoding="utf-8")
    print(report, end="")


@torch.no_grad()
def measured(path: Path, names: Mapping[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """How many tokens the text has, and of each setting: perplexity; `top`, the share of tokens after which the
    likeliest is that of fp32; `kl`, the mean divergence from fp32 in nats; `state`, the relative error of the last
    states, the root mean square over tokens."""
    checkpoint = Checkpoint(path)
    family = family_of(checkpoint.model_type(), str(path / "config.json"))
    model = family.load(checkpoint).eval()
    with tempfile.TemporaryDirectory() as folder:
        processor = Path(folder) / "processor"
        family.write_processor(checkpoint, processor)
        tokens = Tokens(image=model.config.image_token_id, stop=(0,))
        activations = text_activations(stream_model(checkpoint, family), family, PromptBuilder(processor, tokens), None)
        from transformers import AutoTokenizer

        ids = AutoTokenizer.from_pretrained(processor)(TEXT.read_text(encoding="utf-8")).input_ids
    text = torch.tensor([ids])
    exact = exact_states = torch.empty(0)
    rows: list[dict[str, Any]] = []
    for name in names:
        with rounded(family.decoder(model), family, activations, SETTINGS[name]):
            states = family.decoder(model)(inputs_embeds=hf.embeddings_of(family.decoder(model))(text))
            states = states.last_hidden_state
        logs = F.log_softmax(family.head(model)(states)[0].float(), -1)
        if not rows:
            exact, exact_states = logs, states
        error = (states - exact_states)[0].norm(dim=-1) / exact_states[0].norm(dim=-1)
        rows.append(
            {
                "format": name,
                "perplexity": float(F.nll_loss(logs[:-1], text[0, 1:]).exp()),
                "top": float((logs.argmax(-1) == exact.argmax(-1)).float().mean()),
                "kl": float((exact.exp() * (exact - logs)).sum(-1).mean()),
                "state": float(error.square().mean().sqrt()),
            }
        )
        console.print(rows[-1])
    return len(ids), rows


@contextmanager
def rounded(decoder: Any, family: Family, activations: Mapping[str, Activation], setting: Setting) -> Iterator[None]:
    """Within this context the products of the decoder's layers are rounded."""
    patched = []
    for index, layer in enumerate(hf.layers_of(decoder)):
        if setting.weights is None:
            break
        for first, names in GROUPS.items():
            weights = Fp8() if index < setting.wide else setting.weights
            if setting.attention is not None and "attn" in first:
                weights = setting.attention
            modules = [layer.get_submodule(name) for name in names]
            activation = activations[f"layers.{index}.{first}"]
            scale = torch.ones_like(activation.max_abs)
            if setting.smooth:
                tie = partial(tied, decoder.config) if first == "self_attn.o_proj" else lambda sizes: sizes
                scale = smoothing([(LoadedWeight(each.weight), weights) for each in modules], activation, tie)  # type: ignore[misc]
            largest = None if setting.headroom is None else float((activation.max_abs / scale).max()) * setting.headroom
            for module in modules:
                module.forward = _forward(module, weights, scale, largest)
                patched.append(module)
    try:
        yield
    finally:
        for module in patched:
            del module.forward


def _forward(
    module: nn.Linear, weights: Quantization, scale: torch.Tensor, largest: float | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = weights.rounded(module.weight * scale, torch.float16)

    def forward(rows: torch.Tensor) -> torch.Tensor:
        rows = rows / scale
        if largest is not None:
            rows = _activations(rows, weights, largest)
        return F.linear(rows, weight, module.bias)

    return forward


def _activations(rows: torch.Tensor, weights: Quantization, largest: float) -> torch.Tensor:
    if isinstance(weights, FloatQuantization):
        form = Fp8(largest=largest) if isinstance(weights, Fp8) else Nvfp4(largest=largest)
        return form.rounded(rows.flatten(0, -2)).reshape(rows.shape)
    step = largest / 127
    return torch.round(rows / step).clamp_(-128, 127).mul_(step)


if __name__ == "__main__":
    main()
