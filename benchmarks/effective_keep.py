"""What is kept of an image's visual tokens under fixed pruned lengths, by the prompt's text, before and after steps.

    python benchmarks/effective_keep.py          # the table of docs/export.md

Arithmetic on the demo's checkpoint and on published configurations, with the recipe of Jetson.md: keep 0.5, 128 tokens
of text. Without steps a fixed length had room for all of that text, whatever the prompt's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from configurations import configuration
from transformers import AutoConfig

from fastv_runtime.config.cuts import one_cut
from fastv_runtime.config.lengths import effective_keep, kept_count
from fastv_runtime.config.plan import Plan

DEMO = Path(__file__).resolve().parent.parent / "demo" / "checkpoint"
TEXTS = (8, 16, 20, 32, 33, 48, 64, 96, 100, 128)


def main() -> None:
    print("\n".join(table()))


def table() -> Iterator[str]:
    """Lines of the table."""
    configs = {
        "demo": AutoConfig.from_pretrained(DEMO, local_files_only=True),
        "LLaVA-1.5-7B": configuration("llava-1.5-7b"),
        "FastVLM-1.5B": configuration("fastvlm-1.5b"),
    }
    plans = {title: recipe(config.image_seq_length) for title, config in configs.items()}
    columns = [f"{title} ({plan.max_visual}), before | {title}, after" for title, plan in plans.items()]
    yield f"| text | {' | '.join(columns)} |"
    yield "| --- |" + " --- |" * 2 * len(plans)
    for text in TEXTS:
        cells = []
        for plan in plans.values():
            after = effective_keep(plan, text, plan.max_visual, "fixed")
            for kept in (before(plan, text), after.kept):
                cells.append(f"{kept} ({kept / plan.max_visual:.2f})")
        yield f"| {text} | {' | '.join(cells)} |"


def before(plan: Plan, text: int) -> int:
    """Visual tokens kept by the former policy, whose pruned length was max_text + round(keep * N), or the prompt's."""
    visual = plan.max_visual
    return min(text + visual, plan.max_text + kept_count(visual, plan.keep)) - text


def recipe(visual: int) -> Plan:
    """The plan of Jetson.md for one image."""
    return Plan(
        cuts=one_cut(2, 0.5),
        length="fixed",
        precision="float16",
        max_text=128,
        max_visual=visual,
        max_new_tokens=256,
    )


if __name__ == "__main__":
    main()
