"""Ask the bundle of 01_export.py about an image, and draw which visual tokens were kept. Needs no torch.

python examples/02_ask.py out
"""

import sys
from pathlib import Path

from fastv_runtime import Pipeline

IMAGE = Path(__file__).resolve().parents[1] / "demo" / "images" / "scene3.png"

if len(sys.argv) != 2:
    sys.exit("usage: python examples/02_ask.py FOLDER")
folder = Path(sys.argv[1])
with Pipeline.load(folder / "pruned.fastv", threads=1) as pipeline:  # more do not help a model this small
    generation = pipeline.stream(IMAGE, "Tell me about the white object.")
    for piece in generation:
        print(piece, end="", flush=True)
answer = generation.answer
generation.draw_kept().save(folder / "kept.png")
print(f"\n{len(answer.kept_visual_tokens)} of {answer.visual_tokens} visual tokens kept: see {folder / 'kept.png'}")
print(f"time to first token: {answer.timings_ms['ttft']:.1f} ms")
