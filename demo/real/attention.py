"""Where in depth the model looks at the picture: `python demo/real/attention.py [CHECKPOINT]`.

Writes attention.json: for each layer the share of the last prompt row's attention that the 144 visual tokens get, mean
over heads and held-out questions. The model is transformers' own, with eager attention, in fp32.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch
from PIL import Image
from rich.progress import track
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from demo.real import heldout
from demo.real.build import CHECKPOINT, HERE
from demo.real.stored import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=CHECKPOINT, help="(default demo/out/real)")
    parser.add_argument("--samples", type=int, default=100, help="(default %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=HERE / "attention.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    processor = AutoProcessor.from_pretrained(args.checkpoint, backend="pil")
    model = LlavaForConditionalGeneration.from_pretrained(args.checkpoint, attn_implementation="eager").eval()
    samples = heldout.samples(args.samples)
    shares = torch.stack([visual_shares(model, processor, s.image, s.question) for s in track(samples, "questions")])
    record = {
        "samples": args.samples,
        "seed": heldout.SEED,
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "share_by_layer": [round(x, 4) for x in shares.mean(dim=0).tolist()],
        "deviation_by_layer": [round(x, 4) for x in shares.std(dim=0).tolist()],
    }
    write_text(args.json, json.dumps(record, indent=1) + "\n")
    print(" ".join(f"{x:.2f}" for x in record["share_by_layer"]))


@torch.no_grad()
def visual_shares(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, image: Image.Image, question: str
) -> Tensor:
    """Share [layers] of the last row's attention that visual tokens get, mean over heads."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=[image], text=[prompt], return_tensors="pt")
    visual = inputs["input_ids"][0] == model.config.image_token_id
    attentions = model(**inputs, output_attentions=True, use_cache=False).attentions
    return torch.stack([weights[0, :, -1, visual].sum(-1).mean() for weights in attentions])


if __name__ == "__main__":
    main()
