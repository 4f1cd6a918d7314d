"""OpenVINO GenAI's VLMPipeline on the CPU; with --keep below 1, its own pruning: CDPruner, before the language model.

Its clock: `get_ttft` from the call of `generate` to the first token; of that, `get_prepare_embeddings_duration` is
resizing, tower, tokenizer, embeddings and its pruning, reported as `vision`; the rest is the language model's prefill.
Pruning is therefore not in its prefill, and in ours it is.

Options: `attention` SDPA (default) or PA (its prefix cache switched off: nothing of an earlier turn may be reused),
`inference` f32 (default) or bf16, what the kernels compute in; `rounding`, how many inputs of a product share a range
where kernels round them (default: OpenVINO's own).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from peers.lines import Measurement, Refused, decoded, options, receipt, serve

MARKERS = 2
"""Tokens of text that Qwen's images bring: where vision starts and ends."""


class OpenVINOGenAI:
    name = "openvino-genai"

    def __init__(self, args: argparse.Namespace):
        import openvino_genai

        said = receipt(args)
        chosen = options(args, {"attention": "SDPA", "inference": "f32", "rounding": ""})
        self._prune = round(100 * (1 - args.keep))
        if abs(self._prune - 100 * (1 - args.keep)) > 1e-6:
            raise Refused(f"it prunes whole percents, and --keep {args.keep:g} was asked for")
        properties: dict[str, object] = {
            "ATTENTION_BACKEND": chosen["attention"],
            "INFERENCE_NUM_THREADS": args.threads,
            "INFERENCE_PRECISION_HINT": chosen["inference"],
        }
        if chosen["rounding"]:
            properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = int(chosen["rounding"])
        if chosen["attention"] == "PA":
            # Its scheduler would keep the prompt of the last turn, which is the same one.
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.enable_prefix_caching = False
            properties["scheduler_config"] = scheduler
        self._pipeline = openvino_genai.VLMPipeline(args.model, "CPU", **properties)
        self._lengths: dict[tuple[str, ...], tuple[int, int]] = {}
        self.settings = {
            "version": version("openvino-genai"),
            "precision": f"{args.precision} weights, {chosen['inference']} kernels",
            "rounding": chosen["rounding"] or "its own",
            "threads": str(args.threads),
            "attention": chosen["attention"],
            "pruning": "none" if not self._prune else f"CDPruner, {self._prune}% of visual tokens, before the model",
            "checkpoint": said["checkpoint"],
            "made with": said["made with"],
            "vision": "preprocessing, tokenizer, embeddings and its own pruning included",
        }

    def run(self, paths: Sequence[str], prompt: str, new_tokens: int) -> Measurement:
        prompt_tokens, visual_tokens = self._counts(paths, prompt)
        images = self._images(paths)
        metrics = self._generate(images, prompt, new_tokens, self._prune if paths else 0)
        made = metrics.get_num_generated_tokens()
        if made != new_tokens:
            raise Refused(f"it made {made} tokens where {new_tokens} were asked for")
        pruned_length = metrics.get_num_input_tokens()
        expected = prompt_tokens - round(visual_tokens * self._prune / 100)
        if pruned_length != expected:
            raise Refused(f"its model saw {pruned_length} tokens where {expected} should be left of {prompt_tokens}")
        ttft = metrics.get_ttft().mean
        vision = metrics.get_prepare_embeddings_duration().mean
        return Measurement(
            stages_ms={"vision": vision, "suffix": ttft - vision},
            ttft_ms=ttft,
            decode_ms=metrics.get_tpot().mean if new_tokens > 1 else None,
            prompt_tokens=prompt_tokens,
            visual_tokens=visual_tokens,
            pruned_length=pruned_length,
        )

    def _counts(self, paths: Sequence[str], prompt: str) -> tuple[int, int]:
        """Tokens of the prompt and visual ones among them, both before pruning; found out once, off the clock."""
        key = (prompt, *paths)
        if key not in self._lengths:
            whole = self._generate(self._images(paths), prompt, 1, 0).get_num_input_tokens()
            text = self._generate([], prompt, 1, 0).get_num_input_tokens() if paths else whole
            self._lengths[key] = (whole, whole - text - MARKERS * len(paths))
        return self._lengths[key]

    def _generate(self, images: list[object], prompt: str, new_tokens: int, prune: int) -> Any:
        import openvino_genai

        config = openvino_genai.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        config.pruning_ratio = prune
        return self._pipeline.generate(prompt, images=images, generation_config=config).perf_metrics

    @staticmethod
    def _images(paths: Sequence[str]) -> list[object]:
        import openvino

        return [openvino.Tensor(np.asarray(image)[None]) for image in decoded(paths)]


if __name__ == "__main__":
    serve(OpenVINOGenAI, __doc__, ("openvino_genai", "PIL.Image"))
