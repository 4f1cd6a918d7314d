"""fastv-inspect: what a bundle holds, and what its plan costs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console

from fastv_runtime.cli.options.arguments import Parser, path
from fastv_runtime.console import add_trust_arguments, command, open_bundle
from fastv_runtime.streams import require_stdout

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Manifest
    from fastv_runtime.config.lengths import EffectiveKeep
    from fastv_runtime.config.plan import Plan

MIB = 2**20
DEPTHS = (7 / 32, 15 / 32)
"""Where published plans of two cuts have them, as shares of the decoder's layers."""
CHAINS = ((0.5, 0.25), (0.33, 0.2), (0.33, 0.11))
"""Fractions of the prompt's visual tokens that plans of two cuts leave."""
TEXTS = (8, 20, 32, 50, 64, 100, 128)
"""Text tokens of the prompts whose pruned lengths are shown, and the most that a plan has room for."""


def parser() -> argparse.ArgumentParser:
    parser = Parser("fastv-inspect", "Show what a bundle holds, and what its plan costs, by arithmetic.")
    parser.add_argument("bundle", type=path, metavar="BUNDLE", help="directory that fastv-export wrote")
    add_trust_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run(args: argparse.Namespace) -> None:
    require_stdout()
    if args.check_hashes or args.public_key is not None:
        manifest = open_bundle(args.bundle, check_hashes=args.check_hashes, public_key=args.public_key).manifest
    else:
        from fastv_runtime.config.bundle import read_manifest

        manifest = read_manifest(args.bundle)
    facts = inspect(manifest)
    if args.json:
        print(json.dumps(facts))
    else:
        _print(manifest, facts, Console())


def inspect(manifest: Manifest) -> dict[str, Any]:
    """Everything that the command shows: the manifest's facts and the plan's cost. Bytes and operations."""
    from fastv_runtime.config.bundle import EMBEDDING
    from fastv_runtime.config.cost import plan_cost
    from fastv_runtime.config.lengths import capacity
    from fastv_runtime.config.wording import dialect_of, precision_of

    plan = manifest.plan
    needed = capacity(plan)
    cost = plan_cost(manifest.decoder, plan, needed)
    weights = {
        name: sum(manifest.files[file].size for file in (graph.file, graph.weights_file) if file in manifest.files)
        for name, graph in manifest.graphs.items()
    }
    return {
        "family": manifest.family,
        "decoder": manifest.decoder.model_dump(),
        "vision": manifest.vision.model_dump() | {"tokens": manifest.vision.tokens},
        "plan": plan.model_dump(),
        "precision": precision_of(plan, dialect_of(manifest.graphs)),
        "graphs": {
            name: {"dialect": graph.dialect, "opset": graph.opset, "bytes": weights[name]}
            for name, graph in manifest.graphs.items()
        },
        "verified": manifest.verified,
        "quantization": None if manifest.quantization is None else manifest.quantization.model_dump(),
        "capacity": asdict(needed),
        "cost": asdict(cost),
        "effective_keep": [asdict(each) for each in _effective_keeps(plan, manifest.vision.tokens)],
        "other_plans": [
            {"cuts": [{"layer": cut.layer, "keep": cut.keep} for cut in other.cuts]}
            | asdict(plan_cost(manifest.decoder, other, capacity(other)))
            for other in _other_plans(plan, manifest.decoder.num_hidden_layers)
        ],
        "memory": {
            "graphs": sum(weights.values()),
            "caches": cost.cache_capacity_bytes,
            "resident": sum(weights.values()) + cost.cache_capacity_bytes,
            "embedding_on_disk": manifest.files[EMBEDDING].size,
        },
    }


def _effective_keeps(plan: Plan, image: int) -> list[EffectiveKeep]:
    """Of prompts with one image, and with as many visual tokens as the plan has room for; by both policies."""
    from fastv_runtime.config.lengths import effective_keep
    from fastv_runtime.config.plan import Length

    if not plan.prunes:
        return []
    texts = sorted({text for text in TEXTS if text < plan.max_text} | {plan.max_text})
    visuals = sorted({min(image, plan.max_visual), plan.max_visual})
    return [
        effective_keep(plan, text, visual, policy)
        for visual in visuals
        for text in texts
        for policy in get_args(Length)
    ]


def _other_plans(plan: Plan, layers: int) -> list[Plan]:
    """The plans of the paper's tables that this decoder has layers for, and CHAINS at the same depths of it."""
    from fastv_runtime.config.cuts import Cut, one_cut

    single = [one_cut(layer, keep) for layer in (1, 2, 3, 5) if layer < layers for keep in (0.75, 0.5, 0.25, 0.1)]
    places = sorted({max(1, round(depth * layers)) for depth in DEPTHS})
    chains = [
        tuple(Cut(layer=layer, keep=keep, ranker="fastv") for layer, keep in zip(places, keeps, strict=True))
        for keeps in CHAINS
        if len(places) == len(keeps) and places[-1] < layers
    ]
    return [plan.model_copy(update={"cuts": cuts}) for cuts in (*single, *chains)]


