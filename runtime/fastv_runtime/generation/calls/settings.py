"""How an answer is to be made, whatever was asked."""

from __future__ import annotations

from dataclasses import dataclass

from fastv_runtime.config.bundle import Manifest
from fastv_runtime.generation.calls.keep import AskedKeep, Keep, read_keep
from fastv_runtime.generation.calls.question import answer_limit, check_length
from fastv_runtime.generation.sampling import Sampling, choose_sampling


@dataclass(frozen=True)
class Settings:
    """What one generation is asked for, checked against a bundle's plan."""

    limit: int
    """Tokens of the answer at most."""
    sampling: Sampling
    length: str | None
    """`fixed` or `exact`; None: the plan's."""
    asked: AskedKeep
    ignore_stop: bool


def read_settings(
    manifest: Manifest,
    *,
    max_new_tokens: int | None = None,
    sampling: Sampling | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    repetition_penalty: float | None = None,
    length: str | None = None,
    keep: Keep | None = None,
    share: float | None = None,
    ignore_stop: bool = False,
) -> Settings:
    """Arguments as for `fastv_runtime.Pipeline.stream`. Raises UserError."""
    limit = answer_limit(max_new_tokens, manifest)
    check_length(length)
    asked = read_keep(manifest.plan, keep, share)
    chosen = choose_sampling(sampling, temperature, top_k, top_p, seed, repetition_penalty)
    return Settings(limit, chosen, length, asked, ignore_stop)
