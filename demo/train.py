"""Train the demonstration checkpoint: `python demo/train.py`. Resumes by itself where an earlier run stopped.

Phase one teaches the vision tower and projector to name what is on each patch (seeing.py). Phase two
teaches the decoder to answer questions about pictures (answering.py), with tower and projector fixed.
Everything follows from the seed; no data is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from demo.answering import answer_phase
from demo.model import build_model
from demo.pool import draw_pool
from demo.seeing import see_phase
from demo.state import Budget, Run
from demo.tokenizer import build_processor, build_tokenizer

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    tokenizer = build_tokenizer(args.seed)
    run = Run(
        model=build_model(tokenizer, args.seed),
        processor=build_processor(tokenizer),
        state_file=args.state / "state.pt",
        checkpoint=args.checkpoint,
        budget=Budget(args.minutes),
        seed=args.seed,
    )
    run.resume(fresh=args.fresh)
    # Digits are what the tower finds hardest: it sees more of them than the decoder is asked about.
    if run.left("see", args.see_steps):
        see_phase(run, draw_pool(args.scenes, args.seed + 1, numbers=0.5), steps=args.see_steps)
    answer_phase(run, draw_pool(args.scenes, args.seed + 2), steps=args.steps)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--see-steps", type=int, default=2400, help="steps of phase one (default %(default)s)")
    parser.add_argument("--steps", type=int, default=1600, help="steps of phase two (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=None, help="stop after this long; run again to resume")
    parser.add_argument("--scenes", type=int, default=12_000, help="scenes to train on (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fresh", action="store_true", help="start over, whatever state there is")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "demo" / "checkpoint")
    parser.add_argument("--state", type=Path, default=ROOT / "demo" / ".train", help="where to keep resume state")
    return parser.parse_args()


if __name__ == "__main__":
    main()
