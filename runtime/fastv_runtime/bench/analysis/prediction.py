"""What the cost model and a device profile foretell, beside what was measured. Pure.

Prefill and decoding are foretold. Of the time to the first token the rest (preprocessing, the tower) is the baseline's
as measured: pruning does not change it, and a bundle does not say what its tower computes.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastv_runtime.bench.analysis.device_profile import DeviceProfile, kind, predict
from fastv_runtime.bench.analysis.summary import baseline_of
from fastv_runtime.bench.models import Result, Round, RunnerRecord


def predicted(
    results: Sequence[Result],
    rounds: Sequence[Round],
    runners: Sequence[RunnerRecord],
    profiles: Sequence[DeviceProfile],
) -> list[Result]:
    """The results, with predictions for bundles of a precision that there is a profile for."""
    records = {each.name: each for each in runners}
    known = {profile.precision: profile for profile in profiles}
    turns = {(each.runner, each.workload): each.turn for each in rounds}
    by_key = {(each.runner, each.workload): each for each in results}
    made = []
    for result in results:
        record = records[result.runner]
        facts = record.bundle
        profile = None if facts is None else known.get(kind(facts.plan, facts.dialect))
        if facts is None or profile is None:
            made.append(result)
            continue
        turn = turns[result.runner, result.workload]
        found = predict(profile, facts.decoder, facts.plan, turn.prompt_tokens, turn.pruned_lengths)
        if "decode" not in result.figures:
            del found["decode"]
        baseline = record if record.role == "baseline" else baseline_of(record, runners)
        dense = None if baseline is None else by_key.get((baseline.name, result.workload))
        if dense is not None:
            found["ttft"] = found["prefill"] + dense.figures["ttft"].median - dense.figures["prefill"].median
        made.append(result.model_copy(update={"predicted": found}))
    return made
