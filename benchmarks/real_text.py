"""A text read by a bundle, token by token: what its tokens cost, and how far the distributions are from fp32's.

`held_out.txt` is read as it stands, without a chat's template: no export calibrates by it.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration

from fastv_runtime import Pipeline

HELD_OUT = Path(__file__).with_name("held_out.txt")
MOST = 2000
"""Tokens of a text that are read; all but the first are predicted."""
LogProbabilities = Float32[np.ndarray, "S-1 V"]


def text_ids(checkpoint: Path, file: Path = HELD_OUT, most: int = MOST) -> Int[np.ndarray, " S"]:
    """The first tokens of a text, MOST of them or all that it has."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    return np.array(tokenizer.encode(file.read_text(encoding="utf-8"), add_special_tokens=False).ids[:most])


def read_text(pipeline: Pipeline, ids: Int[np.ndarray, " S"]) -> LogProbabilities:
    """Of every token but the first, after all before it: the first is the prompt, the others are decoded one by one.

    The plan must support S - 2 new tokens behind a prompt of one.
    """
    decoder, embedding = pipeline.decoder, pipeline.bundle.embedding()
    found = np.empty((len(ids) - 1, pipeline.bundle.manifest.decoder.vocab_size), np.float32)
    decoder.prompt.rows(0, 1).write(embedding[ids[:1]])
    everything = [1] * len(pipeline.bundle.manifest.plan.cuts)
    decoder.prefill(np.zeros((1, 1), np.int64), np.zeros(1, np.bool_), everything, lambda graph: nullcontext())
    found[0] = log_softmax(decoder.logits)
    for at, token in enumerate(ids[1:-1], start=1):
        decoder.following.rows(0, 1).write(embedding[token : token + 1])
        decoder.step()
        found[at] = log_softmax(decoder.logits)
    return found


@torch.no_grad()
def witness(checkpoint: Path, ids: Int[np.ndarray, " S"]) -> float:
    """The perplexity of the text by transformers' own forward of the checkpoint, in fp32."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokens = torch.from_numpy(ids)
    logits = model(input_ids=tokens[None]).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, tokens[1:]).exp())


def distance(found: LogProbabilities, exact: LogProbabilities, ids: Int[np.ndarray, " S"]) -> dict[str, float]:
    """Perplexity and its ratio to that of `exact`; the share of positions with its likeliest token; KL to it, in nats.

    KL is the mean over positions of sum(p log(p / q)), p of `exact`.
    """
    positions = np.arange(len(ids) - 1)
    perplexity = float(np.exp(-found[positions, ids[1:]].mean(dtype=np.float64)))
    reference = float(np.exp(-exact[positions, ids[1:]].mean(dtype=np.float64)))
    kl = [float((np.exp(p) * (p - q)).sum(dtype=np.float64)) for p, q in zip(exact, found, strict=True)]
    return {
        "perplexity": perplexity,
        "ratio": perplexity / reference,
        "top": float((found.argmax(1) == exact.argmax(1)).mean()),
        "kl": float(np.mean(kl)),
    }


def log_softmax(logits: Float[np.ndarray, " V"]) -> Float32[np.ndarray, " V"]:
    """Log-probabilities of one row of logits."""
    shifted: np.ndarray = logits - logits.max()
    likelihoods: np.ndarray = shifted - np.log(np.exp(shifted).sum(dtype=np.float64)).astype(np.float32)
    return likelihoods
