"""Write the demo's calibration split, as fastv-calibrate reads it: `python demo/calibration_split.py FOLDER`.

Scenes as the held-out ones, from a seed that neither training nor the reported figures use.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo import heldout

SEED = 60_001
"""Of the questions that choose a plan."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    write_split(args.folder, args.samples, args.seed)


def write_split(folder: Path, count: int, seed: int = SEED) -> Path:
    """`count` questions in `folder`: data.jsonl, which is returned, and its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, sample in enumerate(heldout.samples(count, seed)):
        name = f"{index:04}.png"
        sample.image.save(folder / name)
        line = {"image": name, "prompt": sample.question, "answer": sample.answer, "kind": sample.kind}
        lines.append(json.dumps(line))
    data = folder / "data.jsonl"
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return data


if __name__ == "__main__":
    main()
