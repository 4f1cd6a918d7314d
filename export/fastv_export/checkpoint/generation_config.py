"""What a checkpoint says of how its tokens are chosen, as transformers' `from_pretrained` finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fastv_export.checkpoint.checkpoint import GENERATION, Checkpoint
from fastv_export.hf import models as hf_models
from fastv_runtime.config.generation_config import GenerationDefaults
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError
from fastv_runtime.strict_json import said

if TYPE_CHECKING:
    from transformers import GenerationConfig

SAMPLED = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")
"""Settings that matter only where tokens are sampled."""
LEFT_OUT: dict[str, Any] = {
    "num_beams": 1,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "sequence_bias": None,
    "min_length": 0,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0,
    "stop_strings": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "watermarking_config": None,
    "max_time": None,
}
"""Settings that change greedy answers and that nothing here heeds, with the values that change nothing."""


def generation_config(checkpoint: Checkpoint) -> GenerationConfig:
    """The config that `model.generate` would start from: generation_config.json, or what an old config.json has.

    Raises UserError for files that transformers does not read.
    """
    try:
        config: GenerationConfig = hf_models.generation_config(checkpoint.path)
        return config
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{checkpoint.path / source_name(checkpoint)}: {str(error).splitlines()[0]}") from None


def source_name(checkpoint: Checkpoint) -> str:
    """The file that `generation_config` reads."""
    return GENERATION if (checkpoint.path / GENERATION).is_file() else "config.json"


def generation_defaults(checkpoint: Checkpoint) -> GenerationDefaults:
    """What bundles heed of it. Raises UserError for values that transformers would refuse when it generates."""
    config = generation_config(checkpoint)
    asked = {name: getattr(config, name, None) for name in GenerationDefaults.model_fields}
    try:
        return GenerationDefaults.model_validate({name: value for name, value in asked.items() if value is not None})
    except ValidationError as error:
        raise UserError(f"{checkpoint.path / source_name(checkpoint)}: {said(error)}: mend the file") from None


def generation_notes(checkpoint: Checkpoint, plan: Plan) -> list[str]:
    """A line for what is set and not heeded, and what is done instead."""
    config, notes = generation_config(checkpoint), []
    file = checkpoint.path / source_name(checkpoint)
    if getattr(config, "do_sample", None):
        asked = _listed(config, dict.fromkeys(SAMPLED))
        notes.append(
            f"note: {file}: do_sample{f' ({asked})' if asked else ''}: "
            "answers are greedy unless temperature, top_k and top_p say otherwise"
        )
    if left_out := _listed(config, LEFT_OUT):
        notes.append(f"note: {file}: {left_out}: not heeded here, tokens are chosen one by one without it")
    longest = plan.max_text + plan.max_visual + plan.max_new_tokens
    most = getattr(config, "max_length", None)
    if most is not None and most < longest and getattr(config, "max_new_tokens", None) is None:
        notes.append(f"note: {file}: max_length {most}: not heeded, answers have up to `max_new_tokens`")
    return notes


def _listed(config: GenerationConfig, unset: dict[str, Any]) -> str:
    found = {name: getattr(config, name, None) for name in unset}
    return ", ".join(f"{name} {value}" for name, value in found.items() if value not in (None, unset[name]))
