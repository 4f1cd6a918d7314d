r"""`keep` auto beside a fixed keep, at the same mean cost: how many of the same questions are answered right.

    python demo/calibration_split.py demo/out/heldout --samples 400 --seed 40001
    python benchmarks/keep_auto.py demo/checkpoint demo/out/heldout/data.jsonl --name demo --layer 2 --keep 0.25 0.1 \
        --json docs/benchmarks/keep_auto.json --markdown docs/benchmarks/keep_auto.md

QUESTIONS: JSON lines as fastv-calibrate takes them, with answers. For each keep the share is found whose counts cost as
many FLOPs of prefill, mean of all questions; answers are not looked at for it. Each plan is then shown the true answer,
token by token: right is a question of which every token is the likeliest, and then a stop token. The model is
transformers' own, in fp32, with dropped tokens masked from layer K on. Runs of other names stay in the files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from rich.console import Console
from rich.progress import track

from fastv_calib.choice.intervals import bootstrap, told_apart, wilson
from fastv_calib.samples.data import Sample, read_data
from fastv_calib.samples.inputs import DecoderInputs, InputMaker
from fastv_export import hf
from fastv_export.calibration import Estimate
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import family_of
from fastv_export.plan import decoder_dimensions
from fastv_export.rankers import RANKERS
from fastv_export.verify.choices import choose
from fastv_export.verify.reference import Pruning, ReferenceCut, load_model, pruned_by
from fastv_runtime.config.cost import decoder_flops, tokens_per_layer
from fastv_runtime.config.lengths import kept_count
from fastv_runtime.config.plan import KEEP_STEPS
from fastv_runtime.generation.calls.keep import held_count, in_steps
from fastv_runtime.preprocessing.images.loading import open_image

FORMS = ("", " ")
"""What may stand between the prompt and its answer."""
TRIED = 20
"""Questions by which the form is found."""
console = Console(stderr=True)


@dataclass(frozen=True)
class Question:
    """A prompt of S tokens, N of them visual, and its answer."""

    inputs: DecoderInputs
    answer: list[int]
    """Tokens of the true answer, without the one that ends it."""
    scores: np.ndarray
    """f32 [N]: what its visual tokens get at the cut."""
    right: bool
    """Unpruned."""

    @property
    def visual(self) -> int:
        """N."""
        return self.scores.size

    @property
    def text(self) -> int:
        """S - N."""
        return self.inputs.visual.numel() - self.visual


class Asker:
    """A stock model that is shown answers, pruned at layer K by a ranker."""

    def __init__(self, path: Path, layer: int, ranker: str):
        checkpoint = Checkpoint(path)
        family = family_of(checkpoint.model_type(), str(path / "config.json"))
        model = load_model(path, family)
        self.dimensions = decoder_dimensions(family.config(checkpoint), family)
        self._maker = InputMaker(checkpoint, family, model)
        self._decoder, self._head = family.decoder(model), family.head(model)
        self._layer, self._ranker = layer, ranker
        self._form = ""

    def read(self, samples: Sequence[Sample]) -> list[Question]:
        """The samples as questions; the form of the answers is that which the model gives more often, unpruned."""
        found = {}
        for form in FORMS:
            self._form = form
            found[form] = sum(self._question(sample).right for sample in samples[:TRIED])
        self._form = max(FORMS, key=lambda form: found[form])
        return [self._question(sample) for sample in track(samples, "unpruned", console=console)]

    def _question(self, sample: Sample) -> Question:
        assert sample.answer is not None and sample.video is None, f"{sample.where}: give images, and an answer"
        inputs = self._maker([open_image(image) for image in sample.images], sample.prompt)
        tokenizer = self._maker.preparation.prompts.tokenizer
        answer = tokenizer(self._form + sample.answer.strip(), add_special_tokens=False)["input_ids"]
        right, pruning = self._asked(inputs, answer, int(inputs.visual.sum()))
        return Question(inputs, answer, pruning.scores[inputs.visual].numpy(), right)

    def right(self, question: Question, count: int) -> bool:
        """Whether it is answered right with `count` of its visual tokens."""
        return self._asked(question.inputs, question.answer, count)[0]

    @torch.no_grad()
    def _asked(self, inputs: DecoderInputs, answer: list[int], count: int) -> tuple[bool, Pruning]:
        prompt, said = inputs.visual.numel(), torch.tensor([answer], dtype=torch.int64)
        length = prompt - int(inputs.visual.sum()) + count
        ranker = RANKERS[self._ranker]
        cut = ReferenceCut(
            self._layer,
            length,
            signals=ranker.signals,
            rotary=ranker.rotary,
            choose=partial(choose, self._ranker, length=length),
        )
        after = inputs.position_ids.max() + torch.arange(1, len(answer) + 1)
        positions = torch.cat([inputs.position_ids, after.expand(inputs.position_ids.shape[0], 1, -1)], -1)
        embedded = torch.cat([inputs.embedded, hf.embeddings_of(self._decoder)(said)], 1)
        visual = torch.cat([inputs.visual, torch.zeros(len(answer), dtype=torch.bool)])
        with pruned_by(self._decoder, inputs.visual, [cut]) as (pruning,):
            hidden, _ = hf.run_decoder(
                self._decoder,
                embedded,
                positions[0] if positions.shape[0] == 1 else positions,
                deepstack=[each[0, inputs.visual] for each in inputs.deepstack],
                visual=visual,
            )
        likeliest = self._head(hidden[:, prompt - 1 :])[0].argmax(-1).tolist()
        return likeliest[:-1] == answer and likeliest[-1] in self._maker.stop, pruning

    def flops(self, question: Question, count: int) -> int:
        """Of the decoder's prefill with `count` visual tokens from layer K on."""
        rows = (question.text + question.visual, question.text + count)
        return decoder_flops(self.dimensions, tokens_per_layer(self.dimensions, (self._layer,), rows)).gated


