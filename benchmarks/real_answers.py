"""Questions about short texts, answered greedily: how many answers begin as fp32's, and for how long they stay so."""

from __future__ import annotations

from pathlib import Path

from fastv_runtime import Pipeline

TEXTS = ("passages.txt", "held_out.txt")
"""Twenty passages each, a line a passage. The first were looked at while scales were built, the second never."""
QUESTIONS = (
    "What is this text about? Answer in one sentence.",
    "Continue the text.",
    "Write the first question that a teacher could ask about this text.",
)
TOKENS = 16
"""Of an answer."""
LEAST = 60
"""Tokens of a prompt."""
Answers = list[list[int]]


def prompts(text: str) -> list[str]:
    """Every question about every passage of one of TEXTS."""
    passages = Path(__file__).with_name(text).read_text(encoding="utf-8").splitlines()
    return [f"{passage}\n\n{question}" for passage in passages for question in QUESTIONS]


def answered(pipeline: Pipeline, text: str) -> Answers:
    """Token ids of every answer."""
    found = []
    for prompt in prompts(text):
        answer = pipeline.generate([], prompt, max_new_tokens=TOKENS, ignore_stop=True)
        assert answer.prompt_tokens >= LEAST
        found.append(answer.token_ids)
    return found


def agreement(answers: Answers, exact: Answers) -> dict[str, float]:
    """Answers, their first tokens that are those of fp32, and the mean number of tokens up to the first that is not."""
    prefixes = [
        next((at for at, (our, their) in enumerate(zip(ours, theirs, strict=True)) if our != their), len(theirs))
        for ours, theirs in zip(answers, exact, strict=True)
    ]
    return {
        "prompts": len(answers),
        "first": sum(each > 0 for each in prefixes),
        "prefix": sum(prefixes) / len(prefixes),
    }
