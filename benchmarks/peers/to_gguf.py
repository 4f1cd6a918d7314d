"""Convert the checkpoint with llama.cpp's own converter: `text.gguf` and `vision.gguf` (its mmproj, in fp32).

    python -m peers.to_gguf SOURCE CHECKPOINT OUT PRECISION

SOURCE is a checkout of llama.cpp. Two things are told to its converter from outside:

- It knows tokenizers by a hash of what they make of a sample text. Ours, with merges of its own, is not among them; it
  splits as Qwen2's does.
- It writes q8_0, not q4_0. Layers are q4_0 then, and the embedding, which is the head too, q8_0: llama-quantize keeps
  more bits there as well (q6_K, which only it can write).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

TYPES = {"fp32": "f32", "int8": "q8_0", "int4": "q8_0"}
"""What the converter is asked for."""


def main() -> None:
    source, checkpoint, out, precision = sys.argv[1:]
    sys.path[:0] = [source, str(Path(source) / "gguf-py")]
    import convert_hf_to_gguf as converter
    import gguf
    from conversion.base import TextModel

    def layers_in_four_bits(model: Any, name: str, new_name: str, layer: int | None, axes: int) -> Any:
        return gguf.GGMLQuantizationType.Q4_0 if layer is not None and axes > 1 else False

    TextModel.get_vocab_base_pre = lambda model, tokenizer: "qwen2"
    if precision == "int4":
        TextModel.tensor_force_quant = layers_in_four_bits
    Path(out).mkdir()
    for name, more in (("text", ["--outtype", TYPES[precision]]), ("vision", ["--outtype", "f32", "--mmproj"])):
        sys.argv[1:] = [checkpoint, "--outfile", str(Path(out) / f"{name}.gguf"), *more]
        converter.main()


if __name__ == "__main__":
    main()
