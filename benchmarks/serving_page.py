"""docs/benchmarks/serving.md and serving.json from what serving_load.py and serving_slots.py measured.

python benchmarks/serving_page.py --load NAME=FILE --slots NAME=FILE --rows NAME=FILE --out docs/benchmarks/serving
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def of_loads(loads: dict[str, dict[str, Any]]) -> list[str]:
    first = next(iter(loads.values()))
    figures = {name: load_figures(load) for name, load in loads.items()}
    return [
        "## Load",
        "",
        f"`benchmarks/serving_load.py`: {first['clients']} clients of a server process with {first['slots']} slots, a "
        f"queue of {first['queue']}, {first['threads']} thread an operator and `--cache-mb {first['cache-mb']}`, which "
        f"is full nearly all the time; {first['questions']} questions (greedy, sampled with a seed, with a `keep` of "
        "their own, turns of conversations, one long answer by a regular expression). Each client asks again at once, "
        "or after the time that a 429 names.",
        "",
        f"| | {' | '.join(loads)} |",
        f"| --- |{' --- |' * len(loads)}",
        *(
            f"| {what} | {' | '.join(each[what] for each in figures.values())} |"
            for what in next(iter(figures.values()))
        ),
        "",
        "Most of the time to the first text is waiting: there are ten clients a slot.",
        "",
    ]


def load_figures(load: dict[str, Any]) -> dict[str, str]:
    outcomes, memory, kill = load["outcomes"], load["memory"], load["kill"]
    ended = ", ".join(f"{count} {name}" for name, count in kill["ends"].items())

    def times(key: str) -> str:
        return ", ".join(f"{load[key][each]:.0f}" for each in ("p50", "p95", "p99"))

    return {
        "time": f"{load['seconds']} s",
        "answers, each as `Pipeline.generate` gives it alone": f"{outcomes.get('answered', 0):,}",
        "wrong answers, and errors other than 429": f"{load['wrong_count']}",
        "429": f"{outcomes.get('refused', 0):,}",
        "clients that left in the middle of a stream": f"{outcomes.get('vanished', 0)}",
        "answers a second": f"{load['answers_per_s']}",
        "ms to the first text: p50, p95, p99": times("ttft_ms"),
        "ms to the end: p50, p95, p99": times("whole_ms"),
        "prompt tokens found in caches": f"{100 * load['reused_share_of_prompt_tokens']:.0f}%",
        "resident memory: second quarter of the time, last, most": f"{memory['second_quarter_mib']:.0f}, "
        f"{memory['last_quarter_mib']:.0f}, {memory['most_mib']:.0f} MiB",
        f"kill -9 with {kill['clients']} streams open: their ends": f"{ended}, the last after "
        f"{kill['seconds_to_the_last_end']:.2f} s",
        "streams without an end": f"{kill['without_an_end']}",
        "the first answer after a new start": "right" if kill["right_after_restart"] else "wrong",
    }


def of_slots(reports: dict[str, dict[str, Any]]) -> list[str]:
    first = next(iter(reports.values()))
    found = first["scheduler"]
    return [
        "## Slots",
        "",
        f"`benchmarks/serving_slots.py`: the scheduler without HTTP, {found['clients']} clients at all times, answers "
        f"of {found['tokens']} tokens, a new image each, {first['threads']} thread. Median of {first['rounds']} "
        f"rounds; ratios within a round, beside {next(iter(found['slots']))} slot.",
        "",
        "| bundle | slots | tokens/s, ratio (above 1: more) | CPU time a token, ratio | first token ms | ratio (below "
        "1: sooner) | p95 | between tokens ms | p95 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {name} | {slots} | {row['tokens_per_s_over_first']:.2f} | {row['cpu_over_first']:.2f} | "
            f"{row['ttft_ms']:.0f} | {row['ttft_over_first']:.2f} | {row['ttft_p95_ms']:.0f} | "
            f"{row['per_token_ms']:.1f} | {row['per_token_p95_ms']:.1f} |"
            for name, report in reports.items()
            for slots, row in report["scheduler"]["slots"].items()
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
    for name in ("load", "slots", "rows"):
        parser.add_argument(f"--{name}", nargs="+", required=True, metavar="NAME=FILE", help="NAME: of the bundle")
    parser.add_argument("--out", type=Path, required=True, help="without its ending")
    args = parser.parse_args()
    loads, slots, rows = (
        {
            name: json.loads(Path(path).read_text(encoding="utf-8"))
            for name, path in (each.split("=", 1) for each in given)
        }
        for given in (args.load, args.slots, args.rows)
    )
    where = next(iter(slots.values()))["machine"]
    lines = [
        "# A server under load",
        "",
        f"The demo checkpoint, int8, bundles by where they are cut. {where['cpu']}, {where['cores']} cores. ONNX "
        f"Runtime {where['onnxruntime']}.",
        "",
        *of_loads(loads),
        *of_slots(slots),
        *of_rows(rows),
    ]
    args.out.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    report = {"load": loads, "slots": slots, "rows": rows}
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
