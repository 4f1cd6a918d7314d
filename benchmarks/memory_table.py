"""What each published model takes on a board, by arithmetic: weights of its graphs, caches of the default plan.

    python benchmarks/memory_table.py            # the table of Jetson.md

The embedding table is memory-mapped and not counted; neither are activations and the libraries, some hundred MiB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configurations import configuration
from random_checkpoint import build_on_meta

from fastv_export.families import FAMILIES
from fastv_export.plan import Options, decoder_dimensions, make_plan
from fastv_export.quantization.presets import WIDE
from fastv_runtime.config.cost import plan_cost
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.plan import Weights

GIB = 2**30
BLOCK = 64
MODELS = {
    "smolvlm-256m": "SmolVLM-256M",
    "smolvlm-500m": "SmolVLM-500M",
    "internvl3-1b": "InternVL3-1B",
    "qwen2-vl-2b": "Qwen2-VL-2B",
    "qwen3-vl-2b": "Qwen3-VL-2B",
    "smolvlm2-2.2b": "SmolVLM2-2.2B",
    "qwen2.5-vl-3b": "Qwen2.5-VL-3B",
    "llava-1.5-7b": "LLaVA-1.5-7B",
    "video-llava-7b": "Video-LLaVA-7B",
    "llava-v1.6-mistral-7b": "LLaVA-1.6-Mistral-7B",
    "llava-1.5-13b": "LLaVA-1.5-13B",
}
MODULES = {"Orin Nano 8GB": 8, "Orin NX 16GB": 16, "AGX Orin 64GB": 64, "AGX Thor": 128}
"""Memory of each module, GB."""
SYSTEM = 2.5
"""GiB for Linux without a desktop, libraries, activations and the runtime itself: a guess, on the safe side."""


def main() -> None:
    print("\n".join(table()))


def table() -> Iterator[str]:
    """Lines of the table."""
    yield "| model | visual tokens | fp16 GiB | int4 GiB | caches GiB | smallest module, fp16 | int4 |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, title in MODELS.items():
        config = configuration(name)
        family = FAMILIES[config.model_type]
        weights = Weights(bits=4, block=BLOCK, wide=WIDE)
        decoder = decoder_dimensions(config, family)
        vision, video = family.vision(config, None), family.video(config)
        plan = make_plan(Options(layer=2, keep=0.5, target="trt", weights=weights), decoder, vision, video)
        caches = plan_cost(decoder, plan, capacity(plan)).cache_capacity_bytes / GIB
        half, four = (each / GIB for each in weight_bytes(build_on_meta(config), family, plan.cut_layers[0]))
        modules = " | ".join(smallest(size + caches) for size in (half, four))
        yield f"| {title} | {plan.max_visual:,} | {half:.1f} | {four:.1f} | {caches:.2f} | {modules} |"


def weight_bytes(model: Any, family: Any, layer: int) -> tuple[float, float]:
    """Bytes in fp16, and in int4 as a plan with these weights has them; embedding tables apart."""
    decoder, head = family.decoder(model), family.head(model)
    table = {id(each) for each in decoder.embed_tokens.parameters()}
    late = {
        id(each)
        for part in decoder.layers[layer:]
        for name, each in part.named_parameters()
        if "values" not in WIDE or ".v_proj." not in name
    }
    half = four = 0.0
    # A tied head is the embedding table as well, and is in the suffix all the same.
    everything = {id(each): each for each in model.parameters() if id(each) not in table}
    for each in [*everything.values(), *(each for each in head.parameters() if id(each) in table)]:
        half += 2 * each.numel()
        bits = 16.0 if each.ndim != 2 else (4 if id(each) in late else 8) + 16 / BLOCK
        four += bits / 8 * each.numel()
    return half, four


def smallest(gib: float) -> str:
    """The smallest module that holds so much."""
    return next((name for name, size in MODULES.items() if gib + SYSTEM <= size * 1e9 / GIB), "none")


if __name__ == "__main__":
    main()
