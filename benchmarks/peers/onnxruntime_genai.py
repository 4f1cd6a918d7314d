"""onnxruntime-genai on the CPU: the decoder that its model builder writes, and a tower traced for one size of image.

It runs tower, embeddings and decoder within one call. It also logs the outputs of each graph, which its log hands on as
the next graph starts: `vision` is until those of the tower come, the language model's prefill from those of the
embeddings to the first token. Setting features among the embeddings, between the two, is in neither. Logging is off
while tokens are decoded.

Images are handed over as it takes them, as files, of PNG without compression, so that little is left to decode. Stop
tokens are passed by its `min_length`.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from time import perf_counter
from typing import Any

from peers.lines import Measurement, Refused, decoded, options, receipt, serve, unpruned_only

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
"""Where an image goes in Qwen2.5-VL's prompt."""
FEATURES, EMBEDDINGS = "image_features", "inputs_embeds"
"""Outputs of the tower and of the embeddings."""


class OnnxRuntimeGenAI:
    name = "onnxruntime-genai"

    def __init__(self, args: argparse.Namespace):
        import onnxruntime_genai

        unpruned_only(args)
        said = receipt(args)
        options(args, {})
        config = onnxruntime_genai.Config(str(args.model))
        threads = {"session_options": {"intra_op_num_threads": args.threads}}
        config.overlay(json.dumps({"model": dict.fromkeys(("decoder", "vision", "embedding"), threads)}))
        self._model = onnxruntime_genai.Model(config)
        self._tokenizer = onnxruntime_genai.Tokenizer(self._model)
        self._processor = self._model.create_multimodal_processor()
        settings = json.loads((args.model / "genai_config.json").read_text(encoding="utf-8"))
        self._image_token = settings["model"]["image_token_id"]
        self.settings = {
            "version": version("onnxruntime-genai"),
            "precision": f"{args.precision} weights, {'fp32' if args.precision == 'fp32' else '8-bit'} activations",
            "threads": str(args.threads),
            "attention": "GroupQueryAttention, cache fp32",
            "pruning": "none",
            "checkpoint": said["checkpoint"],
            "made with": said["made with"],
            "vision": "the tower alone, in fp32, traced for one size of image",
        }

    def run(self, images: Sequence[str], prompt: str, new_tokens: int) -> Measurement:
        import onnxruntime_genai as genai

        files = [_file(path) for path in images]
        message = [{"role": "user", "content": IMAGE * len(images) + prompt}]
        start = perf_counter()
        try:
            text = self._tokenizer.apply_chat_template(json.dumps(message), add_generation_prompt=True)
            inputs = self._processor(text, images=genai.Images.open_bytes(*files) if files else None)
            ids = inputs["input_ids"].as_numpy().ravel()
            if images and any(high != wide for _, high, wide in inputs["image_grid_thw"].as_numpy()):
                # One of another size has another number of patches, which the runtime itself refuses.
                raise Refused("its tower was traced for a square image")
            preprocessed = perf_counter()
            asked = genai.GeneratorParams(self._model)
            length = len(ids) + new_tokens
            asked.set_search_options(max_length=length, min_length=length, do_sample=False)
            generator = genai.Generator(self._model, asked)
            with first_seen(genai, FEATURES, EMBEDDINGS) as seen:
                generator.set_inputs(inputs)
            known = []
            while not generator.is_done():
                generator.generate_next_token()
                generator.get_next_tokens()
                known.append(perf_counter())
        except RuntimeError as error:
            raise Refused(f"it says: {str(error).splitlines()[0]}") from None
        if len(known) != new_tokens:
            raise Refused(f"it made {len(known)} tokens where {new_tokens} were asked for")
        if EMBEDDINGS not in seen or (images and FEATURES not in seen):
            raise Refused("its log does not say when its graphs end")
        stages = {"preprocess": preprocessed - start, "suffix": known[0] - seen[EMBEDDINGS]}
        if images:
            stages["vision"] = seen[FEATURES] - preprocessed
        return Measurement(
            stages_ms={stage: 1000 * seconds for stage, seconds in stages.items()},
            ttft_ms=1000 * (known[0] - start),
            decode_ms=1000 * (known[-1] - known[0]) / (new_tokens - 1) if new_tokens > 1 else None,
            prompt_tokens=len(ids),
            visual_tokens=int((ids == self._image_token).sum()),
            pruned_length=len(ids),
        )


@contextmanager
def first_seen(genai: Any, *names: str) -> Iterator[dict[str, float]]:
    """When its log first had each of the names."""
    seen: dict[str, float] = {}

    def note(text: str) -> None:
        now = perf_counter()
        for name in names:
            if name in text:
                seen.setdefault(name, now)

    genai.set_log_callback(note)
    genai.set_log_options(enabled=True, model_output_shapes=True)
    try:
        yield seen
    finally:
        genai.set_log_options(enabled=False, model_output_shapes=False)
        # One that outlives Python would bring it down.
        genai.set_log_callback(None)


@lru_cache(maxsize=32)
def _file(path: str) -> bytes:
    """An image as it takes them."""
    file = io.BytesIO()
    decoded([path])[0].save(file, "PNG", compress_level=0)
    return file.getvalue()


if __name__ == "__main__":
    serve(OnnxRuntimeGenAI, __doc__, ("onnxruntime_genai", "PIL.Image"))
