"""llama.cpp on the CPU, by the server inside xllamacpp, asked in this process.

Its clock: `prompt_ms` from the prompt's first batch to the first token, the tower between two batches included. When
the tower starts and ends is read from the server's log, which has microseconds: that is `vision`, the rest of
`prompt_ms` is the language model's prefill. What precedes it is `preprocess`: template, tokenizer, resizing, and base64
of the image, which this server takes in no other form (of a BMP here, so that nothing is decompressed).

Which instructions a build knows is decided where it is compiled, and the wheels on the package index leave AVX-512
out: `cpu` among the settings says what this one has. `pip install --no-binary xllamacpp` builds for the machine.

Options: `attention` auto (default), on or off, for its flash attention; `cache` f16 (default) or f32, of keys and
values.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from time import monotonic, perf_counter, sleep
from typing import Any, BinaryIO

from peers.lines import Measurement, Refused, decoded, options, receipt, serve, unpruned_only

CONTEXT = 4096
"""Tokens that its caches have room for."""
FLASH = {"auto": -1, "off": 0, "on": 1}
CACHES = {"f32": 0, "f16": 1}
"""As its C headers number them."""
TRACE = 4
"""The verbosity at which its log says when the tower starts."""
LINE = re.compile(r"^(\d+)\.(\d{2})\.(\d{3}\.\d{3}) \w (.*)$", re.MULTILINE)
"""Minutes, seconds and milliseconds since the start, level and text."""
LAST = "stop processing"
"""In the last line that a request brings."""


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, args: argparse.Namespace):
        import xllamacpp

        unpruned_only(args)
        said = receipt(args)
        chosen = options(args, {"attention": "auto", "cache": "f16"})
        asked = xllamacpp.CommonParams()
        asked.model.path = str(args.model / "text.gguf")
        asked.mmproj.path = str(args.model / "vision.gguf")
        asked.n_ctx, asked.n_parallel = CONTEXT, 1
        asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = args.threads
        asked.n_gpu_layers, asked.mmproj_use_gpu, asked.fit_params = 0, False, False
        asked.cache_prompt, asked.cache_ram_mib, asked.n_ctx_checkpoints = False, 0, 0
        asked.flash_attn_type = _known("attention", chosen["attention"], FLASH)
        asked.cache_type_k = asked.cache_type_v = _known("cache", chosen["cache"], CACHES)
        asked.verbosity = TRACE
        self._server = xllamacpp.Server(asked)
        self.settings = {
            "version": f"xllamacpp {version('xllamacpp')}",
            "cpu": features(xllamacpp.get_system_info()),
            "precision": f"{args.precision} weights, {'fp32' if args.precision == 'fp32' else '8-bit'} activations",
            "threads": str(args.threads),
            "attention": f"flash attention {chosen['attention']}, cache {chosen['cache']}",
            "pruning": "none",
            "checkpoint": said["checkpoint"],
            "made with": said["made with"],
            "vision": "the tower alone, in fp32",
        }

    def run(self, images: Sequence[str], prompt: str, new_tokens: int) -> Measurement:
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _uri(path)}} for path in images]
        request = {
            "messages": [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}],
            "max_tokens": new_tokens,
            "ignore_eos": True,
            "cache_prompt": False,
            "temperature": 0,
            "top_k": 1,
        }
        with stderr_file() as file:
            start = perf_counter()
            reply = self._server.handle_chat_completions(request)
            seconds = perf_counter() - start
            if "error" in reply:
                raise Refused(f"it says: {reply['error'].get('message', reply['error'])}")
            log = wait_for(LAST, file)
        return turn_of(reply["timings"], 1000 * seconds, log, len(images), new_tokens)


def turn_of(timings: dict[str, Any], whole_ms: float, log: str, images: int, new_tokens: int) -> Measurement:
    """What a request took, by the server's clock, its log, and ours around the call."""
    if timings["predicted_n"] != new_tokens:
        raise Refused(f"it made {timings['predicted_n']} tokens where {new_tokens} were asked for")
    if timings["cache_n"]:
        raise Refused(f"it kept {timings['cache_n']} tokens of an earlier prompt")
    vision_ms, visual_tokens = tower(log)
    if bool(images) != bool(visual_tokens):
        raise Refused("its log does not say what the tower took")
    ttft = whole_ms - timings["predicted_ms"]
    stages = {"preprocess": ttft - timings["prompt_ms"], "suffix": timings["prompt_ms"] - vision_ms}
    return Measurement(
        stages_ms=stages | ({"vision": vision_ms} if images else {}),
        ttft_ms=ttft,
        decode_ms=timings["predicted_ms"] / (new_tokens - 1) if new_tokens > 1 else None,
        prompt_tokens=timings["prompt_n"],
        visual_tokens=visual_tokens,
        pruned_length=timings["prompt_n"],
    )


def tower(log: str) -> tuple[float, int]:
    """Milliseconds that images were encoded in, and the tokens that they became."""
    spent, tokens, began = 0.0, 0, None
    for minutes, seconds, milliseconds, text in LINE.findall(log):
        now = 1000 * (60 * int(minutes) + int(seconds)) + float(milliseconds)
        if "encoding mtmd batch" in text:
            began = now
        elif found := re.match(r"decoding image batch \d+/\d+, n_tokens_batch = (\d+)", text):
            tokens += int(found[1])
            if began is not None:
                spent, began = spent + now - began, None
    return spent, tokens


def features(system: str) -> str:
    """What of the processor a build uses, without what tells nothing."""
    return " ".join(found[1] for found in re.finditer(r"(\w+) = 1", system)) or "nothing named"


@contextmanager
def stderr_file() -> Iterator[BinaryIO]:
    """The standard error goes to a file that is read here, and then to where it went."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(kept, 2)
            file.seek(0)
            os.write(2, file.read())
            os.close(kept)


def wait_for(text: str, file: BinaryIO, seconds: float = 5.0) -> str:
    """A log that another thread writes, once it has `text`. Raises Refused if that does not come."""
    end = monotonic() + seconds
    while True:
        log = os.pread(file.fileno(), 1 << 24, 0).decode("utf-8", "replace")
        if text in log:
            return log
        if monotonic() > end:
            raise Refused(f"its log does not come to {text!r}: another version of llama.cpp?")
        sleep(0.01)


def _known(option: str, value: str, values: dict[str, int]) -> int:
    if value not in values:
        raise Refused(f"--option {option}={value}: known are {', '.join(values)}")
    return values[value]


@lru_cache(maxsize=32)
def _uri(path: str) -> str:
    """An image as the server takes it."""
    file = io.BytesIO()
    decoded([path])[0].save(file, "BMP")
    return "data:image/bmp;base64," + base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    serve(LlamaCpp, __doc__, ("xllamacpp", "PIL.Image"))
