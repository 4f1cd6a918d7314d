r"""Exact match of a checkpoint for every ranker, one cut and several, where plans cost the same, and at few tokens.

    make real
    python demo/real/split.py demo/out/real-questions --split held-out --count 300
    python benchmarks/accuracy.py demo/out/real demo/out/real-questions/data.jsonl --name "SmolLM2-135M LLaVA" \
        --json docs/benchmarks/accuracy.json --markdown docs/benchmarks/accuracy.md

QUESTIONS: JSON lines as fastv-calibrate takes them, with answers and kinds. A plan is shown the true answer, token by
token: right is a question of which every token is the likeliest, and then a stop token. The model is transformers' own
layers in fp32 on the rows that a plan leaves, which `tests/calib` compares with its whole forward under masks. Runs of
other names stay in the files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from machine import machine
from rich.console import Console
from rich.progress import track

from fastv_calib.choice.intervals import bootstrap, told_apart, wilson
from fastv_calib.measurement.sweep import Sweep
from fastv_calib.samples.data import Sample, read_data
from fastv_calib.samples.inputs import InputMaker
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import family_of
from fastv_export.plan import decoder_dimensions
from fastv_export.points import Chain, PointCut
from fastv_export.rankers import RANKERS
from fastv_export.rankers.parts.needs import crowded
from fastv_export.verify.reference import load_model
from fastv_runtime.config.cost import decoder_flops, tokens_per_layer
from fastv_runtime.config.lengths import kept_count
from fastv_runtime.preprocessing.images.loading import open_image

FORMS = ("", " ")
"""What may stand between the prompt and its answer."""
FEW = 0.11
"""Of visual tokens: 64 of 576, where papers compare."""
SHARES = (0.5, 0.33)
"""Of visual rows x layers, which most of a prefill's FLOPs follow."""
DEPTHS = (1 / 15, 1 / 6, 1 / 3, 1 / 2)
"""Of cuts, of the decoder's layers: 2, 5, 10 and 15 of 30."""
CHAINS = {"two cuts": (2 / 15, 1 / 3), "two late cuts": (7 / 30, 7 / 15), "three cuts": (2 / 15, 1 / 3, 2 / 3)}
"""Depths of several cuts."""
FIRST = {2: (0.5,), 3: (0.5, 0.2)}
"""What all cuts but the last keep, by how many there are; the last makes up the cost."""
console = Console(stderr=True)


def rankers() -> list[str]:
    """All that look at images."""
    return [name for name, ranker in RANKERS.items() if "change" not in ranker.signals]


def depths(layers: int) -> list[int]:
    """K of single cuts."""
    return sorted({max(1, round(depth * layers)) for depth in DEPTHS})


def chain(layers: Sequence[int], keeps: Sequence[float], ranker: str) -> Chain:
    return tuple(PointCut(layer=at, keep=keep, ranker=ranker) for at, keep in zip(layers, keeps, strict=True))


def at_cost(layers: Sequence[int], share: float, count: int) -> tuple[float, ...] | None:
    """Keeps of cuts at `layers` whose visual rows x layers are that share of all; None where no last keep makes it so.

    count: layers of the decoder.
    """
    before = FIRST.get(len(layers), ())
    bounds = (0, *layers)
    spent = sum(keep * (stop - start) for keep, (start, stop) in zip((1.0, *before), pairwise(bounds), strict=True))
    last = round((share * count - spent) / (count - layers[-1]), 3)
    return (*before, last) if 0.01 <= last < min((1.0, *before)) else None


def plans(count: int) -> dict[str, list[Chain]]:
    """Tables, by name: plans of a decoder of `count` layers."""
    several = [[max(1, round(depth * count)) for depth in each] for each in CHAINS.values()]
    places = [*([layer] for layer in depths(count)), *(each for each in several if len(set(each)) == len(each))]
    tables: dict[str, list[tuple[list[int], tuple[float, ...] | None]]] = {
        f"keep {FEW:g}": [(layers, (*FIRST.get(len(layers), ()), FEW)) for layers in places if len(layers) < 3],
        **{f"share {share:g}": [(layers, at_cost(layers, share, count)) for layers in places] for share in SHARES},
    }
    found = {
        name: [chain(layers, keeps, each) for layers, keeps in table if keeps is not None for each in rankers()]
        for name, table in tables.items()
    }
    return {
        name: [cuts for cuts in table if crowded((cut.layer, cut.ranker) for cut in cuts) is None]
        for name, table in found.items()
    }


