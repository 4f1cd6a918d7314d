"""How an answer is to be made, whatever was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

from fastv_runtime.config.bundle import Manifest
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.keep import AskedKeep, Keep, read_keep
from fastv_runtime.generation.calls.question import answer_limit, check_length
from fastv_runtime.generation.calls.stop_strings import read_stop
from fastv_runtime.generation.grammar import Grammar
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
    stop: tuple[str, ...] = ()
    """Strings of which the first in the text ends it."""
    grammar: Grammar | None = None
    """What the answer must be; None: anything."""
    reuse: bool = False
    """Whether a prompt that begins as the one before runs only what is new."""
    stay: float | None = None
    """With `reuse`, of prompts that show nothing new: visual tokens that a cut had kept stay, if at least this share of
    those that it would keep now is among them. None: each prompt is cut anew."""


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
    stop: str | Iterable[str] | None = None,
    grammar: Grammar | None = None,
    cuts: Sequence[float] | None = None,
    reuse: bool = False,
    stay: float | None = None,
) -> Settings:
    """Arguments as for `fastv_runtime.Pipeline.stream`, and fields of `Settings`. Raises UserError."""
    limit = answer_limit(max_new_tokens, manifest)
    check_length(length)
    asked = read_keep(manifest.plan, keep, share, cuts)
    chosen = choose_sampling(sampling, temperature, top_k, top_p, seed, repetition_penalty)
    strings = read_stop(stop)
    if grammar is not None and not isinstance(grammar, Grammar):
        raise UserError(f"grammar: a value of type {type(grammar).__name__} where a Grammar is expected")
    if ignore_stop and (strings or grammar is not None):
        raise UserError("ignore_stop: goes on where `stop` or a grammar ends the answer: leave one of them out")
    stay = check_stay(manifest.plan, stay)
    return Settings(limit, chosen, length, asked, ignore_stop, strings, grammar, reuse, stay)


def check_stay(plan: Plan, stay: float | None) -> float | None:
    """UserError for what is no share of visual tokens, and where nothing is cut that could stay."""
    if stay is None:
        return None
    if isinstance(stay, bool) or not isinstance(stay, Real) or not 0 <= stay <= 1:
        raise UserError(f"`stay` {stay!r}: must be a number, 0 to 1, of the visual tokens that a cut would keep")
    if not plan.prunes:
        raise UserError(f"`stay` {stay:g}: this bundle was exported without pruning: leave it out")
    return float(stay)
