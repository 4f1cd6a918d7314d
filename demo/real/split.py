"""Write a split of questions as fastv-calibrate reads it: `python demo/real/split.py FOLDER --split held-out`.

The calibration split is for choosing a plan, the held-out one for what is reported of it. Training used neither.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from demo.real import heldout
from demo.real.asking import GROUPS

SEEDS = {"calibration": heldout.CALIBRATION_SEED, "held-out": heldout.SEED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200, help="questions (default %(default)s)")
    parser.add_argument("--split", choices=SEEDS, default="calibration", help="(default %(default)s)")
    args = parser.parse_args()
    print(write_split(args.folder, args.count, SEEDS[args.split]))


def write_split(folder: Path, count: int, seed: int) -> Path:
    """`count` questions in `folder`: data.jsonl, which is returned, and its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, sample in enumerate(heldout.samples(count, seed)):
        name = f"{index:04}.png"
        sample.image.save(folder / name)
        record = {"image": name, "prompt": sample.question, "answer": sample.answer, "kind": GROUPS[sample.kind]}
        lines.append(json.dumps(record))
    data = folder / "data.jsonl"
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return data


if __name__ == "__main__":
    main()
