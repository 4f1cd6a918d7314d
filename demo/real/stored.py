"""What is kept of the model, and how it becomes one again: tower, projector and the decoder's change, 12 MB.

`weights.safetensors` holds `tower.NAME` fp16, `projector.NAME` and `factors.LAYER.down` and `.up` bf16; `tower.json`
the tower's configuration.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from demo.real.assembling import assemble
from demo.real.lowrank import merge

WEIGHTS, TOWER = "weights.safetensors", "tower.json"


def write_weights(folder: Path, tower: CLIPVisionModel, trained: dict[str, Tensor]) -> None:
    """Write tower and `trained` (names with `projector.` or `factors.` in front), each file whole or not at all."""
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in trained.items()}
    for name, tensor in tower.state_dict().items():
        tensors[f"tower.{name}"] = tensor.to(torch.float16).contiguous()
    scratch = folder / f"{WEIGHTS}.new"
    save_file(tensors, scratch)
    scratch.chmod(0o644)
    scratch.replace(folder / WEIGHTS)
    write_text(folder / TOWER, json.dumps(tower.config.to_diff_dict(), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def restore(
    folder: Path, language: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """The LLaVA, fp32, of the weights in `folder` and the language model that they change."""
    tensors = load_file(folder / WEIGHTS)

    def part(name: str) -> dict[str, Tensor]:
        start = f"{name}."
        return {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}

    tower = CLIPVisionModel(CLIPVisionConfig(**json.loads((folder / TOWER).read_text(encoding="utf-8"))))
    tower.load_state_dict(part("tower"))
    model = assemble(language, tower, tokenizer)
    model.model.multi_modal_projector.load_state_dict(part("projector"))
    merge(model.model.language_model, part("factors"))
    return model