def _print(manifest: Manifest, facts: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    from fastv_runtime.config.bundle import END_TO_END
    from fastv_runtime.config.wording import cost_of, plan_of, room_of

    decoder, plan, cost, memory = manifest.decoder, manifest.plan, facts["cost"], facts["memory"]
    console.print(
        f"{manifest.family}: {decoder.num_hidden_layers} layers x {decoder.hidden_size}, "
        f"{decoder.num_attention_heads} heads ({decoder.num_key_value_heads} key-value), vocabulary "
        f"{decoder.vocab_size}; {manifest.vision.layout} images of "
        f"{manifest.vision.tokens} visual tokens at most",
        highlight=False,
    )
    console.print(f"plan: {plan_of(plan)}", highlight=False)
    console.print(f"computes with: {facts['precision']}", highlight=False)
    console.print(f"supports: {room_of(plan)}", highlight=False)
    graphs = Table("graph", "dialect", "opset", "MiB", "largest difference from transformers")
    for name, graph in facts["graphs"].items():
        verified = (manifest.verified or {}).get(name)
        graphs.add_row(
            name,
            graph["dialect"],
            str(graph["opset"]),
            f"{graph['bytes'] / MIB:,.1f}",
            "not verified" if verified is None else f"{verified:.1e}",
        )
    console.print(graphs)
    whole = (manifest.verified or {}).get(END_TO_END)
    console.print(
        "from image to tokens: "
        + ("not verified" if whole is None else f"largest difference from transformers {whole:.1e}"),
        highlight=False,
    )
    if plan.weights is not None:
        rounding = "not measured" if manifest.quantization is None else cost_of(manifest.quantization)
        console.print(f"what quantization costs: {rounding}", highlight=False)
    table = Table(f"prompt of {cost['tokens']} tokens", "this plan", "unpruned", "ratio")

    def row(name: str, own: float, dense: float, digits: int) -> None:
        table.add_row(name, f"{own:,.{digits}f}", f"{dense:,.{digits}f}", f"{own / dense:.2f}")

    for cut, left in zip(plan.cuts, cost["pruned_lengths"], strict=True):
        row(f"tokens from layer {cut.layer} on", left, cost["tokens"], 0)
    for kind, title in (("paper", "prefill GFLOPs, paper's formula"), ("gated", "prefill GFLOPs, gated MLP")):
        row(title, cost["flops"][kind] / 1e9, cost["dense_flops"][kind] / 1e9, 2)
    row("key-value cache after prefill, MiB", cost["cache_bytes"] / MIB, cost["dense_cache_bytes"] / MIB, 2)
    console.print(table)
    _print_keeps(plan, facts["effective_keep"], console)
    others = Table("other plans", "pruned length", "GFLOPs, paper", "GFLOPs, gated", "ratio", "cache MiB")
    others.columns[0].no_wrap = True
    for other in facts["other_plans"]:
        flops = other["flops"]
        others.add_row(
            f"K={', '.join(str(cut['layer']) for cut in other['cuts'])} "
            f"keep {', '.join(format(cut['keep'], 'g') for cut in other['cuts'])}",
            str(other["pruned_lengths"][-1]),
            f"{flops['paper'] / 1e9:,.2f}",
            f"{flops['gated'] / 1e9:,.2f}",
            f"{flops['gated'] / cost['dense_flops']['gated']:.2f}",
            f"{other['cache_bytes'] / MIB:,.2f}",
        )
    console.print(others)
    console.print(
        f"memory: graphs {memory['graphs'] / MIB:,.1f} MiB + caches {memory['caches'] / MIB:,.1f} MiB = "
        f"{memory['resident'] / MIB:,.1f} MiB, activations apart; "
        f"embedding table {memory['embedding_on_disk'] / MIB:,.1f} MiB, memory-mapped",
        highlight=False,
    )


def _print_keeps(plan: Plan, keeps: Sequence[dict[str, Any]], console: Console) -> None:
    if not keeps:
        return
    from rich.table import Table

    from fastv_runtime.config.plan import Length

    policies = sorted(get_args(Length), key=lambda policy: policy != plan.length)
    figures = [f"{policy}: {name}" for policy in policies for name in ("kept", "keep", "length")]
    last = " after the last cut" if len(plan.cuts) > 1 else ""
    title = f"visual tokens kept and pruned length{last}, the plan's policy first"
    table = Table("visual", "text", *figures, title=title)
    for column in table.columns:
        column.justify = "right"
    for visual, text in dict.fromkeys((each["visual"], each["text"]) for each in keeps):
        found = {each["length"]: each for each in keeps if (each["visual"], each["text"]) == (visual, text)}
        cells = [
            cell
            for each in (found[policy] for policy in policies)
            for cell in (f"{each['kept']:,}", f"{each['keep']:.3f}", f"{each['pruned_length']:,}")
        ]
        table.add_row(f"{visual:,}", f"{text:,}", *cells)
    console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    command(parser(), run, argv)


if __name__ == "__main__":
    main()
