"""How long bundles take over the same prompt, in turns, so that what else a machine does falls on all alike."""

from __future__ import annotations

import random
from statistics import median

from real_answers import prompts

from fastv_runtime import Pipeline

ROUNDS = 9
TOKENS = 9
"""Of an answer: eight are decoded."""
PROMPT = max(prompts("held_out.txt"), key=len)


def milliseconds(pipelines: dict[str, Pipeline]) -> dict[str, dict[str, float]]:
    """By name: medians of a prefill (prefix, select, suffix) and of a decoded token; each round in an order of its own.

    One round more goes first, which is not counted.
    """
    order = random.Random(0)
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pipelines}
    for count in range(ROUNDS + 1):
        for name in order.sample(list(pipelines), len(pipelines)):
            answer = pipelines[name].generate([], PROMPT, max_new_tokens=TOKENS, ignore_stop=True)
            spent = answer.timings_ms
            if count:
                found[name][0].append(spent["prefix"] + spent["select"] + spent["suffix"])
                found[name][1].append(spent["decode_per_token"])
    return {
        name: {"prompt_tokens": answer.prompt_tokens, "prefill_ms": median(prefill), "decode_ms": median(decode)}
        for name, (prefill, decode) in found.items()
    }