def auto_counts(questions: Sequence[Question], share: float, most: float) -> list[int]:
    """Visual tokens that a share keeps of each, in steps, and `most` of them at most."""
    return [
        min(in_steps(held_count(each.scores, share), each.visual, KEEP_STEPS), kept_count(each.visual, most))
        for each in questions
    ]


def share_at(cost: float, mean_cost: Callable[[float], float]) -> float:
    """The largest share, but for rounding, whose mean cost is at most `cost`; costs grow with shares."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_cost(middle) <= cost else (low, middle)
    return low


def compare(asker: Asker, questions: Sequence[Question], keep: float, most: float) -> dict[str, Any]:
    """One fixed keep, the share of the same mean cost, and the same counts dealt to questions by chance."""

    def cost(counts: Sequence[int]) -> float:
        return float(np.mean([asker.flops(each, count) for each, count in zip(questions, counts, strict=True)]))

    def asked(name: str, counts: Sequence[int]) -> list[bool]:
        pairs = list(zip(questions, counts, strict=True))
        return [asker.right(*pair) for pair in track(pairs, f"keep {keep:g}, {name}", console=console)]

    fixed = [kept_count(each.visual, keep) for each in questions]
    share = share_at(cost(fixed), lambda share: cost(auto_counts(questions, share, most)))
    auto = auto_counts(questions, share, most)
    dealt = [min(int(count), each.visual) for count, each in zip(_shuffled(auto), questions, strict=True)]
    hits = {name: asked(name, counts) for name, counts in (("fixed", fixed), ("auto", auto), ("dealt", dealt))}
    unpruned = cost([each.visual for each in questions])
    return {
        "keep": keep,
        "share": share,
        "kept": {
            name: [float(np.mean(counts)), *(int(each) for each in np.percentile(counts, (10, 50, 90)))]
            for name, counts in (("fixed", fixed), ("auto", auto), ("dealt", dealt))
        },
        "flops": {name: cost(counts) / unpruned for name, counts in (("fixed", fixed), ("auto", auto))},
        "right": {name: wilson(found).model_dump() for name, found in hits.items()},
        "difference": {
            name: bootstrap([a - b for a, b in zip(hits["auto"], hits[name], strict=True)]).model_dump()
            | {"told_apart": told_apart(hits["auto"], hits[name])}
            for name in ("fixed", "dealt")
        },
    }


def _shuffled(counts: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.asarray(counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--name", required=True, help="of the model, in the report")
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.25, 0.1])
    parser.add_argument("--most", type=float, default=1.0, help="keep that auto never passes")
    parser.add_argument("--ranker", choices=RANKERS, default="fastv")
    parser.add_argument("--samples", type=int, help="of the questions, from the first (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    asker = Asker(args.checkpoint, args.layer, args.ranker)
    questions = asker.read(read_data(args.questions, None)[: args.samples])
    run = {
        "name": args.name,
        "layer": args.layer,
        "ranker": args.ranker,
        "most": args.most,
        "questions": len(questions),
        "machine": machine(),
        "unpruned": wilson([each.right for each in questions]).model_dump(),
        "keeps": [compare(asker, questions, keep, args.most) for keep in args.keep],
    }
    runs = [run]
    if args.json:
        before = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else []
        same = ("name", "layer", "ranker", "most")
        runs = [*(each for each in before if [each[key] for key in same] != [run[key] for key in same]), run]
        args.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(page(runs), encoding="utf-8")
    print(page([run]), end="")


def page(runs: Sequence[dict[str, Any]]) -> str:
    """The runs as a page."""
    lines = [
        "# `--keep auto` beside a fixed keep",
        "",
        "Made by `benchmarks/keep_auto.py`. A fixed keep leaves as many visual tokens of every prompt; auto as few as "
        "hold a share of the attention to visual tokens at the cut, in sixteenths of them. The share is the one at "
        "which auto costs as many FLOPs of prefill as the fixed keep, mean of all questions. `dealt` has the counts of "
        "auto, each given to another question by chance: what auto knows of a question is its lead over `dealt`.",
        "",
        "The model is shown the true answer token by token; right is a question whose tokens, the end included, are "
        "all the likeliest. transformers in fp32, dropped tokens masked. In brackets 95% intervals (Wilson; bootstrap "
        "for differences, in points, of the same questions); told apart is by McNemar's exact test at 5%.",
    ]
    for run in runs:
        lines += [
            "",
            f"## {run['name']}: K={run['layer']}, ranker {run['ranker']}"
            + (f", auto keeps {run['most']:g} at most" if run["most"] < 1 else ""),
            "",
            f"{run['questions']} questions, unpruned {_percent(run['unpruned'])} right. "
            + ", ".join(f"{name} {value}" for name, value in run["machine"].items())
            + ".",
            "",
            "| plan | tokens kept, mean (10%, 50%, 90%) | FLOPs of unpruned | right | auto less this | told apart |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for each in run["keeps"]:
            names = {
                "fixed": f"keep {each['keep']:g}",
                "auto": f"auto, share {each['share']:.4f}",
                "dealt": "the same counts, dealt",
            }
            for name, title in names.items():
                mean, *some = each["kept"][name]
                flops = each["flops"].get(name)
                difference = each["difference"].get(name)
                cells = [
                    title,
                    f"{mean:.1f} ({', '.join(map(str, some))})",
                    "" if flops is None else f"{flops:.1%}",
                    _percent(each["right"][name]),
                    "" if difference is None else _points(difference),
                    "" if difference is None else "yes" if difference["told_apart"] else "no",
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(found: dict[str, float]) -> str:
    return f"{found['mean']:.1%} ({100 * found['low']:.1f}–{100 * found['high']:.1f})"


def _points(found: dict[str, Any]) -> str:
    difference = Estimate(**{name: found[name] for name in ("mean", "low", "high")})
    return f"{100 * difference.mean:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


if __name__ == "__main__":
    main()
