"""Write the sample images and questions people try first: `python demo/images.py`.

Scenes come from a held-out seed. Only questions that the checkpoint answers right are written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from demo.questions import ask
from demo.scenes import draw_scene

ROOT = Path(__file__).resolve().parent.parent
SEED = 30_001
# Kinds asked of each image.
PLAN = (
    ("describe", "count", "number"),
    ("where", "color", "exists"),
    ("what", "number", "describe"),
    ("shape", "count", "where"),
)


@torch.no_grad()
def answer(model: LlavaForConditionalGeneration, processor: LlavaProcessor, image: Image.Image, question: str) -> str:
    """What the model says about an image, greedily, through transformers' own `generate`."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=[image], text=[prompt], return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    said = processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(said).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "demo" / "checkpoint")
    parser.add_argument("--out", type=Path, default=ROOT / "demo" / "images")
    args = parser.parse_args()
    processor = AutoProcessor.from_pretrained(args.checkpoint, backend="pil")
    model = LlavaForConditionalGeneration.from_pretrained(args.checkpoint).eval()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    entries = []
    for index, kinds in enumerate(PLAN):
        # Draw until the scene has a question of each kind and each is answered right.
        while True:
            scene = draw_scene(rng, held_out=True, things=(4, 6), numbers=0.3)
            questions = [ask(rng, scene, kind) for kind in kinds]
            if all(q and answer(model, processor, scene.image, q.text) == q.answer for q in questions):
                break
        name = f"scene{index + 1}.png"
        scene.image.save(args.out / name)
        entries += [{"image": name, "question": q.text, "answer": q.answer} for q in questions if q]
    (args.out / "questions.json").write_text(json.dumps(entries, indent=2) + "\n")


if __name__ == "__main__":
    main()
