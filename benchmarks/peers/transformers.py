"""transformers' own generation with SDPA attention, in fp32: what a user of the checkpoint has without any runtime.

Prefill is the language model's forward of the prompt, head on the last row alone as `generate` does it; `vision` is
the tower. Both are timed by hooks, and decoding by a streamer, so that `generate` is the stock one. It has no 8- or
4-bit weights on a CPU without a further library, and says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from time import perf_counter
from typing import Any

from peers.lines import Measurement, Refused, decoded, receipt, serve, unpruned_only


class Marks:
    """A streamer that notes when each token's id is known; the first call brings the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(perf_counter())

    def end(self) -> None:
        pass


class Transformers:
    name = "transformers"

    def __init__(self, args: argparse.Namespace):
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        unpruned_only(args)
        if args.precision != "fp32":
            raise Refused(f"it multiplies {args.precision} weights in no library that it brings; fp32 alone")
        said = receipt(args)
        torch.set_num_threads(args.threads)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(args.model, local_files_only=True)
        self._images = AutoImageProcessor.from_pretrained(args.model, local_files_only=True, backend="pil")
        self._model: Any = AutoModelForImageTextToText.from_pretrained(
            args.model, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        self._spent: dict[str, float] = {}
        self._time(self._model.model.visual, "vision")
        self._time(self._model.model.language_model, "suffix")
        self.settings = {
            "version": f"{version('transformers')}, torch {version('torch')}",
            "precision": "fp32 weights, fp32 kernels",
            "threads": str(args.threads),
            "attention": "sdpa",
            "pruning": "none",
            "checkpoint": said["checkpoint"],
        }

    def run(self, paths: Sequence[str], prompt: str, new_tokens: int) -> Measurement:
        import torch

        images = decoded(paths)
        self._spent.clear()
        start = perf_counter()
        inputs = self._inputs(images, prompt)
        preprocessed = perf_counter()
        marks = Marks()
        with torch.inference_mode():
            made = self._model.generate(
                **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, streamer=marks
            )
        length = inputs["input_ids"].shape[1]
        if made.shape[1] != length + new_tokens:
            raise Refused(f"it made {made.shape[1] - length} tokens where {new_tokens} were asked for")
        first, *_, last = marks.times[1:] if new_tokens > 1 else 2 * marks.times[1:]
        return Measurement(
            stages_ms={"preprocess": 1000 * (preprocessed - start)}
            | {stage: 1000 * seconds for stage, seconds in self._spent.items()},
            ttft_ms=1000 * (first - start),
            decode_ms=1000 * (last - first) / (new_tokens - 1) if new_tokens > 1 else None,
            prompt_tokens=length,
            visual_tokens=int((inputs["input_ids"] == self._model.config.image_token_id).sum()),
            pruned_length=length,
        )

    def _inputs(self, images: list[Any], prompt: str) -> dict[str, Any]:
        """As the checkpoint's processor would make them; its class wants torchvision for videos."""
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": prompt}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        seen: dict[str, Any] = dict(self._images(images, return_tensors="pt")) if images else {}
        pad = self._tokenizer.convert_ids_to_tokens(self._model.config.image_token_id)
        for grid in seen.get("image_grid_thw", []):
            tokens = int(grid.prod()) // self._images.merge_size**2
            text = text.replace(pad, "<placeholder>" * tokens, 1)
        inputs = dict(self._tokenizer(text.replace("<placeholder>", pad), return_tensors="pt"))
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == self._model.config.image_token_id).int()
        return inputs | seen

    def _time(self, module: Any, stage: str) -> None:
        """Note how long the first call of a module in a turn takes; for the decoder that is the prefill."""
        began: list[float] = []

        def before(*_: Any) -> None:
            began[:] = [perf_counter()]

        def after(*_: Any) -> None:
            self._spent.setdefault(stage, perf_counter() - began[0])

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)


if __name__ == "__main__":
    serve(Transformers, __doc__, ("torch", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "PIL.Image"))
