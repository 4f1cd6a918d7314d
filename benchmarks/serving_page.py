"""docs/benchmarks/serving.md and serving.json from what serving_load.py and serving_slots.py measured.

python benchmarks/serving_page.py LOAD.json SLOTS.json ROWS.json --out docs/benchmarks/serving
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def of_load(load: dict[str, Any]) -> list[str]:
    outcomes, memory, kill = load["outcomes"], load["memory"], load["kill"]
    ended = ", ".join(f"{count} {name}" for name, count in kill["ends"].items())
    return [
        "## Load",
        "",
        f"`benchmarks/serving_load.py`: {load['clients']} clients of a server process with {load['slots']} slots, a "
        f"queue of {load['queue']}, {load['threads']} thread an operator and `--cache-mb {load['cache-mb']}`, which is "
        f"full nearly all the time; {load['questions']} questions (greedy, sampled with a seed, with a `keep` of their "
        "own, turns of conversations, one long answer by a regular expression). Each client asks again at once, or "
        "after the time that a 429 names.",
        "",
        "| | |",
        "| --- | --- |",
        f"| time | {load['seconds']} s |",
        f"| answers, each as `Pipeline.generate` gives it alone | {outcomes.get('answered', 0)} |",
        f"| wrong answers, and errors other than 429 | {load['wrong_count']} |",
        f"| 429 | {outcomes.get('refused', 0)} |",
        f"| clients that left in the middle of a stream | {outcomes.get('vanished', 0)} |",
        f"| prompt tokens found in caches | {100 * load['reused_share_of_prompt_tokens']:.0f}% |",
        f"| resident memory: second quarter of the time, last, most | {memory['second_quarter_mib']:.0f}, "
        f"{memory['last_quarter_mib']:.0f}, {memory['most_mib']:.0f} MiB |",
        f"| kill -9 with {kill['clients']} streams open: their ends | {ended}, the last after "
        f"{kill['seconds_to_the_last_end']:.1f} s |",
        f"| streams without an end | {kill['without_an_end']} |",
        f"| the first answer after a new start | {'right' if kill['right_after_restart'] else 'wrong'} |",
        "",
        "| ms, of answers that were not refused | p50 | p95 | p99 |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | " + " | ".join(f"{load[key][each]:.0f}" for each in ("p50", "p95", "p99")) + " |"
            for name, key in (("to the first text", "ttft_ms"), ("to the end", "whole_ms"))
        ),
        "",
        "Most of that is waiting: there are ten clients a slot, and other programs took most of the machine.",
        "",
    ]


def of_slots(report: dict[str, Any]) -> list[str]:
    found = report["scheduler"]
    return [
        "## Slots",
        "",
        f"`benchmarks/serving_slots.py`: the scheduler without HTTP, {found['clients']} clients at all times, answers "
        f"of {found['tokens']} tokens, a new image each, {report['threads']} thread. Median of {report['rounds']} "
        f"rounds; ratios within a round, beside {next(iter(found['slots']))} slot.",
        "",
        "| slots | tokens/s, ratio (above 1: more) | CPU time a token, ratio | first token ms | ratio (below 1: sooner)"
        " | p95 | between tokens ms | p95 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {slots} | {row['tokens_per_s_over_first']:.2f} | {row['cpu_over_first']:.2f} | {row['ttft_ms']:.0f} | "
            f"{row['ttft_over_first']:.2f} | {row['ttft_p95_ms']:.0f} | {row['per_token_ms']:.1f} | "
            f"{row['per_token_p95_ms']:.1f} |"
            for slots, row in found["slots"].items()
        ),
        "",
        "Slots share the same cores: with more of them a question waits less for those before it, and a token longer.",
        "",
    ]


def of_rows(reports: dict[str, dict[str, Any]]) -> list[str]:
    counts = list(next(iter(reports.values()))["rows_together_faster_by"])
    return [
        "## What batched decode could give",
        "",
        "N decode steps of a row over one step of N rows of the same conversation, processor time of one thread, "
        "median. A batch of N conversations has N caches to attend to where this step has one, so this is the most "
        "that it could be faster.",
        "",
        f"| bundle | {' | '.join(f'N={each}' for each in counts)} |",
        f"| --- |{' --- |' * len(counts)}",
        *(
            f"| {name} | " + " | ".join(f"{value:.2f}" for value in report["rows_together_faster_by"].values()) + " |"
            for name, report in reports.items()
        ),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("load", type=Path)
    parser.add_argument("slots", type=Path)
    parser.add_argument("rows", nargs="+", metavar="NAME=FILE", help="rows of a bundle, and what to call it")
    parser.add_argument("--out", type=Path, required=True, help="without its ending")
    args = parser.parse_args()
    load, slots = (json.loads(path.read_text(encoding="utf-8")) for path in (args.load, args.slots))
    rows = {
        name: json.loads(Path(path).read_text(encoding="utf-8"))
        for name, path in (each.split("=", 1) for each in args.rows)
    }
    where = slots["machine"]
    lines = [
        "# A server under load",
        "",
        f"The demo checkpoint at K=2, keep 0.4, int8. {where['cpu']}, {where['cores']} cores, shared with other work: "
        f"ratios mean more than times. ONNX Runtime {where['onnxruntime']}.",
        "",
        *of_load(load),
        *of_slots(slots),
        *of_rows(rows),
    ]
    args.out.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    report = {"load": load, "slots": slots, "rows": rows}
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