class Asker:
    """A stock model that is shown answers."""

    def __init__(self, path: Path):
        checkpoint = Checkpoint(path)
        self.family = family_of(checkpoint.model_type(), str(path / "config.json"))
        model = load_model(path, self.family)
        self.dimensions = decoder_dimensions(self.family.config(checkpoint), self.family)
        self._maker = InputMaker(checkpoint, self.family, model)
        self._sweep = Sweep(self.family.decoder(model), self.family.head(model), {})

    @torch.no_grad()
    def right(self, sample: Sample, form: str, chains: Sequence[Chain]) -> tuple[list[bool], int, int]:
        """Whether each plan answers right; how many text and visual tokens the prompt has."""
        assert sample.answer is not None and sample.video is None, f"{sample.where}: give images, and an answer"
        inputs = self._maker([open_image(image) for image in sample.images], sample.prompt)
        tokenizer = self._maker.preparation.prompts.tokenizer
        answer = tokenizer(form + sample.answer.strip(), add_special_tokens=False)["input_ids"]
        begun = self._sweep.begun(inputs, [*answer, min(self._maker.stop)])
        visual = int(inputs.visual.sum())

        def hit(logits: torch.Tensor) -> bool:
            *likeliest, end = logits.argmax(-1).tolist()
            return likeliest == answer and end in self._maker.stop

        found = [hit(each.logits) for each in self._sweep.chains(begun, chains)]
        return found, inputs.visual.numel() - visual, visual


_ASKER: dict[str, Asker] = {}


def _start(path: str) -> None:
    torch.set_num_threads(1)
    _ASKER[path] = Asker(Path(path))


def _ask(path: str, sample: Sample, form: str, chains: Sequence[Chain]) -> tuple[list[bool], int, int]:
    return _ASKER[path].right(sample, form, chains)


def answers(
    path: Path, samples: Sequence[Sample], chains: Sequence[Chain], workers: int
) -> Iterator[tuple[list[bool], int, int]]:
    """Of each sample, in order; the answers' form is that which the unpruned model gives more often."""
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(str(path),)) as pool:
        hits = {
            form: sum(pool.submit(_ask, str(path), sample, form, [()]).result()[0][0] for sample in samples[:10])
            for form in FORMS
        }
        form = max(FORMS, key=lambda each: hits[each])
        jobs = [pool.submit(_ask, str(path), sample, form, chains) for sample in samples]
        for job in track(jobs, "questions", console=console):
            yield job.result()


def measure(path: Path, samples: Sequence[Sample], workers: int, known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All plans on all samples, but for those that are `known`: of the same samples and checkpoint."""
    checkpoint = Checkpoint(path)
    family = family_of(checkpoint.model_type(), str(path / "config.json"))
    dimensions = decoder_dimensions(family.config(checkpoint), family)
    tables = plans(dimensions.num_hidden_layers)
    chains: list[Chain] = [(), *dict.fromkeys(each for table in tables.values() for each in table)]
    found = {tuple(PointCut(**cut) for cut in plan["cuts"]): plan for plan in known}
    missing = [cuts for cuts in chains if not cuts or cuts not in found]
    asked = list(answers(path, samples, missing, workers))
    kinds = sorted({sample.kind for sample in samples if sample.kind is not None})

    def flops(cuts: Chain) -> float:
        total = whole = 0
        for _, text, visual in asked:
            rows = (text + visual, *(text + kept_count(visual, cut.keep) for cut in cuts))
            total += decoder_flops(dimensions, tokens_per_layer(dimensions, [c.layer for c in cuts], rows)).gated
            whole += decoder_flops(dimensions, [text + visual] * dimensions.num_hidden_layers).gated
        return total / whole

    unpruned = [hits[0] for hits, *_ in asked]
    for index, cuts in enumerate(missing):
        hits = [each[index] for each, *_ in asked]
        found[cuts] = {
            "cuts": [cut.model_dump() for cut in cuts],
            "flops": flops(cuts),
            "right": wilson(hits).model_dump(),
            "less": bootstrap([a - b for a, b in zip(hits, unpruned, strict=True)]).model_dump(),
            "told_apart": told_apart(hits, unpruned),
            "kinds": {
                kind: wilson([hit for hit, sample in zip(hits, samples, strict=True) if sample.kind == kind]).mean
                for kind in kinds
            },
        }
    return {
        "layers": dimensions.num_hidden_layers,
        "questions": len(samples),
        "machine": machine(),
        "plans": [found[cuts] for cuts in chains],
        "tables": {name: [chains.index(each) for each in table] for name, table in tables.items()},
    }


def page(runs: Sequence[dict[str, Any]]) -> str:
    """The runs as a page."""
    lines = [
        "# Accuracy by ranker and by where is cut",
        "",
        "Made by `benchmarks/accuracy.py`. Exact match in percent on held-out questions: the model is shown the true "
        "answer token by token, and right is a question whose tokens, the end included, are all the likeliest. "
        "transformers' own layers in fp32.",
        "",
        "`K=10` is a cut before layer 10; `4:0.5+10:0.15` are two, each with the fraction of the prompt's visual "
        "tokens that it leaves. `random` and `uniform` are controls: what knows nothing gets their figures. The best "
        "of a table is picked by the questions that its figure is of, so that figure flatters it a little.",
    ]
    for run in runs:
        unpruned = run["plans"][0]["right"]
        lines += [
            "",
            f"## {run['name']}",
            "",
            f"{run['layers']} layers, {run['questions']} questions, unpruned {_percent(unpruned)} right (95% interval, "
            "Wilson; those of other plans are as wide). "
            + ", ".join(f"{name} {value}" for name, value in run["machine"].items())
            + ".",
        ]
        for name, indices in run["tables"].items():
            lines += ["", f"### {_title(name)}", "", *_table([run["plans"][index] for index in indices])]
        best = _best(run)
        lines += ["", "### The best plans by kind of question", "", *_kinds(run, best)]
    return "\n".join(lines) + "\n"


def _title(name: str) -> str:
    kind, value = name.split()
    if kind == "keep":
        return f"{value} of the visual tokens after the last cut"
    return f"Equal cost: {value} of visual rows x layers"


def _where(plan: dict[str, Any]) -> str:
    cuts = plan["cuts"]
    if len(cuts) == 1:
        return f"K={cuts[0]['layer']}, keep {cuts[0]['keep']:g}"
    return "+".join(f"{cut['layer']}:{cut['keep']:g}" for cut in cuts)


def _table(plans: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A row a place, a column a ranker; the best of a row in bold."""
    names = list(dict.fromkeys(plan["cuts"][0]["ranker"] for plan in plans))
    yield f"| cuts | FLOPs | {' | '.join(names)} |"
    yield "| --- " * (2 + len(names)) + "|"
    places = dict.fromkeys(map(_where, plans))
    for place in places:
        row = {plan["cuts"][0]["ranker"]: plan for plan in plans if _where(plan) == place}
        best = max(plan["right"]["mean"] for plan in row.values())
        cells = [
            "" if name not in row else _cell(row[name]["right"]["mean"], row[name]["right"]["mean"] == best)
            for name in names
        ]
        flops = next(iter(row.values()))["flops"]
        yield f"| {place} | {100 * flops:.0f}% | {' | '.join(cells)} |"


def _cell(mean: float, best: bool) -> str:
    return f"**{100 * mean:.1f}**" if best else f"{100 * mean:.1f}"


def _best(run: dict[str, Any]) -> list[int]:
    """The unpruned model, FastV as published, and the best plan of each table."""
    fastv = next(
        index
        for index in run["tables"][f"keep {FEW:g}"]
        if [(cut["layer"], cut["ranker"]) for cut in run["plans"][index]["cuts"]] == [(2, "fastv")]
    )
    tops = [max(table, key=lambda index: run["plans"][index]["right"]["mean"]) for table in run["tables"].values()]
    return list(dict.fromkeys([0, fastv, *tops]))


def _kinds(run: dict[str, Any], indices: Sequence[int]) -> Iterator[str]:
    kinds = list(run["plans"][0]["kinds"])
    yield f"| {' | '.join(['plan', 'FLOPs', 'right', 'less than unpruned, points', 'told apart', *kinds])} |"
    yield "| --- " * (5 + len(kinds)) + "|"
    for index in indices:
        plan = run["plans"][index]
        name = f"{_where(plan)} {plan['cuts'][0]['ranker']}" if plan["cuts"] else "unpruned"
        less = plan["less"]
        cells = [
            name,
            f"{100 * plan['flops']:.0f}%",
            _percent(plan["right"]),
            _less(less) if plan["cuts"] else "",
            ("yes" if plan["told_apart"] else "no") if plan["cuts"] else "",
            *(f"{100 * plan['kinds'][kind]:.0f}" for kind in kinds),
        ]
        yield f"| {' | '.join(cells)} |"


def _percent(found: dict[str, float]) -> str:
    return f"{100 * found['mean']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _less(found: dict[str, float]) -> str:
    return f"{100 * found['mean']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--name", required=True, help="of the model, in the report")
    parser.add_argument("--samples", type=int, help="of the questions, from the first (default: all)")
    parser.add_argument("--workers", type=int, default=2, help="processes, a thread each (default: %(default)s)")
    parser.add_argument(
        "--rankers", nargs="+", choices=rankers(), help="measure these anew; others keep what the file has of them"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    samples = read_data(args.questions, None)[: args.samples]
    before = json.loads(args.json.read_text(encoding="utf-8")) if args.json and args.json.exists() else []
    known = []
    if args.rankers:
        (same,) = (each for each in before if (each["name"], each["questions"]) == (args.name, len(samples)))
        known = [plan for plan in same["plans"] if not {cut["ranker"] for cut in plan["cuts"]} & set(args.rankers)]
    run = {"name": args.name, **measure(args.checkpoint, samples, args.workers, known)}
    runs = [*(each for each in before if each["name"] != run["name"]), run]
    if args.json:
        args.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(page(runs), encoding="utf-8")
    print(page([run]), end="")


if __name__ == "__main__":
    main()
